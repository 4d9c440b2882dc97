"""MVTec AD 2: Heckler-Kram, Neudeck, Scheler, König, Steger, "The MVTec AD 2 Dataset", 2025: 8 scenarios.

Tests on ``test_public``. The images of ``test_private`` and ``test_private_mixed`` have no labels here: only MVTec's
server can score them (https://benchmark.mvtec.com), so they are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ad_assets.datasets.base import register_reader
from ad_assets.datasets.published import Counts, WithValidation


@register_reader
class MvtecAd2Reader(WithValidation):
    """Reader of the archive as it unpacks."""

    name: ClassVar[str] = "mvtec_ad_2"
    version: ClassVar[int] = 1
    origin: ClassVar[str] = "https://www.mvtec.com/company/research/datasets/mvtec-ad-2 (CC BY-NC-SA 4.0)"
    layout: ClassVar[str] = """\
<object>/{train,validation}/good/NNN_regular.png
<object>/test_public/{good,bad}/NNN_<lighting>.png
<object>/test_public/ground_truth/bad/NNN_<lighting>_mask.png"""
    image_place: ClassVar[str] = "test_public/{type}/{name}.png"
    mask_place: ClassVar[str] = "test_public/ground_truth/{type}/{name}_mask.png"
    counts: ClassVar[Mapping[str, Counts]] = {
        "can": Counts(412, 72, 90),
        "fabric": Counts(387, 66, 90),
        "fruit_jelly": Counts(263, 20, 60),
        "rice": Counts(313, 42, 90),
        "sheet_metal": Counts(137, 24, 90),
        "vial": Counts(291, 35, 105),
        "wallplugs": Counts(293, 60, 90),
        "walnuts": Counts(432, 60, 90),
    }
    validation_counts: ClassVar[Mapping[str, int]] = {
        "can": 46,
        "fabric": 43,
        "fruit_jelly": 37,
        "rice": 35,
        "sheet_metal": 19,
        "vial": 41,
        "wallplugs": 33,
        "walnuts": 48,
    }

    def _as_mvtec(self, parts: list[str]) -> list[str]:
        if parts[1:2] != ["test_public"]:
            return super()._as_mvtec(parts)
        above = [parts[0]] if parts[2] == "ground_truth" else [parts[0], "test"]
        return [*above, *parts[2:]]
