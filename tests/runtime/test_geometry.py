"""What the runtime does without SciPy, against what the graph does with it."""

from __future__ import annotations

import numpy as np
import pytest

from ad_assets.datasets.geometry import fit_mask
from ad_assets_runtime.geometry import fit_region


@pytest.mark.parametrize("size", [(40, 60), (13, 60), (40, 17), (7, 9), (80, 121)])
def test_a_region_at_another_size_has_every_pixel_that_it_touches(size: tuple[int, int]) -> None:
    region = np.random.default_rng(0).random((40, 60)) < 0.02
    np.testing.assert_array_equal(fit_region(region, size), fit_mask(region, size, None, "any_pixel"))
