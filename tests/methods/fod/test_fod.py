"""FOD as a method: maps and image scores as the authors', and what its training promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ad_assets.methods import METHODS, Batch, Features, Runtime
from ad_assets.methods.fod.fod import Fod
from ad_assets.methods.training.base import TrainedNetwork
from tests.methods.fod.test_network import recorded
from tests.methods.test_simplenet import taps
from tests.support.repeated_training import assert_only_the_seed_counts
from tests.support.tap_features import tap_features

RUNTIME = Runtime(memory_gb=1)
SMALL: dict[str, Any] = {"widths": (8, 16), "heads": 2, "depth": 2, "epochs": 2, "batch_size": 4}


def features(count: int = 5) -> Features:
    """As training gets them."""
    return tap_features(taps(count), batch_size=3)


def test_maps_are_the_authors() -> None:
    arrays, network = recorded()
    channels, width, heads, depth = arrays["config"].tolist()
    method = Fod(widths=(width,), heads=heads, depth=depth)
    weights = {f"levels.0.{name}": tensor for name, tensor in network.state_dict().items()}
    weights["references.0.mean"] = torch.from_numpy(arrays["reference"])
    assert weights["levels.0.embedding.weight"].shape == (width, channels)
    size = (int(arrays["out_size"][0]), int(arrays["out_size"][1]))
    feature_map = torch.from_numpy(arrays["feature_map"])
    np.testing.assert_allclose(method.tokens([feature_map], {})[0], arrays["tokens"], atol=1e-6)
    result = method.score(TrainedNetwork(weights, []), Batch([feature_map], size), RUNTIME)
    np.testing.assert_allclose(result.maps, arrays["test_map"], atol=1e-5)
    np.testing.assert_allclose(result.image_scores, arrays["test_image_score"], atol=1e-5)


def test_training_learns_to_tell_a_defect() -> None:
    method = Fod(widths=(16, 32), heads=2, depth=2, epochs=10, batch_size=2, learning_rate=5e-3)
    state = method.fit(features(6), RUNTIME)
    good, bad = taps(6, seed=1), taps(6, seed=1)
    for tap, (rows, columns) in zip(bad, (((2, 5), (4, 7)), ((1, 3), (2, 4))), strict=True):
        tap[:, : tap.shape[1] // 2, slice(*rows), slice(*columns)] += 4
    scores = [method.score(state, Batch(images, (32, 32)), RUNTIME) for images in (good, bad)]
    assert scores[1].image_scores.min() > scores[0].image_scores.max()
    assert state.losses["reconstruction"][-1] < 0.5 * state.losses["reconstruction"][0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reference": "nearest", "batch_size": 1},
        {"reference": "prototype", "prototypes": 2, "passes": 2},
        {"inter": False, "optimisation": "direct"},
    ],
)
def test_same_seed_same_weights_whatever_the_budget_and_the_threads(options: dict[str, Any]) -> None:
    assert_only_the_seed_counts(Fod(**{**SMALL, **options}), features(), 1e-4, "levels.0.embedding.weight")


def test_a_step_on_a_batch_has_the_mean_gradient_of_its_images() -> None:
    method, images = Fod(**SMALL), features(4)
    whole = method.training(images, None, RUNTIME)
    whole.step([0, 1, 2, 3], 0)
    singles = []
    for image in range(4):
        training = method.training(images, None, RUNTIME)
        training.step([image], 0)
        singles.append([p.grad for o in training.optimizers for p in o.param_groups[0]["params"]])
    for number, parameter in enumerate(p for o in whole.optimizers for p in o.param_groups[0]["params"]):
        mean = torch.stack([single[number] for single in singles]).mean(dim=0)
        torch.testing.assert_close(parameter.grad, mean, rtol=1e-4, atol=1e-7)


def test_levels_do_not_move_each_other() -> None:
    images = features()
    both = Fod(**{**SMALL, "batch_size": 1}).fit(images, RUNTIME)
    alone = Fod(**{**SMALL, "batch_size": 1, "widths": (8,)}).fit(replace(images, layers=(0,)), RUNTIME)
    shared = [name for name in alone.weights if name.startswith("levels.0.")]
    assert shared
    # The first level's weights are the first drawn.
    assert all(torch.equal(both.weights[name], alone.weights[name]) for name in shared)


@pytest.mark.parametrize(
    "options",
    [
        {"intra": False},
        {"inter": False, "criterion": "rec"},
        {"intra": False, "inter": False, "criterion": "rec"},
        {"criterion": "div", "weighing": "both", "printed_weight": True},
        {"entropy_weight": 0, "residual": True, "pool": False},
        {"reference": "coreset"},
        {"reference": "nearest"},
        {"reference": "prototype", "prototypes": 2, "passes": 1},
        {"reference": "codebook", "codes": 9, "passes": 2},
    ],
    ids=str,
)
def test_every_ablation_trains_and_scores_image_by_image(options: dict[str, Any]) -> None:
    method = Fod(**{**SMALL, "epochs": 1}, **options)
    state = method.fit(features(), RUNTIME)
    images: list[Tensor] = taps(3, seed=3)
    together = method.score(state, Batch(images, (20, 20)), RUNTIME)
    alone = method.score(state, Batch([tap[1:2] for tap in images], (20, 20)), RUNTIME)
    assert torch.equal(alone.maps[0], together.maps[1])
    assert torch.equal(alone.image_scores[0], together.image_scores[1])
    assert together.maps.std() > 0


def test_half_precision_trains_nearly_alike() -> None:
    method = Fod(**SMALL)
    full, half = (method.fit(features(), Runtime(precision=kind)) for kind in ("float32", "bfloat16"))  # type: ignore[arg-type]
    assert half.weights["levels.0.embedding.weight"].dtype == torch.float32
    assert half.losses["reconstruction"] == pytest.approx(full.losses["reconstruction"], rel=0.05)
    assert half.losses["reconstruction"] != full.losses["reconstruction"]


def test_a_warm_start_goes_on_with_references_of_all_images() -> None:
    method = Fod(**SMALL, warm_start=True)
    everything = features(6)
    first = method.fit(replace(everything, image_ids=everything.image_ids[:4]), RUNTIME)
    second = method.update(first, replace(everything, image_ids=everything.image_ids[4:]), RUNTIME)
    assert (second.epochs, second.starts) == (3, [0, 2])
    tokens = method.tokens(taps(6), {})[0]
    torch.testing.assert_close(second.weights["references.0.mean"], tokens.mean(dim=0))


def test_tokens_in_units_of_the_features_do_not_see_their_scale() -> None:
    method = Fod(**SMALL, unit="features")
    small, large = taps(5), [1024 * tap for tap in taps(5)]
    states = [method.fit(tap_features(images), RUNTIME) for images in (small, large)]
    assert states[1].losses["loss"] == pytest.approx(states[0].losses["loss"], rel=1e-5)
    deviations = method.tokens(small, {})[1].flatten(0, 1).double().var(dim=0, unbiased=False)
    assert float(states[0].weights["units.1"]) == pytest.approx(float(deviations.mean().sqrt()), rel=1e-6)
    scores = [
        method.score(state, Batch(images, (8, 8)), RUNTIME)
        for state, images in zip(states, (small, large), strict=True)
    ]
    torch.testing.assert_close(scores[0].maps, scores[1].maps, rtol=1e-4, atol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    method = Fod(**{**SMALL, "epochs": 1})
    state = method.fit(features(2), RUNTIME)
    with pytest.raises(ValueError, match="10 channels, the network was trained on 6"):
        method.score(state, Batch(taps(1)[::-1], (8, 8)), RUNTIME)
    for options, message in {
        ("widths", (9, 16)): "multiples of 4 and of the 2 heads",
        ("window", 4): "window: odd",
        ("codes", 5): "codes: nothing reads it",
        ("weighing", "intra"): "weighing: by a branch that is there",
        ("exclude_same_image", True): "exclude_same_image",
    }.items():
        more = {"intra": False} if options[0] == "weighing" else {}
        with pytest.raises(ValueError, match=message):
            Fod(**{**SMALL, options[0]: options[1], **more})
    with pytest.raises(ValueError, match="3 taps are read, so give as many"):
        method.check_layers(3)


def test_presets_are_settings_of_the_method() -> None:
    for preset in METHODS["fod"].presets.values():
        METHODS["fod"](**preset)
