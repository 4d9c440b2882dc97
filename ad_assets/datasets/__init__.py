"""Readers: from folders of images to image indexes; one module per dataset, registered in `READERS`."""

from ad_assets.datasets import (
    blind,
    btad,
    demo,
    folder,
    mtd,
    mvtec_3d_rgb,
    mvtec_ad,
    mvtec_ad_2,
    mvtec_loco,
    mvtec_sl,
    visa,
)
from ad_assets.datasets.base import (
    IMAGE_INDEX_SCHEMA,
    READERS,
    Candidate,
    DatasetError,
    FileStamp,
    Problem,
    Reader,
    register_reader,
)
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.images import (
    ImageError,
    centre_box,
    decode_mask,
    decode_rgb,
    fit_image,
    fit_mask,
    resized_shape,
)
from ad_assets.datasets.index import ImageIndex, KnownFile, build_index

__all__ = [
    "IMAGE_INDEX_SCHEMA",
    "READERS",
    "Candidate",
    "DatasetError",
    "FileStamp",
    "ImageError",
    "ImageFiles",
    "ImageIndex",
    "KnownFile",
    "Problem",
    "Reader",
    "blind",
    "btad",
    "build_index",
    "centre_box",
    "decode_mask",
    "decode_rgb",
    "demo",
    "fit_image",
    "fit_mask",
    "folder",
    "mtd",
    "mvtec_3d_rgb",
    "mvtec_ad",
    "mvtec_ad_2",
    "mvtec_loco",
    "mvtec_sl",
    "register_reader",
    "resized_shape",
    "visa",
]
