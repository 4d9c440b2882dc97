"""Readers: one module or package for each dataset or layout, registered in `ad_assets.datasets.READERS`."""

from ad_assets.datasets.readers import (
    blind,
    btad,
    cifar10,
    folder,
    mtd,
    mvtec_3d_rgb,
    mvtec_ad,
    mvtec_ad_2,
    mvtec_loco,
    mvtec_sl,
    visa,
)
from ad_assets.datasets.readers.demo import reader as demo
from ad_assets.datasets.readers.mstc import reader as mstc

__all__ = [
    "blind",
    "btad",
    "cifar10",
    "demo",
    "folder",
    "mstc",
    "mtd",
    "mvtec_3d_rgb",
    "mvtec_ad",
    "mvtec_ad_2",
    "mvtec_loco",
    "mvtec_sl",
    "visa",
]
