"""Training on a GPU: few launches a step, no wait within one, and the results of the CPU."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch

from ad_assets.methods import METHODS, Features, Runtime
from ad_assets.methods.training.base import TrainedMethod
from tests.methods.training.test_loop import Memory
from tests.support.emulated_device import cuda_device
from tests.support.tap_features import tap_features

SIMPLENET = {"pre_dimensions": 6, "dimensions": 6, "hidden_units": 8, "epochs": 2, "batch_size": 4}
FOD = {"widths": (8, 8), "heads": 2, "depth": 1, "epochs": 2, "batch_size": 4}
# Launches of one step at most, and operations of its graph, whatever the batch: image by image, and without graphs, a
# step of eight took 4,665 and 21,041 launches.
CASES = [("simplenet", SIMPLENET, 6, 175), ("fod", FOD, 5, 850)]
# FOD leaves half precision to autocast, which does not see the emulated device.
PRECISIONS = [
    ("simplenet", {**SIMPLENET, "patches_per_image": 20}, "float32"),
    ("simplenet", SIMPLENET, "bfloat16"),
    ("fod", FOD, "float32"),
]
emulated = pytest.mark.skipif(torch.cuda.is_available(), reason="what a real GPU is asked for is not counted")


def features(images: int = 4) -> Features:
    generator = torch.Generator().manual_seed(1)
    shapes = ((4, 12, 12), (6, 6, 6))
    return tap_features([torch.randn(images, *shape, generator=generator) for shape in shapes], batch_size=2)


def configured(name: str, options: dict[str, Any]) -> TrainedMethod:
    method = METHODS[name](**options)
    assert isinstance(method, TrainedMethod)
    return method


@emulated
@pytest.mark.parametrize(("name", "options", "most", "inside"), CASES)
def test_a_step_launches_little_and_waits_for_nothing(
    name: str, options: dict[str, Any], most: int, inside: int
) -> None:
    found = {}
    with cuda_device() as device:
        training = configured(name, options).training(features(), None, Runtime(device))
        for images in (4, 2):
            for _ in range(2):  # tokens are loaded, moments made; a graph is captured
                training.step(range(images), 0)
            device.counts.reset()
            training.step(range(images), 1)
            found[images] = device.counts.copied()
    noise = 2 * 4 if name == "simplenet" else 0  # drawn for every image by itself
    assert 0 < found[4].launches <= most + noise
    assert 0 < found[4].replayed <= inside
    assert found[4].launches - found[2].launches == noise / 2
    assert found[4].synchronisations == found[2].synchronisations == 0


@emulated
@pytest.mark.parametrize(("name", "options"), [case[:2] for case in CASES])
def test_graphs_change_no_bit_and_what_cannot_be_captured_is_told(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    method = configured(name, {**options, "batch_size": 3, "epochs": 4})  # batches of three and of one
    with cuda_device() as device:
        expected = method.fit(features(), Runtime(device))
        assert device.counts.operations["replay"] == 6  # two sizes, of which the first step is no replay
        assert not caplog.records

        def refuse(*_: object, **__: object) -> None:
            raise RuntimeError("operation not permitted")

        monkeypatch.setattr("torch.cuda.graph", refuse)
        found = method.fit(features(), Runtime(device))
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "a step was not captured: operation not permitted"
    ]
    assert found.losses == expected.losses
    assert all(torch.equal(found.weights[key], expected.weights[key]) for key in expected.weights)


@pytest.mark.parametrize(("name", "options", "precision"), PRECISIONS)
def test_a_few_steps_end_where_those_of_the_cpu_do(name: str, options: dict[str, Any], precision: Any) -> None:
    if name == "simplenet" and torch.cuda.is_available():
        pytest.skip("a real device has other random numbers")
    method = configured(name, {**options, "batch_size": 3})
    expected = method.fit(features(), Runtime(precision=precision))
    with cuda_device() as device:
        found = method.fit(features(), Runtime(device, precision=precision))
    tolerance = 1e-3 if precision == "float32" else 2e-2
    for own, other in [(found.weights[key], expected.weights[key]) for key in expected.weights]:
        torch.testing.assert_close(own, other, rtol=0, atol=tolerance * max(1.0, float(other.abs().max())))
    for key, losses in expected.losses.items():
        assert found.losses[key] == pytest.approx(losses, rel=tolerance, abs=tolerance)


@emulated
@pytest.mark.parametrize(("name", "options"), [case[:2] for case in CASES])
def test_a_training_gives_back_the_memory_of_the_device_at_once(name: str, options: dict[str, Any]) -> None:
    with cuda_device() as device:
        gc.disable()
        try:
            configured(name, options).fit(features(), Runtime(device))
        finally:
            gc.enable()
        assert device.counts.live_bytes == 0


class Killed(Memory):
    """Ends the run after a checkpoint."""

    def save(self, tensors: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
        super().save({name: tensor.cpu() for name, tensor in tensors.items()}, info)
        raise KeyboardInterrupt


@pytest.mark.parametrize("goes_on_at", ["cuda", "cpu"])
@pytest.mark.parametrize(("name", "options"), [case[:2] for case in CASES])
def test_a_checkpoint_of_a_gpu_is_gone_on_from(name: str, options: dict[str, Any], goes_on_at: str) -> None:
    if name == "simplenet" and goes_on_at == "cpu" and torch.cuda.is_available():
        pytest.skip("a real device has other random numbers")
    method, checkpoints = configured(name, {**options, "batch_size": 2}), Killed(3)
    with cuda_device() as device:
        tools = Runtime(device)
        calm = method.fit(features(), tools)
        with pytest.raises(KeyboardInterrupt):
            method.fit(features(), replace(tools, checkpoints=checkpoints))
        later = Memory(100)
        later.last = checkpoints.last
        if goes_on_at == "cuda":
            resumed = method.fit(features(), replace(tools, checkpoints=later))
    if goes_on_at == "cpu":
        resumed = method.fit(features(), Runtime(checkpoints=later))
    atol = 0.0 if goes_on_at == "cuda" else 1e-3
    for key, weights in calm.weights.items():
        torch.testing.assert_close(resumed.weights[key], weights, rtol=0, atol=atol)
    assert resumed.losses["loss"] == pytest.approx(calm.losses["loss"], rel=1e-3)
