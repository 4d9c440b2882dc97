"""What a threshold finds of each type of defect, and what other rates of false alarms would give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ad_assets.metrics.thresholds import images_for_rate, nominal_quantile
from ad_assets_runtime.conformal import finite_scores, group_weights

RATES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class AlarmRate:
    """A rate of false alarms that may be asked for, and what nominal scores alone say of it.

    Args:
        rate: asked for, in (0, 1).
        threshold: an image is called anomalous above it.
        expected: share of new nominal images above the threshold, averaged over draws of the nominal images.
        missing: nominal scores, or groups of them, that are missing for the rate to be kept; 0: it is.
    """

    rate: float
    threshold: float
    expected: float
    missing: int


def alarm_rates(nominal_scores: ArrayLike, groups: Sequence[int], asked: float) -> list[AlarmRate]:
    """The usual rates of false alarms and the one that is asked for, in ascending order, each once.

    Args:
        nominal_scores: (n,) scores of nominal images that did not shape the detector, n > 0.
        groups: as for `nominal_quantile`.
        asked: the rate that is set, in (0, 1).

    Raises:
        ValueError: as `nominal_quantile`.
    """
    values = finite_scores(nominal_scores)
    known = len(set(groups)) if len(groups) else len(values)
    weights = group_weights(groups) if len(groups) else np.full(len(values), 1 / (len(values) + 1))
    found = []
    for rate in sorted({*RATES, asked}):
        threshold = nominal_quantile(values, rate, groups)
        below = float(weights[values <= threshold].sum())
        found.append(AlarmRate(rate, threshold, 1 - below, max(0, images_for_rate(rate) - known)))
    return found


def recall_by_type(
    scores: ArrayLike, labels: Sequence[int], defect_types: Sequence[str], threshold: float
) -> dict[str, tuple[int, int]]:
    """How many anomalous images of each type of defect score above a threshold, and how many there are.

    Args:
        scores: (n,) finite.
        labels: (n,) 0 or 1, 1 is anomalous.
        defect_types: (n,) of each image.
        threshold: in units of the scores.
    """
    above = finite_scores(scores) > threshold
    anomalous = [(kind, bool(hit)) for kind, label, hit in zip(defect_types, labels, above, strict=True) if label]
    totals, found = Counter(kind for kind, _ in anomalous), Counter(kind for kind, hit in anomalous if hit)
    return {kind: (found[kind], totals[kind]) for kind in sorted(totals)}
