"""How well maps cover the ground truth: per-region overlap (AUPRO) and intersection over union.

Thin over `PixelStatistics`, which also takes images batch by batch and merges.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from ad_assets.metrics.pixels import PixelStatistics, checked_limit


def aupro(maps: ArrayLike, masks: ArrayLike, fpr_limit: float = 0.3) -> float:
    """Area under the per-region overlap up to a false positive rate, divided by it, in [0, 1].

    Exact up to 2**24 pixels, beyond that within `PixelStatistics.error_bounds`.

    Args:
        maps: (N, H, W) scores, taken as float32; higher is more anomalous.
        masks: (N, H, W) bool or 0/1.
        fpr_limit: in (0, 1].

    Raises:
        ValueError: bad shapes, values or limit, or not both kinds of pixels.
    """
    limit = checked_limit(fpr_limit)
    return _statistics(maps, masks).aupro(limit)


def best_iou(maps: ArrayLike, masks: ArrayLike) -> float:
    """Largest IoU over all thresholds, pixels of all images pooled; arguments and errors as `aupro`."""
    return _statistics(maps, masks).best_iou()[0]


def best_iou_threshold(maps: ArrayLike, masks: ArrayLike) -> float:
    """The highest threshold (score >= threshold) that attains `best_iou`."""
    return _statistics(maps, masks).best_iou()[1]


def _statistics(maps: ArrayLike, masks: ArrayLike) -> PixelStatistics:
    statistics = PixelStatistics()
    statistics.update(maps, masks)
    return statistics
