"""What a detector says of one image, by `ad_assets.prediction` and by a bundle alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ad_assets_runtime.defect_regions import DefectRegion, defect_regions
from ad_assets_runtime.geometry import Mask, Resize, fit_region, seen_mask, seen_share, unfit_map


class Framed(Protocol):
    """What brings images into the frame of a detector.

    Attributes:
        geometry: resize and crop of images, as `fit_image` takes them.
        map_geometry: those of score maps, as `unfit_map` takes them.
    """

    @property
    def geometry(self) -> tuple[Resize, int | None]: ...

    @property
    def map_geometry(self) -> tuple[Resize, int | None]: ...


@dataclass(frozen=True)
class Prediction:
    """The result for one image.

    Args:
        name: the path as given; ``image <number>``, counted from 1, for bytes and arrays.
        score: raw image score; higher is more anomalous.
        threshold: from scores of nominal training images alone; None where there are none (blind settings, one training
            image, a trained method without held-out images).
        p_value: as `p_values` has it; None without a threshold.
        score_map: ``(h, w)`` float32, raw, in the frame of the extractor's input; with tiles, in cells of the first
            tap.
        shape: height and width of the image.
        extractor: what resizes and crops images, and so defines that frame.
        step_seconds: step -> seconds per image, an equal share of its batch.
        pixel_threshold: for scores of the map, from the highest map scores of nominal training images at the rate of
            `threshold`; None where there are none.
        inspected: ``(H, W)`` bool, the region of interest in the frame of the image; None: all of it is inspected.
        decided: when a person decided that this very file is a false alarm (ISO 8601), where its score is above the
            threshold all the same; else empty.
    """

    name: str
    score: float
    threshold: float | None
    p_value: float | None
    score_map: NDArray[np.float32]
    shape: tuple[int, int]
    extractor: Framed
    step_seconds: Mapping[str, float]
    pixel_threshold: float | None = None
    inspected: Mask | None = None
    decided: str = ""

    @property
    def anomalous(self) -> bool | None:
        """Whether the score lies above the threshold, as the metrics decide; None without a threshold.

        False for an image that a person called a false alarm: see `decided`.
        """
        if self.threshold is None:
            return None
        return self.score > self.threshold and not self.decided

    @property
    def seconds(self) -> float:
        """Seconds per image, an equal share of its batch."""
        return sum(self.step_seconds.values())

    @cached_property
    def regions(self) -> tuple[DefectRegion, ...]:
        """The connected regions above the pixel threshold, in pixels of the whole image; none without a threshold."""
        if self.pixel_threshold is None or self.score_map.max() <= self.pixel_threshold:
            return ()
        whole = self.full_map()
        inspected = self.inspected_at(whole.shape)
        if inspected is not None:
            whole[~inspected] = np.nan
        return defect_regions(whole, self.pixel_threshold)

    def full_map(self, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """The map in the frame of the whole image, ``(H, W)`` float32; NaN where nothing was looked at.

        Outside the region of interest it has the lowest score of the map.

        Args:
            size: height and width of the result, if not those of the image.
        """
        whole = unfit_map(self.score_map, self.shape, *self.extractor.map_geometry, size)
        inspected = self.inspected_at(whole.shape)
        if inspected is not None:
            whole[~inspected] = self.score_map.min()
        if self.seen < 1:
            whole[~self.seen_mask(size)] = np.nan
        return whole

    def inspected_at(self, size: Sequence[int]) -> Mask | None:
        """The region of interest at another height and width; None: all is inspected."""
        return None if self.inspected is None else fit_region(self.inspected, (size[0], size[1]))

    @property
    def seen(self) -> float:
        """The part of the picture that was looked at, 0..1."""
        return seen_share(self.shape, *self.extractor.geometry)

    def seen_mask(self, size: tuple[int, int] | None = None) -> Mask:
        """Which pixels of the whole image were looked at, ``(H, W)``; the others were cut away by the crop.

        Args:
            size: as for `full_map`.
        """
        return seen_mask(self.shape, *self.extractor.geometry, size)
