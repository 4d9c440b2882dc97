"""Overlap image by image against a loop over all thresholds of each image."""

import numpy as np
import pytest

from ad_assets.metrics.per_image import PerImageOverlap
from tests.metrics.test_pixels import every_threshold, random_case


def case_with_all_kinds(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four images with both kinds of pixels, one without anomalous pixels, one without normal ones."""
    maps, masks = random_case(seed)
    return np.concatenate([maps, maps[:2]]), np.concatenate([masks, np.zeros_like(masks[:1]), np.ones_like(masks[:1])])


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_mean_of_each_images_own_curve(seed, limit):
    maps, masks = case_with_all_kinds(seed)
    expected = np.mean([every_threshold(maps[i : i + 1], masks[i : i + 1], limit)[2] for i in range(4)])
    whole = PerImageOverlap(limit)
    whole.update(maps, masks)
    assert whole.images == 4
    assert whole.mean == pytest.approx(expected, abs=1e-12)
    parts = [PerImageOverlap(limit), PerImageOverlap(limit)]
    for i in (5, 2, 0, 4, 3, 1):
        parts[i % 2].update(maps[i : i + 1].astype(np.float64), masks[i : i + 1].astype(np.uint8))
    parts[0].merge(parts[1])
    assert (parts[0].images, parts[0].mean) == (whole.images, whole.mean)  # to the last bit
    assert parts[1].images == 2


def test_refused():
    overlap = PerImageOverlap()
    overlap.update(np.zeros((2, 3, 3)), np.stack([np.zeros((3, 3)), np.ones((3, 3))]))
    assert overlap.images == 0
    with pytest.raises(ValueError, match="both anomalous and normal"):
        _ = overlap.mean
    half = np.arange(9).reshape(1, 3, 3) < 4
    with pytest.raises(ValueError, match=r"maps\[1\]"):
        overlap.update(np.stack([np.zeros((3, 3)), np.full((3, 3), np.nan)]), np.concatenate([half, half]))
    assert overlap.images == 0
    with pytest.raises(ValueError, match=r"up to 0\.05"):
        overlap.merge(PerImageOverlap(0.05))
    with pytest.raises(ValueError, match="fpr_limit"):
        PerImageOverlap(0.0)
