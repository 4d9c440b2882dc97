"""SuperADD against loops over tokens, and its promises."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import zoom

from ad_assets.methods import Batch, Features, Runtime
from ad_assets.methods.memory_bank.superadd import SuperAdd
from tests.support.tap_features import tap_features

RUNTIME = Runtime()
SIDE = 5
ALL = SuperAdd(max_rows=None)


def _taps(seed: int, images: int, second: int = SIDE) -> list[torch.Tensor]:
    """Two layers of 6 and 4 channels, of other lengths."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(images, 6, SIDE, SIDE, generator=generator)
    return [first, 7 * torch.randn(images, 4, second, second, generator=generator)]


def _by_loops(nominal: list[torch.Tensor], image: list[torch.Tensor]) -> np.ndarray:
    """(SIDE, SIDE): what the tokens of an image (C, SIDE, SIDE) score with all tokens of some images."""
    grids = []
    for bank, tap in zip(nominal, image, strict=True):
        rows = bank.double().permute(0, 2, 3, 1).reshape(-1, len(tap)).numpy()
        tokens = tap.double().permute(1, 2, 0).numpy()
        away = [[min(np.sqrt(((row - token) ** 2).sum()) for row in rows) for token in line] for line in tokens]
        grids.append(np.array(away) / len(tap))
    return np.mean(grids, axis=0)


def test_a_token_scores_its_nearest_row_of_each_layer() -> None:
    nominal, test = _taps(0, 2), _taps(1, 3)
    result = ALL.score(ALL.fit(tap_features(nominal), RUNTIME), Batch(test, (SIDE, SIDE)), RUNTIME)
    for number in range(3):
        expected = _by_loops(nominal, [tap[number] for tap in test])
        np.testing.assert_allclose(result.maps[number], expected, rtol=1e-5)
        assert float(result.image_scores[number]) == pytest.approx(expected.max(), rel=1e-5)


def test_maps_are_resized_and_smoothed_and_leave_the_image_score() -> None:
    nominal, test = _taps(0, 2), _taps(1, 2)
    state = ALL.fit(tap_features(nominal), RUNTIME)
    small = ALL.score(state, Batch(test, (SIDE, SIDE)), RUNTIME)
    large = ALL.score(state, Batch(test, (3 * SIDE, 3 * SIDE)), RUNTIME)
    smooth = ALL.model_copy(update={"sigma": 2.0}).score(state, Batch(test, (3 * SIDE, 3 * SIDE)), RUNTIME)
    assert torch.equal(small.image_scores, large.image_scores)
    assert torch.equal(small.image_scores, smooth.image_scores)
    for grid, score_map in zip(small.maps.numpy(), large.maps.numpy(), strict=True):
        expected = zoom(grid, 3, order=1, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(score_map, expected, rtol=1e-5)
    assert smooth.maps.std() < large.maps.std()


def test_a_layer_of_another_grid_is_averaged_on_the_first() -> None:
    nominal, test = _taps(0, 2, second=1), _taps(1, 1, second=1)
    result = ALL.score(ALL.fit(tap_features(nominal), RUNTIME), Batch(test, (SIDE, SIDE)), RUNTIME)
    even = [tap.expand(-1, -1, SIDE, SIDE) for tap in (nominal[1], test[1])]
    expected = _by_loops([nominal[0], even[0]], [test[0][0], even[1][0]])
    np.testing.assert_allclose(result.maps[0], expected, rtol=1e-5)


def test_a_bank_has_so_many_rows_at_most_and_knows_where_they_are_from() -> None:
    features = tap_features(_taps(0, 4))
    method = SuperAdd(max_rows=30, subsets=3)
    state = method.fit(features, RUNTIME)
    assert [len(rows) for rows in state.rows] == [30, 30]
    for tap, rows, source, place in zip(_taps(0, 4), state.rows, state.source, state.place, strict=True):
        assert torch.equal(tap.flatten(2)[source, :, place], rows)
    whole = SuperAdd(max_rows=100).fit(features, RUNTIME)
    assert all(torch.equal(some, all_) for some, all_ in zip(whole.rows, ALL.fit(features, RUNTIME).rows, strict=True))
    assert not torch.equal(state.place[0], method.model_copy(update={"seed": 1}).fit(features, RUNTIME).place[0])


def test_an_update_ends_where_a_fit_of_all_does() -> None:
    whole = tap_features(_taps(0, 5))
    first, second = (replace(whole, image_ids=some) for some in (whole.image_ids[::2], whole.image_ids[1::2]))
    updated, fitted = ALL.update(ALL.fit(first, RUNTIME), second, RUNTIME), ALL.fit(whole, RUNTIME)
    assert updated.info() == fitted.info()
    assert all(torch.equal(updated.tensors()[name], fitted.tensors()[name]) for name in fitted.tensors())
    assert not SuperAdd().updatable
    with pytest.raises(NotImplementedError, match="learns from all images at once"):
        SuperAdd().update(fitted, second, RUNTIME)
    other = tap_features(_taps(0, 5, second=2))
    with pytest.raises(ValueError, match="one extractor"):
        ALL.update(fitted, other, RUNTIME)


def _ids_of(features: Features, *without: int) -> tuple[str, ...]:
    return tuple(image for number, image in enumerate(features.image_ids) if number not in without)


@pytest.mark.parametrize("left_out", [True, False])
def test_an_image_of_the_bank_is_compared_with_the_others_alone(left_out: bool) -> None:
    features = tap_features(_taps(0, 3))
    state = ALL.fit(features, RUNTIME)
    batch = Batch(_taps(0, 3), (SIDE, SIDE), features.image_ids, left_out)
    together = ALL.score(state, batch, RUNTIME)
    for number in range(3):
        others = ALL.fit(replace(features, image_ids=_ids_of(features, number)), RUNTIME)
        alone = ALL.score(others, Batch([tap[[number]] for tap in _taps(0, 3)], (SIDE, SIDE)), RUNTIME)
        torch.testing.assert_close(together.maps[number], alone.maps[0])
        apart = ALL.without(state, [features.image_ids[number]], features, RUNTIME)
        assert apart.tensors().keys() == others.tensors().keys()
        assert all(torch.equal(apart.tensors()[name], others.tensors()[name]) for name in others.tensors())
    blind = ALL.model_copy(update={"exclude_same_image": False})
    scores = blind.score(state, replace(batch, left_out=False), RUNTIME).image_scores
    assert torch.equal(scores, torch.zeros(3))


def test_matches_are_what_a_score_searches() -> None:
    features, images = tap_features(_taps(0, 2)), tap_features(_taps(0, 5))
    state = ALL.fit(features, RUNTIME)
    for ids, matches in ALL.match(state, images, RUNTIME):
        batch = Batch(images.load(ids, None), (SIDE, SIDE), ids)
        stored, found = (ALL.score(state, each, RUNTIME) for each in (replace(batch, matches=matches), batch))
        assert torch.equal(stored.maps, found.maps)
        assert torch.equal(stored.image_scores, found.image_scores)


def test_of_several_layers_some_are_read() -> None:
    nominal, test = _taps(0, 2), _taps(1, 1)
    features = replace(tap_features(nominal), layers=(1,))
    result = ALL.score(ALL.fit(features, RUNTIME), Batch(test[1:], (SIDE, SIDE)), RUNTIME)
    np.testing.assert_allclose(result.maps[0], _by_loops(nominal[1:], [test[1][0]]), rtol=1e-5)


def test_images_of_another_shape_are_refused() -> None:
    state = ALL.fit(tap_features(_taps(0, 2)), RUNTIME)
    with pytest.raises(ValueError, match="score with the extractor"):
        ALL.score(state, Batch(_taps(1, 1, second=2), (SIDE, SIDE)), RUNTIME)
    with pytest.raises(ValueError, match="patches have 4 values"):
        ALL.score(state, Batch(_taps(1, 1)[::-1], (SIDE, SIDE)), RUNTIME)
    spoilt = _taps(1, 1)
    spoilt[1][0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        ALL.score(state, Batch(spoilt, (SIDE, SIDE)), RUNTIME)
    with pytest.raises(ValueError, match="NaN"):
        ALL.fit(tap_features(spoilt), RUNTIME)


def test_subsets_that_nothing_reads_are_refused() -> None:
    with pytest.raises(ValidationError, match="max_rows null thins nothing"):
        SuperAdd(max_rows=None, subsets=3)
