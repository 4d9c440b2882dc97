"""Scores left out with a group become those of a state that has learnt as many images as all: neither more nor less."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import METHODS, Runtime
from ad_assets.methods.fewer_learnt import FEW, falls
from tests.support.tap_features import tap_features

RUNTIME = Runtime()
IMAGES, NEW, CHANNELS = 40, 40, 80
LOTS = (slice(0, 16), slice(16, 30), slice(30, 32))  # the others are alone


def world(law: Callable[[float], float], images: int, sizes: Sequence[int]) -> list[tuple[float, float]]:
    """Of each group of more than one the factor that is found and the true one, where scores follow a law of n."""
    names = iter(f"{number:03d}" for number in range(images))
    members = [frozenset(next(names) for _ in range(size)) for size in sizes]
    groups, alone = [each for each in members if len(each) > 1], sorted(min(each) for each in members if len(each) == 1)

    def score_without(gone: Collection[str], asked: Sequence[str], by_itself: bool) -> Mapping[str, float]:
        assert by_itself or set(asked) <= set(gone)  # no image is scored by a state that has learnt it
        return {name: (1 + int(name)) * math.exp(law(images - len(gone) - by_itself)) for name in asked}

    scores = {name: (1 + int(name)) * math.exp(law(images - len(own))) for own in members for name in own}
    found = list(falls(groups, alone, scores, images, score_without))
    assert [group for group, _ in found] == groups
    return [(factor, math.exp(law(images) - law(images - len(group)))) for group, factor in found]


@pytest.mark.parametrize("sizes", [[12, 12, 12, 12], [20, 7, 5, 4, 4], [25, 15] + [1] * 20, [30, 10, 1, 1, 1]])
def test_the_fall_of_scores_is_found_where_they_fall_with_one_over_n_and_is_never_too_great(sizes: list[int]) -> None:
    images = sum(sizes)
    for found, true in world(lambda n: 12 / n, images, sizes):
        assert found == pytest.approx(true)
    for found, true in world(lambda n: -0.017 * n, images, sizes):  # as of PaDiM with fewer images than channels
        assert true <= found < 1
    assert [found for found, _ in world(lambda n: 0.01 * n, images, sizes)] == [1] * sum(size > 1 for size in sizes)


def test_where_nothing_is_left_to_tell_scores_stay() -> None:
    assert [found for found, _ in world(lambda n: 12 / n, 20, [10, 10])] == [1, 1]
    # One image tells beside the few of the smallest groups.
    assert len(world(lambda n: 12 / n, 40, [30, FEW, 4, 1])) == 3


def taps(seed: int) -> list[torch.Tensor]:
    """More channels than images, of which few directions vary much, as those of networks do."""
    random = torch.Generator().manual_seed(seed)
    mixed = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=random)).Q * 0.93 ** torch.arange(CHANNELS)
    return [torch.einsum("nchw,dc->ndhw", torch.randn(IMAGES + NEW, CHANNELS, 6, 6, generator=random), mixed)]


@pytest.mark.parametrize("seed", range(3))
def test_padims_scores_of_lots_are_those_of_new_images(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = tap_features(taps(seed))
    train = replace(everything, image_ids=everything.image_ids[:IMAGES])
    lots = [frozenset(train.image_ids[part]) for part in LOTS]
    method = METHODS["padim"](channels=None, sigma=1.0)
    scorer = Scorer(method, method.fit(train, RUNTIME), train, None, (12, 12), RUNTIME)
    others = scorer(replace(everything, image_ids=everything.image_ids[IMAGES:]), new=True)
    new = np.median(torch.cat([scores.image_scores for _, scores in others]).numpy())
    lowered = scorer.nominal(train, IMAGES, True, lots)
    monkeypatch.setattr(METHODS["padim"], "scores_fall", False)
    raw = scorer.nominal(train, IMAGES, True, lots)
    assert lowered.groups == raw.groups
    assert np.median(raw.scores) / new > 1.25
    assert 0.97 < np.median(lowered.scores) / new < 1.05
    assert lowered.map_maxima == pytest.approx(lowered.scores)
    assert "whose scores were lowered by up to" in lowered.left_out
