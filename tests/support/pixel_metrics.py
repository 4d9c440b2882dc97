"""Pixel metrics of whole arrays of maps, and how far metrics of binned scores can be from the exact ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ad_assets.metrics.pixels import PixelStatistics, checked_limit
from ad_assets.metrics.threshold_curve import Counts, Floats, Levels


def aupro(maps: ArrayLike, masks: ArrayLike, fpr_limit: float = 0.3) -> float:
    """Area under the per-region overlap up to a false positive rate, divided by it, in [0, 1].

    Exact up to 2**24 pixels, beyond that within `error_bounds`.

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


class ErrorBounds(NamedTuple):
    """How far each metric can lie from its exact value; 0 unless scores were put into bins."""

    pixel_auroc: float
    pixel_ap: float
    aupro: float
    best_iou: float


def error_bounds(statistics: PixelStatistics, fpr_limit: float = 0.3) -> ErrorBounds:
    """What taking levels for ties can cost, whatever the order inside them: all anomalies first, or all last."""
    levels = statistics.levels()
    before = np.concatenate([[0], levels.anomalous[:-1]])
    highest = levels.anomalous / (levels.anomalous + levels.normal_above)
    lowest = (before + 1) / (before + 1 + levels.normal)
    possible_iou = np.where(
        levels.tied, levels.iou(), levels.anomalous / (levels.anomalous_total + levels.normal_above)
    )
    return ErrorBounds(
        pixel_auroc=_area_error(levels, levels.anomalous, 1.0),
        pixel_ap=float(levels._gain() @ _gap(levels, highest, levels.precision(), lowest)),
        aupro=_area_error(levels, levels.weight, fpr_limit),
        best_iou=float(possible_iou.max() - levels.iou().max()),
    )


def _area_error(levels: Levels, reached: Floats | Counts, limit: float) -> float:
    stop = limit * levels.normal_total
    first, last = np.maximum(stop - levels.normal_above, 0), np.maximum(stop - levels.normal, 0)
    gain = np.diff(reached, prepend=0).astype(np.float64)
    error = float(gain @ _gap(levels, first, levels._heights(limit), last))
    return error / (float(reached[-1]) * limit * levels.normal_total)


def _gap(levels: Levels, highest: Floats, used: Floats, lowest: Floats) -> Floats:
    return np.where(levels.tied, 0.0, np.maximum(highest - used, used - lowest))
