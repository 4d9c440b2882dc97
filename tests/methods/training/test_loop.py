"""The trainer: orders, losses, patience, and a kill in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ad_assets.methods import Runtime
from ad_assets.methods.runtime import Checkpoints
from ad_assets.methods.training.loop import Plan, Training, stream, train

PLAN = Plan(
    images=7, epochs=5, batch_size=3, seed=4, first_epoch=0, patience=None, keep_every=2, identity={"what": "a test"}
)


class Memory(Checkpoints):
    """Checkpoints that a test can look at."""

    def __init__(self, every: int) -> None:
        super().__init__(every)
        self.last: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self.saved = 0
        self.kept: dict[int, dict[str, Tensor]] = {}

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.last

    def save(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        self.last = {name: tensor.clone() for name, tensor in tensors.items()}, info
        self.saved += 1

    def keep(self, epoch: int, weights: dict[str, Tensor]) -> None:
        self.kept[epoch] = {name: tensor.clone() for name, tensor in weights.items()}


class Line(Training):
    """A line through noisy points, one point an image; notes which images it was given, and may be killed."""

    def __init__(self, kill_at: int | None = None, rate: float = 0.1) -> None:
        self.weight = torch.zeros(2)
        super().__init__({"weight": self.weight}, [torch.optim.Adam([self.weight], rate)], macs=2)
        self.seen: list[tuple[int, list[int]]] = []
        self.kill_at = kill_at

    def step(self, images: Sequence[int], epoch: int) -> dict[str, Tensor]:
        if len(self.seen) == self.kill_at:
            raise KeyboardInterrupt
        self.seen.append((epoch, list(images)))
        x = torch.tensor([float(image) for image in images])
        noise = torch.cat([torch.randn(1, generator=stream(0, epoch, image)) for image in images])
        error = self.weight[0] + self.weight[1] * x - (3 + 2 * x + noise)
        self.weight.grad = torch.stack([error.mean(), (error * x).mean()])
        self.optimizers[0].step()
        return {"loss": error.square().mean()}


def test_every_image_once_an_epoch_in_another_order() -> None:
    line = Line()
    history = train(line, PLAN, Runtime())
    by_epoch = [[image for epoch, images in line.seen if epoch == number for image in images] for number in range(5)]
    assert all(sorted(images) == list(range(7)) for images in by_epoch)
    assert len({tuple(images) for images in by_epoch}) == 5
    assert [len(images) for _, images in line.seen[:3]] == [3, 3, 1]
    assert len(history.losses["loss"]) == 5
    later = Line()
    train(later, replace(PLAN, first_epoch=1), Runtime())
    assert [images for _, images in later.seen[:3]] == [images for _, images in line.seen[3:6]]


@pytest.mark.parametrize("killed_at", [1, 4, 6, 14])
def test_a_killed_training_ends_with_the_same_weights(killed_at: int) -> None:
    calm = Line()
    expected = train(calm, PLAN, Runtime(checkpoints=Memory(2)))
    checkpoints = Memory(2)
    first = Line(kill_at=killed_at)
    with pytest.raises(KeyboardInterrupt):
        train(first, PLAN, Runtime(checkpoints=checkpoints))
    second = Line()
    history = train(second, PLAN, Runtime(checkpoints=checkpoints))
    assert torch.equal(second.weight, calm.weight)
    assert history.losses == expected.losses
    # No step is repeated that lies before the last checkpoint.
    assert second.seen == calm.seen[killed_at // 2 * 2 :]
    assert sorted(checkpoints.kept) == [2, 4]
    assert not torch.equal(checkpoints.kept[2]["weight"], checkpoints.kept[4]["weight"])


def test_another_trainings_checkpoint_is_left_alone() -> None:
    checkpoints = Memory(2)
    train(Line(), PLAN, Runtime(checkpoints=checkpoints))
    line = Line()
    train(line, replace(PLAN, identity={"what": "another"}), Runtime(checkpoints=checkpoints))
    assert len(line.seen) == 15


def test_patience_ends_what_brings_nothing() -> None:
    plan = replace(PLAN, epochs=200, patience=3)
    line = Line(rate=0.5)
    history = train(line, plan, Runtime())
    losses = history.losses["loss"]
    assert len(losses) < 200
    assert min(losses[-3:]) >= min(losses[:-3])
    assert all(min(losses[end - 3 : end]) < min(losses[: end - 3]) for end in range(4, len(losses)))


def test_a_loss_beyond_numbers_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"the loss of epoch 1 is (inf|nan): lower the learning rate"):
        train(Line(rate=1e30), PLAN, Runtime())
