"""Confusion counts at every distinct anomalous score; ROC, PR, PRO, IoU and F1 all follow exactly from them.

Between two of them only normal items pass the threshold, so curves run straight there. These rows are therefore enough
for AUROC, average precision, PRO, IoU and F1 over all distinct thresholds, without approximation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Counts = NDArray[np.int64]
Points = tuple[Floats, Floats]

PLOT_POINTS = 200


@dataclass(frozen=True)
class Levels:
    """One row a level, thresholds falling; a score of at least the threshold predicts an anomaly.

    Args:
        thresholds: (n,) float64 scores; for bins of a histogram the smallest score of the bin.
        anomalous: (n,) anomalous items at or above each threshold.
        weight: (n,) float64, the same with each anomalous item counted by its weight.
        normal_above: (n,) normal items above the level (its bin).
        normal: (n,) normal items at or above the threshold.
        normal_total: all normal items.
        tied: (n,) bool, whether all items of a level have one score; else the order inside it is lost.
    """

    thresholds: Floats
    anomalous: Counts
    weight: Floats
    normal_above: Counts
    normal: Counts
    normal_total: int
    tied: NDArray[np.bool_]

    @classmethod
    def of_scores(cls, scores: Floats, anomalous: Floats, weights: Floats) -> Levels:
        """Exact levels.

        Args:
            scores: scores of all items, ascending.
            anomalous: scores of the anomalous ones among them, same dtype, any order, at least one.
            weights: the weight of each anomalous item.
        """
        thresholds, level, counts = np.unique(anomalous, return_inverse=True, return_counts=True)
        weight = np.bincount(level, weights, minlength=len(thresholds))
        counts = counts[::-1]
        reached: Counts = counts.cumsum(dtype=np.int64)
        left = np.searchsorted(scores, thresholds, side="left")
        right = left + counts[::-1]  # the anomalous ones of that score, and mostly no others
        tied = right < len(scores)
        tied[tied] = scores[right[tied]] == thresholds[tied]
        right[tied] = np.searchsorted(scores, thresholds[tied], side="right")
        above: Any = len(scores) - right[::-1]
        at_least: Counts = len(scores) - left[::-1]
        return cls(
            thresholds=thresholds[::-1].astype(np.float64),
            anomalous=reached,
            weight=weight[::-1].cumsum(),
            normal_above=above - (reached - counts),
            normal=at_least - reached,
            normal_total=len(scores) - len(anomalous),
            tied=np.ones(len(thresholds), dtype=np.bool_),
        )

    @property
    def anomalous_total(self) -> int:
        """All anomalous items."""
        return int(self.anomalous[-1])

    def auroc(self) -> float:
        """P(anomalous score > normal score) + P(equal) / 2."""
        return self._area(self.anomalous, 1.0)

    def aupro(self, fpr_limit: float) -> float:
        """Mean height of the weighted coverage over false positive rates from 0 to the limit."""
        return self._area(self.weight, fpr_limit)

    def average_precision(self) -> float:
        """Sum over thresholds of the gain in recall times the precision."""
        return float(self._gain() @ self.precision())

    def precision(self) -> Floats:
        """(n,) share of anomalies among what each threshold finds."""
        return self.anomalous / (self.anomalous + self.normal)

    def iou(self) -> Floats:
        """(n,) intersection over union at each threshold."""
        return self.anomalous / (self.anomalous_total + self.normal)

    def f1(self) -> Floats:
        """(n,) F1 at each threshold."""
        return 2 * self.anomalous / (self.anomalous_total + self.anomalous + self.normal)

    def roc_points(self) -> Points:
        """False positive rate and recall, from (0, 0) to (1, 1), thinned for plots."""
        return self._curve(self.anomalous)

    def pro_points(self) -> Points:
        """False positive rate and weighted coverage, from (0, 0) to (1, 1), thinned for plots."""
        return self._curve(self.weight)

    def pr_points(self) -> Points:
        """Recall and precision, thinned for plots."""
        return thinned(self.anomalous / self.anomalous_total, self.precision())

    def _gain(self) -> Floats:
        return np.diff(self.anomalous, prepend=0) / self.anomalous_total

    def _area(self, reached: Floats | Counts, limit: float) -> float:
        # Anomalies of one level spread evenly between its two false positive rates: the trapezoid, level by level.
        gain = np.diff(reached, prepend=0).astype(np.float64)
        return float(gain @ self._heights(limit)) / (float(reached[-1]) * limit * self.normal_total)

    def _heights(self, limit: float) -> Floats:
        """(n,) normal items, up to the limit, that each level's anomalies rank above, on average."""
        stop = limit * self.normal_total
        left, right = self.normal_above, self.normal
        cut = np.square(np.maximum(stop - left, 0.0)) / (2 * np.maximum(right - left, 1))
        return np.where(right <= stop, stop - (left + right) / 2, cut)

    def _curve(self, reached: Floats | Counts) -> Points:
        share = reached / reached[-1]
        x = np.stack([self.normal_above, self.normal], axis=1).ravel() / max(self.normal_total, 1)
        y = np.stack([np.concatenate([[0.0], share[:-1]]), share], axis=1).ravel()
        return thinned(np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, [1.0]]))


def thinned(x: Floats, y: Floats) -> Points:
    """At most `PLOT_POINTS` points of a curve, evenly spaced along it, with both ends."""
    if len(x) <= PLOT_POINTS:
        return x, y
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], PLOT_POINTS)).clip(max=len(x) - 1))
    kept[-1] = len(x) - 1
    return x[kept], y[kept]
