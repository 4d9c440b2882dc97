"""How well scores rank anomalous above nominal: AUROC with ties at 1/2, and average precision.

Raw scores go in, of any range. Nothing here clamps, normalises or thins before the number is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ad_assets.metrics.threshold_curve import Levels, Points
from ad_assets_runtime.conformal import finite_scores


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """P(anomalous score > nominal score) + P(equal) / 2, in [0, 1].

    Args:
        scores: (n,) finite, higher is more anomalous.
        labels: (n,) bool or 0/1, 1 is anomalous.

    Raises:
        ValueError: wrong shapes or values, or only one class is there.
    """
    return levels_of(scores, labels).auroc()


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Sum over distinct scores of (R_k - R_{k-1}) P_k, in (0, 1]; arguments and errors as `auroc`."""
    return levels_of(scores, labels).average_precision()


def roc_curve_points(scores: ArrayLike, labels: ArrayLike) -> Points:
    """False positive rates and recalls, at most 200, for plots; arguments and errors as `auroc`."""
    return levels_of(scores, labels).roc_points()


def pr_curve_points(scores: ArrayLike, labels: ArrayLike) -> Points:
    """Recalls and precisions, at most 200, for plots; arguments and errors as `auroc`."""
    return levels_of(scores, labels).pr_points()


def levels_of(scores: ArrayLike, labels: ArrayLike) -> Levels:
    """The exact table behind every image metric; arguments and errors as `auroc`."""
    anomalous, nominal = both_classes(scores, labels)
    return Levels.of_scores(np.sort(np.concatenate([anomalous, nominal])), anomalous, np.ones(len(anomalous)))


def both_classes(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The scores of the anomalous images and those of the nominal ones; arguments and errors as `auroc`."""
    values = finite_scores(scores)
    anomalous = binary_labels(labels, len(values))
    missing = "anomalous" if not anomalous.any() else "nominal"
    if anomalous.all() or not anomalous.any():
        raise ValueError(f"no {missing} image among {len(values)}: a ranking needs both classes")
    return values[anomalous], values[~anomalous]


def binary_labels(labels: ArrayLike, count: int) -> NDArray[np.bool_]:
    """(count,) bool.

    Raises:
        ValueError: another shape, or values besides 0 and 1.
    """
    values: NDArray[Any] = np.asarray(labels)
    if values.shape != (count,):
        raise ValueError(f"labels must be ({count},) like the scores, got shape {values.shape}")
    if values.dtype != np.bool_ and not np.isin(values, (0, 1)).all():
        raise ValueError(f"labels must be 0 (nominal) or 1 (anomalous), got {sorted(set(values.tolist()))[:5]}")
    return values.astype(np.bool_)
