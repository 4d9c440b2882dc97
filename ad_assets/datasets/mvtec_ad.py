"""MVTec AD: Bergmann, Fauser, Sattlegger, Steger, "MVTec AD", CVPR 2019.

15 categories, 3629 training and 1725 test images (467 good, 1258 anomalous) with masks. Download it from
MVTec (CC BY-NC-SA 4.0) and point `root` at the folder that holds ``bottle``, ``cable``, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ad_assets.datasets.base import register_reader
from ad_assets.datasets.folder import MVTEC_LAYOUT
from ad_assets.datasets.published import Counts, PublishedLayout

COUNTS = {
    "bottle": Counts(209, 20, 63),
    "cable": Counts(224, 58, 92),
    "capsule": Counts(219, 23, 109),
    "carpet": Counts(280, 28, 89),
    "grid": Counts(264, 21, 57),
    "hazelnut": Counts(391, 40, 70),
    "leather": Counts(245, 32, 92),
    "metal_nut": Counts(220, 22, 93),
    "pill": Counts(267, 26, 141),
    "screw": Counts(320, 41, 119),
    "tile": Counts(230, 33, 84),
    "toothbrush": Counts(60, 12, 30),
    "transistor": Counts(213, 60, 40),
    "wood": Counts(247, 19, 60),
    "zipper": Counts(240, 32, 119),
}


@register_reader
class MvtecAdReader(PublishedLayout):
    """Reader of MVTec AD as published."""

    name: ClassVar[str] = "mvtec_ad"
    version: ClassVar[int] = 1
    paper_dataset: ClassVar[str | None] = "MVTec AD"
    origin: ClassVar[str] = "https://www.mvtec.com/company/research/datasets/mvtec-ad (CC BY-NC-SA 4.0)"
    layout: ClassVar[str] = MVTEC_LAYOUT
    counts: ClassVar[Mapping[str, Counts]] = COUNTS
