"""From folders of images to image indexes: listing, decoding, checking; `readers` know the layouts of datasets."""

from ad_assets.datasets import readers
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
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.files import ChangedFileError, ImageFiles, read_image_bytes, read_mask_bytes
from ad_assets.datasets.geometry import fit_mask
from ad_assets.datasets.index import ImageIndex, build_index
from ad_assets.datasets.scanning import KnownFile
from ad_assets.settings.extensions import load_extensions
from ad_assets_runtime.geometry import centre_box, fit_image, resized_shape
from ad_assets_runtime.images import ImageError

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
    "build_index",
    "centre_box",
    "fit_image",
    "fit_mask",
    "read_image_bytes",
    "read_mask_bytes",
    "readers",
    "register_reader",
    "resized_shape",
]

load_extensions("ad_assets.readers")
