"""Near-copies are found by features, and what is left out with them is what a state made without them has not."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import METHODS, Batch, Features, Method, Runtime, ScoreMaps
from ad_assets.methods.hetmm.templates import TemplateSet
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.near_copies import near_copy_groups
from ad_assets.methods.nominal_scoring import ALL_COPIES, ALL_ONE_GROUP
from tests.support.tap_features import tap_features

RUNTIME = Runtime()
MAP_SIZE = (12, 12)
PATCHES = {"pooling": "concat", "sigma": 1.0}
EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "patchcore": ("patchcore", {"coreset_ratio": 1.0, "image_score": "reweighted", **PATCHES}),
    "patchcluster": ("patchcluster", {"coreset_ratio": 1.0, "neighbours": 5, **PATCHES}),
    "ivfpq": (
        "patchcore",
        {"coreset_ratio": 1.0, "search": "ivfpq", "lists": 1, "subquantisers": 2, "bits": 4} | PATCHES,
    ),
    "patchcore_lof": ("patchcore_lof", {"neighbours": 10, **PATCHES}),
    "spade": ("spade", {"neighbours": 50, "sigma": 1.0}),
    "rad": ("rad", {"neighbours": 10, "sigma": 1.0}),
    "hetmm": ("hetmm", {"windows": [3, 3]}),
    "padim": ("padim", {"channels": 8, "sigma": 1.0}),
}


def nominal_taps(seed: int, images: int) -> list[torch.Tensor]:
    """Parts that differ from place to place, and from one another by noise in many channels."""
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, channels, side, side, generator=random)
        + torch.randn(images, channels, side, side, generator=random)
        for channels, side in ((24, 6), (16, 3))
    ]


def with_copies(*copies: tuple[int, int], images: int = 14, noise: float = 0.1) -> list[torch.Tensor]:
    """Taps of nominal images; in each pair the second is a near-copy of the first."""
    taps = nominal_taps(3, images)
    random = torch.Generator().manual_seed(4)
    for original, copied in copies:
        for tap in taps:
            tap[copied] = tap[original] + noise * torch.randn(tap[original].shape, generator=random)
    return taps


def names(*numbers: int) -> frozenset[str]:
    return frozenset(f"image-{number}" for number in numbers)


def test_copies_are_linked_to_groups_and_others_stand_alone() -> None:
    features = tap_features(with_copies((0, 5), (5, 9), (2, 3)))
    assert set(near_copy_groups(features, features.image_ids, RUNTIME)) == {names(0, 5, 9), names(2, 3)}
    assert near_copy_groups(features, ["image-3", "image-7"], RUNTIME) == [names(2, 3)]
    for seed in range(5):
        independent = tap_features(nominal_taps(seed, 20))
        assert not near_copy_groups(independent, independent.image_ids, RUNTIME)


def test_a_part_of_an_image_that_another_has_elsewhere_is_found() -> None:
    random = torch.Generator().manual_seed(0)
    scenes = torch.randn(12, 6, 12, 18, generator=random)
    crops = torch.cat([scenes[:, :, :, :12], scenes[:1, :, :, 5:17]])  # the last shows seven twelfths of the first
    features = tap_features([crops])
    assert near_copy_groups(features, features.image_ids, RUNTIME) == [names(0, 12)]


def test_what_is_too_few_to_know_what_is_usual_is_no_group() -> None:
    features = tap_features(with_copies((0, 1), images=7))
    assert near_copy_groups(features, features.image_ids, RUNTIME) == []


def scored(method: Method[Any], state: Any, taps: list[torch.Tensor], images: list[int]) -> ScoreMaps:
    ids = [f"image-{number}" for number in images]
    return method.score(state, Batch([tap[images] for tap in taps], MAP_SIZE, ids), RUNTIME)


@pytest.mark.parametrize("case", EXACT)
@pytest.mark.parametrize("group", [[1, 4, 9], [0, 2, 3, 5, 6, 7, 8, 10, 11, 13]])
def test_a_state_without_images_is_one_that_was_fitted_without_them(case: str, group: list[int]) -> None:
    name, options = EXACT[case]
    method, taps = METHODS[name](**options), nominal_taps(0, 14)
    train = tap_features(taps)
    state = method.prepare(method.fit(train, RUNTIME), train, RUNTIME)
    found = scored(method, method.without(state, names(*group), train, RUNTIME), taps, group)

    rest = replace(train, image_ids=tuple(image for image in train.image_ids if image not in names(*group)))
    fitted = method.prepare(method.fit(rest, RUNTIME), rest, RUNTIME)
    expected = scored(method, fitted, taps, group)
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.image_scores, expected.image_scores, rtol=1e-4, atol=1e-4)


def test_a_coreset_without_images_has_its_other_rows() -> None:
    method, taps = METHODS["patchcore"](coreset_ratio=0.2, **PATCHES), nominal_taps(0, 14)
    train = tap_features(taps)
    state: MemoryBank = method.fit(train, RUNTIME)
    left = method.without(state, names(1, 4, 9), train, RUNTIME)
    kept = [row for row, image in enumerate(state.source.tolist()) if state.image_ids[image] not in names(1, 4, 9)]
    assert torch.equal(left.rows, state.rows[kept])
    assert [left.image_ids[image] for image in left.source] == [state.image_ids[i] for i in state.source[kept]]
    with pytest.raises(ValueError, match="every row of the bank comes from 14 near-copies"):
        method.without(state, frozenset(train.image_ids), train, RUNTIME)


def test_sheets_of_images_that_are_left_out_are_not_met() -> None:
    method, taps = METHODS["hetmm"](windows=[3, 3], sheets=6), nominal_taps(0, 14)
    train, group = tap_features(taps), [1, 4, 9]
    state: TemplateSet = method.prepare(method.fit(train, RUNTIME), train, RUNTIME)
    templates = [layer.clone() for layer in state.templates]
    numbers = torch.tensor([state.image_ids.index(image) for image in names(*group)])
    for layer, sources in zip(templates, state.sources, strict=True):
        gone = torch.isin(sources.long(), numbers)
        assert gone.any()
        assert not gone.all(dim=2).any()
        # Another one of the place in its stead changes nothing: the nearest counts.
        first = gone.int().argmin(dim=2)
        stead = layer.gather(2, first[:, :, None, None].expand(-1, -1, 1, layer.shape[3])).expand_as(layer)
        layer[gone] = stead[gone]
    expected = scored(method, replace(state, templates=templates), taps, group)
    found = scored(method, method.without(state, names(*group), train, RUNTIME), taps, group)
    torch.testing.assert_close(found.maps, expected.maps)


def scorer_of(name: str, options: dict[str, Any], train: Features) -> Scorer:
    method = METHODS[name](**options)
    return Scorer(method, method.fit(train, RUNTIME), train, None, MAP_SIZE, RUNTIME)


@pytest.mark.parametrize("case", EXACT)
def test_copies_left_out_together_score_as_new_images_and_others_as_before(case: str) -> None:
    train = tap_features(with_copies((0, 5), (5, 9)))
    scorer = scorer_of(*EXACT[case], train)
    alone, together = scorer.nominal(train, 64), scorer.nominal(train, 64, True)
    assert together.image_ids == alone.image_ids
    assert together.left_out.startswith("by near-copies: 12 groups of 14 images")
    assert len(set(together.groups)) == 12
    copies = [together.image_ids.index(image) for image in names(0, 5, 9)]
    assert len({together.groups[place] for place in copies}) == 1
    others = [place for place in range(14) if place not in copies]
    assert min(together.scores[place] / alone.scores[place] for place in copies) > 1.0
    if case != "ivfpq":  # which makes codes without several of the others at once
        assert [together.scores[place] for place in others] == [alone.scores[place] for place in others]


def test_without_copies_the_scores_are_the_very_same() -> None:
    train = tap_features(nominal_taps(1, 14))
    scorer = scorer_of(*EXACT["patchcore"], train)
    alone, together = scorer.nominal(train, 64), scorer.nominal(train, 64, True)
    assert replace(together, left_out="") == alone
    assert together.left_out == "image by image, no near-copies found"


def test_where_all_are_copies_that_is_said() -> None:
    chain = [(number, number + 1) for number in range(13)]
    train = tap_features(with_copies(*chain, noise=0.4))
    nominal = scorer_of(*EXACT["patchcore"], train).nominal(train, 64, True)
    assert (set(nominal.groups), nominal.left_out) == ({0}, ALL_COPIES)


def test_declared_groups_count_before_copies() -> None:
    train = tap_features(with_copies((0, 5)))
    scorer = scorer_of(*EXACT["spade"], train)
    lots = [names(1, 2, 3), names(4), names(6, 7)]
    nominal = scorer.nominal(train, 64, True, lots)
    assert nominal.left_out == "by group: 11 groups of 14 images"
    state = scorer.method.without(scorer.state, names(1, 2, 3), train, RUNTIME)
    expected = scored(scorer.method, state, with_copies((0, 5)), [2]).image_scores
    assert nominal.scores[nominal.image_ids.index("image-2")] == pytest.approx(float(expected[0]), rel=1e-5)
    assert scorer.nominal(train, 64, False, lots) == scorer.nominal(train, 64)
    assert scorer.nominal(train, 64, True, [frozenset(train.image_ids)]).left_out == ALL_ONE_GROUP


def test_a_held_out_image_with_a_copy_that_trained_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    train = tap_features(with_copies((0, 5), (1, 2)))
    scorer = scorer_of("simplenet", {"pooling": "concat", "hidden_units": 4, "epochs": 1, "held_out": 0.5}, train)
    held: Callable[..., list[str]] = lambda *_: sorted(names(5, 7, 8, 1, 2))  # noqa: E731
    monkeypatch.setattr(METHODS["simplenet"], "held_out_ids", held)
    nominal = scorer.nominal(train, 64, True)
    assert nominal.image_ids == ["image-1", "image-2", "image-7", "image-8"]
    assert nominal.groups == [0, 0, 1, 2]
    assert nominal.left_out == "held out; 1 with a near-copy among the training images do not count"
