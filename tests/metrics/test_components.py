"""Connected components by runs against a labelling of pixels."""

import numpy as np
import pytest
from scipy import ndimage

from ad_assets.metrics.components import component_weights
from tests.support.fixtures import fixture


def labelled(masks: np.ndarray) -> tuple[np.ndarray, int]:
    """Weight of every pixel and number of components, image by image."""
    weights, count = np.zeros(masks.shape), 0
    for image, mask in enumerate(masks):
        labels, found = ndimage.label(mask, np.ones((3, 3)))
        weights[image][mask] = 1 / np.bincount(labels.ravel())[labels[mask]]
        count += found
    return weights, count


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 7), (4, 5, 1), (2, 9, 11), (5, 40, 33)])
@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.8, 1.0])
def test_equal_to_labelled_pixels(shape, density):
    masks = np.random.default_rng(0).random(shape) < density
    pixels, weights, count = component_weights(masks)
    expected, components = labelled(masks)
    assert count == components
    assert pixels.tolist() == np.flatnonzero(masks).tolist()
    assert weights.tolist() == expected.ravel()[pixels].tolist()


def test_components_of_the_fixture_touch_diagonally():
    data = fixture("metrics")
    count = component_weights(data["masks"].astype(bool))[2]
    assert count == int(data["n_components"]) != int(data["n_components_4conn"])


def test_spiral_is_one_component():
    rows = ["#######", "......#", "#####.#", "#...#.#", "#.###.#", "#.....#", "#######"]
    mask = np.array([[letter == "#" for letter in row] for row in rows])
    pixels, weights, count = component_weights(np.stack([mask, mask]))
    assert count == 2
    assert weights.sum() == pytest.approx(2.0)
    assert len(pixels) == 2 * mask.sum()
