"""Turned images against the interpolation of SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from ad_assets.backbones.turning import turned


def _picture(height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(height * width)
    return np.clip(ndimage.gaussian_filter(random.normal(128, 400, (height, width, 3)), (2, 2, 0)), 0, 255).astype(
        "uint8"
    )


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_quarter_turns_of_a_square_are_exact_and_counterclockwise(degrees: int) -> None:
    picture = _picture(31, 31)
    right_to_top = np.zeros((31, 31, 3), "uint8")
    right_to_top[15, 30] = 255
    assert np.array_equal(turned(picture, degrees), np.rot90(picture, degrees // 90))
    assert turned(right_to_top, 90)[0, 15].all()


@pytest.mark.parametrize("shape", [(40, 40), (41, 41), (30, 52), (53, 31)])
@pytest.mark.parametrize("degrees", [45, 90, 135, 180, 225, 315])
def test_an_image_turns_about_its_middle_and_goes_on_as_its_mirror_image(shape: tuple[int, int], degrees: int) -> None:
    picture = _picture(*shape)
    expected = ndimage.rotate(picture.astype(float), degrees, reshape=False, order=1, mode="mirror")
    found = turned(picture, degrees)
    assert found.shape == picture.shape
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() < 3
    assert np.abs(found - expected).mean() < 0.6
    assert np.abs(turned(picture, 360 - degrees) - expected).mean() > 5 or degrees == 180


def test_eight_turns_of_an_eighth_come_back() -> None:
    picture = _picture(64, 64)
    middle = slice(20, 44)
    back = turned(turned(picture, 45), 315)
    assert np.abs(back[middle, middle].astype(int) - picture[middle, middle]).mean() < 3
