"""AUPRO image by image, averaged over the anomalous images: a reading of the numbers that PatchCore's authors report.

Roth et al. (CVPR 2022) publish per-category tables with the PRO of all images and of the anomalous ones, but not the
code that made them. What is inferred: in all of those tables the first is the second times the share of anomalous
images, which a false positive rate over the pixels of all images cannot give, so each image has a curve of its own and
a good image counts as 0. What is not known: connectivity, thresholds, limit and how the curve is cut there. For
these the choices of `PixelStatistics` stand: 8-connectivity, all distinct scores, interpolation at the limit.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ad_assets.metrics.components import component_weights
from ad_assets.metrics.pixels import checked_ignored, checked_limit, checked_maps
from ad_assets.metrics.threshold_curve import Levels


class PerImageOverlap:
    """Mergeable state; one number per anomalous image is kept, so neither batches nor their order matter.

    Args:
        fpr_limit: in (0, 1], of the normal pixels of the same image.

    Raises:
        ValueError: a limit outside (0, 1].
    """

    def __init__(self, fpr_limit: float = 0.3) -> None:
        self._fpr_limit = checked_limit(fpr_limit)
        self._areas: list[float] = []

    def update(self, maps: ArrayLike, masks: ArrayLike, *, ignored: NDArray[np.bool_] | None = None) -> None:
        """Take in a batch of images; nothing changes if it is refused.

        Args:
            maps: (B, H, W) scores, any float type, taken as float32; higher is more anomalous.
            masks: (B, H, W) bool or 0/1; images without anomalous or without normal pixels have no curve and are
                left out.
            ignored: (B, H, W), pixels that count nowhere, none of them anomalous.

        Raises:
            ValueError: as `PixelStatistics.update`.
        """
        values, anomalous = checked_maps(maps, masks)
        for score_map, mask, hidden in zip(values, anomalous, checked_ignored(ignored, anomalous), strict=True):
            if mask.any() and not (mask | hidden).all():
                scores = score_map.ravel().astype(np.float32)
                pixels, weights, _ = component_weights(mask[None])
                levels = Levels.of_scores(np.sort(scores[~hidden.ravel()]), scores[pixels], weights)
                self._areas.append(levels.aupro(self._fpr_limit))

    def merge(self, other: PerImageOverlap) -> None:
        """Take in the images of another state, which stays as it is.

        Raises:
            ValueError: the other state has another limit.
        """
        if other._fpr_limit != self._fpr_limit:
            raise ValueError(f"cannot merge areas up to {other._fpr_limit} into areas up to {self._fpr_limit}")
        self._areas += other._areas

    @property
    def images(self) -> int:
        """Images with both anomalous and normal pixels."""
        return len(self._areas)

    @property
    def mean(self) -> float:
        """Mean over these images of the area under the per-region overlap up to the limit, divided by it, in [0, 1].

        Raises:
            ValueError: no such image yet.
        """
        if not self._areas:
            raise ValueError("no image with both anomalous and normal pixels: overlap needs at least one")
        return math.fsum(self._areas) / len(self._areas)
