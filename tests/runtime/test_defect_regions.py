"""Defect regions against plain counting and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ad_assets_runtime import defect_regions as module
from ad_assets_runtime.defect_regions import DefectRegion, defect_regions


def by_flood(score_map: np.ndarray, threshold: float) -> list[DefectRegion]:
    """Slow and plain: a stack of neighbours."""
    above = {(y, x) for y, x in zip(*np.nonzero(score_map > threshold), strict=True)}
    found = []
    while above:
        stack, pixels = [above.pop()], []
        while stack:
            y, x = stack.pop()
            pixels.append((y, x))
            near = {(y + down, x + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & above
            above -= near
            stack += near
        ys, xs = zip(*pixels, strict=True)
        box = (int(min(xs)), int(min(ys)), int(max(xs)) + 1, int(max(ys)) + 1)
        peak = max(float(score_map[pixel]) for pixel in pixels)
        found.append(DefectRegion(box, len(pixels), peak, (float(np.mean(xs)), float(np.mean(ys)))))
    return sorted(found, key=lambda region: -region.peak)


@pytest.mark.parametrize("seed", range(5))
def test_regions_are_those_that_a_flood_finds(seed: int) -> None:
    score_map = np.random.default_rng(seed).normal(size=(23, 31)).astype(np.float32)
    found = defect_regions(score_map, 0.8)
    expected = by_flood(score_map, 0.8)
    assert len(found) > 10
    assert [(r.box, r.area, r.peak) for r in found] == [(r.box, r.area, r.peak) for r in expected]
    assert [r.centroid for r in found] == [pytest.approx(r.centroid) for r in expected]


def test_a_region_ends_where_the_picture_is_not_looked_at() -> None:
    score_map = np.full((10, 12), np.nan, np.float32)
    score_map[3:8, 2:9] = 1
    assert defect_regions(score_map, 1.0) == ()
    [region] = defect_regions(score_map, 0.5)
    assert region == DefectRegion((2, 3, 9, 8), 35, 1.0, (5.0, 5.0))


def test_a_map_above_the_threshold_everywhere_gives_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_REGIONS", 3)
    score_map = np.zeros((9, 9), np.float32)
    score_map[::2, ::2] = np.arange(25).reshape(5, 5) + 1
    assert [region.peak for region in defect_regions(score_map, 0.5)] == [25.0, 24.0, 23.0]


@pytest.mark.parametrize("sigma", [0, 1, 4])
def test_regions_are_those_of_scipy_with_equal_peaks_in_its_order(sigma: int) -> None:
    rng = np.random.default_rng(sigma)
    score_map = np.round(ndimage.gaussian_filter(rng.normal(size=(211, 180)), sigma) * 20)
    threshold = float(np.quantile(score_map, 0.7))
    labels, count = ndimage.label(score_map > threshold, np.ones((3, 3)))
    peaks = np.asarray(ndimage.maximum(score_map, labels, range(1, count + 1)))
    order = np.argsort(-peaks, kind="stable")[: module.MOST_REGIONS]
    boxes = [ndimage.find_objects(labels)[number] for number in order]
    centres = [ndimage.center_of_mass(labels == number + 1) for number in order]
    found = defect_regions(score_map, threshold)
    assert len(set(peaks.tolist())) < count, "no tie, so the order is not tested"
    assert [region.peak for region in found] == peaks[order].tolist()
    assert [region.box for region in found] == [(x.start, y.start, x.stop, y.stop) for y, x in boxes]
    assert [region.area for region in found] == [int((labels == number + 1).sum()) for number in order]
    assert [region.centroid for region in found] == [pytest.approx((x, y)) for y, x in centres]
