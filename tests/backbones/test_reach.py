"""How far patches see, by measurement."""

from __future__ import annotations

import numpy as np
import pytest

from ad_assets.backbones.backbone import Backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.reach import _reach, reach_of


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    taps = ("blocks.1", "blocks.2", "blocks.4")
    return Backbone.load(Extractor(backbone="tf_efficientnet_lite0", weights="bundled", taps=taps, resize=(128, 128)))


def test_deeper_taps_see_further_and_beyond_the_reach_a_black_half_changes_little(backbone: Backbone) -> None:
    first, second, deepest = reach_of(backbone)
    assert (first, second, deepest) == (8, 24, None)
    random = np.random.default_rng(1)
    plain = random.integers(90, 160, (128, 128, 3), np.uint8)
    half = plain.copy()
    half[:, 64:] = 0
    for reach, one, other in zip((8, 24), backbone.probe(plain), backbone.probe(half), strict=False):
        change = (one - other)[0].square().sum(dim=0).sqrt().mean(dim=0)
        cell = 128 // len(change)
        assert change[: (64 - reach) // cell].max() < 0.1 * change[64 // cell :].mean()
        assert change[(64 - reach) // cell] > 0.02 * change[64 // cell :].mean()


@pytest.mark.parametrize(
    ("change", "reach"),
    [
        ([0, 0, 0, 0, 1, 1, 1, 1], 0),
        ([0, 0, 0, 0.06, 1, 1, 1, 1], 10),
        ([0, 0, 0.06, 0.01, 1, 1, 1, 1], 20),
        ([0, 0.06, 0.1, 0.5, 1, 1, 1, 1], 30),
        ([0.06, 0.1, 0.5, 0.6, 1, 1, 1, 1], None),
    ],
)
def test_the_reach_is_that_of_the_farthest_cell_that_changes(change: list[float], reach: float | None) -> None:
    assert _reach(np.array(change), 80) == reach
