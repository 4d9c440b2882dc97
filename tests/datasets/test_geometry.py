"""The geometry that image and mask share: torchvision's, and no region of a mask vanishes unless it is asked for."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from torchvision.transforms import functional as torchvision

from ad_assets.datasets.geometry import fit_mask, fit_regions
from ad_assets_runtime.geometry import centre_box, fit_image, resized_shape, seen_mask, seen_share


def ties(old: int, new: int) -> list[bool]:
    """Whether an output pixel's centre lies exactly between two input pixels, both of which are then nearest."""
    return [(Fraction(2 * i + 1, 2) * old / new).denominator == 1 for i in range(new)]


sides = st.integers(3, 40)


@given(sides, sides, st.one_of(st.integers(3, 50), st.tuples(st.integers(3, 50), st.integers(3, 50))), st.data())
def test_image_and_mask_share_every_pixel(h, w, resize, data):
    new_h, new_w = resized_shape(h, w, resize)
    crop = data.draw(st.one_of(st.none(), st.integers(1, min(new_h, new_w))))
    mask = np.random.default_rng(h * 41 + w).random((h, w)) < 0.5
    rgb = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255

    fitted = fit_mask(mask, resize, crop)
    assert fitted.shape == fit_image(rgb, resize, crop).shape[:2]
    top, left, bottom, right = centre_box(new_h, new_w, crop)
    pillow = np.asarray(Image.fromarray(rgb).resize((new_w, new_h), Image.Resampling.NEAREST))
    clear = ~np.logical_or.outer(ties(h, new_h), ties(w, new_w))[top:bottom, left:right]
    assert np.array_equal(fitted[clear], pillow[top:bottom, left:right, 0][clear] > 0)


@given(sides, sides, st.integers(3, 50), st.data())
def test_geometry_is_torchvisions(h, w, resize, data):
    crop = data.draw(st.integers(1, resize))
    rgb = np.random.default_rng(h * 41 + w).integers(0, 256, (h, w, 3), dtype=np.uint8)
    expected = torchvision.center_crop(torchvision.resize(Image.fromarray(rgb), resize), [crop, crop])
    assert np.array_equal(fit_image(rgb, resize, crop), np.asarray(expected))


def test_a_crop_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match=r"crop 30 is larger than the resized image \(20 x 40\)"):
        fit_mask(np.zeros((10, 20), dtype=bool), 20, 30)


def test_a_mask_stays_on_its_object():
    # A white square on black: after any fit, the mask is where the image is bright.
    rgb, mask = np.zeros((90, 130, 3), dtype=np.uint8), np.zeros((90, 130), dtype=bool)
    rgb[30:60, 50:85] = 255
    mask[30:60, 50:85] = True
    for filter_name in ("bilinear", "bicubic", "lanczos"):
        image, fitted = fit_image(rgb, 64, 56, filter_name), fit_mask(mask, 64, 56)
        assert ((image[..., 0] > 127) != fitted).mean() < 0.01


def dots(*places: tuple[int, int], size: int = 60) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    for row, column in places:
        mask[row, column] = True
    return mask


def test_no_region_vanishes_from_a_smaller_frame():
    pinholes = dots((0, 0), (7, 31), (30, 30), (59, 59), (40, 3))
    large = dots()
    large[20:30, 40:50] = True
    mask = pinholes | large
    nearest, lost = fit_regions(mask, (10, 10), None, "nearest")
    assert lost == 5
    kept, gone = fit_regions(mask, (10, 10), None, "regions")
    assert gone == 0
    for row, column in np.argwhere(pinholes):
        assert kept[row // 6, column // 6]
    # What had a pixel keeps the very same: only what was lost is put back.
    assert np.array_equal(fit_mask(large, (10, 10), None, "regions"), fit_mask(large, (10, 10), None))
    assert (kept & ~nearest).sum() == 5


def test_the_any_pixel_rule_covers_all_that_a_region_touches():
    mask = dots()
    mask[5:13, 5:13] = True  # touches three rows and columns of pixels of 6
    assert fit_mask(mask, (10, 10), None, "nearest").sum() == 1
    touched, lost = fit_regions(mask, (10, 10), None, "any_pixel")
    assert lost == 0
    assert touched[:3, :3].all()
    assert touched.sum() == 9


@given(sides, sides, st.tuples(st.integers(3, 50), st.integers(3, 50)), st.data())
def test_every_rule_keeps_what_the_nearest_pixels_show(h, w, resize, data):
    crop = data.draw(st.one_of(st.none(), st.integers(1, min(resize))))
    mask = np.random.default_rng(h * 41 + w).random((h, w)) < 0.04
    nearest, lost_by_nearest = fit_regions(mask, resize, crop, "nearest")
    regions, lost = fit_regions(mask, resize, crop, "regions")
    touched, lost_of_all = fit_regions(mask, resize, crop, "any_pixel")
    assert (nearest <= regions).all()
    assert (regions <= touched).all()
    assert lost_by_nearest >= lost >= lost_of_all
    if crop is None:
        assert lost == 0
        assert regions.any() == mask.any()


@given(sides, sides, st.one_of(st.integers(3, 50), st.tuples(st.integers(3, 50), st.integers(3, 50))), st.data())
def test_regions_are_kept_as_a_loop_over_regions_of_the_whole_mask_says(h, w, resize, data):
    new_h, new_w = resized_shape(h, w, resize)
    crop = data.draw(st.one_of(st.none(), st.integers(1, min(new_h, new_w))))
    top, left, bottom, right = centre_box(new_h, new_w, crop)
    mask = np.random.default_rng(h * 41 + w).random((h, w)) < data.draw(st.sampled_from([0.002, 0.05, 0.5]))
    regions, count = ndimage.label(mask, np.ones((3, 3)))
    for shrink in ("nearest", "regions", "any_pixel"):
        expected, lost = np.zeros((new_h, new_w), bool), 0
        for region in range(1, count + 1):
            own = np.zeros_like(expected)
            y, x = np.indices(own.shape)
            own[regions[(2 * y + 1) * h // (2 * new_h), (2 * x + 1) * w // (2 * new_w)] == region] = True
            if shrink == "any_pixel" or (shrink == "regions" and not own.any()):
                for row, column in np.argwhere(regions == region):
                    own[(2 * row + 1) * new_h // (2 * h), (2 * column + 1) * new_w // (2 * w)] = True
            expected |= own
            lost += not own[top:bottom, left:right].any()
        if crop is None and new_h >= h and new_w >= w:
            lost = 0  # every pixel is still there
        fitted, gone = fit_regions(mask, resize, crop, shrink)
        assert gone == lost
        assert np.array_equal(fitted, expected[top:bottom, left:right])


def test_regions_that_a_crop_cuts_away_are_counted():
    mask = dots((0, 0), (30, 30))
    fitted, lost = fit_regions(mask, (60, 60), 20, "regions")
    assert lost == 1
    assert fitted.sum() == 1


@given(st.integers(1, 300), st.integers(1, 300), st.one_of(st.integers(1, 40), st.just((30, 50))), st.data())
def test_seen_is_every_pixel_whose_centre_lies_in_the_crop(h, w, resize, data):
    shape = resized_shape(h, w, resize)
    if min(shape) < 1:
        return
    crop = data.draw(st.one_of(st.none(), st.integers(1, min(shape))))
    top, left, bottom, right = centre_box(*shape, crop)
    mask = seen_mask((h, w), resize, crop)
    inside = [
        [low <= Fraction(2 * i + 1, 2) * new / old < high for i in range(old)]
        for low, high, old, new in ((top, bottom, h, shape[0]), (left, right, w, shape[1]))
    ]
    assert np.array_equal(mask, np.outer(*inside))
    assert seen_share((h, w), resize, crop) == (bottom - top) * (right - left) / (shape[0] * shape[1])
    assert seen_share((h, w), resize, None) == 1
