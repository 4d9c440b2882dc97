"""Training of SimpleNet: noise of every image and epoch, steps of the discriminator and the adaptor, named weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from ad_assets.kernels.discriminator import Arithmetic, HeadWeights, device_bytes, training_step
from ad_assets.methods.patch_embedding import patch_grid
from ad_assets.methods.region_of_interest import learnt_places
from ad_assets.methods.training.captured import CapturedSteps
from ad_assets.methods.training.loop import Recalled, Training, deviation, fused, stream

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.data import Features
    from ad_assets.methods.runtime import Runtime
    from ad_assets.methods.simplenet import SimpleNet

MEASURED_AT_ONCE = 16  # images, for the unit of the noise
MIX_GROWTH = 1.1  # of the noise's scale from one level to the next, as the public implementation has it


class SimpleNetTraining(Training):
    """Patches of the nominal images, the head and its optimisers.

    Args:
        method: the settings.
        features: the nominal images.
        weights: to begin with; None: drawn with the seed.
        runtime: device, memory budget and precision.
    """

    def __init__(
        self, method: SimpleNet, features: Features, weights: Mapping[str, Tensor] | None, runtime: Runtime
    ) -> None:
        self._method, self._runtime = method, runtime
        learnt = learnt_places(
            features.region if method.roi_fit else None, patch_grid(features.sample(), method.patch_size)
        )

        def patches(taps: list[Tensor]) -> Tensor:
            embedded = method.embed(taps)
            return embedded if len(learnt) == embedded.shape[1] else embedded[:, learnt.to(embedded.device)]

        _, self._places, self._dimensions = patches(features.sample()).shape
        if weights is None:
            weights = method.initial_weights(self._dimensions)
        check_dimensions(weights, self._dimensions)
        # Clones: what is passed in stays as it was.
        weights = {name: tensor.clone().to(runtime.device) for name, tensor in weights.items()}
        self._values = sum(tensor.numel() for tensor in weights.values())
        self._head = head = head_of(weights)
        self._in_step = min(self._places, method.patches_per_image or self._places)
        parts = f"{method.batch_size} images of {self._in_step} patches, {self._dimensions} float32"
        needed = self.bytes_needed(min(method.batch_size, len(features)))
        runtime.check_device(
            "training steps", 1e-9 * needed, parts, "lower batch_size, patches_per_image, resize or dimensions"
        )
        reserved = needed if fused(runtime.device) else 0
        self._recalled = Recalled(features, lambda taps, _: [patches(taps)], runtime, reserved)
        if method.noise_unit == "features" and "noise.unit" not in weights:
            weights["noise.unit"] = deviation(self._in_portions(len(features)), runtime)
        self._sigma = method.noise_sigma * float(weights.get("noise.unit", 1.0))
        adaptor = sum(weight.numel() for weight, _ in head.adaptor) if method.adaptor == "mlp" else 0
        # One linear layer is folded into the discriminator's first.
        macs = self._places * (adaptor + head.first[0].numel() + method.hidden_units)
        super().__init__(weights, method.optimizers(head, runtime.device), macs)
        self._captured = CapturedSteps(self.optimizers, runtime.device) if fused(runtime.device) else None

    def step(self, images: Sequence[int], epoch: int) -> dict[str, Tensor]:
        """Gradients of the mean loss over the patches of the images, and a step of both optimisers."""
        method, device = self._method, self._runtime.device
        drawn = [stream(method.seed, epoch, image, device) for image in images]
        rows = [patches for (patches,) in self._recalled(images)]
        if self._in_step < self._places:
            rows = [
                patches[:, torch.randperm(self._places, generator=own, device=device)[: self._in_step]]
                for patches, own in zip(rows, drawn, strict=True)
            ]
        if self._captured:
            return self._captured(self._joined_step, [rows, [self._noise(own)[None] for own in drawn]])
        return self._moved([patches[0] for patches in rows], lambda place: self._noise(drawn[place]))

    def bytes_needed(self, images: int) -> int:
        """On a GPU while so many images are learnt; no batch is split, for its norm sees all patches at once."""
        rows, layers = images * self._in_step, len(self._head.adaptor)
        return 16 * self._values + device_bytes(rows, self._dimensions, self._method.hidden_units, layers)

    def _joined_step(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        """Of patches and noise (B, P, D) of a batch."""
        rows, noise = (tensor.flatten(0, 1) for tensor in inputs)
        return self._moved([rows], lambda _: noise)

    def _moved(self, rows: Sequence[Tensor], draw: Callable[[int], Tensor]) -> dict[str, Tensor]:
        method = self._method
        result = training_step(
            self._head,
            rows,
            draw,
            margin=method.margin,
            loss=method.loss,
            arithmetic=Arithmetic(self._runtime.precision),
        )
        self.move()
        return {"loss": result.loss, "true_share": result.true_share, "noisy_share": result.noisy_share}

    def _noise(self, generator: torch.Generator) -> Tensor:
        """Of the patches (P, D) of an image that train."""
        device, mix = self._runtime.device, self._method.noise_mix
        drawn = torch.randn(self._in_step, self._dimensions, generator=generator, device=device)
        if mix == 1:
            return drawn.mul_(self._sigma)
        level = torch.randint(mix, (self._in_step, 1), generator=generator, device=device)
        return drawn.mul_(self._sigma * MIX_GROWTH**level)

    def _in_portions(self, images: int) -> Iterator[list[Tensor]]:
        """The patches (P, D) of all images, a few images at a time."""
        for first in range(0, images, MEASURED_AT_ONCE):
            portion = range(first, min(first + MEASURED_AT_ONCE, images))
            yield [patches[0] for (patches,) in self._recalled(portion)]
            self._runtime.report("images measured", portion.stop, images)


def layers_of(weights: Mapping[str, Tensor], name: str) -> list[tuple[Tensor, Tensor | None]]:
    """The numbered linear layers of a name: weights, and biases where there are any."""
    count = sum(key.startswith(f"{name}.") and key.endswith(".weight") for key in weights)
    return [(weights[f"{name}.{number}.weight"], weights.get(f"{name}.{number}.bias")) for number in range(count)]


def head_of(weights: Mapping[str, Tensor]) -> HeadWeights:
    """Named weights as the kernel has them; views, not copies."""
    norm = tuple(weights[f"norm.{name}"] for name in ("scale", "shift", "running_mean", "running_variance"))
    scale, shift, mean, variance = norm
    return HeadWeights(
        layers_of(weights, "adaptor"),
        (weights["first.weight"], weights["first.bias"]),
        (scale, shift, mean, variance),
        weights["last.weight"],
    )


def check_dimensions(weights: Mapping[str, Tensor], dimensions: int) -> None:
    """Refuse features that the weights were not trained on.

    Raises:
        ValueError: naming both sizes.
    """
    first = next(weights[name] for name in ("adaptor.0.weight", "first.weight", "folded.weight") if name in weights)
    if first.shape[1] != dimensions:
        raise ValueError(
            f"patches have {dimensions} values, the network was trained on {first.shape[1]}: use the extractor, "
            "layers and pooling that it was trained with"
        )
