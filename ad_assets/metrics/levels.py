"""Everything a ranking says about detection, from one table: the distinct scores that some anomaly has.

Between two such scores only normal items pass the threshold, so curves run straight there and these rows are enough for
AUROC, average precision, PRO, IoU and F1 over all distinct thresholds, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Levels:
    """Rows by falling threshold; an item is predicted anomalous when its score is at least the threshold.

    Args:
        thresholds: (n,) float64, in a histogram the smallest score of the bin.
        anomalous: (n,) int64, anomalous items at or above each threshold.
        weight: (n,) float64, their share of all weight, in [0, 1] (PRO: mean over components of the covered fraction).
        normal_above: (n,) int64, normal items above the whole level (its bin).
        normal: (n,) int64, normal items at or above the threshold.
        normal_total: number of normal items.
    """

    thresholds: Floats
    anomalous: Counts
    weight: Floats
    normal_above: Counts
    normal: Counts
    normal_total: int

    @classmethod
    def of_scores(cls, scores: Floats, anomalous: Floats, weights: Floats) -> Levels:
        """Exact levels.

        Args:
            scores: scores of all items, sorted ascending; one dtype with `anomalous`.
            anomalous: scores of the anomalous items among them.
            weights: weight of each anomalous item, summing to 1.
        """
        thresholds, level, counts = np.unique(anomalous, return_inverse=True, return_counts=True)
        covered = np.bincount(level, weights, minlength=len(thresholds))
        at_least = len(scores) - np.searchsorted(scores, thresholds, side="left")
        above = len(scores) - np.searchsorted(scores, thresholds, side="right")
        reached = np.cumsum(counts[::-1])
        return cls(
            thresholds=thresholds[::-1].astype(np.float64),
            anomalous=reached,
            weight=np.cumsum(covered[::-1]),
            normal_above=above[::-1] - (reached - counts[::-1]),
            normal=at_least[::-1] - reached,
            normal_total=len(scores) - len(anomalous),
        )

    @property
    def anomalous_total(self) -> int:
        return int(self.anomalous[-1])

    def auroc(self) -> float:
        """P(anomalous score > normal score) + P(equal) / 2."""
        return self._area(np.diff(self.anomalous, prepend=0) / self.anomalous_total, 1.0)

    def aupro(self, fpr_limit: float) -> float:
        """Area under PRO over the false positive rate from 0 to the limit, divided by the limit."""
        return self._area(np.diff(self.weight, prepend=0.0), fpr_limit)

    def average_precision(self) -> float:
        """Sum over thresholds of the gain in recall times precision."""
        gain = np.diff(self.anomalous, prepend=0) / self.anomalous_total
        return float(gain @ (self.anomalous / (self.anomalous + self.normal)))

    def iou(self) -> Floats:
        """(n,) intersection over union at each threshold."""
        return self.anomalous / (self.anomalous_total + self.normal)

    def f1(self) -> Floats:
        """(n,) F1 at each threshold."""
        return 2 * self.anomalous / (self.anomalous_total + self.anomalous + self.normal)

    def _area(self, weight: Floats, limit: float) -> float:
        """Each level's weight rises linearly between its two false positive rates and counts up to the limit."""
        return float(weight @ self._heights(limit)) / limit

    def _heights(self, limit: float) -> Floats:
        left, right, stop = self.normal_above, self.normal, limit * self.normal_total
        inside = stop - (left + right) / 2
        cut = np.square(np.maximum(stop - left, 0)) / (2 * np.maximum(right - left, 1))
        return np.where(right <= stop, inside, cut) / self.normal_total

    # Bounds on what a histogram loses: inside a bin, all anomalies may rank first or last.

    def area_error(self, weight: Floats, limit: float) -> float:
        """Largest possible error of an area under a curve whose bins were treated as ties."""
        stop = limit * self.normal_total
        best = np.maximum(stop - self.normal_above, 0) / self.normal_total
        worst = np.maximum(stop - self.normal, 0) / self.normal_total
        used = self._heights(limit)
        return float(weight @ np.maximum(best - used, used - worst)) / limit
