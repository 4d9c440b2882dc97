"""Intervals: an oracle pair by pair, coverage, width. Comparisons: all signs by enumeration, Holm by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ad_assets.metrics.ranking import auroc
from ad_assets.metrics.uncertainty import (
    Pair,
    auroc_interval,
    holm,
    mean_auroc_interval,
    paired_comparison,
    seeds_comparison,
)

LABELS = np.arange(80) < 60  # 60 anomalous, 20 nominal images


def pair_by_pair(scores: np.ndarray, labels: np.ndarray, added: float) -> tuple[float, float]:
    """AUROC and DeLong's variance of it from weighted images, the added ones with scores of their own at both ends."""
    ends = [(math.inf, added), (-math.inf, added)] if added else []
    groups = [[*((score, 1.0) for score in scores[labels == kind].tolist()), *ends] for kind in (1, 0)]
    sizes = [sum(weight for _, weight in group) for group in groups]
    shares = [
        [sum(w * ((a > b) + (a == b) / 2) for b, w in groups[1]) / sizes[1] for a, _ in groups[0]],
        [sum(w * ((a > b) + (a == b) / 2) for a, w in groups[0]) / sizes[0] for b, _ in groups[1]],
    ]
    area = sum(w * share for (_, w), share in zip(groups[0], shares[0], strict=True)) / sizes[0]
    variance = 0.0
    for group, share, size in zip(groups, shares, sizes, strict=True):
        spread = sum(w * (s - area) ** 2 for (_, w), s in zip(group, share, strict=True))
        variance += spread / (size - 1) / size
    return area, variance


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("decimals", [0, 8])
def test_ends_from_pairs_and_the_beta_distribution(level, decimals):
    rng = np.random.default_rng(decimals)
    categories = []
    for size, shift in ((12, 0.0), (25, 1.5), (9, 20.0)):
        labels = np.arange(size) % 3 != 0
        categories.append((np.round(rng.normal(size=size) + shift * labels, decimals), labels))

    def expected(parts):
        smoothed = [pair_by_pair(scores, labels, 0.2) for scores, labels in parts]
        mean = np.mean([area for area, _ in smoothed])
        size = mean * (1 - mean) / (np.sum([variance for _, variance in smoothed]) / len(parts) ** 2)
        observed = np.mean([auroc(scores, labels) for scores, labels in parts])
        hits, misses = observed * size, (1 - observed) * size
        low = stats.beta.ppf((1 - level) / 2, hits, misses + 1) if hits else 0
        return low, stats.beta.isf((1 - level) / 2, hits + 1, misses) if misses else 1

    for scores, labels in categories:
        assert auroc_interval(scores, labels, level) == pytest.approx(expected([(scores, labels)]), abs=1e-9)
        assert auroc_interval(-scores, labels, level) == pytest.approx(
            [1 - end for end in auroc_interval(scores, labels, level)[::-1]], abs=1e-9
        )
    assert mean_auroc_interval(categories, level) == pytest.approx(expected(categories), abs=1e-9)


def normal(rng, area):
    return rng.normal(size=80) + LABELS * math.sqrt(2) * stats.norm.ppf(area)


def wide_nominal(rng, area):
    return rng.normal(size=80) * np.where(LABELS, 1, 3) + LABELS * math.sqrt(10) * stats.norm.ppf(area)


def missed_defects(rng, area):
    found = rng.random(80) > 2 * (1 - area)
    return rng.random(80) + 2 * (LABELS & found)


def nominal_outliers(rng, area):
    outlying = rng.random(80) > area
    return rng.random(80) + 2 * LABELS + 4 * (~LABELS & outlying)


DETECTORS = [normal, wide_nominal, missed_defects, nominal_outliers]
DRAWS = 500


def assert_covers(intervals, truth, level):
    covered = np.mean([low <= truth <= high for low, high in intervals])
    error = math.sqrt(level * (1 - level) / len(intervals))  # of the simulation
    assert covered >= level - 3 * error, covered


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("area", [0.6, 0.95, 0.99])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_covers_at_least_at_the_stated_rate(detector, area, level):
    rng = np.random.default_rng(0)
    assert_covers([auroc_interval(detector(rng, area), LABELS, level) for _ in range(DRAWS)], area, level)


def test_the_mean_covers_too():
    rng = np.random.default_rng(1)
    areas = [0.7, 0.9, 0.97, 0.995]
    setting = list(itertools.product(DETECTORS, areas))
    intervals, means = [], []
    for _ in range(DRAWS):
        categories = [(detector(rng, area), LABELS) for detector, area in setting]
        intervals.append(mean_auroc_interval(categories))
        means.append(np.mean([auroc(*category) for category in categories]))
    assert_covers(intervals, np.mean(areas), 0.95)
    ideal = 2 * stats.norm.ppf(0.975) * np.std(means)
    assert ideal < np.mean([high - low for low, high in intervals]) < 1.25 * ideal


def test_with_many_images_as_narrow_as_delong():
    rng = np.random.default_rng(2)
    labels = np.arange(900) < 400
    scores = rng.normal(size=900) + labels
    area, variance = pair_by_pair(scores, labels, 0.0)
    half = stats.norm.ppf(0.975) * math.sqrt(variance)
    assert auroc_interval(scores, labels) == pytest.approx((area - half, area + half), abs=0.06 * half)


def test_a_perfect_ranking_is_not_certain():
    low, high = auroc_interval(LABELS.astype(float), LABELS)
    assert high == 1.0
    assert 0.025 ** (1 / 20) < low < 0.025 ** (1 / 60)  # like 20 to 60 hits without a miss
    assert auroc_interval(-LABELS.astype(float), LABELS).low == 0.0
    assert auroc_interval([1.0, 2.0], [0, 1]).high == 1.0
    assert mean_auroc_interval([(LABELS.astype(float), LABELS)] * 15).low > 0.98


def test_order_does_not_matter():
    rng = np.random.default_rng(3)
    categories = [(normal(rng, 0.9), LABELS) for _ in range(3)]
    order = rng.permutation(80)
    shuffled = [(scores[order], labels[order]) for scores, labels in reversed(categories)]
    assert mean_auroc_interval(shuffled) == mean_auroc_interval(categories)


def test_refused_intervals():
    with pytest.raises(ValueError, match="no nominal image"):
        auroc_interval([1.0, 2.0], [1, 1])
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match="level"):
            auroc_interval([1.0, 2.0], [0, 1], level)
    with pytest.raises(ValueError, match="no category"):
        mean_auroc_interval([])
    with pytest.raises(ValueError, match=r"categories\[1\]: scores\[0\] is nan"):
        mean_auroc_interval([([1.0, 2.0], [0, 1]), ([np.nan, 2.0], [0, 1])])


def p_of(differences: np.ndarray) -> float:
    first = {str(category): float(value) for category, value in enumerate(differences)}
    return paired_comparison({"a": first, "b": dict.fromkeys(first, 0.0)})[0].p


@pytest.mark.parametrize("differences", [[0.3], [0, 0.2], [0, 0], [1, 1, -1, 2], [0, 0, 1, -1, 2, 2, 3, 3.5, -4]])
def test_p_by_trying_all_signs(differences):
    size = np.abs(np.array(differences, dtype=float))
    ranks = np.array([(size < own).sum() + ((size == own).sum() + 1) / 2 for own in size])
    sums = [
        sum(rank for rank, sign in zip(ranks[size > 0], signs, strict=True) if sign)
        for signs in itertools.product([0, 1], repeat=int((size > 0).sum()))
    ]
    observed = ranks[np.array(differences) > 0].sum()
    tails = np.mean([value <= observed for value in sums]), np.mean([value >= observed for value in sums])
    assert p_of(differences) == pytest.approx(min(1, 2 * min(tails)), abs=1e-12)


@pytest.mark.parametrize("count", [5, 15, 60])
def test_p_without_ties_is_scipys(count):
    differences = np.random.default_rng(count).normal(0.3, 1, count)
    assert p_of(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue, rel=1e-9)


def test_steps_of_a_tenth_are_ties_whatever_floats_say():
    first, second = {"a": 0.9, "b": 0.7, "c": 0.6, "d": 0.3}, {"a": 0.8, "b": 0.6, "c": 0.5, "d": 0.4}
    assert len({abs(first[category] - second[category]) for category in first}) > 1
    assert paired_comparison({"x": first, "y": second})[0].p == 0.625  # 5 of 16 signs have one loss at most


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_pairs_of_a_table():
    values = {
        "x": {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.65},
        "y": {"d": 0.55, "c": 0.6, "b": 0.7, "a": 0.8},  # a tenth lower, in steps that floats do not share
        "z": {"a": 0.9, "b": 0.9},
        "elsewhere": {"e": 1.0},
    }
    pairs = paired_comparison(values)
    assert [(pair.first, pair.second) for pair in pairs] == [("x", "y"), ("x", "z"), ("y", "z")]
    assert pairs[0] == Pair("x", "y", 4, pytest.approx(0.1), 4, 0, 0, 0.125, 0.375, 0.125)
    assert pairs[1] == Pair("x", "z", 2, pytest.approx(-0.05), 0, 1, 1, 1.0, 1.0, 0.5)
    assert (pairs[2].losses, pairs[2].p, pairs[2].adjusted_p) == (2, 0.5, 1.0)
    backwards = {name: dict(reversed(row.items())) for name, row in reversed(values.items())}
    for pair, mirrored in zip(pairs, reversed(paired_comparison(backwards)), strict=True):
        assert (mirrored.first, mirrored.second) == (pair.second, pair.first)
        assert (mirrored.wins, mirrored.losses, mirrored.p) == (pair.losses, pair.wins, pair.p)
        assert mirrored.mean_difference == -pair.mean_difference
        assert mirrored.adjusted_p == pair.adjusted_p
    assert paired_comparison({"x": values["x"]}) == []
    with pytest.raises(ValueError, match="y has nan on b"):
        paired_comparison({"x": {"b": 1.0}, "y": {"b": math.nan}})


def fits_of(rng: np.random.Generator, fits: int, categories: int = 2) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores (fits, images) and labels; a seed moves how far classes lie apart, and each image by itself."""
    found = []
    gain = rng.normal(1.5, 0.4, size=(fits, 1))
    for _ in range(categories):
        labels = np.arange(40) < 25
        image, own = rng.normal(size=40), rng.normal(scale=0.5, size=(fits, 40))
        found.append((image + own + gain * labels, labels))
    return found


def test_of_several_seeds_images_are_averaged_and_the_spread_of_fits_is_added():
    categories = fits_of(np.random.default_rng(0), 4)
    pairs = [[pair_by_pair(fit, labels, 0) for fit in scores] for scores, labels in categories]
    fits = np.mean([[area for area, _ in of_category] for of_category in pairs], axis=0)
    images, seeds = (mean_auroc_interval(categories, seeds=each) for each in (False, True))
    assert images.low < fits.mean() < images.high
    assert seeds.low < images.low
    assert images.high < seeds.high
    # One fit, whatever it is called, and fits that agree: nothing is added.
    alike = [(np.tile(scores[:1], (3, 1)), labels) for scores, labels in categories]
    first = mean_auroc_interval([(scores[0], labels) for scores, labels in categories])
    assert mean_auroc_interval(alike) == pytest.approx(first, abs=1e-12)
    assert mean_auroc_interval(alike, seeds=True) == pytest.approx(first, abs=1e-12)
    # The order of images and of fits says nothing.
    order, others = np.random.default_rng(1).permutation(40), [2, 0, 3, 1]
    shuffled = [(scores[others][:, order], labels[order]) for scores, labels in categories]
    assert mean_auroc_interval(shuffled, seeds=True) == pytest.approx(seeds, abs=1e-12)
    # Variance by hand: that of the averaged shares, and of the fits with Satterthwaite's degrees of freedom.
    averaged, smoothed = [], []
    for scores, labels in categories:
        above = np.mean([[(a > fit[~labels]).mean() for a in fit[labels]] for fit in scores], axis=0)
        below = np.mean([[(fit[labels] > b).mean() for b in fit[~labels]] for fit in scores], axis=0)
        variance, mean = 0.0, 0.0
        for shares, others_count in ((above, 15), (below, 25)):
            size = others_count + 0.4
            shares = np.array([*((shares * others_count + 0.2) / size), 0.1 / size, 1 - 0.1 / size])
            weights = np.array([*np.ones(len(shares) - 2), 0.2, 0.2])
            mean = weights @ shares / weights.sum()
            variance += weights @ (shares - mean) ** 2 / (weights.sum() * (weights.sum() - 1))
            averaged.append(mean) if others_count == 15 else None
        smoothed.append(variance)
    mean, of_images, of_seeds = np.mean(averaged), sum(smoothed) / 4, fits.var(ddof=1) / 4
    freedom = (of_images + of_seeds) ** 2 / (of_seeds**2 / 3)
    size = mean * (1 - mean) / (of_images + of_seeds) * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, freedom)) ** 2
    hits = fits.mean() * size
    assert seeds.low == pytest.approx(stats.beta.ppf(0.025, hits, size - hits + 1), abs=1e-9)


def test_an_interval_over_seeds_covers_where_one_over_images_does_not():
    rng, truth = np.random.default_rng(3), stats.norm.cdf(1.5 / math.sqrt(2 + 2 * 0.25 + 0.4**2))
    covered = np.zeros(2)
    for _ in range(300):
        categories = fits_of(rng, 3, 6)
        ends = [mean_auroc_interval(categories, seeds=seeds) for seeds in (False, True)]
        covered += [end.low <= truth <= end.high for end in ends]
    assert covered[0] / 300 < 0.8
    assert covered[1] / 300 > 0.93


def test_seeds_are_compared_as_by_scipy():
    first, second = np.array([0.9, 0.91, 0.95, 0.93]), np.array([0.88, 0.9, 0.84])
    told = [(values.mean(), values.std(ddof=1), len(values)) for values in (first, second)]
    assert seeds_comparison(*told) == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue)
    fixed = stats.ttest_1samp(first, 0.88).pvalue  # no seed has a part in the other
    assert seeds_comparison(told[0], (0.88, 0.0, 1)) == pytest.approx(fixed)
    assert seeds_comparison((0.9, 0.0, 1), (0.8, 0.0, 1)) == 0
    assert seeds_comparison((0.9, 0.0, 1), (0.9, 0.0, 1)) == 1
    with pytest.raises(ValueError, match="two fits"):
        seeds_comparison((0.9, 0.1, 1), (0.8, 0.0, 1))
    with pytest.raises(ValueError, match="as many fits of each category"):
        mean_auroc_interval([(np.arange(4.0), [0, 1, 0, 1])], seeds=True)
