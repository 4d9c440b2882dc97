"""Readers: from folders of images to image indexes; one module per dataset, registered in `READERS`."""

from ad_assets.datasets import (
    blind,
    btad,
    cifar10,
    demo,
    folder,
    mstc,
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
from ad_assets.datasets.contents import ChangedFileError, read_image, read_masks
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.geometry import centre_box, fit_image, fit_mask, resized_shape
from ad_assets.datasets.images import ImageError
from ad_assets.datasets.index import ImageIndex, build_index
from ad_assets.datasets.scanning import KnownFile
from ad_assets.settings.extensions import load_extensions

__all__ = [
    "IMAGE_INDEX_SCHEMA",
    "READERS",
    "Candidate",
    "ChangedFileError",
    "DatasetError",
    "Decoding",
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
    "cifar10",
    "demo",
    "fit_image",
    "fit_mask",
    "folder",
    "mstc",
    "mtd",
    "mvtec_3d_rgb",
    "mvtec_ad",
    "mvtec_ad_2",
    "mvtec_loco",
    "mvtec_sl",
    "read_image",
    "read_masks",
    "register_reader",
    "resized_shape",
    "visa",
]

load_extensions("ad_assets.readers")
