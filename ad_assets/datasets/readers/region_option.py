"""The option `roi` of readers of a user's own images: where the regions of interest lie."""

from __future__ import annotations

import posixpath
import re
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from ad_assets.datasets.base import Reader
from ad_assets.datasets.names import CATEGORY_KEY

PLACE = "{category}"


class RegionOption(Reader):
    """Base of readers with the option `roi`."""

    roi: str | dict[str, str] | None = Field(
        None,
        description="mask of the region of interest, of the images' size, white where they are inspected: a path below "
        "the root in which {category} stands for the category, or one for each category (others are inspected whole)",
    )

    roi_margin: int = Field(
        0,
        ge=0,
        le=16_384,
        description="pixels of the images by which regions of interest are drawn in, so that patches near the border, "
        "which see what lies outside, do not score; `ad-assets doctor` says how far they see",
    )

    @field_validator("roi")
    @classmethod
    def _below_the_root(cls, roi: str | dict[str, str] | None) -> str | dict[str, str] | None:
        named = roi if isinstance(roi, dict) else {} if roi is None else {PLACE: roi}
        for category, path in named.items():
            if category != PLACE and not CATEGORY_KEY.fullmatch(category):
                raise ValueError(f"{category!r} is no name of a category")
            if path.startswith(("/", "~")) or "://" in path or ":\\" in path or ".." in path.split("/") or not path:
                raise ValueError(f"{path!r}: a path below the root of the dataset, such as roi/{PLACE}.png")
            if "{" in path.replace(PLACE, ""):
                raise ValueError(f"{path!r}: only {PLACE} stands for something")
        return roi

    def index_config(self) -> dict[str, Any]:
        # Indexes made before there were regions keep their fingerprint.
        unset = {"roi": None, "roi_margin": 0}
        return {key: value for key, value in super().index_config().items() if key not in unset or value != unset[key]}

    @model_validator(mode="after")
    def _margin_of_a_region(self) -> Self:
        if self.roi_margin and self.roi is None:
            raise ValueError("roi_margin: there is no roi that it could draw in: give one, or remove it")
        return self

    @property
    def has_regions(self) -> bool:
        return self.roi is not None

    @property
    def region_margin(self) -> int:
        return self.roi_margin

    def region_path(self, category: str) -> str | None:
        if isinstance(self.roi, str):
            return posixpath.normpath(self.roi.replace(PLACE, category))
        path = (self.roi or {}).get(category)
        return None if path is None else posixpath.normpath(path.replace(PLACE, category))

    def is_region(self, path: str) -> bool:
        """Whether a path is that of a region of any category, which is no image."""
        if not isinstance(self.roi, str):
            return path in [self.region_path(category) for category in self.roi or ()]
        pattern = re.escape(posixpath.normpath(self.roi)).replace(re.escape(PLACE), CATEGORY_KEY.pattern)
        return re.fullmatch(pattern, path) is not None
