"""Pixels that no metric counts, of an ignore value of masks or outside a region: as if they were cut off."""

import numpy as np
import pytest

from ad_assets.metrics.per_image import PerImageOverlap
from ad_assets.metrics.pixels import EXACT_PIXELS, PixelStatistics
from ad_assets.metrics.regions import Region

SIDE, COUNTED, IMAGES = 48, 30, 6  # rows and columns, and the columns that count
RANDOM = np.random.default_rng(5)
MASKS = np.zeros((IMAGES, SIDE, SIDE), bool)
for _image in range(IMAGES - 2):
    MASKS[_image, 4 + _image : 12, 6:14] = True
    MASKS[_image, 30:34, 20 : 24 + _image] = True
MAPS = (RANDOM.normal(size=MASKS.shape) + MASKS).astype(np.float32)
IGNORED = np.zeros_like(MASKS)
IGNORED[:, :, COUNTED:] = True


def _numbers(statistics: PixelStatistics) -> list[float]:
    iou, threshold = statistics.best_iou()
    curves = (statistics.roc_points(), statistics.pr_points(), statistics.pro_points())
    return [
        statistics.pixels,
        statistics.anomalous_pixels,
        statistics.components,
        statistics.pixel_auroc(),
        statistics.pixel_ap(),
        *(statistics.aupro(limit) for limit in (0.3, 0.05, 1.0)),
        iou,
        threshold,
        *(float(np.sum(axis)) for curve in curves for axis in curve),
    ]


@pytest.mark.parametrize("saturated", [False, True])
@pytest.mark.parametrize("inked", [-1e6, 0.5, 1e6])
def test_what_is_ignored_is_as_if_it_were_cut_off(inked: float, saturated: bool) -> None:
    maps = np.where(IGNORED, np.float32(inked), MAPS)
    whole, cut = PixelStatistics(), PixelStatistics()
    for image in range(IMAGES):
        part = slice(image, image + 1)
        regions = [[Region(MASKS[image], 0.5)]] if saturated else None
        small = [[Region(MASKS[image, :, :COUNTED], 0.5)]] if saturated else None
        whole.update(maps[part], MASKS[part], regions, ignored=IGNORED[part])
        cut.update(MAPS[part, :, :COUNTED], MASKS[part, :, :COUNTED], small)
    assert _numbers(whole) == _numbers(cut)


def test_the_budget_of_exact_pixels_counts_none_of_them_and_no_bin_is_spent_on_them() -> None:
    counted = MAPS[:, :, :COUNTED].size
    crowded = np.where(IGNORED, np.float32(0.5) + MAPS * np.float32(1e-3), MAPS)  # where both kinds of pixels meet
    whole, cut = PixelStatistics(exact_pixels=counted), PixelStatistics(exact_pixels=counted)
    whole.update(crowded, MASKS, ignored=IGNORED)
    cut.update(MAPS[:, :, :COUNTED], MASKS[:, :, :COUNTED])
    assert _numbers(whole) == _numbers(cut)
    binned = PixelStatistics(exact_pixels=1)
    binned.update(crowded, MASKS, ignored=IGNORED)
    assert np.allclose(_numbers(binned)[:9], _numbers(cut)[:9], rtol=2e-3)
    assert counted < EXACT_PIXELS


def test_overlap_image_by_image_ignores_them_too() -> None:
    whole, cut = PerImageOverlap(0.3), PerImageOverlap(0.3)
    whole.update(np.where(IGNORED, np.float32(1e6), MAPS), MASKS, ignored=IGNORED)
    cut.update(MAPS[:, :, :COUNTED], MASKS[:, :, :COUNTED])
    assert (whole.images, whole.mean) == (cut.images, cut.mean)
