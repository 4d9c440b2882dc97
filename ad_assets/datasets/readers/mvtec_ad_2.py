"""MVTec AD 2: Heckler-Kram, Neudeck, Scheler, König, Steger, "The MVTec AD 2 Dataset", 2025: 8 scenarios.

Tests on ``test_public``, or on ``test_private`` or ``test_private_mixed``, whose images have no labels: only MVTec's
server can evaluate them (https://benchmark.mvtec.com), from maps that `ad-assets export maps` writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from ad_assets.datasets.base import Candidate, Problem, register_reader
from ad_assets.datasets.names import is_image
from ad_assets.datasets.readers.published import ImageCounts, WithValidation

UNLABELLED = "unlabelled"


@register_reader
class MvtecAd2Reader(WithValidation):
    """Reader of the archive as it unpacks."""

    name: ClassVar[str] = "mvtec_ad_2"
    version: ClassVar[int] = 1
    origin: ClassVar[str] = "https://www.mvtec.com/company/research/datasets/mvtec-ad-2 (CC BY-NC-SA 4.0)"
    layout: ClassVar[str] = """\
<object>/{train,validation}/good/NNN_regular.png
<object>/test_public/{good,bad}/NNN_<lighting>.png
<object>/test_public/ground_truth/bad/NNN_<lighting>_mask.png
<object>/{test_private,test_private_mixed}/NNN_<lighting>.png"""
    image_place: ClassVar[str] = "test_public/{type}/{name}.png"
    mask_place: ClassVar[str] = "test_public/ground_truth/{type}/{name}_mask.png"
    counts: ClassVar[Mapping[str, ImageCounts]] = {
        "can": ImageCounts(412, 72, 90),
        "fabric": ImageCounts(387, 66, 90),
        "fruit_jelly": ImageCounts(263, 20, 60),
        "rice": ImageCounts(313, 42, 90),
        "sheet_metal": ImageCounts(137, 24, 90),
        "vial": ImageCounts(291, 35, 105),
        "wallplugs": ImageCounts(293, 60, 90),
        "walnuts": ImageCounts(432, 60, 90),
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

    split: Literal["public", "private", "private_mixed"] = Field("public", description="which images are tested")

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        by_category = super().assign(paths)
        if self.split == "public":
            return by_category
        pattern = re.compile(rf"([^/]+)/test_{self.split}/[^/]+")
        train = {
            name: [candidate for candidate in candidates if candidate.split == "train"]
            for name, candidates in by_category.items()
        }
        for path in sorted(paths):
            match = pattern.fullmatch(path)
            if match and match[1] in train and is_image(path):
                train[match[1]].append(Candidate(path, "test", None, UNLABELLED))
        return train

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        # Published counts and masks are those of the labelled images.
        return super().check_names(category, paths, candidates) if self.split == "public" else []

    def _as_mvtec(self, parts: list[str]) -> list[str]:
        if parts[1:2] != ["test_public"]:
            return super()._as_mvtec(parts)
        above = [parts[0]] if parts[2] == "ground_truth" else [parts[0], "test"]
        return [*above, *parts[2:]]
