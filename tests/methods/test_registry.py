"""What every registered method promises, on tiny random features."""

import json
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load, save

from ad_assets.kernels.parallel import threads, use_threads
from ad_assets.methods import METHODS, Batch, Method, Runtime, ScoreMaps
from ad_assets.methods.hetmm.template_selection import Selection
from tests.support.tap_features import tap_features

RUNTIME = Runtime()
MAP_SIZE = (32, 32)
# Options that suit these features; methods that are not named run with their defaults.
SMALL: dict[str, list[dict[str, Any]]] = {
    "hetmm": [{"windows": (3, 3)}, {"windows": (5, 3), "windows_backward": (1, 3), "sheets": 3}],
    "padim": [{"channels": 10, "ridge": 0.5}],
    "patchcluster": [{"pre_dimensions": 16, "dimensions": 16, "coreset_ratio": 0.5, "projection": 8, "neighbours": 3}],
    "patchcore_lof": [{"pre_dimensions": 16, "dimensions": 16, "neighbours": 10}],
    "patchcore": [{"pre_dimensions": 16, "dimensions": 16, "coreset_ratio": 0.5, "projection": 8}],
    "rad": [{"neighbours": 3}, {"neighbours": 2, "radius": None, "image_share": 0.2}],
    "fod": [{"widths": (8, 16), "heads": 2, "depth": 1, "epochs": 1, "held_out": 0.2}],
    "simplenet": [{"pooling": "concat", "hidden_units": 8, "epochs": 2, "held_out": 0.2}],
    "spade": [{"neighbours": 3}],
    "superadd": [{"max_rows": 50, "subsets": 3}, {"max_rows": None}],
}
CASES = [(name, options) for name in sorted(METHODS) for options in SMALL.get(name, [{}])]


def _taps(seed: int, images: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, 8, 8, 8, generator=generator),
        torch.randn(images, 16, 4, 4, generator=generator),
    ]


NOMINAL, TEST = _taps(0, 6), _taps(1, 5)


def _fit(method: Method[Any], batch_size: int) -> Any:
    features = tap_features(NOMINAL, batch_size)
    return method.prepare(method.fit(features, RUNTIME), features, RUNTIME)


@pytest.fixture(scope="module", params=CASES, ids=[f"{name}-{number}" for number, (name, _) in enumerate(CASES)])
def fitted(request: pytest.FixtureRequest) -> tuple[Method[Any], Any]:
    name, options = request.param
    method = METHODS[name](**options)
    return method, _fit(method, 4)


def _close(result: ScoreMaps, expected: ScoreMaps) -> None:
    torch.testing.assert_close(result.maps, expected.maps, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.image_scores, expected.image_scores, rtol=1e-5, atol=1e-6)


def test_shapes_and_types(fitted: tuple[Method[Any], Any]) -> None:
    method, state = fitted
    result = method.score(state, Batch(TEST, MAP_SIZE), RUNTIME)
    assert type(state) is method.state_type
    assert result.maps.shape == (5, *MAP_SIZE)
    assert result.image_scores.shape == (5,)
    assert result.maps.dtype == result.image_scores.dtype == torch.float32
    assert result.maps.isfinite().all()
    assert result.image_scores.isfinite().all()


def test_a_stored_state_scores_alike(fitted: tuple[Method[Any], Any]) -> None:
    method, state = fitted
    tensors = load(save({name: tensor.contiguous() for name, tensor in state.tensors().items()}))
    again = method.state_type.from_parts(tensors, json.loads(json.dumps(state.info(), allow_nan=False)))
    first, second = (method.score(s, Batch(TEST, MAP_SIZE), RUNTIME) for s in (state, again))
    assert torch.equal(first.maps, second.maps)
    assert torch.equal(first.image_scores, second.image_scores)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_fit_reads_no_setting_of_a_later_stage(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a setting would change what lies at an address that it is no part of."""
    method = METHODS[name](**options)
    fields = type(method).model_fields
    read = set()

    def noted(self: Method[Any], attribute: str) -> Any:
        read.add(attribute)
        return object.__getattribute__(self, attribute)

    # This refuses settings that do not suit the features, and makes nothing.
    monkeypatch.setattr(type(method), "check_layers", lambda *_: None, raising=False)
    monkeypatch.setattr(type(method), "__getattribute__", noted, raising=False)
    method.fit(tap_features(NOMINAL, 4), RUNTIME)
    extras = {each: fields[each].json_schema_extra for each in read & fields.keys()}
    assert "fit" in read
    assert {each for each, extra in extras.items() if extra != {"stage": "fit"}} == set()


def test_a_fit_repeats_and_does_not_see_its_batches(fitted: tuple[Method[Any], Any]) -> None:
    method, state = fitted
    again = _fit(method, 1)
    _close(method.score(again, Batch(TEST, MAP_SIZE), RUNTIME), method.score(state, Batch(TEST, MAP_SIZE), RUNTIME))


def test_the_number_of_threads_changes_nothing(fitted: tuple[Method[Any], Any]) -> None:
    method, _ = fitted
    before, found = threads(), []
    try:
        for count in (1, 2, 3):
            use_threads(count)
            state = _fit(method, 4)
            scores = method.score(state, Batch(TEST, MAP_SIZE), RUNTIME)
            found.append({**state.tensors(), "maps": scores.maps, "image_scores": scores.image_scores})
    finally:
        use_threads(before)
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        assert all(torch.equal(found[0][name], other[name]) for name in other)


def test_an_image_does_not_see_its_batch(fitted: tuple[Method[Any], Any]) -> None:
    method, state = fitted
    together = method.score(state, Batch(TEST, MAP_SIZE), RUNTIME)
    order = [3, 0, 4, 2, 1]
    shuffled = method.score(state, Batch([tap[order] for tap in TEST], MAP_SIZE), RUNTIME)
    _close(shuffled, ScoreMaps(together.maps[order], together.image_scores[order]))
    alone = method.score(state, Batch([tap[2:3] for tap in TEST], MAP_SIZE), RUNTIME)
    _close(alone, ScoreMaps(together.maps[2:3], together.image_scores[2:3]))


def test_left_out_scores_are_no_lower(fitted: tuple[Method[Any], Any]) -> None:
    method, state = fitted
    ids = tap_features(NOMINAL, 1).image_ids
    if not method.leaves_out:
        with pytest.raises(ValueError, match="cannot be left out"):
            method.score(state, Batch(NOMINAL, MAP_SIZE, ids, left_out=True), RUNTIME)
        assert len(method.held_out_ids(state)) == 1  # what was held out stands in for it
        return
    seen = method.score(state, Batch(NOMINAL, MAP_SIZE), RUNTIME)
    left_out = method.score(state, Batch(NOMINAL, MAP_SIZE, ids, left_out=True), RUNTIME)
    assert (left_out.image_scores >= seen.image_scores - 1e-6).all()
    alone = method.score(state, Batch([tap[4:5] for tap in NOMINAL], MAP_SIZE, ids[4:5], left_out=True), RUNTIME)
    _close(alone, ScoreMaps(left_out.maps[4:5], left_out.image_scores[4:5]))


def test_parameters_and_facts(fitted: tuple[Method[Any], Any]) -> None:
    method, state = fitted
    for stage in ("fit", "match", "score"):
        config = method.stage_config(stage)
        assert json.loads(json.dumps(config)) == config
    assert method.stage_config("score")["method"] == method.name
    assert method.stage_config("score")["version"] == method.version
    assert json.dumps(method.describe(state))
    assert method.describe(state)["bytes"] > 0
    assert method.state_asset in ("template_set", "memory_bank", "trained_model")


def test_lengths_in_pixels_follow_the_size_of_a_map_s_pixels(fitted: tuple[Method[Any], Any]) -> None:
    method, _ = fitted
    of_scoring = method.stage_config("score").keys()
    assert set(method.lengths) == {name for name in of_scoring if name.endswith(("sigma", "_blur_size", "_pool"))}
    assert method.at_step(1) is method
    sized = method.model_copy(update={name: 20.0 if name.endswith("sigma") else 21 for name in method.lengths})
    coarse = sized.at_step(4)
    assert all(getattr(coarse, name) == 5 for name in method.lengths)  # 21 // 4, which is odd
    assert all(getattr(sized.at_step(100), name) == (0.2 if name.endswith("sigma") else 1) for name in method.lengths)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *CASES,
        *(("patchcore", {**SMALL["patchcore"][0], **own}) for own in ({"coreset_ratio": 1.0}, {"preselect": 0.6})),
        *(("hetmm", {"windows": (3, 3), "sheets": 2, "selection": way}) for way in get_args(Selection)),
        ("padim", {"channels": None, "ridge": 0.5}),
    ],
)
def test_a_seed_has_a_part_where_a_method_says_so(name: str, options: dict[str, Any]) -> None:
    methods = [METHODS[name](**options, seed=seed) for seed in (0, 1)]
    first, second = ({k: v.tolist() for k, v in _fit(each, 4).tensors().items()} for each in methods)
    assert (first != second) == methods[0].is_random
