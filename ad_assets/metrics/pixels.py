"""Pixel metrics over all test images of a category, image batch by image batch, in bounded memory.

Pixel AUROC and average precision pool the pixels of all images. AUPRO is that of Bergmann et al. (IJCV 2021):
components of the ground truth by 8-connectivity, thresholds at all distinct scores, false positive rate over the normal
pixels of all images, trapezoid from (0, 0) to the limit with interpolation there, divided by the limit. Given annotated
regions instead, the same number is AU-sPRO (Bergmann et al., IJCV 2022).

Up to `exact_pixels` pixels are kept and sorted, and the numbers are exact. Beyond that, scores go into the fine
bins of a histogram (`score_bins`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ad_assets.metrics.components import component_weights
from ad_assets.metrics.regions import Region, check_regions, region_weights
from ad_assets.metrics.score_bins import ScoreHistogram
from ad_assets.metrics.threshold_curve import Levels, Points

EXACT_PIXELS = 1 << 24
GROUP_PIXELS = 1 << 21  # pixels in hand at a time
SAMPLE_STRIDE = 61  # prime, so that a sample does not follow the columns of the maps


class PixelStatistics:
    """Mergeable state of the pixel metrics.

    Args:
        exact_pixels: how many pixels to keep before a histogram takes over; 4 bytes each.
    """

    def __init__(self, exact_pixels: int = EXACT_PIXELS) -> None:
        self._exact_pixels = exact_pixels
        self._pixels = 0
        self._anomalous_pixels = 0
        self._components = 0
        self._scores: list[NDArray[np.float32]] = []
        self._anomalous: list[NDArray[np.float32]] = []
        self._weights: list[NDArray[np.float64]] = []
        self._histogram: ScoreHistogram | None = None
        self._levels: Levels | None = None

    def update(
        self,
        maps: ArrayLike,
        masks: ArrayLike,
        regions: Sequence[Sequence[Region]] | None = None,
        *,
        ignored: NDArray[np.bool_] | None = None,
    ) -> None:
        """Take in a batch of images; nothing changes if it is refused.

        Args:
            maps: (B, H, W) scores, any float type, taken as float32; higher is more anomalous.
            masks: (B, H, W) bool or 0/1; an image without anomalous pixels contributes normal ones.
            regions: the regions of each image, of which its mask is the union; they take the place of the connected
                components, which makes `aupro` the area under saturated overlap.
            ignored: (B, H, W), pixels that count nowhere, none of them anomalous.

        Raises:
            ValueError: shapes differ, masks hold other values, scores that are not finite, pixels both anomalous and
                ignored, or regions that do not make up the masks, with their image.
        """
        scores, anomalous = checked_maps(maps, masks)
        hidden = checked_ignored(ignored, anomalous)
        if regions is not None:
            check_regions(anomalous, regions)
        self._levels = None
        counted = scores.size - int(hidden.sum())
        if self._histogram is None and self._pixels + counted > self._exact_pixels:
            # No bin is spent on what counts nowhere.
            some = ~hidden.ravel()[::SAMPLE_STRIDE]
            sample = scores.ravel()[::SAMPLE_STRIDE][some]
            self._fold(sample, sample[anomalous.ravel()[::SAMPLE_STRIDE][some]])
        self._pixels += counted
        images = max(1, GROUP_PIXELS // max(1, scores[:1].size))
        for first in range(0, len(scores), images):
            part = slice(first, first + images)
            group = scores[part].ravel().astype(np.float32, copy=self._histogram is None)
            pixels, weights, components = (
                component_weights(anomalous[part])
                if regions is None
                else region_weights(scores[part], anomalous[part], regions[part])
            )
            self._components += components
            self._anomalous_pixels += len(pixels)
            self._add(group[~hidden[part].ravel()] if hidden[part].any() else group, group[pixels], weights)

    def merge(self, other: PixelStatistics) -> None:
        """Take in the images of another state, which stays as it is."""
        self._levels = None
        if self._histogram is None and (
            other._histogram is not None or self._pixels + other._pixels > self._exact_pixels
        ):
            self._fold(_sample(other._scores), _sample(other._anomalous))
        self._pixels += other._pixels
        self._anomalous_pixels += other._anomalous_pixels
        self._components += other._components
        for parts in list(zip(other._scores, other._anomalous, other._weights, strict=True)):
            self._add(*parts)
        if self._histogram is not None and other._histogram is not None:
            self._histogram.merge(other._histogram)

    @property
    def pixels(self) -> int:
        """Pixels taken in."""
        return self._pixels

    @property
    def anomalous_pixels(self) -> int:
        """Anomalous ones among them."""
        return self._anomalous_pixels

    @property
    def components(self) -> int:
        """Connected components taken in, or regions where they were given."""
        return self._components

    def pixel_auroc(self) -> float:
        """AUROC of all pixels, ties at 1/2. This and all below: ValueError unless both kinds of pixels are there."""
        return self.levels().auroc()

    def pixel_ap(self) -> float:
        """Average precision of all pixels: the sum of (R_k - R_{k-1}) P_k."""
        return self.levels().average_precision()

    def aupro(self, fpr_limit: float = 0.3) -> float:
        """Area under the per-region overlap up to a false positive rate in (0, 1], divided by it."""
        return self.levels().aupro(checked_limit(fpr_limit))

    def best_iou(self) -> tuple[float, float]:
        """Largest IoU of the pooled pixels over all thresholds (score >= threshold), and its highest threshold."""
        levels = self.levels()
        iou = levels.iou()
        best = int(iou.argmax())
        return float(iou[best]), float(levels.thresholds[best])

    def roc_points(self) -> Points:
        """False positive rates and recalls, at most 200, for plots."""
        return self.levels().roc_points()

    def pr_points(self) -> Points:
        """Recalls and precisions, at most 200, for plots."""
        return self.levels().pr_points()

    def pro_points(self) -> Points:
        """False positive rates and per-region overlaps, at most 200, for plots."""
        return self.levels().pro_points()

    def levels(self) -> Levels:
        """The table behind every metric.

        Raises:
            ValueError: no anomalous or no normal pixel yet.
        """
        missing = "anomalous" if self._anomalous_pixels == 0 else "normal"
        if self._anomalous_pixels in (0, self._pixels):
            raise ValueError(f"no {missing} pixel among {self._pixels}: pixel metrics need masks with both kinds")
        if self._levels is None:
            self._levels = self._exact_levels() if self._histogram is None else self._histogram.levels()
        return self._levels

    def _exact_levels(self) -> Levels:
        for parts in (self._scores, self._anomalous, self._weights):
            parts[:] = [np.concatenate(parts)]
        self._scores[0].sort()  # in place: they are a multiset
        return Levels.of_scores(self._scores[0], self._anomalous[0], self._weights[0])

    def _add(self, scores: NDArray[Any], anomalous: NDArray[Any], weights: NDArray[Any]) -> None:
        if self._histogram is not None:
            self._histogram.add(scores, anomalous, weights)
            return
        self._scores.append(scores)
        self._anomalous.append(anomalous)
        self._weights.append(weights)

    def _fold(self, coming: NDArray[Any], coming_anomalous: NDArray[Any]) -> None:
        """Move the pixels kept so far into a histogram suited to them and to a sample of those to come."""
        self._histogram = ScoreHistogram(
            _sample([*self._scores, coming]), _sample([*self._anomalous, coming_anomalous])
        )
        for parts in zip(self._scores, self._anomalous, self._weights, strict=True):
            self._histogram.add(*parts)
        self._scores, self._anomalous, self._weights = [], [], []


def checked_limit(fpr_limit: float) -> float:
    """The limit itself.

    Raises:
        ValueError: outside (0, 1].
    """
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit must be in (0, 1], got {fpr_limit}")
    return fpr_limit


def checked_maps(maps: ArrayLike, masks: ArrayLike) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Maps and masks (B, H, W), the masks as bool.

    Raises:
        ValueError: as `PixelStatistics.update`.
    """
    scores, anomalous = np.asarray(maps), np.asarray(masks)
    if scores.ndim != 3 or scores.dtype.kind != "f":
        raise ValueError(f"maps must be (B, H, W) floating point, got {scores.dtype} of shape {scores.shape}")
    if anomalous.shape != scores.shape:
        raise ValueError(f"masks must have the shape of the maps, {scores.shape}, got {anomalous.shape}")
    if anomalous.dtype != np.bool_:
        if not ((anomalous == 0) | (anomalous == 1)).all():
            raise ValueError(f"masks must be bool or 0/1, got {anomalous.dtype} up to {anomalous.max()}")
        anomalous = anomalous.astype(np.bool_)
    largest = np.finfo(np.float32).max
    for image, values in enumerate(scores):
        if values.size and not (values.min() >= -largest and values.max() <= largest):
            raise ValueError(f"maps[{image}] holds NaN, infinity or a number beyond float32")
    return scores, anomalous


def checked_ignored(ignored: NDArray[np.bool_] | None, anomalous: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels that count nowhere, (B, H, W) bool.

    Raises:
        ValueError: another shape than the masks, or some of them anomalous.
    """
    if ignored is None:
        return np.broadcast_to(np.False_, anomalous.shape)
    if ignored.shape != anomalous.shape or ignored.dtype != np.bool_:
        raise ValueError(f"ignored must be bool of shape {anomalous.shape}, got {ignored.dtype} of {ignored.shape}")
    if (ignored & anomalous).any():
        raise ValueError("a pixel is both anomalous and ignored")
    return ignored


def _sample(parts: list[NDArray[Any]]) -> NDArray[np.float32]:
    return np.concatenate([np.empty(0, np.float32), *(part[::SAMPLE_STRIDE] for part in parts)], dtype=np.float32)
