"""Thresholds on image scores: the oracle that looks at test labels, and the honest ones that do not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ad_assets.metrics.ranking import binary_labels, levels_of
from ad_assets_runtime.conformal import finite_scores, group_weights


def f1_optimal(scores: ArrayLike, labels: ArrayLike) -> tuple[float, int, int]:
    """The best F1 over all distinct scores, predicting an anomaly at scores >= threshold.

    This looks at test labels: it belongs under a name that says so. It is the protocol of PatchCore's misclassification
    counts (Roth et al., CVPR 2022, Table 1). Among equal F1 the highest threshold counts.

    Returns:
        threshold, false positives, false negatives.

    Raises:
        ValueError: as `ranking.auroc`.
    """
    levels = levels_of(scores, labels)
    best = int(levels.f1().argmax())
    missed = levels.anomalous_total - int(levels.anomalous[best])
    return float(levels.thresholds[best]), int(levels.normal[best]), missed


def nominal_quantile(nominal_scores: ArrayLike, false_positive_rate: float, groups: Sequence[int]) -> float:
    """Smallest score t such that scores > t raise at most the wanted rate of false alarms on new nominal images.

    Split conformal prediction (Vovk et al. 2005): of n + 1 exchangeable images each is equally likely to be the new
    one, so the ceil((n + 1) (1 - rate))-th smallest of the n scores keeps the rate, averaged over draws of the n. Fewer
    than 1 / rate - 1 images cannot promise the rate; then the maximum is returned, whose rate is 1 / (n + 1).

    Images of one group (near-copies, one lot) are no n draws of their own. A new image is then one of a new group: each
    group counts as one, shared among its images, and n is the number of groups (Lee, Barber and Willett 2023).

    Args:
        nominal_scores: (n,) scores of nominal images that did not shape the detector.
        false_positive_rate: in (0, 1).
        groups: (n,) number of the group of each score; empty: each is alone.

    Raises:
        ValueError: no scores, a score that is not finite, or a rate outside (0, 1).
    """
    values = finite_scores(nominal_scores)
    if len(values) == 0:
        raise ValueError("no nominal scores: a threshold needs at least one nominal image kept out of the fit")
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"false_positive_rate must be in (0, 1), got {false_positive_rate}")
    if len(groups):
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(group_weights(groups)[order]) >= 1 - false_positive_rate - 1e-9
        return float(values[order[int(reached.argmax()) if reached.any() else -1]])
    # 0.95 * 20 is 19.000000000000004 or 18.999999999999996: the slack keeps whole numbers whole.
    rank = math.ceil((len(values) + 1) * (1 - false_positive_rate) - 1e-9)
    values.sort()
    return float(values[min(max(rank, 1), len(values)) - 1])


def images_for_rate(rate: float) -> int:
    """The fewest nominal scores that can promise a rate of false alarms: 1 / rate - 1.

    >>> images_for_rate(0.05), images_for_rate(0.01), images_for_rate(0.3)
    (19, 99, 3)
    """
    return math.ceil(1 / rate - 1 - 1e-9)


def promise(images: int, rate: float, groups: Sequence[int] = (), left_out: str = "") -> str:
    """What a threshold from so many nominal scores promises, in a sentence.

    Args:
        images: number of nominal scores.
        rate: that is asked for.
        groups: as for `nominal_quantile`.
        left_out: how the images were left out, for people.

    >>> promise(60, 0.05)
    'at most 5 % of new nominal images are called anomalous (60 nominal scores)'
    >>> promise(60, 0.01)
    '1 % of false alarms needs 99 nominal scores, there are 60: the threshold is their maximum and promises 1.64 %'
    """
    if images == 0:
        return "no rate of false alarms is promised: no nominal image was scored without having shaped the detector"
    count = len(set(groups)) if len(groups) else images
    if count == 1 < images:
        return f"no rate of false alarms is promised by {images} nominal images: {left_out or 'they are one group'}"
    known = f"{images} nominal scores{f' in {count} groups' if count < images else ''}"
    told = f"; left out {left_out}" if left_out else ""
    if count >= images_for_rate(rate):
        return f"at most {100 * rate:.3g} % of new nominal images are called anomalous ({known}){told}"
    what = "groups of nominal images" if count < images else "nominal scores"
    there = f"{count} ({known})" if count < images else count
    return (
        f"{100 * rate:.3g} % of false alarms needs {images_for_rate(rate)} {what}, there are {there}: the "
        f"threshold is their maximum and promises {100 / (count + 1):.3g} %{told}"
    )


def outlier_fence(scores: ArrayLike) -> float:
    """The score beyond which an image stands out of a set that nobody has labelled: median + 3 scaled deviations.

    The deviation is the median absolute one times 1.4826, which estimates a normal distribution's standard deviation
    and ignores less than half of outliers (Hampel 1974). Where most images are anomalous, few stand out.

    Args:
        scores: (n,) scores of all images.

    Raises:
        ValueError: no scores, or a score that is not finite.
    """
    values = finite_scores(scores)
    if len(values) == 0:
        raise ValueError("no scores: a threshold needs at least one image")
    median = np.median(values)
    return float(median + 3 * 1.4826 * np.median(np.abs(values - median)))


def errors_at(scores: ArrayLike, labels: ArrayLike, threshold: float, *, inclusive: bool) -> tuple[int, int]:
    """False positives and false negatives at a threshold; one class alone is fine.

    Args:
        scores: (n,) finite.
        labels: (n,) bool or 0/1, 1 is anomalous.
        threshold: in units of the scores.
        inclusive: whether a score equal to the threshold predicts an anomaly: yes for `f1_optimal`, no for
            `nominal_quantile`.

    Raises:
        ValueError: wrong shapes or values.
    """
    values = finite_scores(scores)
    anomalous = binary_labels(labels, len(values))
    predicted = values >= threshold if inclusive else values > threshold
    return int((predicted & ~anomalous).sum()), int((anomalous & ~predicted).sum())
