"""Local outlier factors against scikit-learn."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor

from ad_assets.methods import Batch, Runtime
from ad_assets.methods.data import by_image, together
from ad_assets.methods.memory_bank.lof import PatchCoreLof
from tests.support.tap_features import tap_features

BARE: dict[str, Any] = {"patch_size": 1, "pooling": "concat", "sigma": 0}
RUNTIME = Runtime()
SIDE = 8


def _taps(seed: int, images: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(6, 16, generator=generator)
    which = torch.randint(6, (images, SIDE, SIDE), generator=generator)
    spread = torch.tensor([0.02, 0.05, 0.1, 0.2, 0.1, 0.05])[which].unsqueeze(3)
    return [(centres[which] + spread * torch.randn(images, SIDE, SIDE, 16, generator=generator)).permute(0, 3, 1, 2)]


def _rows(taps: list[torch.Tensor]) -> np.ndarray:
    return taps[0].permute(0, 2, 3, 1).reshape(-1, 16).double().numpy()


@pytest.mark.parametrize("k", [1, 20, 100])
def test_factors_are_those_of_scikit_learn(k: int) -> None:
    taps, test = _taps(0, 6), _taps(1, 3)
    features = tap_features(taps)
    method = PatchCoreLof(**BARE, neighbours=k)
    state = method.prepare(method.fit(features, RUNTIME), features, RUNTIME)
    members = method.score(state, Batch(taps, (SIDE, SIDE), features.image_ids), RUNTIME)
    expected = -LocalOutlierFactor(n_neighbors=k).fit(_rows(taps)).negative_outlier_factor_
    np.testing.assert_allclose(members.maps.flatten(), expected, rtol=2e-5)
    strangers = method.score(state, Batch(test, (SIDE, SIDE), ["a", "b", "c"]), RUNTIME)
    novelty = LocalOutlierFactor(n_neighbors=k, novelty=True).fit(_rows(taps))
    np.testing.assert_allclose(strangers.maps.flatten(), -novelty.score_samples(_rows(test)), rtol=2e-5)
    torch.testing.assert_close(members.image_scores, members.maps.amax(dim=(1, 2)))


def test_kept_neighbours_give_the_same_densities() -> None:
    taps = _taps(2, 5)
    features = tap_features(taps)
    method = PatchCoreLof(**BARE, neighbours=30)
    state = method.fit(features, RUNTIME)
    table: dict[str, Any] = {}
    for ids, matches in method.match(state, features, RUNTIME):
        table |= by_image(ids, matches)
    stored = method.prepare(state, features, RUNTIME, lambda ids: together(ids, table))
    one, other = method.prepare(state, features, RUNTIME), stored
    for first, second in zip(one.densities, other.densities, strict=True):
        assert torch.equal(first, second)
    with pytest.raises(ValueError, match="a score reads 400 neighbours"):
        PatchCoreLof(**BARE, neighbours=400).prepare(state, features, RUNTIME)


def test_duplicates_have_a_finite_score() -> None:
    same = [torch.ones(3, 16, SIDE, SIDE)]
    features = tap_features(same)
    method = PatchCoreLof(**BARE, neighbours=10)
    state = method.prepare(method.fit(features, RUNTIME), features, RUNTIME)
    result = method.score(state, Batch(same, (SIDE, SIDE), features.image_ids), RUNTIME)
    torch.testing.assert_close(result.maps, torch.ones(3, SIDE, SIDE))
