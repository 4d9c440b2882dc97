"""Saturated per-region overlap against its definition at every threshold, in the exact path and in the histogram."""

import numpy as np
import pytest
from scipy import ndimage

from ad_assets.metrics.pixels import PixelStatistics
from ad_assets.metrics.regions import Region, region_weights
from tests.metrics.test_pixels import area_up_to, numbers, random_case
from tests.support.pixel_metrics import error_bounds

Case = tuple[np.ndarray, np.ndarray, list[list[Region]]]


def loco_case(seed: int) -> Case:
    """Four images, one of them good: overlapping, touching and scattered regions, one of a pixel, one empty."""
    rng = np.random.default_rng(seed)
    regions: list[list[Region]] = [[] for _ in range(4)]
    for image, top, left, height, width, saturation in [
        (0, 2, 3, 9, 8, 0.37),
        (0, 6, 6, 8, 12, 1.0),
        (1, 0, 0, 5, 5, 0.2),
        (1, 5, 5, 4, 4, 1 / 3),
        (1, 12, 12, 1, 1, 0.5),
        (3, 4, 4, 0, 7, 0.6),
    ]:
        mask = np.zeros((18, 21), dtype=bool)
        mask[top : top + height, left : left + width] = True
        regions[image].append(Region(mask, saturation))
    regions[3].append(Region(rng.random((18, 21)) < 0.15, 0.71))
    masks = np.stack([np.any([np.zeros((18, 21), bool), *(r.mask for r in parts)], axis=0) for parts in regions])
    maps = rng.normal(size=masks.shape) + masks
    return np.round(maps, seed % 3).astype(np.float32), masks, regions


def saturated_by_definition(maps: np.ndarray, regions: list[list[Region]], limit: float) -> float:
    normal = np.ones(maps.shape, dtype=bool)
    for image, parts in enumerate(regions):
        for region in parts:
            normal[image] &= ~region.mask
    rates, overlaps = [0.0], [0.0]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        found = []
        for image, parts in enumerate(regions):
            for region in parts:
                if region.mask.any():
                    covered = sum(score >= threshold for score in maps[image][region.mask].tolist())
                    found.append(min(covered / (region.saturation * region.mask.sum()), 1.0))
        rates.append((maps[normal] >= threshold).mean())
        overlaps.append(sum(found) / len(found))
    return area_up_to(limit, rates, overlaps)


def statistics_of(case: Case, batch: int = 4, step: int = 1, **options: int) -> PixelStatistics:
    maps, masks, regions = (part[::step] for part in case)
    statistics = PixelStatistics(**options)
    for first in range(0, len(maps), batch):
        part = slice(first, first + batch)
        statistics.update(maps[part], masks[part], regions[part])
    return statistics


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_area_is_that_of_the_definition(seed, limit):
    case = loco_case(seed)
    expected = saturated_by_definition(case[0], case[2], limit)
    exact = statistics_of(case)
    assert exact.components == 6  # the empty region is none
    assert exact.aupro(limit) == pytest.approx(expected, abs=1e-12)
    for batch, step in ((1, 1), (2, -1), (3, 1)):
        assert statistics_of(case, batch, step).aupro(limit) == pytest.approx(expected, abs=1e-12)
    for exact_pixels in (0, 500):
        folded = statistics_of(case, 1, exact_pixels=exact_pixels)
        assert abs(folded.aupro(limit) - expected) <= error_bounds(folded, limit).aupro + 1e-12


@pytest.mark.parametrize("limits", [(10**6, 10**6), (0, 10**6), (10**6, 0), (0, 0)])
def test_merged_equals_the_definition(limits):
    case = loco_case(1)  # scores of one decimal: one value to a bin, so a histogram is exact too
    parts = [PixelStatistics(exact_pixels=limit) for limit in limits]
    for part, images in zip(parts, (slice(0, 1), slice(1, 4)), strict=True):
        part.update(*(values[images] for values in case))
    parts[0].merge(parts[1])
    assert parts[0].aupro(0.05) == pytest.approx(saturated_by_definition(case[0], case[2], 0.05), abs=1e-12)
    assert error_bounds(parts[0], 0.05).aupro == 0


def test_ties_and_fractions_by_hand():
    mask = np.array([[True, True, True, True, True, False]])
    maps = np.array([[[9.0, 5.0, 5.0, 5.0, 1.0, 0.0]]])
    positions, weights, count = region_weights(maps, mask[None], [[Region(mask, 0.5)]])  # s = 2.5 pixels
    assert (positions.tolist(), count) == ([0, 1, 2, 3, 4], 1)
    assert sorted(weights.tolist()) == pytest.approx([0.0, 0.0, 0.2, 0.4, 0.4])
    assert weights[0] == pytest.approx(0.4)
    assert weights[1:4].sum() == pytest.approx(0.6)  # all three pass together, whichever has which weight
    statistics = PixelStatistics()
    statistics.update(maps, mask[None], [[Region(mask, 0.1)]])  # half a pixel: the first one is enough
    assert statistics.pro_points()[1][:3].tolist() == [0.0, 0.0, 1.0]


def test_components_without_saturation_are_plain_overlap():
    maps, masks = random_case(4)
    labelled = [ndimage.label(mask, np.ones((3, 3))) for mask in masks]
    regions = [[Region(labels == label + 1) for label in range(count)] for labels, count in labelled]
    plain, given = PixelStatistics(), PixelStatistics()
    plain.update(maps, masks)
    given.update(maps, masks, regions)
    assert plain.components == given.components
    np.testing.assert_allclose(numbers(given), numbers(plain), rtol=0, atol=1e-12)


BOX = np.zeros((18, 21), dtype=bool)
BOX[2:5, 2:5] = True


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([[Region(BOX)]], "each of 2 images, got 1"),
        ([[Region(BOX)], [Region(BOX)]], r"regions\[1\] together must be the image's mask; they differ in 9"),
        ([[], []], r"regions\[0\] together"),
        ([[Region(BOX.T)], []], r"regions\[0\] has a mask of shape \(21, 18\)"),
    ],
)
def test_refused_regions_change_nothing(regions, message):
    statistics = statistics_of(loco_case(0))
    before = numbers(statistics).tolist()
    with pytest.raises(ValueError, match=message):
        statistics.update(np.zeros((2, 18, 21)), np.stack([BOX, np.zeros_like(BOX)]), regions)
    assert numbers(statistics).tolist() == before


def test_impossible_regions():
    for saturation in (0.0, -0.5, 1.01, float("nan")):
        with pytest.raises(ValueError, match="share of the region's area"):
            Region(BOX, saturation)
    with pytest.raises(ValueError, match="bool, got uint8"):
        Region(BOX.astype(np.uint8))
    with pytest.raises(ValueError, match="shape"):
        Region(BOX[None])
