"""HETMM against the authors' fused map, its ablations, its updates, its presets."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import interpolate, normalize

from ad_assets.methods import Batch, Runtime
from ad_assets.methods.hetmm.hetmm import Hetmm
from ad_assets.methods.hetmm.presets import PRESETS
from ad_assets.methods.hetmm.templates import TemplateSet
from tests.support.fixtures import fixture
from tests.support.tap_features import tap_features

RUNTIME = Runtime()
SIZE = (32, 32)


def taps(seed: int, images: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, 6, 8, 8, generator=generator), torch.randn(images, 10, 4, 4, generator=generator)]


def fitted(method: Hetmm, nominal: list[torch.Tensor]) -> TemplateSet:
    features = tap_features(nominal)
    return method.prepare(method.fit(features, RUNTIME), features, RUNTIME)


def scores(method: Hetmm, nominal: list[torch.Tensor], test: list[torch.Tensor], **options: Any) -> torch.Tensor:
    return method.score(fitted(method, nominal), Batch(test, SIZE, **options), RUNTIME).maps


def test_the_authors_fused_map_and_image_score() -> None:
    data = fixture("hetmm_match")
    query, templates = ([torch.from_numpy(data[f"l{i}_{part}"]) for i in (1, 2)] for part in ("query", "templates"))
    method = Hetmm(
        windows=tuple(data["fuse_windows"].tolist()), alpha=float(data["alpha"]), image_sigma=float(data["image_sigma"])
    )
    size = (int(data["out_size"][0]), int(data["out_size"][1]))
    # Five templates and two layers of other sizes; their lengths do not matter.
    state = fitted(method, [3 * layer for layer in templates])
    result = method.score(state, Batch([0.5 * layer for layer in query], size), RUNTIME)
    np.testing.assert_allclose(result.maps, data["fused"], atol=4e-6)
    np.testing.assert_allclose(result.image_scores, data["image_score"], atol=4e-6)
    raw = method.model_copy(update={"image_sigma": 0.0}).score(state, Batch(query, size), RUNTIME)
    np.testing.assert_allclose(raw.image_scores, data["image_score_raw"], atol=4e-6)


def test_alpha_windows_and_weights_mix_as_equation_6_says() -> None:
    nominal, test = taps(0, 7), taps(1, 3)

    def maps(**options: Any) -> torch.Tensor:
        return scores(Hetmm(**{"windows": (3, 3), **options}), nominal, test)

    forward, backward = maps(alpha=1.0), maps(alpha=0.0)
    torch.testing.assert_close(maps(alpha=0.3), 0.3 * forward + 0.7 * backward)
    first, second = maps(alpha=1.0, weights=(1.0, 0.0)), maps(alpha=0.0, weights=(0.0, 2.0))
    torch.testing.assert_close(maps(alpha=(1.0, 0.0), weights=(1.0, 2.0)), first + second)
    assert torch.equal(maps(alpha=1.0, windows_backward=(1, 1)), forward)
    assert not torch.equal(maps(alpha=0.0, windows_backward=(1, 1)), backward)
    # Points have no direction, nor do patches of one place.
    torch.testing.assert_close(maps(windows=(1, 1), alpha=0.2), maps(windows=(1, 1), matching="patch"))


def test_one_layer_by_hand() -> None:
    nominal, test = taps(2, 4), taps(3, 2)
    a, b = normalize(test[1], dim=1), normalize(nominal[1], dim=1)
    points = (1 - torch.einsum("bchw,tchw->bthw", a, b)).amin(dim=1)
    method = Hetmm(windows=(1,), align_corners=False)
    state = fitted(method, nominal[1:])
    expected = interpolate(points[:, None], SIZE, mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(method.score(state, Batch(test[1:], SIZE), RUNTIME).maps, expected)


def test_image_scores_and_map_filters() -> None:
    nominal, test = taps(4, 4), taps(5, 3)
    plain = Hetmm(windows=(3, 3), image_sigma=0.0)
    maps = scores(plain, nominal, test)
    pooled = plain.model_copy(update={"image_score": "mean_of_max_pool", "image_pool": 5})
    found = pooled.score(fitted(pooled, nominal), Batch(test, SIZE), RUNTIME)
    cells = maps[:, :30, :30].unflatten(1, (6, 5)).unflatten(3, (6, 5))
    torch.testing.assert_close(found.image_scores, cells.amax(dim=(2, 4)).mean(dim=(1, 2)))
    smooth = plain.model_copy(update={"map_sigma": 2.0, "map_blur_size": 5, "border": "zero"})
    offsets = torch.arange(-2.0, 3.0)
    kernel = torch.exp(-(offsets**2) / 8)
    kernel = (kernel[:, None] * kernel) / kernel.sum() ** 2
    expected = torch.conv2d(maps[:, None], kernel[None, None], padding=2)[:, 0]
    torch.testing.assert_close(scores(smooth, nominal, test), expected)


@pytest.mark.parametrize("sheets", [None, 4])
def test_left_out_equals_a_set_without_the_image(sheets: int | None) -> None:
    nominal = taps(6, 9)
    method = Hetmm(windows=(3, 1), sheets=sheets)
    state = fitted(method, nominal)
    before = [layer.clone() for layer in state.templates]
    ids = [state.image_ids[3], "somebody-else"]
    found = method.score(state, Batch([layer[[3, 3]] for layer in nominal], SIZE, ids, left_out=True), RUNTIME)
    assert all(torch.equal(a, b) for a, b in zip(before, state.templates, strict=True))
    if sheets is None:
        rest = [i for i in range(9) if i != 3]
        expected = scores(method, [layer[rest] for layer in nominal], [layer[3:4] for layer in nominal])
        torch.testing.assert_close(found.maps[:1], expected)
    assert (found.maps[0] >= found.maps[1] - 1e-6).all()
    assert found.image_scores[0] > found.image_scores[1]
    assert torch.equal(found.maps[1], method.score(state, Batch([n[[3, 3]] for n in nominal], SIZE), RUNTIME).maps[1])


def test_a_set_of_one_image_cannot_be_left_out() -> None:
    method = Hetmm(windows=(3, 3))
    with pytest.raises(ValueError, match="fit at least two images"):
        scores(method, taps(7, 1), taps(7, 1), image_ids=["image-0"], left_out=True)


@pytest.mark.parametrize("selection", ["sum", "pixel_random", "image_kmeans"])
def test_templates_are_the_vectors_of_their_sources(selection: Any) -> None:
    nominal = taps(8, 12)
    state = fitted(Hetmm(windows=(3, 3), sheets=5, selection=selection), nominal)
    for layer, templates, sources in zip(nominal, state.templates, state.sources, strict=True):
        vectors = normalize(layer, dim=1)
        height, width, sheets, _ = templates.shape
        assert sheets == 5
        for y in range(height):
            for x in range(width):
                assert torch.equal(templates[y, x], vectors[sources[y, x].long(), :, y, x])
                assert len(set(sources[y, x].tolist())) == 5
    assert len(state.clusters) == (2 if selection == "sum" else 0)


def test_as_many_sheets_as_images_are_all_images() -> None:
    nominal, test = taps(9, 6), taps(10, 2)
    everything = fitted(Hetmm(windows=(3, 3)), nominal)
    for sheets in (6, 60):
        state = Hetmm(windows=(3, 3), sheets=sheets).fit(tap_features(nominal), RUNTIME)
        assert not state.templates  # they lie in the store as features: nothing is stored twice
        assert torch.equal(
            scores(Hetmm(windows=(3, 3), sheets=sheets), nominal, test), scores(Hetmm(windows=(3, 3)), nominal, test)
        )
    assert [list(layer.shape) for layer in everything.templates] == [[8, 8, 6, 6], [4, 4, 6, 10]]


def test_a_set_that_grew_reads_the_new_images_alone_for_what_was_matched_before() -> None:
    method, nominal, read = Hetmm(windows=(3, 3)), taps(9, 6), []
    features = tap_features(nominal)

    def load(ids: Sequence[str], layers: tuple[int, ...] | None) -> list[torch.Tensor]:
        read.extend(ids)
        return features.load(ids, layers)

    train = replace(features, load=load)
    earlier = method.fit(replace(train, image_ids=train.image_ids[:4]), RUNTIME)
    state = method.prepare(method.fit(train, RUNTIME), train, RUNTIME)
    read.clear()
    growth = method.growth(state, earlier, RUNTIME)
    assert growth is not None
    test, batch = taps(10, 2), Batch([], (0, 0))
    old = method.prepare(earlier, replace(features, image_ids=features.image_ids[:4]), RUNTIME)
    renewed = growth.renew(replace(batch, taps=test, matches=method.search(old, replace(batch, taps=test), RUNTIME)))
    assert set(read) == {"image-4", "image-5"}
    for name, own in method.search(state, replace(batch, taps=test), RUNTIME).items():
        torch.testing.assert_close(renewed[name], own, rtol=0, atol=1e-6)


def test_layers_are_positions_of_taps() -> None:
    nominal, test = taps(11, 5), taps(12, 2)
    features = tap_features(nominal)
    assert [tap.shape[1] for _, loaded in features.layer(1).batches() for tap in loaded] == [10, 10]
    with pytest.raises(ValidationError, match="from 1"):
        Hetmm(layers=(0,))
    with pytest.raises(ValidationError, match="shallow to deep"):
        Hetmm(layers=(2, 1))
    with pytest.raises(ValueError, match="windows: 3 values for 2 layers"):
        Hetmm().fit(features, RUNTIME)
    state = fitted(Hetmm(windows=(3, 3)), nominal)
    with pytest.raises(ValueError, match="score with the extractor that the templates are from"):
        Hetmm(windows=(3, 3)).score(state, Batch(list(reversed(test)), SIZE), RUNTIME)


def test_bad_features_and_budgets_are_named() -> None:
    method = Hetmm(windows=(3, 3), sheets=2)
    with pytest.raises(ValueError, match="train split is empty"):
        method.fit(tap_features([tap[:0] for tap in taps(13, 1)]), RUNTIME)
    with pytest.raises(ValueError, match=r"products of all vectors of a place need 5\.12e-07 GB .*: raise compute"):
        method.fit(tap_features(taps(13, 4)), Runtime(memory_gb=5e-7))
    broken = taps(13, 4)
    broken[1][2, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        method.fit(tap_features(broken), RUNTIME)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sheets": 0}, "greater than or equal to 1"),
        ({"alpha": 1.2}, "less than or equal to 1"),
        ({"windows": (0, 1)}, "greater than or equal to 1"),
        ({"matching": "patch", "windows": (4, 3)}, "must be odd"),
        ({"matching": "patch", "screening": "bfloat16"}, "remove the key"),
        ({"image_pool": 3}, "mean_of_max_pool"),
        ({"image_score": "mean_of_max_pool"}, "image_pool"),
        ({"map_blur_size": 4}, "must be odd"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Hetmm(**options)


def test_presets_say_what_was_published() -> None:
    for name, preset in PRESETS.items():
        shared = {key: value for key, value in preset.items() if key != "categories"}
        for own in preset.get("categories", {"": {}}).values():
            method = Hetmm(**shared, **own)
            method.check_layers(len(method.windows))
        assert ("categories" in preset) == name.startswith("repo_tuned_on_test")
    zipper = PRESETS["repo_tuned_on_test"]["categories"]["zipper"]
    assert zipper["windows"], zipper["windows_backward"] == ([13, 7, 7], [5, 5, 1])
    assert (zipper["alpha"], zipper["weights"]) == ([0.3, 0.7, 0.7], [1, 1, 0.3])
    assert (zipper["image_pool"], zipper["map_sigma"], zipper["map_blur_size"]) == (11, 10.4, 61)
    assert PRESETS["repo_tuned_on_test_pro"]["categories"]["zipper"]["map_sigma"] == 6.0
    assert len(PRESETS["repo_tuned_on_test"]["categories"]) == 15
    # The paper's own settings are the defaults.
    assert (Hetmm().windows, Hetmm().alpha, Hetmm().image_sigma) == ((9, 7, 5), 0.8, 6.8)
