"""Pixel metrics: the fixture, a loop over all thresholds, merging, and the error bound of the histogram."""

import itertools

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from ad_assets.metrics import score_bins
from ad_assets.metrics.pixels import PixelStatistics
from tests.support.fixtures import fixture
from tests.support.pixel_metrics import aupro, best_iou, best_iou_threshold, error_bounds

CASES = {
    "": lambda data: data["maps"],
    "constant_": lambda data: np.full_like(data["maps"], 0.7),
    "perfect_": lambda data: data["masks"].astype(np.float32),
    "inverted_": lambda data: 1 - data["masks"].astype(np.float32),
}


def statistics_of(maps: np.ndarray, masks: np.ndarray, batch: int = 5, **options: int) -> PixelStatistics:
    statistics = PixelStatistics(**options)
    for first in range(0, len(maps), batch):
        statistics.update(maps[first : first + batch], masks[first : first + batch])
    return statistics


def numbers(statistics: PixelStatistics) -> np.ndarray:
    return np.array([statistics.pixel_auroc(), statistics.pixel_ap(), statistics.aupro(), statistics.best_iou()[0]])


def every_threshold(maps: np.ndarray, masks: np.ndarray, limit: float) -> np.ndarray:
    """AUROC and AP by scikit-learn, PRO and IoU by predicting at one distinct score after the other."""
    regions = []
    for image, mask in enumerate(masks):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [(image, labels == label) for label in range(1, count + 1)]
    rates, overlaps, ious = [0.0], [0.0], []
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        predicted = maps >= threshold
        rates.append((predicted & ~masks).sum() / (~masks).sum())
        overlaps.append(np.mean([predicted[image][region].mean() for image, region in regions]))
        ious.append((predicted & masks).sum() / (predicted | masks).sum())
    area = area_up_to(limit, rates, overlaps)
    flat, truth = maps.ravel(), masks.ravel()
    return np.array([roc_auc_score(truth, flat), average_precision_score(truth, flat), area, max(ious)])


def area_up_to(limit: float, rates: list[float], overlaps: list[float]) -> float:
    """Trapezoids under a curve up to a rate, interpolated there, divided by it."""
    area = 0.0
    for (x0, x1), (y0, y1) in zip(itertools.pairwise(rates), itertools.pairwise(overlaps), strict=True):
        stop = min(x1, limit)
        if stop > x0:
            area += (stop - x0) * (y0 + (y0 + (y1 - y0) * (stop - x0) / (x1 - x0))) / 2
    return area / limit


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(rng.normal(size=(4, 20, 23)), (0, 2, 2)) > 0.15
    maps = rng.normal(size=masks.shape) + masks
    return np.round(maps, rng.integers(0, 3)).astype(np.float32), masks


@pytest.mark.parametrize("prefix", CASES)
def test_numbers_of_the_fixture(prefix):
    data = fixture("metrics")
    statistics = statistics_of(CASES[prefix](data), data["masks"])
    found = {
        "pixel_auroc": statistics.pixel_auroc(),
        "pixel_ap": statistics.pixel_ap(),
        "aupro_30": statistics.aupro(0.3),
        "aupro_05": statistics.aupro(0.05),
        "best_iou": statistics.best_iou()[0],
    }
    for name, value in found.items():
        assert value == pytest.approx(float(data[prefix + name]), abs=1e-10), name
    assert np.float32(statistics.best_iou()[1]) == np.float32(data[f"{prefix}best_iou_threshold"])
    assert error_bounds(statistics) == (0, 0, 0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_a_loop_over_all_thresholds(seed):
    maps, masks = random_case(seed)
    expected = every_threshold(maps, masks, 0.3)
    np.testing.assert_allclose(numbers(statistics_of(maps, masks)), expected, rtol=0, atol=1e-12)
    assert aupro(maps, masks) == pytest.approx(expected[2], abs=1e-12)
    assert best_iou(maps, masks) == pytest.approx(expected[3], abs=1e-12)
    predicted = maps >= best_iou_threshold(maps, masks)
    assert (predicted & masks).sum() / (predicted | masks).sum() == pytest.approx(expected[3], abs=1e-12)
    assert aupro(maps, masks, 1.0) == pytest.approx(every_threshold(maps, masks, 1.0)[2], abs=1e-12)


DISTRIBUTIONS = {
    "signed": lambda scores: scores,
    "positive": lambda scores: np.exp(scores),
    "outlier": lambda scores: np.where(scores == scores.max(), 1e30, scores),
    "cut off at zero": lambda scores: np.maximum(scores, 0),
    "negative zero": lambda scores: np.where(np.abs(scores) < 0.5, np.where(scores < 0, -0.0, 0.0), scores),
    "far from zero": lambda scores: 5000 + scores,
    "tiny": lambda scores: 1e-40 * scores,
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("target", [1 << 4, 1 << 12, score_bins.TARGET_BINS])
def test_histogram_stays_within_its_bound(monkeypatch, name, target):
    monkeypatch.setattr(score_bins, "TARGET_BINS", target)
    rng = np.random.default_rng(7)
    masks = ndimage.gaussian_filter(rng.normal(size=(6, 60, 70)), (0, 3, 3)) > 0.12
    maps = DISTRIBUTIONS[name](rng.normal(size=masks.shape) + masks).astype(np.float32)
    exact = statistics_of(maps, masks)
    for batch in (1, 6):
        folded = statistics_of(maps, masks, batch=batch, exact_pixels=4000)
        bounds = np.array(error_bounds(folded))
        assert (np.abs(numbers(folded) - numbers(exact)) <= bounds + 1e-12).all()
        assert error_bounds(folded, 0.05).aupro + 1e-12 >= abs(folded.aupro(0.05) - exact.aupro(0.05))
        iou, threshold = folded.best_iou()
        predicted = maps >= np.float32(threshold)
        assert (predicted & masks).sum() / (predicted | masks).sum() == pytest.approx(iou, abs=1e-12)


@pytest.mark.parametrize(
    "quantise",
    [
        lambda scores: scores.astype(np.float16),
        lambda scores: np.round(np.clip(scores, -3, 3) * 40).astype(np.float32) / np.float32(255),
        lambda scores: np.full_like(scores, 0.7),
    ],
)
def test_histogram_of_few_distinct_scores_is_exact(quantise):
    rng = np.random.default_rng(1)
    masks = rng.random((6, 50, 50)) < 0.1
    maps = quantise(rng.normal(size=masks.shape) + masks)
    exact, folded = statistics_of(maps, masks), statistics_of(maps, masks, exact_pixels=3000)
    np.testing.assert_allclose(numbers(folded), numbers(exact), rtol=0, atol=1e-12)
    assert folded.best_iou() == exact.best_iou()
    assert error_bounds(folded) == (0, 0, 0, 0)


def test_realistic_maps_lose_less_than_a_millionth():
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 600, 600), dtype=bool)
    masks[1:, 100:220, 150:260] = True
    maps = np.exp(ndimage.gaussian_filter(rng.normal(size=masks.shape), (0, 4, 4)) * 4 + 1.5 * masks).astype(np.float32)
    exact, folded = statistics_of(maps, masks), statistics_of(maps, masks, exact_pixels=0)
    bounds, errors = error_bounds(folded), np.abs(numbers(folded) - numbers(exact))
    assert max(bounds.aupro, bounds.pixel_auroc) < 1e-6
    assert (errors <= np.array(bounds)).all()


@pytest.mark.parametrize("limits", [(10**6, 10**6), (0, 10**6), (10**6, 0), (0, 0), (2000, 2000)])
def test_merged_equals_together(limits):
    maps, masks = random_case(11)
    maps = maps + np.linspace(0, 1e-3, maps.size, dtype=np.float32).reshape(maps.shape)
    together = statistics_of(maps, masks)
    parts = [PixelStatistics(exact_pixels=limit) for limit in limits]
    parts[0].update(maps[:1], masks[:1])
    parts[1].update(maps[1:], masks[1:])
    before = numbers(parts[1])
    parts[0].merge(parts[1])
    assert (np.abs(numbers(parts[0]) - numbers(together)) <= np.array(error_bounds(parts[0])) + 1e-12).all()
    assert numbers(parts[1]).tolist() == before.tolist()
    parts[0].update(maps[:1], masks[:1])  # still takes images
    assert parts[0].pixel_auroc() != numbers(together)[0]


def test_batches_and_order_do_not_matter():
    maps, masks = random_case(3)
    expected = numbers(statistics_of(maps, masks))
    for batch, step in ((1, 1), (2, -1), (4, -1)):
        np.testing.assert_allclose(numbers(statistics_of(maps[::step], masks[::step], batch)), expected, atol=1e-12)


def test_kept_maps_are_copies():
    maps, masks = random_case(3)
    statistics = statistics_of(maps, masks)
    expected = numbers(statistics_of(maps, masks))
    maps[:] = 0
    assert numbers(statistics).tolist() == expected.tolist()


def test_points_for_plots():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 80, 80)) < 0.05
    statistics = statistics_of((rng.normal(size=masks.shape) + 2 * masks).astype(np.float32), masks)
    for points in (statistics.roc_points(), statistics.pr_points(), statistics.pro_points()):
        assert len(points[0]) == len(points[1]) <= 200
    rate, overlap = statistics.pro_points()
    assert np.trapezoid(overlap, rate) == pytest.approx(statistics.aupro(1.0), abs=1e-3)


NORMAL = np.zeros((2, 3, 3), dtype=bool)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (np.zeros((2, 3, 3)), np.zeros((2, 3, 4), dtype=bool), "shape of the maps"),
        (np.zeros((3, 3)), np.zeros((3, 3), dtype=bool), r"\(B, H, W\)"),
        (np.zeros((2, 3, 3), dtype=np.int64), NORMAL, "floating point"),
        (np.zeros((2, 3, 3)), np.full((2, 3, 3), 255, dtype=np.uint8), "up to 255"),
        (np.stack([np.zeros((3, 3)), np.full((3, 3), np.nan)]), NORMAL, r"maps\[1\]"),
        (np.stack([np.full((3, 3), -np.inf), np.zeros((3, 3))]), NORMAL, r"maps\[0\]"),
        (np.full((2, 3, 3), 1e200), NORMAL, r"maps\[0\]"),
    ],
)
def test_refused_batches_change_nothing(maps, masks, message):
    statistics = statistics_of(*random_case(0))
    before = numbers(statistics)
    with pytest.raises(ValueError, match=message):
        statistics.update(maps, masks)
    assert numbers(statistics).tolist() == before.tolist()


def test_refused_questions():
    maps, masks = random_case(0)
    for limit in (0.0, -0.1, 1.1):
        with pytest.raises(ValueError, match="fpr_limit"):
            aupro(maps, masks, limit)
    with pytest.raises(ValueError, match="no anomalous pixel"):
        aupro(maps, np.zeros_like(masks))
    with pytest.raises(ValueError, match="no normal pixel"):
        best_iou(maps, np.ones_like(masks))
    with pytest.raises(ValueError, match="no anomalous pixel among 0"):
        PixelStatistics().pixel_auroc()
