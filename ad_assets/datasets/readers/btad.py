"""BTAD: Mishra, Verk, Fornasier, Piciarelli, Foresti, "VT-ADL", ISIE 2021: three products of beanTech, 2540 images.

Images and masks differ in suffix from product to product (bmp or png), so they pair by stem. Some masks of the
release are empty; those images stay anomalous.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ad_assets.datasets.base import register_reader
from ad_assets.datasets.readers.published import ImageCounts, PublishedLayout


@register_reader
class BtadReader(PublishedLayout):
    """Reader of the release as it unpacks (``BTech_Dataset_transformed`` is the root)."""

    name: ClassVar[str] = "btad"
    version: ClassVar[int] = 1
    paper_dataset: ClassVar[str | None] = "BTAD"
    origin: ClassVar[str] = "https://avires.dimi.uniud.it/papers/btad/btad.zip (no licence stated; cite Mishra et al.)"
    layout: ClassVar[str] = """\
{01,02,03}/train/ok/NAME.{bmp,png}
{01,02,03}/test/{ok,ko}/NAME.{bmp,png}
{01,02,03}/ground_truth/ko/NAME.{png,bmp}"""
    mask_place: ClassVar[str] = "ground_truth/{type}/{name}.png or .bmp"
    counts: ClassVar[Mapping[str, ImageCounts]] = {
        "01": ImageCounts(400, 21, 49),
        "02": ImageCounts(399, 30, 200),
        "03": ImageCounts(1000, 400, 41),
    }
