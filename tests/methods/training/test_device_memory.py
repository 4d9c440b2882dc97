"""Memory of training on a GPU: what is foreseen is what is taken; batches are split by it, or refused at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ad_assets.kernels import correlation
from ad_assets.kernels.budget import BudgetError
from ad_assets.methods import Batch, Runtime
from ad_assets.methods.fod.training import FodTraining
from ad_assets.methods.simplenet_training import SimpleNetTraining
from tests.methods.training.test_device_steps import configured, emulated
from tests.support.emulated_device import cuda_device
from tests.support.tap_features import tap_features

FOD: dict[str, Any] = {"widths": (8,), "heads": 2, "depth": 2}
SIMPLENET: dict[str, Any] = {"pre_dimensions": 24, "dimensions": 24, "hidden_units": 16}
LARGE = correlation.DEVICE_TILE_BYTES
# Images, channels, side of the grid, bytes of a tile.
SHAPES: list[tuple[str, dict[str, Any], int, int, int, int]] = [
    ("fod", FOD, 1, 4, 9, LARGE),
    ("fod", FOD, 3, 4, 7, 1 << 13),
    ("fod", {**FOD, "widths": (64,)}, 2, 4, 6, LARGE),
    ("fod", FOD, 2, 128, 6, LARGE),
    ("fod", {**FOD, "heads": 8, "inter": False}, 2, 4, 7, 1 << 15),
    ("simplenet", SIMPLENET, 3, 24, 12, LARGE),
    ("simplenet", {**SIMPLENET, "hidden_units": 96}, 3, 24, 12, LARGE),
    ("simplenet", {**SIMPLENET, "pre_dimensions": 96, "dimensions": 96}, 3, 24, 12, LARGE),
    ("simplenet", {**SIMPLENET, "adaptor": "mlp"}, 3, 24, 12, LARGE),
]


def features(images: int = 4, channels: int = 4, side: int = 8) -> Any:
    generator = torch.Generator().manual_seed(1)
    return tap_features([torch.randn(images, channels, side, side, generator=generator)], batch_size=2)


@emulated
@pytest.mark.parametrize(("name", "options", "images", "channels", "side", "tile"), SHAPES)
def test_a_step_takes_what_is_foreseen(
    name: str,
    options: dict[str, Any],
    images: int,
    channels: int,
    side: int,
    tile: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(correlation, "DEVICE_TILE_BYTES", tile)
    method = configured(name, {**options, "batch_size": images})
    with cuda_device() as device:
        training = method.training(features(images, channels, side), None, Runtime(device))
        before = device.counts.live_bytes
        for _ in range(2):
            training.step(range(images), 0)
        taken = device.counts.peak_bytes - before
        assert isinstance(training, FodTraining | SimpleNetTraining)
        foreseen = training.bytes_needed(images)
    assert taken + before <= foreseen < 2 * taken


@emulated
@pytest.mark.parametrize("batch_size", [4, 3])
def test_a_batch_is_split_where_the_budget_has_no_room_and_learns_the_same(batch_size: int) -> None:
    method = configured("fod", {**FOD, "batch_size": batch_size, "epochs": 2})
    with cuda_device() as device:
        ample = method.fit(features(), Runtime(device))
        peak = device.counts.peak_bytes
        budget = 0.8e-9 * peak
        device.counts.reset()
        scarce = method.fit(features(), Runtime(device, device_memory_gb=budget))
        assert device.counts.peak_bytes < budget * 1e9
        batch = Batch(features().load(list(features().image_ids), None), (16, 16))
        maps = [
            method.score(ample.to(device), batch, Runtime(device, device_memory_gb=gb)).maps for gb in (1.0, budget / 2)
        ]
    for name, weights in ample.weights.items():
        torch.testing.assert_close(
            scarce.weights[name], weights, rtol=0, atol=1e-3
        )  # see tests/methods/test_devices.py
    assert scarce.losses["loss"] == pytest.approx(ample.losses["loss"], rel=1e-5)
    torch.testing.assert_close(*maps, rtol=1e-5, atol=1e-6)


@emulated
@pytest.mark.parametrize(
    ("name", "options", "remedy"),
    [
        ("fod", FOD, "lower resize, heads or widths"),
        ("simplenet", SIMPLENET, "lower batch_size, patches_per_image, resize or dimensions"),
    ],
)
def test_a_step_beyond_the_budget_is_refused_before_it_is_tried(
    name: str, options: dict[str, Any], remedy: str
) -> None:
    with cuda_device() as device:
        with pytest.raises(BudgetError, match=rf"training steps need .* GB \(.*compute.device_memory_gb .* {remedy}"):
            configured(name, options).fit(features(channels=24), Runtime(device, device_memory_gb=1e-4))
        assert device.counts.launches < 50
