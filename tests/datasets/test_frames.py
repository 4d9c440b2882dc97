"""Score maps in the frame of the original image, against sums over all pixels and against the forward geometry."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ad_assets.datasets.geometry import fit_mask
from ad_assets_runtime.geometry import centre_box, resized_shape, unfit_map


def axis_weights(old: int, new: int) -> np.ndarray:
    """(new, old) float64: a triangle around each new pixel's centre, as wide as the coarser of the two grids."""
    step = old / new
    width = max(step, 1.0)
    weights = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * step
        for k in range(old):
            weights[i, k] = max(0.0, 1 - abs(k + 0.5 - centre) / width)
        weights[i] /= weights[i].sum()
    return weights


def slow_unfit(score_map, size, resize, crop):
    h, w = resized_shape(*size, resize)
    top, left, bottom, right = centre_box(h, w, crop)
    frame = np.empty((h, w))
    for y in range(h):
        for x in range(w):
            frame[y, x] = score_map[min(max(y, top), bottom - 1) - top, min(max(x, left), right - 1) - left]
    return axis_weights(h, size[0]) @ frame @ axis_weights(w, size[1]).T


def random_map(resize, crop, size, seed=0):
    h, w = resized_shape(*size, resize)
    top, left, bottom, right = centre_box(h, w, crop)
    return np.random.default_rng(seed).normal(size=(bottom - top, right - left)).astype(np.float32)


side = st.integers(3, 24)


@given(side, side, st.one_of(side, st.tuples(side, side)), st.integers(0, 6), st.integers(0, 99))
def test_it_is_the_sum_over_all_pixels(height, width, resize, cut, seed):
    smaller = resize if isinstance(resize, int) else min(resize)
    crop = max(1, smaller - cut) if cut else None
    score_map = random_map(resize, crop, (height, width), seed)
    found = unfit_map(score_map, (height, width), resize, crop)
    assert (found.dtype, found.shape) == (np.float32, (height, width))
    np.testing.assert_allclose(found, slow_unfit(score_map, (height, width), resize, crop), rtol=1e-5, atol=1e-6)
    # So an image without a pixel above a threshold in the detector's frame has none in its own.
    assert score_map.min() <= found.min()
    assert found.max() <= score_map.max()


def test_enlarging_is_what_torch_calls_bilinear_without_aligned_corners():
    score_map = random_map((9, 13), None, (40, 31))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(score_map).double()[None, None], (40, 31), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(unfit_map(score_map, (40, 31), (9, 13), None), expected[0, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("resize", "crop"), [((20, 30), None), (20, 20), (20, 12)])
def test_equal_sizes_leave_every_bit(resize, crop):
    score_map = random_map(resize, crop, (20, 30))
    found = unfit_map(score_map, (20, 30), resize, crop)
    top, left, bottom, right = centre_box(20, 30, crop)
    assert np.array_equal(found[top:bottom, left:right], score_map)
    assert not np.shares_memory(found, score_map)
    # What the crop cut away has the value of the nearest pixel that it left.
    assert np.array_equal(found[0], found[top])
    assert np.array_equal(found[:, -1], found[:, right - 1])


@pytest.mark.parametrize(("resize", "crop"), [(64, 56), ((48, 80), None), (64, None)])
def test_a_region_comes_back_to_where_it_was(resize, crop):
    mask = np.zeros((150, 211), bool)
    mask[40:77, 90:150] = True
    back = unfit_map(fit_mask(mask, resize, crop).astype(np.float32), mask.shape, resize, crop) > 0.5
    assert (back & mask).sum() / (back | mask).sum() > 0.93
    shift = np.argwhere(back).mean(axis=0) - np.argwhere(mask).mean(axis=0)
    assert np.abs(shift).max() < 1.2  # half a pixel of the coarse grid


def test_a_map_of_another_geometry_is_refused():
    with pytest.raises(
        ValueError, match=r"shape \(8, 8\) for an image of 30 x 40, which resize 16 and crop 10 make 10"
    ):
        unfit_map(np.zeros((8, 8), np.float32), (30, 40), 16, 10)


def test_a_map_goes_to_a_smaller_picture_of_its_image():
    score_map = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert unfit_map(score_map, (30, 40), (3, 4), None, (6, 8)).shape == (6, 8)
    assert np.array_equal(unfit_map(score_map, (30, 40), (3, 4), None, (3, 4)), score_map)
