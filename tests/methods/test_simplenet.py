"""SimpleNet against the authors' implementation, and what its training promises."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ad_assets.kernels.discriminator import training_step
from ad_assets.methods import METHODS, Batch, Features, Runtime
from ad_assets.methods.simplenet import SimpleNet
from ad_assets.methods.simplenet_training import head_of
from ad_assets.methods.training.base import TrainedNetwork
from tests.support.fixtures import fixture
from tests.support.repeated_training import assert_only_the_seed_counts
from tests.support.tap_features import tap_features

RUNTIME = Runtime(memory_gb=1)
SMALL = {"pooling": "concat", "hidden_units": 32, "epochs": 6, "batch_size": 4}


def taps(count: int = 10, seed: int = 0) -> list[Tensor]:
    """Taps of two layers of a texture, whose patches differ in two directions only."""
    scene = torch.Generator().manual_seed(99)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for channels, side in ((6, 8), (10, 4)):
        factors = torch.randn(count, 2, side, side, generator=generator)
        found.append(1 + torch.einsum("cf,nfhw->nchw", torch.randn(channels, 2, generator=scene), factors))
    return found


def features(count: int = 10) -> Features:
    """As training gets them."""
    return tap_features(taps(count), batch_size=3)


def from_fixture(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    """Weights as we name them."""
    names = {
        "adaptor.0.weight": "adaptor.weight",
        "adaptor.0.bias": "adaptor.bias",
        "first.weight": "disc.fc1.weight",
        "first.bias": "disc.fc1.bias",
        "norm.scale": "disc.bn.weight",
        "norm.shift": "disc.bn.bias",
        "norm.running_mean": "disc.bn.running_mean",
        "norm.running_variance": "disc.bn.running_var",
        "last.weight": "disc.fc2.weight",
    }
    found = {ours: arrays.get(f"{prefix}.{theirs}") for ours, theirs in names.items()}
    return {name: torch.from_numpy(value.copy()) for name, value in found.items() if value is not None}


def assert_scores(method: SimpleNet, weights: dict[str, Tensor], arrays: dict[str, np.ndarray], prefix: str) -> None:
    """Image scores and maps of the fixture's images."""
    state = method.prepare(TrainedNetwork(weights, []), features(), RUNTIME)
    inputs = [torch.from_numpy(arrays["layer2"]), torch.from_numpy(arrays["layer3"])]
    size = (int(arrays["out_size"][0]), int(arrays["out_size"][1]))
    result = method.score(state, Batch(inputs, size), RUNTIME)
    np.testing.assert_allclose(result.image_scores, arrays[f"{prefix}_image_scores"], atol=1e-5)
    np.testing.assert_allclose(result.maps, arrays[f"{prefix}_maps"], atol=1e-5)
    raw = SimpleNet(**{**method.model_dump(), "sigma": 0}).score(state, Batch(inputs, (6, 6)), RUNTIME)
    np.testing.assert_allclose(raw.maps, arrays[f"{prefix}_patch_scores"], atol=1e-5)


def test_parity_with_the_authors() -> None:
    arrays = fixture("simplenet")
    real = SimpleNet().embed([torch.from_numpy(arrays["real_layer2"]), torch.from_numpy(arrays["real_layer3"])])
    np.testing.assert_allclose(real[0], arrays["real_embedding"], atol=1e-6)
    method = SimpleNet(pre_dimensions=48, dimensions=48, hidden_units=32)
    rows = method.embed([torch.from_numpy(arrays["layer2"]), torch.from_numpy(arrays["layer3"])])
    np.testing.assert_allclose(rows.flatten(0, 1), arrays["embedding"], atol=1e-6)

    weights = from_fixture(arrays, "param")
    assert_scores(method, weights, arrays, "eval")
    noise = torch.from_numpy(arrays["noise"]).unflatten(0, rows.shape[:2])
    head = head_of(weights)
    result = training_step(head, list(rows), noise.__getitem__, margin=float(arrays["margin"]))
    assert float(result.loss) == pytest.approx(float(arrays["train_loss"]), abs=1e-5)
    assert float(result.true_share) == pytest.approx(float(arrays["train_p_true"]), abs=1e-6)
    assert float(result.noisy_share) == pytest.approx(float(arrays["train_p_fake"]), abs=1e-6)
    gradients = from_fixture(arrays, "grad")
    for name, expected in gradients.items():
        np.testing.assert_allclose(weights[name].grad, expected, atol=1e-5, err_msg=name)
    for optimizer in method.optimizers(head):
        optimizer.step()
    stepped = from_fixture(arrays, "step1")
    for name, expected in stepped.items():
        # Where the gradient is rounding noise, the first step of Adam is of full length in either direction.
        firm = gradients[name].abs() > 1e-4 if name in gradients else torch.ones_like(expected, dtype=torch.bool)
        np.testing.assert_allclose(weights[name][firm], expected[firm], atol=2e-6, err_msg=name)
    assert_scores(method, stepped, arrays, "eval_after_step")


def test_training_learns_to_tell_a_defect() -> None:
    method = SimpleNet(**{**SMALL, "epochs": 20}, noise_sigma=0.3, discriminator_lr=1e-3, adaptor_lr=1e-3)
    state = method.prepare(method.fit(features(20), RUNTIME), features(20), RUNTIME)
    good, bad = taps(6, seed=1), taps(6, seed=1)
    bad[0][:, :3, 2:5, 4:7] += 4
    scores = [method.score(state, Batch(images, (32, 32)), RUNTIME) for images in (good, bad)]
    assert scores[1].image_scores.min() > scores[0].image_scores.max()
    row, column = divmod(int(scores[1].maps[0].argmax()), 32)
    assert 8 <= row < 20
    assert 16 <= column < 28
    assert state.losses["loss"][-1] < state.losses["loss"][0]


@pytest.mark.parametrize(
    "options", [{}, {"adaptor": "mlp"}, {"noise_mix": 3, "loss": "cross_entropy", "patches_per_image": 9}]
)
def test_same_seed_same_weights_whatever_the_budget_and_the_threads(options: dict[str, Any]) -> None:
    assert_only_the_seed_counts(SimpleNet(**SMALL, **options), features(), 1e-5, "first.weight")


def test_a_part_of_the_patches_of_every_image_trains_drawn_anew_in_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = SimpleNet(**SMALL).embed(taps(3))
    steps: list[list[Tensor]] = []

    def observed(head: Any, rows: list[Tensor], draw: Any, **options: Any) -> Any:
        steps.append(rows)
        assert all(draw(place).shape == own.shape for place, own in enumerate(rows))
        return training_step(head, rows, draw, **options)

    monkeypatch.setattr("ad_assets.methods.simplenet_training.training_step", observed)
    SimpleNet(**SMALL, patches_per_image=20).fit(features(3), RUNTIME)
    chosen = []
    for rows in steps:
        assert [len(own) for own in rows] == [20] * 3
        for own in rows:
            [(image, _), *_] = found = [
                (image, place)
                for row in own
                for image in range(3)
                for place in range(64)
                if torch.equal(row, everything[image, place])
            ]
            assert len({*found}) == len(found) == 20
            assert {each for each, _ in found} == {image}
            chosen.append(frozenset(found))
    assert len(steps) == 6
    assert len({*chosen}) == len(chosen)


def test_as_many_patches_as_there_are_is_all_of_them() -> None:
    few, many = (SimpleNet(**SMALL, patches_per_image=number).fit(features(), RUNTIME) for number in (None, 64))
    assert all(torch.equal(tensor, many.weights[name]) for name, tensor in few.weights.items())


def test_scores_do_not_depend_on_the_batch() -> None:
    method = SimpleNet(**SMALL)
    state = method.prepare(method.fit(features(), RUNTIME), features(), RUNTIME)
    images = taps(5, seed=3)
    together = method.score(state, Batch(images, (20, 20)), RUNTIME)
    for number in range(5):
        alone = method.score(state, Batch([tap[number, None] for tap in images], (20, 20)), RUNTIME)
        assert torch.equal(alone.maps[0], together.maps[number])
        assert torch.equal(alone.image_scores[0], together.image_scores[number])


def test_a_warm_start_goes_on_from_the_stored_weights() -> None:
    method = SimpleNet(**SMALL, warm_start=True, warm_epochs=2)
    everything = features(12)
    first = method.fit(replace(everything, image_ids=everything.image_ids[:9]), RUNTIME)
    assert method.updatable
    assert not SimpleNet(**SMALL).updatable
    second = method.update(first, replace(everything, image_ids=everything.image_ids[9:]), RUNTIME)
    assert (first.epochs, second.epochs, second.starts) == (6, 8, [0, 6])
    assert second.image_ids == sorted(everything.image_ids)
    assert second.losses["loss"][:6] == first.losses["loss"]
    assert method.describe(second)["warm_started_at_epoch"] == "6"
    moved = (second.weights["first.weight"] - first.weights["first.weight"]).norm()
    assert 0 < moved < (first.weights["first.weight"] - method.initial_weights(16)["first.weight"]).norm()


def test_what_does_not_fit_is_refused() -> None:
    method = SimpleNet(**SMALL)
    state = method.prepare(method.fit(features(), RUNTIME), features(), RUNTIME)
    with pytest.raises(ValueError, match="6 values, the network was trained on 16"):
        method.score(state, Batch(taps(1)[:1], (8, 8)), RUNTIME)
    with pytest.raises(ValueError, match="cannot be left out"):
        method.score(state, Batch(taps(1), (8, 8), left_out=True), RUNTIME)
    with pytest.raises(ValueError, match="dimensions: pooling 'concat' keeps every channel; remove the key"):
        SimpleNet(pooling="concat", dimensions=8)
    with pytest.raises(ValueError, match="exclude_same_image"):
        SimpleNet(exclude_same_image=True)
    with pytest.raises(ValueError, match="lower the learning rate"):
        SimpleNet(**SMALL).model_copy(update={"discriminator_lr": 1e30}).fit(features(), RUNTIME)
    with pytest.raises(ValueError, match="train split is empty"):
        method.fit(replace(features(), image_ids=()), RUNTIME)


def test_presets_are_settings_of_the_method() -> None:
    for preset in METHODS["simplenet"].presets.values():
        METHODS["simplenet"](**preset)


def test_held_out_images_do_not_train_and_stay_held_out() -> None:
    everything = features(20)
    method = SimpleNet(**SMALL, held_out=0.3, warm_start=True)
    first = method.fit(replace(everything, image_ids=everything.image_ids[:10]), RUNTIME)
    assert (len(first.held_out), len(first.image_ids)) == (3, 7)
    assert method.held_out_ids(first) == first.held_out
    second = method.update(first, replace(everything, image_ids=everything.image_ids[10:]), RUNTIME)
    assert len(second.held_out) == 6
    assert not {*second.held_out} & {*first.image_ids, *second.image_ids}
    alone = SimpleNet(**SMALL).fit(replace(everything, image_ids=tuple(first.image_ids)), RUNTIME)
    assert torch.equal(alone.weights["first.weight"], first.weights["first.weight"])


@pytest.mark.parametrize(
    ("sizes", "held_out", "near"),
    [([2] * 10, 0.3, {6}), ([5, 5, 5, 5], 0.2, {5}), ([4] * 5, 0.3, {4, 8}), ([19, 1], 0.5, {1}), ([20], 0.2, {0})],
)
def test_a_group_is_held_out_as_one_or_trains_as_one(sizes: list[int], held_out: float, near: set[int]) -> None:
    everything = features(20)
    ends = np.cumsum([0, *sizes]).tolist()
    groups = [frozenset(everything.image_ids[a:b]) for a, b in itertools.pairwise(ends)]
    method = SimpleNet(**SMALL | {"epochs": 1}, held_out=held_out, warm_start=True)
    state = method.fit(replace(everything, groups=groups), RUNTIME)
    assert len(state.held_out) in near
    assert all(group <= {*state.held_out} or group <= {*state.image_ids} for group in groups)
    # A new image of a group that trained trains, and one of a group that was held out is held out.
    more = features(22)
    new = more.image_ids[20:]
    joined = [groups[0] | {new[0]}, *groups[1:-1], *([groups[-1] | {new[1]}] if groups[1:] else [])]
    after = method.update(state, replace(more, image_ids=new, groups=joined), RUNTIME)
    assert all(not group & {*after.held_out} or group <= {*after.held_out} for group in joined)
    assert not {*after.held_out} & {*state.image_ids}


def test_noise_in_units_of_the_features_does_not_see_their_scale() -> None:
    small, large = taps(), [1000 * tap for tap in taps()]
    method = SimpleNet(**SMALL, noise_unit="features", noise_sigma=0.1)
    states = [method.fit(tap_features(images), RUNTIME) for images in (small, large)]
    deviation = method.embed(small).flatten(0, 1).double().var(dim=0, unbiased=False).mean().sqrt()
    assert float(states[0].weights["noise.unit"]) == pytest.approx(float(deviation), rel=1e-6)
    assert float(states[1].weights["noise.unit"]) == pytest.approx(1000 * float(deviation), rel=1e-6)
    again = SimpleNet(**SMALL, noise_sigma=0.1 * float(deviation)).fit(tap_features(small), RUNTIME)
    assert again.losses["loss"] == pytest.approx(states[0].losses["loss"], rel=1e-4)
