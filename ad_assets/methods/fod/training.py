"""Training steps of FOD: every image and level of a batch is a task, its gradients are summed in order.

A GPU takes a batch at once, or as large a part as its budget has room for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from ad_assets.kernels.parallel import each
from ad_assets.methods.fod.memory import largest_part, training_bytes
from ad_assets.methods.fod.network import direct_loss, reconstruction_loss, two_phase_loss
from ad_assets.methods.training.captured import CapturedSteps
from ad_assets.methods.training.loop import Recalled, Training, deviation, fused

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.data import Features
    from ad_assets.methods.fod.fod import Fod
    from ad_assets.methods.fod.network import LevelNetwork
    from ad_assets.methods.runtime import Runtime

Grid = tuple[int, int]


class FodTraining(Training):
    """Levels with their references and optimisers.

    Args:
        method: the settings.
        features: the nominal images.
        levels: networks with the weights to begin with.
        grids: rows and columns of each level.
        units: of the tokens, from an earlier training; empty: they are measured if the method has them.
        runtime: device, memory budget and precision.
    """

    def __init__(
        self,
        method: Fod,
        features: Features,
        levels: Sequence[LevelNetwork],
        grids: Sequence[Grid],
        units: Mapping[str, Tensor],
        runtime: Runtime,
    ) -> None:
        self._method, self._grids, self._runtime = method, list(grids), runtime
        self._levels = [level.to(runtime.device) for level in levels]
        self._references = method.references()
        device = torch.device(runtime.device).type
        at_once = fused(runtime.device)
        self._held = self._bytes_held(len(features))
        self._check_memory()
        self._units = {name: tensor.to(runtime.device) for name, tensor in units.items()}
        if method.unit == "features" and not self._units:
            self._units = {f"units.{number}": self._measure(features, number) for number in range(len(levels))}
        numbers = range(len(levels) if method.inter else 0)
        fitted = each(lambda number: self._fit_reference(features, number), numbers, device)
        self._fitted = [{name: tensor.to(runtime.device) for name, tensor in kept.items()} for kept in fitted]
        # References that follow the input are made once an image; a shared one lies in `fitted`.
        self._shared = method.reference in ("mean", "coreset")
        fitted_for_image = None if self._shared or not method.inter else self._fitted
        # No method of this object, which would keep itself, and the device's memory with it, alive.
        make = partial(_prepared, method, self._units, fitted_for_image, self._grids, runtime.budget_gb(runtime.device))
        self._recalled = Recalled(
            features,
            make,
            runtime,
            self.bytes_needed(self._part(min(method.batch_size, len(features)))) if at_once else 0,
        )
        weights = {
            f"levels.{number}.{name}": tensor
            for number, level in enumerate(self._levels)
            for name, tensor in level.state_dict().items()
        }
        for number, kept in enumerate(self._fitted):
            weights |= {f"references.{number}.{name}": tensor for name, tensor in kept.items()}
        weights |= self._units
        optimizers = [
            torch.optim.Adam(level.parameters(), method.learning_rate, fused=at_once) for level in self._levels
        ]
        super().__init__(weights, optimizers, self._macs())
        self._captured = CapturedSteps(optimizers, runtime.device) if at_once else None

    def step(self, images: Sequence[int], epoch: int) -> dict[str, Tensor]:
        """Gradients of the mean loss over the images, and a step of every level; nothing here is drawn."""
        del epoch
        loaded = self._recalled(images)
        if self._captured:
            # One pass of the batch, or a few: all losses are means, and images have one size.
            part = self._part(len(images))
            inputs = list(zip(*loaded, strict=True))
            return self._captured(lambda batch: self._moved(_parts(batch, part)), inputs)
        return self._moved(loaded)

    def _moved(self, loaded: Sequence[list[Tensor]]) -> dict[str, Tensor]:
        """The losses of images, or of batches as large as each other, after a step of every level."""
        tasks = [(number, image) for number in range(len(self._levels)) for image in range(len(loaded))]
        totals: dict[int, list[Tensor]] = {}
        sums = torch.zeros(2, dtype=torch.float64, device=self._runtime.device)
        device = torch.device(self._runtime.device).type
        for (number, _), (losses, gradients) in zip(
            tasks, each(lambda task: self._gradients(task[0], loaded[task[1]]), tasks, device), strict=True
        ):
            sums += losses / len(loaded)
            if number in totals:
                for total, gradient in zip(totals[number], gradients, strict=True):
                    total += gradient
            else:
                totals[number] = gradients
        for number, level in enumerate(self._levels):
            for parameter, total in zip(level.parameters(), totals[number], strict=True):
                parameter.grad = total.div_(len(loaded)) if len(loaded) > 1 else total
        self.move()
        return {"loss": sums[0], "reconstruction": sums[1]}

    def _gradients(self, number: int, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Loss and reconstruction error, and the gradients of one level's parameters, for one image."""
        method, level = self._method, self._levels[number]
        tokens = tensors[number]
        half = self._runtime.precision == "bfloat16"
        kind = torch.device(self._runtime.device).type
        with torch.enable_grad():
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=half):
                found = level(tokens, self._reference(number, tensors), self._grids[number])
            found = replace(found, tokens=found.tokens.float())
            loss_of = two_phase_loss if method.optimisation == "two_phase" else direct_loss
            loss = loss_of(found, tokens, method.divergence_weight, method.entropy_weight)
            gradients = torch.autograd.grad(loss, list(level.parameters()))
        error = reconstruction_loss(tokens, found.tokens.detach())
        # Threads add to gradients in place, and some share memory.
        own = gradients if kind != "cpu" else [gradient.clone() for gradient in gradients]
        return torch.stack([loss.detach(), error]).double(), list(own)

    def _reference(self, number: int, tensors: list[Tensor]) -> Tensor | None:
        if not self._method.inter:
            return None
        if self._shared:
            return self._references.features(self._fitted[number], tensors[number], self._grids[number])
        return tensors[len(self._levels) + number]

    def _part(self, images: int) -> int:
        """How many images of a batch a GPU takes at once: half of its budget is kept for their tokens."""
        divide_it = (part for part in range(images, 0, -1) if images % part == 0)
        return largest_part(divide_it, self.bytes_needed, self._runtime.budget_gb(self._runtime.device) * 1e9 / 2)

    def bytes_needed(self, images: int) -> int:
        """Bytes on a GPU while so many images are learnt at once."""
        levels = zip(self._levels, self._grids, strict=True)
        return self._held + max(
            training_bytes(self._method, number, level.embedding.in_features, grid, images)
            for number, (level, grid) in enumerate(levels)
        )

    def _bytes_held(self, images: int) -> int:
        """Weights, gradients and moments, and references that are made of all images."""
        held = 16 * sum(parameter.numel() for level in self._levels for parameter in level.parameters())
        if self._method.inter and self._method.reference == "nearest":
            for level, (height, width) in zip(self._levels, self._grids, strict=True):
                held += images * self._references.bytes_each(height * width, level.embedding.in_features)
        return held

    def _check_memory(self) -> None:
        """Refuse what no batch makes smaller before anything is computed."""
        grids = " and ".join(f"{height} x {width}" for height, width in self._grids)
        parts = f"{grids} places of one image, {1e-9 * self._held:.3g} GB of weights, moments and references"
        remedy = "lower resize, heads or widths"
        self._runtime.check_device("training steps", 1e-9 * self.bytes_needed(1), parts, remedy)

    def _fit_reference(self, features: Features, number: int) -> dict[str, Tensor]:
        unit = self._units.get(f"units.{number}")

        def batches() -> Iterator[Tensor]:
            for tap in self._taps(features, number):
                # One by one, so that sums do not see how images are loaded.
                yield from self._method.level_tokens(tap, unit).split(1)

        return self._references.fit(batches, len(features), self._runtime)

    def _measure(self, features: Features, number: int) -> Tensor:
        portions = (list(self._method.level_tokens(tap, None).unbind()) for tap in self._taps(features, number))
        return deviation(portions, self._runtime)

    def _taps(self, features: Features, number: int) -> Iterator[Tensor]:
        """One level of all images, batch by batch, on the device, where the units of an earlier training are."""
        for _, (tap,) in features.layer(number).batches():
            yield tap.to(self._runtime.device)

    def _macs(self) -> int:
        """Of scoring one image: every linear layer at every place, and the products of the attentions."""
        total = 0
        for level, (height, width) in zip(self._levels, self._grids, strict=True):
            places = height * width
            linear = sum(m.weight.numel() for m in level.modules() if isinstance(m, torch.nn.Linear))
            attentions = max(1, len(level.branches)) * len(level.layers)
            total += places * linear + 2 * places**2 * level.norm.normalized_shape[0] * attentions
        return total


def _parts(batch: Sequence[Tensor], size: int) -> list[list[Tensor]]:
    """What a batch holds of so many images each."""
    return [list(part) for part in zip(*(tensor.split(size) for tensor in batch), strict=True)]


def _prepared(
    method: Fod,
    units: Mapping[str, Tensor],
    fitted: Sequence[dict[str, Tensor]] | None,
    grids: Sequence[Grid],
    memory_gb: float,
    taps: list[Tensor],
    image: int,
) -> list[Tensor]:
    """Tokens of every level of an image, and references that follow them where `fitted` has what they are made of."""
    tokens = method.tokens(taps, units)
    if fitted is None:
        return tokens
    own, references = torch.tensor([image]), method.references()
    made = [
        references.features(kept, level, grid, own, memory_gb=memory_gb)
        for kept, level, grid in zip(fitted, tokens, grids, strict=True)
    ]
    return [*tokens, *made]
