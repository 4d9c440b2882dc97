"""Banks of nominal images that are learnt in several directions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ad_assets.methods import METHODS, Batch, Features, Method, Runtime
from ad_assets.methods.memory_bank.bank import MemoryBank, unturned_cell
from tests.support.tap_features import tap_features

RUNTIME = Runtime()
SIDE, CELLS = 4, 16
WHOLE = {"pooling": "concat", "patch_size": 1, "coreset_ratio": 1.0}


def _taps(seed: int, images: int) -> torch.Tensor:
    return torch.randn(images, 5, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def _features(images: int, turns: int = 4) -> Features:
    """Images whose turned copies have features of their own, as those of a network are."""
    copies = [tap_features([_taps(turn, images)]) for turn in range(turns)]
    return replace(copies[0], turned=tuple(copy.load for copy in copies[1:]))


def _method(name: str = "patchcore", **options: Any) -> Method[Any]:
    return METHODS[name](**{**WHOLE, "turns": 4, **options})


def test_a_patch_scores_the_nearest_patch_of_any_direction() -> None:
    nominal = [[_taps(turn, 3)[image].flatten(1).T.double().numpy() for turn in range(4)] for image in range(3)]
    method, test = _method(sigma=0.0), _taps(9, 2)
    result = method.score(method.fit(_features(3), RUNTIME), Batch([test], (SIDE, SIDE)), RUNTIME)
    rows = np.concatenate([directions for image in nominal for directions in image])
    for score_map, image in zip(result.maps, test, strict=True):
        patches = image.flatten(1).T.double().numpy()
        expected = [min(np.sqrt(((row - patch) ** 2).sum()) for row in rows) for patch in patches]
        np.testing.assert_allclose(score_map.flatten(), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["patchcore", "anomalydino", "patchcluster"])
def test_an_image_is_left_out_in_all_directions(name: str) -> None:
    options = {"neighbours": 3} if name == "patchcluster" else {}
    method, features = _method(name, **options), _features(4)
    state = method.fit(features, RUNTIME)
    left_out = method.score(state, Batch([_taps(0, 4)], (SIDE, SIDE), features.image_ids, left_out=True), RUNTIME)
    for number, image_id in enumerate(features.image_ids):
        others = method.fit(replace(features, image_ids=tuple(i for i in features.image_ids if i != image_id)), RUNTIME)
        alone = method.score(others, Batch([_taps(0, 4)[[number]]], (SIDE, SIDE)), RUNTIME)
        torch.testing.assert_close(left_out.maps[number], alone.maps[0])
        apart = method.without(state, [image_id], features, RUNTIME)
        assert all(torch.equal(apart.tensors()[part], others.tensors()[part]) for part in others.tensors())


def test_an_update_ends_where_a_fit_of_all_does() -> None:
    method, features = _method(), _features(5)
    first, second = (replace(features, image_ids=some) for some in (features.image_ids[::2], features.image_ids[1::2]))
    updated, fitted = method.update(method.fit(first, RUNTIME), second, RUNTIME), method.fit(features, RUNTIME)
    assert updated.info() == fitted.info()
    assert all(torch.equal(updated.tensors()[part], fitted.tensors()[part]) for part in fitted.tensors())


def test_a_coreset_is_of_all_directions_and_grows_in_them() -> None:
    method, features = _method(coreset_ratio=0.25, preselect=0.5), _features(4)
    state = method.fit(features, RUNTIME)
    assert len(state.rows) == 4 * 4 * CELLS // 4
    assert set((state.place // CELLS).tolist()) == {0, 1, 2, 3}
    assert method.describe(state)["compression"] == 4
    for row, source, place in zip(state.rows, state.source, state.place, strict=True):
        turn, cell = divmod(int(place), CELLS)
        assert torch.equal(row, _taps(turn, 4)[source].flatten(1)[:, cell])
    half = method.fit(replace(features, image_ids=features.image_ids[:2]), RUNTIME)
    grown = method.update(half, replace(features, image_ids=features.image_ids[2:]), RUNTIME)
    assert len(grown.rows) == len(state.rows)


def test_banks_of_several_directions_are_joined_row_by_row() -> None:
    method, features = _method(), _features(4)
    parts = [
        method.fit(replace(features, image_ids=ids), RUNTIME)
        for ids in (features.image_ids[:3], features.image_ids[2:])
    ]
    whole = method.fit(features, RUNTIME)
    joined = MemoryBank.joined(parts)
    assert all(torch.equal(joined.tensors()[part], whole.tensors()[part]) for part in whole.tensors())


def test_a_patch_skips_itself_and_no_turned_patch_of_its_number() -> None:
    method, features = _method(skip="self"), _features(2)
    state = method.fit(features, RUNTIME)
    own = state.own_rows(features.image_ids, CELLS)
    assert all(
        torch.equal(state.rows[own[image]], torch.from_numpy(_taps(0, 2)[image].flatten(1).T.numpy()))
        for image in (0, 1)
    )


def test_all_images_of_a_bank_are_matched_with_all_directions() -> None:
    method, features = _method(kept_neighbours=3), _features(3)
    state = method.fit(features, RUNTIME)
    for ids, matches in method.match(state, features, RUNTIME):
        patches = _taps(0, 3)[: len(ids)].flatten(2).transpose(1, 2).double()
        expected = torch.cdist(patches.flatten(0, 1), state.rows.double()).topk(3, largest=False).values
        torch.testing.assert_close(matches["distances"].flatten(0, 1).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grid", [(5, 5), (4, 4), (1, 7)])
def test_a_place_leads_back_to_the_cell_of_the_image_as_it_is(grid: tuple[int, int]) -> None:
    cells = grid[0] * grid[1]
    numbers = np.arange(cells).reshape(grid)
    for turns in (1, 4, 8):
        for turn in range(0, turns, turns // min(turns, 4)):
            quarter = np.rot90(numbers, turn * 4 // turns)
            if quarter.shape != grid:
                continue
            for cell, number in enumerate(quarter.ravel()):
                row, column = unturned_cell(turn * cells + cell, grid, turns)
                assert row * grid[1] + column == number
    # An eighth of a turn: the middle stays, what was at the right is at the upper right.
    if grid == (5, 5):
        assert unturned_cell(cells + 12, grid, 8) == (2, 2)
        assert unturned_cell(cells + 8, grid, 8) == (2, 3)
        assert unturned_cell(cells + 4, grid, 8) == (2, 4)  # a corner of the turned frame, beyond the border


@pytest.mark.parametrize("options", [{"coreset_ratio": 0.5, "subsampling": "random", "preselect": 0.6}, {}])
def test_a_bank_beyond_the_budget_is_the_same(options: dict[str, Any]) -> None:
    method, features = _method(**options), replace(_features(5), batch_size=2)
    fitted, tight = (method.fit(features, Runtime(memory_gb=gb)) for gb in (1, 1e-7))
    assert all(torch.equal(tight.tensors()[part], fitted.tensors()[part]) for part in fitted.tensors())


def test_needs_are_those_of_as_many_images_as_directions() -> None:
    for options in ({}, {"coreset_ratio": 0.25, "projection": 4, "preselect": 0.5}):
        plain, turned = _method(turns=1, **options), _method(turns=8, **options)
        assert turned.needs([_taps(0, 1)], 3) == plain.needs([_taps(0, 1)], 24)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"turned by \(90, 180, 270\) degrees"):
        _method().fit(tap_features([_taps(0, 2)]), RUNTIME)
    with pytest.raises(ValidationError, match="densities of rows"):
        METHODS["patchcore_lof"](turns=4)
    with pytest.raises(ValidationError, match="roi_fit"):
        _method(roi_fit=True)
    with pytest.raises(ValidationError, match="turns"):
        _method(turns=3)


def test_without_turns_addresses_are_those_of_before() -> None:
    plain, turning = METHODS["patchcore"](), METHODS["patchcore"](turns=8)
    assert "turns" not in plain.stage_config("fit")
    assert [stage for stage in ("fit", "match", "score") if "turns" in turning.stage_config(stage)] == ["fit"]
    assert turning.turned_by == (45, 90, 135, 180, 225, 270, 315)
    assert plain.turned_by == ()
