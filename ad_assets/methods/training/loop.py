"""Training on stored features: epochs of seeded steps that a killed run takes up where its last checkpoint left them.

Nothing random has a state to be saved: the order of an epoch and whatever a step draws come from streams numbered by
seed, epoch and image. A checkpoint is the weights, the optimisers' moments and the count of steps, so a run that was
killed ends with the weights of one that was not, bit for bit on a CPU.
"""

from __future__ import annotations

import hashlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ad_assets.kernels.parallel import each

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.data import Features
    from ad_assets.methods.runtime import Runtime

_ORDER = 0  # the stream of an epoch's order; images' own are numbered from 1


def stream(seed: int, epoch: int, image: int | None = None, device: str = "cpu") -> torch.Generator:
    """Random numbers of one image in one epoch, or of the epoch itself; other devices have other numbers."""
    number = _ORDER if image is None else image + 1
    (state,) = np.random.SeedSequence([seed, epoch, number]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state))


class Recalled:
    """What training reads of every image, made once where the budget allows, else again for every step.

    Args:
        features: the images.
        make: from the taps of one image, each (1, C, h, w) on the device, and its position, to tensors (1, ...).
        runtime: device, and its budget, of which half is used, or what `needed` leaves.
        needed: bytes that a step needs.
    """

    def __init__(
        self,
        features: Features,
        make: Callable[[list[Tensor], int], list[Tensor]],
        runtime: Runtime,
        needed: int = 0,
    ) -> None:
        self._features, self._make, self._runtime = features, make, runtime
        self._kept: dict[int, list[Tensor]] = {}
        budget = runtime.budget_gb(runtime.device) * 1e9
        self._left = min(budget / 2, budget - needed)

    def __call__(self, images: Sequence[int]) -> list[list[Tensor]]:
        """The tensors of these images, by their positions among the features."""
        absent = [image for image in images if image not in self._kept]
        if not absent:
            return [self._kept[image] for image in images]
        taps = self._features.load([self._features.image_ids[image] for image in absent], self._features.layers)
        loaded = [([tap[row, None] for tap in taps], image) for row, image in enumerate(absent)]
        made = dict(zip(absent, each(self._one, loaded, torch.device(self._runtime.device).type), strict=True))
        for image, tensors in made.items():
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            # Orders are random: which images stay does not matter, as long as they do.
            if size <= self._left:
                self._kept[image] = tensors
                self._left -= size
        return [made[image] if image in made else self._kept[image] for image in images]

    def _one(self, image: tuple[list[Tensor], int]) -> list[Tensor]:
        return self._make([tap.to(self._runtime.device) for tap in image[0]], image[1])


def deviation(portions: Iterable[Sequence[Tensor]], runtime: Runtime) -> Tensor:
    """Root mean square, over the dimensions, of the standard deviation of all rows: a float32 scalar.

    Args:
        portions: rows (P, D) of some images each.
        runtime: device.
    """

    def sums(rows: Tensor) -> Tensor:
        rows = rows.double()
        return torch.stack([rows.sum(dim=0), rows.square().sum(dim=0)])

    total, count = torch.zeros(()), 0
    for images in portions:
        for own in each(sums, images, torch.device(runtime.device).type):
            total = total.to(own) + own
        count += sum(map(len, images))
    mean, squares = total / count
    return (squares - mean.square()).clamp(min=0).mean().sqrt().float()


def fused(device: str) -> bool | None:
    """Argument of Adam: on a GPU one kernel moves all parameters; a CPU keeps its loop, and so its rounding.

    >>> fused("cpu"), fused("cuda:0")
    (None, True)
    """
    return True if torch.device(device).type == "cuda" else None


class Training(ABC):
    """What is trained: named tensors and the optimisers that move them.

    Args:
        weights: all that scoring needs, by name; optimisers and steps change them in place.
        optimizers: their parameters are among the weights.
        macs: multiplications of scoring one image, backbone left aside.
    """

    def __init__(self, weights: Mapping[str, Tensor], optimizers: Sequence[torch.optim.Optimizer], macs: int) -> None:
        self.weights = dict(weights)
        self.optimizers = tuple(optimizers)
        self.macs = macs

    @abstractmethod
    def step(self, images: Sequence[int], epoch: int) -> dict[str, Tensor]:
        """One step of every optimiser on these images; returns losses by name, each a mean over the images."""

    def move(self) -> None:
        """A step of every optimiser, each on a thread of its own: hundreds of small operations share none well."""
        device = next(iter(self.weights.values())).device.type
        list(each(lambda optimizer: optimizer.step(), self.optimizers, device))

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments by name: what a checkpoint holds."""
        found = {f"weights.{name}": tensor for name, tensor in self.weights.items()}
        for prefix, parameter, optimizer in self._parameters():
            found |= {f"{prefix}.{key}": value for key, value in optimizer.state[parameter].items()}
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave, ahead of the first step: graphs keep to the moments they were captured with."""
        with torch.no_grad():
            for name, tensor in self.weights.items():
                tensor.copy_(tensors[f"weights.{name}"])
        for prefix, parameter, optimizer in self._parameters():
            moments = {
                name.rpartition(".")[2]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")
            }
            for key, value in moments.items():
                # Adam counts its steps in a CPU tensor, but for a fused one, which does on the device.
                fused = optimizer.param_groups[0].get("fused")
                device = torch.device("cpu") if key == "step" and not fused else parameter.device
                optimizer.state[parameter][key] = value.clone().to(device)

    def _parameters(self) -> list[tuple[str, Tensor, torch.optim.Optimizer]]:
        return [
            (f"moments.{number}.{place}", parameter, optimizer)
            for number, optimizer in enumerate(self.optimizers)
            for place, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"])
        ]


@dataclass(frozen=True)
class Plan:
    """How long, in what portions, and from which seed.

    Args:
        images: training images.
        epochs: at most so many.
        batch_size: images a step.
        seed: of orders and draws.
        first_epoch: epochs of earlier trainings, so that a warm start draws anew.
        patience: stop after so many epochs whose mean `loss` is no lower than the lowest before; None: never.
        keep_every: keep the weights after every so many epochs; None: never.
        identity: JSON values that identify this training, so that it does not resume from the checkpoint of another.
    """

    images: int
    epochs: int
    batch_size: int
    seed: int
    first_epoch: int
    patience: int | None
    keep_every: int | None
    identity: Mapping[str, Any]


@dataclass
class TrainingHistory:
    """What has happened so far.

    Args:
        losses: mean of each loss over every finished epoch.
        sums: of the losses over the images of the unfinished epoch.
        steps: steps done, from the start.
        seconds: spent in steps, over all runs that led here.
    """

    losses: dict[str, list[float]] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0

    def finished(self, patience: int | None) -> bool:
        """Whether the last epochs have brought nothing."""
        losses = self.losses.get("loss", [])
        return patience is not None and len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])


def train(training: Training, plan: Plan, runtime: Runtime) -> TrainingHistory:
    """Train, from the last checkpoint if there is one.

    Raises:
        ValueError: a loss is no longer finite.
    """
    history = _resume(training, plan, runtime)
    steps_each = -(-plan.images // plan.batch_size)
    unread: list[tuple[dict[str, Tensor], int]] = []
    while history.steps < plan.epochs * steps_each and not history.finished(plan.patience):
        epoch, done = divmod(history.steps, steps_each)
        epoch += plan.first_epoch
        order = torch.randperm(plan.images, generator=stream(plan.seed, epoch)).tolist()
        for first in range(done * plan.batch_size, plan.images, plan.batch_size):
            images = order[first : first + plan.batch_size]
            started = time.perf_counter()
            unread.append((training.step(images, epoch), len(images)))
            history.steps += 1
            closes = history.steps % steps_each == 0
            saves = runtime.checkpoints is not None and history.steps % runtime.checkpoints.every == 0
            if closes or saves:
                _read_losses(unread, history)
            history.seconds += time.perf_counter() - started
            runtime.report("training steps", history.steps, plan.epochs * steps_each)
            if closes:
                _close_epoch(training, history, plan, epoch + 1, runtime)
            if saves and runtime.checkpoints:
                runtime.checkpoints.save(
                    training.tensors(), {"identity": dict(plan.identity), "history": asdict(history)}
                )
    return history


def _read_losses(unread: list[tuple[dict[str, Tensor], int]], history: TrainingHistory) -> None:
    """Add up the losses of some steps: read at once, for a device that is asked after every step waits as often."""
    names = list(unread[0][0])
    values = torch.stack([loss.double() for losses, _ in unread for loss in losses.values()]).tolist()
    for number, (_, images) in enumerate(unread):
        for place, name in enumerate(names):
            loss = values[number * len(names) + place]
            history.sums[name] = history.sums.get(name, 0.0) + loss * images
    unread.clear()


def _resume(training: Training, plan: Plan, runtime: Runtime) -> TrainingHistory:
    saved = runtime.checkpoints.load() if runtime.checkpoints else None
    if saved is None or saved[1]["identity"] != plan.identity:
        return TrainingHistory()
    tensors, info = saved
    training.restore(tensors)
    return TrainingHistory(**info["history"])


def _close_epoch(training: Training, history: TrainingHistory, plan: Plan, epoch: int, runtime: Runtime) -> None:
    for name, total in history.sums.items():
        if not math.isfinite(total):
            raise ValueError(f"the {name} of epoch {epoch} is {total}: lower the learning rate")
        history.losses.setdefault(name, []).append(total / plan.images)
    history.sums.clear()
    if runtime.checkpoints and plan.keep_every and epoch % plan.keep_every == 0:
        runtime.checkpoints.keep(epoch, training.weights)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Sha256 of named tensors: which weights a training began with."""
    from safetensors.torch import save

    return hashlib.sha256(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})).hexdigest()
