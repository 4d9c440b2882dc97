"""MVTec AD: Bergmann, Fauser, Sattlegger, Steger, "MVTec AD", CVPR 2019.

15 categories, 3629 training and 1725 test images (467 good, 1258 anomalous) with masks. Download it from
MVTec (CC BY-NC-SA 4.0) and point `root` at the folder that holds ``bottle``, ``cable``, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ad_assets.datasets.base import register_reader
from ad_assets.datasets.readers.folder import MVTEC_LAYOUT
from ad_assets.datasets.readers.published import ImageCounts, PublishedLayout

COUNTS = {
    "bottle": ImageCounts(209, 20, 63),
    "cable": ImageCounts(224, 58, 92),
    "capsule": ImageCounts(219, 23, 109),
    "carpet": ImageCounts(280, 28, 89),
    "grid": ImageCounts(264, 21, 57),
    "hazelnut": ImageCounts(391, 40, 70),
    "leather": ImageCounts(245, 32, 92),
    "metal_nut": ImageCounts(220, 22, 93),
    "pill": ImageCounts(267, 26, 141),
    "screw": ImageCounts(320, 41, 119),
    "tile": ImageCounts(230, 33, 84),
    "toothbrush": ImageCounts(60, 12, 30),
    "transistor": ImageCounts(213, 60, 40),
    "wood": ImageCounts(247, 19, 60),
    "zipper": ImageCounts(240, 32, 119),
}


@register_reader
class MvtecAdReader(PublishedLayout):
    """Reader of MVTec AD as published."""

    name: ClassVar[str] = "mvtec_ad"
    version: ClassVar[int] = 1
    paper_dataset: ClassVar[str | None] = "MVTec AD"
    origin: ClassVar[str] = "https://www.mvtec.com/company/research/datasets/mvtec-ad (CC BY-NC-SA 4.0)"
    layout: ClassVar[str] = MVTEC_LAYOUT
    counts: ClassVar[Mapping[str, ImageCounts]] = COUNTS
