"""Smoothing and upsampling of maps: SciPy's Gaussian filter, and the authors' map pipeline."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from ad_assets.kernels.smoothing import gaussian_blur, upsample
from tests.support.fixtures import fixture


@pytest.mark.parametrize(
    ("height", "width", "sigma"),
    [(28, 30, 4.0), (224, 200, 4.0), (5, 9, 4.0), (1, 7, 2.5), (3, 3, 40.0), (64, 64, 0.1), (40, 50, 12.3)],
)
def test_equal_to_scipy(height, width, sigma):
    maps = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) - 0.3
    expected = np.stack([ndimage.gaussian_filter(one, sigma) for one in maps.double().numpy()])
    blurred = gaussian_blur(maps, sigma)
    assert blurred.dtype == torch.float32
    np.testing.assert_allclose(blurred.numpy(), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(gaussian_blur(maps[1:2], sigma), blurred[1:2], rtol=1e-6, atol=1e-7)


def test_no_sigma_no_change():
    maps = torch.rand(2, 4, 5)
    assert torch.equal(gaussian_blur(maps, 0), maps)


def test_maps_of_the_fixture():
    data = fixture("patchcore_score")
    size = (int(data["out_size"][0]), int(data["out_size"][1]))
    for grids, expected in ((data["nn_sq"], data["map_sq"]), (np.sqrt(data["nn_sq"]), data["map_l2"])):
        maps = gaussian_blur(upsample(torch.from_numpy(grids), size), float(data["sigma"]))
        np.testing.assert_allclose(maps.numpy(), expected, rtol=0, atol=1e-5 * expected.max())


def test_corners():
    grid = torch.tensor([[[0.0, 2.0]]])
    assert upsample(grid, (1, 3), align_corners=True).flatten().tolist() == [0.0, 1.0, 2.0]
    assert upsample(grid, (1, 4)).flatten().tolist() == [0.0, 0.5, 1.5, 2.0]


@pytest.mark.parametrize(
    ("shape", "sigma"), [((4, 5), 1.0), ((1, 1, 4, 5), 1.0), ((1, 4, 5), -1.0), ((1, 4, 5), np.inf)]
)
def test_refused_input(shape, sigma):
    with pytest.raises(ValueError, match="must be"):
        gaussian_blur(torch.zeros(shape), sigma)
    with pytest.raises(ValueError, match=r"B, h, w"):
        upsample(torch.zeros(4, 5), (8, 8))
