"""How far a table of AUROCs can be trusted: intervals for one and for a mean, and comparisons of detectors.

An interval says what other test images of the same kind could have given to the same trained detector. It knows nothing
of other training sets; of other seeds it knows where it is asked to, from fits with several of them. Test sets are
small and AUROCs near 1, where the usual intervals fail: with 60 anomalous and 20 nominal images and a true AUROC of
0.99, 95 % intervals by percentile bootstrap or DeLong's variance covered it in 16 to 91 of 100 simulated test sets, and
at an observed 1 they have no width. The one here is not a bootstrap; it puts together three known parts:

- DeLong et al. (Biometrics 1988): the variance of an AUROC is that of the shares of nominal images that each anomalous
  one ranks above, over the number of anomalous images, plus the same with the classes exchanged.
- Added observations (Agresti and Coull, 1998): a fifth of an image above all others and a fifth below all of them join
  each class when the variance is taken, so that it is never 0. They leave the AUROC itself alone.
- Effective sample size (Korn and Graubard, 1998): an AUROC of A and variance V is as certain as a share A observed
  among n = A (1 - A) / V items, whose interval is that of Clopper and Pearson with real numbers in place of counts.
  Their factor for few degrees of freedom is left out; A and V of that n are those with the added images.

It is made to cover at least at the stated rate, and did in simulations of 3 to 480 images a class, AUROCs of 0.5 to
0.999, normal and heavy-tailed scores, missed defects, nominal outliers and coarse ties. It is wide for that: at 95 % it
covered in 97 of 100 at an AUROC of 0.8 and in 99 at 0.99. The exception is a detector that gives nearly all images one
and the same score, where it can fall to 88.

Over seeds. The mean over J fits with other seeds, which score the same images, is the mean over readers of the same
cases in radiology (Obuchowski and Rockette 1995). Its variance over images is DeLong's of the shares averaged over the
fits. Over seeds S^2 / J is added, S^2 the sample variance of the fits' values: some of what images do is in it too, so
that their sum is a little large. Its degrees of freedom are Satterthwaite's, and with few of them n is made smaller by
the squared ratio of Student's and the normal quantile, as Korn and Graubard do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri, stdtr, stdtrit

from ad_assets.metrics.ranking import both_classes

ADDED = 0.2  # images at either end of each class; of a few tried, the least that no simulation argued against
DECIMALS = 12  # of differences: steps that are equal on paper must be equal in rank


class Interval(NamedTuple):
    """Both ends belong to it."""

    low: float
    high: float


@dataclass(frozen=True)
class Pair:
    """Two detectors on the categories that both have.

    Args:
        first: name.
        second: name.
        categories: how many both have.
        mean_difference: first minus second, in units of the values.
        wins: categories where the first has the larger value.
        ties: categories where both have the same.
        losses: categories where the second has the larger value.
        p: two-sided, of Wilcoxon's signed-rank test.
        adjusted_p: the same after Holm's correction for all pairs.
        smallest_p: what p is at best with so many categories, 2 / 2**categories; above 0.05 no result can be
            significant at that level.
    """

    first: str
    second: str
    categories: int
    mean_difference: float
    wins: int
    ties: int
    losses: int
    p: float
    adjusted_p: float
    smallest_p: float


def auroc_interval(scores: ArrayLike, labels: ArrayLike, level: float = 0.95) -> Interval:
    """Confidence interval of an AUROC over draws of test images, both classes drawn separately.

    Args:
        scores: (n,) finite, higher is more anomalous.
        labels: (n,) bool or 0/1, 1 is anomalous.
        level: in (0, 1), the wanted coverage.

    Returns:
        An interval in [0, 1] around the AUROC, never without width.

    Raises:
        ValueError: as `ranking.auroc`, or a level outside (0, 1).
    """
    return _interval([_ranking(scores, labels)], level)


def mean_auroc_interval(
    categories: Sequence[tuple[ArrayLike, ArrayLike]], level: float = 0.95, *, seeds: bool = False
) -> Interval:
    """Confidence interval of the unweighted mean of AUROCs, and over several fits of the mean of these.

    Only images are drawn, and seeds if asked for: the categories are taken as fixed, so it says nothing about others.

    Args:
        categories: scores and labels of each, as for `auroc_interval`; images of different ones are independent.
            Scores may be (J, n), of J fits with other seeds; all categories have as many, and go together fit by fit.
        level: in (0, 1), the wanted coverage.
        seeds: whether it is to cover over draws of seeds too.

    Raises:
        ValueError: no category, a category's scores or labels, with its position, other numbers of fits, one fit where
            seeds are drawn, or a level outside (0, 1).
    """
    if len(categories) == 0:
        raise ValueError("no category: a mean needs at least one")
    rankings = []
    for position, (scores, labels) in enumerate(categories):
        try:
            rankings.append(_ranking(scores, labels))
        except ValueError as error:
            raise ValueError(f"categories[{position}]: {error}") from error
    if len({len(each.aurocs) for each in rankings}) > 1 or (seeds and len(rankings[0].aurocs) < 2):
        fits = ", ".join(str(len(each.aurocs)) for each in rankings)
        raise ValueError(f"expected as many fits of each category, and two at least where seeds are drawn, got {fits}")
    return _interval(rankings, level, seeds=seeds)


def seeds_comparison(first: tuple[float, float, int], second: tuple[float, float, int]) -> float:
    """Two-sided p of Welch's t-test that two means over seeds differ.

    Args:
        first: mean, sample standard deviation and number of the fits with other seeds; a deviation of 0 of what no seed
            has a part in, whatever the number.
        second: the same of the other detector.

    Returns:
        In [0, 1]; 1 where both means are equal, 0 where only these vary from seed to seed.

    Raises:
        ValueError: a deviation that is not known, of one fit.
    """
    if any(deviation > 0 and fits < 2 for _, deviation, fits in (first, second)):
        raise ValueError("a deviation over seeds needs two fits at least")
    difference = round(first[0] - second[0], DECIMALS)
    parts = [(deviation**2 / fits, fits - 1) for _, deviation, fits in (first, second)]
    variance = math.fsum(part for part, _ in parts)
    if difference == 0 or variance == 0:
        return float(difference == 0)
    freedom = variance**2 / math.fsum(part**2 / others for part, others in parts if part)
    return 2 * float(stdtr(freedom, -abs(difference) / math.sqrt(variance)))


def paired_comparison(values: Mapping[str, Mapping[str, float]]) -> list[Pair]:
    """Every pair of detectors over the categories that both have, in the order of the detectors.

    Wilcoxon's signed-rank test, as Demšar (JMLR 2006) recommends for classifiers on many data sets, with the exact
    distribution under random signs at any number of categories, ties among the differences included. Differences of 0
    are ranked but belong to neither side (Pratt 1959). Holm's (1979) step-down correction covers all pairs returned.

    Args:
        values: by detector and category, finite, such as AUROCs; pairs without a common category are left out.

    Raises:
        ValueError: a value that is not finite, with its detector and category.
    """
    for detector, row in values.items():
        for category, value in row.items():
            if not math.isfinite(value):
                raise ValueError(f"{detector} has {value} on {category}; compared values must be finite")
    found = []
    for first, second in itertools.combinations(values, 2):
        common = sorted(values[first].keys() & values[second].keys())
        if common:
            differences = [values[first][category] - values[second][category] for category in common]
            found.append((first, second, np.array(differences, dtype=np.float64).round(DECIMALS)))
    p_values = [_signed_rank_p(differences) for *_, differences in found]
    return [
        Pair(
            first=first,
            second=second,
            categories=len(differences),
            mean_difference=math.fsum(differences) / len(differences),
            wins=int((differences > 0).sum()),
            ties=int((differences == 0).sum()),
            losses=int((differences < 0).sum()),
            p=p,
            adjusted_p=adjusted,
            smallest_p=2.0 ** (1 - len(differences)),
        )
        for (first, second, differences), p, adjusted in zip(found, p_values, holm(p_values), strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p of each of m tests (Holm 1979): the k-th smallest times m - k + 1, at most 1, never falling."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, test in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[test]))
        adjusted[test] = largest
    return adjusted


class _Ranking(NamedTuple):
    """AUROC of each fit of a category; of their mean, mean and variance with the added images."""

    aurocs: NDArray[np.float64]
    mean: float
    variance: float


def _ranking(scores: ArrayLike, labels: ArrayLike) -> _Ranking:
    fits = [both_classes(own, labels) for own in np.atleast_2d(np.asarray(scores))]
    beaten = np.array([_below(np.sort(nominal), anomalous) for anomalous, nominal in fits])
    beating = np.array([len(anomalous) - _below(np.sort(anomalous), nominal) for anomalous, nominal in fits])
    images, others = beating.shape[1], beaten.shape[1]
    # Means over the fits; sums over images in one order, whatever the order given.
    parts = (np.sort(beaten.mean(axis=0)), images), (np.sort(beating.mean(axis=0)), others)
    means, variances = zip(*(_moments(outranked, count) for outranked, count in parts), strict=True)
    return _Ranking(np.sort(beaten, axis=1).mean(axis=1) / images, means[0], sum(variances))


def _moments(outranked: NDArray[np.float64], others: int) -> tuple[float, float]:
    """Mean, and variance of the mean, of the shares of the other class that each image is on the right side of.

    Args:
        outranked: (n,) how many of the other class, equal ones at 1/2.
        others: size of the other class.
    """
    # The added images outrank one half of their like at their own end, and all or none of the others.
    size = others + 2 * ADDED
    shares = np.concatenate([outranked + ADDED, [ADDED / 2, size - ADDED / 2]]) / size
    images = np.concatenate([np.ones(len(outranked)), [ADDED, ADDED]])
    total = float(images.sum())
    mean = float(images @ shares) / total
    return mean, float(images @ np.square(shares - mean)) / (total * (total - 1))


def _below(ascending: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) how many of the first are smaller than each value, equal ones at 1/2."""
    return (np.searchsorted(ascending, values, "left") + np.searchsorted(ascending, values, "right")) / 2


def _interval(rankings: Sequence[_Ranking], level: float, *, seeds: bool = False) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    fits = np.mean([ranking.aurocs for ranking in rankings], axis=0)  # (J,): the mean over categories of each
    auroc, tail = float(fits.mean()), (1 - level) / 2
    mean = math.fsum(ranking.mean for ranking in rankings) / len(rankings)
    variance = math.fsum(ranking.variance for ranking in rankings) / len(rankings) ** 2
    shrink = 1.0
    if seeds and (between := float(fits.var(ddof=1)) / len(fits)) > 0:
        variance += between
        freedom = (variance / between) ** 2 * (len(fits) - 1)
        shrink = float(ndtri(tail) / stdtrit(freedom, tail)) ** 2
    size = shrink * mean * (1 - mean) / variance
    hits, misses = auroc * size, (1 - auroc) * size
    low = float(betaincinv(hits, misses + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, misses, 1 - tail)) if misses > 0 else 1.0
    return Interval(low, high)


def _signed_rank_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p among all ways to give the differences that are not 0 a sign."""
    # Twice the mean rank of ties, which may be a half. By hand: scipy.stats takes over a second to load.
    _, positions, counts = np.unique(np.abs(differences), return_inverse=True, return_counts=True)
    doubled = (2 * np.cumsum(counts) - counts + 1)[positions]
    ranks = doubled[differences != 0]
    ways = np.zeros(int(ranks.sum()) + 1)  # share of the signs by the sum of the positive ranks
    ways[0] = 1.0
    for rank in ranks:
        ways[rank:] = (ways[rank:] + ways[: len(ways) - rank]) / 2
        ways[:rank] /= 2
    positive = int(doubled[differences > 0].sum())
    return min(1.0, 2 * float(min(ways[: positive + 1].sum(), ways[positive:].sum())))
