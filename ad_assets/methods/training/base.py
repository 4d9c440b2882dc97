"""What detectors that train have in common: a schedule, a state of weights, warm starts."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from ad_assets.methods.base import Method, fit_field
from ad_assets.methods.data import Features
from ad_assets.methods.operations import Operations
from ad_assets.methods.runtime import Runtime
from ad_assets.methods.state import State

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.training.loop import Training


@dataclass(frozen=True)
class TrainedNetwork(State):
    """A trained network.

    Args:
        weights: all tensors that scoring needs, by name.
        image_ids: the images it has seen.
        held_out: nominal images that it has not, for thresholds.
        losses: mean of each loss over every epoch, by name.
        seconds: spent in training steps.
        starts: epoch at which each training began: 0, and one more for every warm start.
        macs: multiplications of scoring one image, backbone left aside.
    """

    weights: dict[str, Tensor]
    image_ids: list[str]
    held_out: list[str] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    starts: list[int] = field(default_factory=lambda: [0])
    macs: int = 0

    @property
    def epochs(self) -> int:
        """Epochs so far."""
        return max((len(values) for values in self.losses.values()), default=0)


class TrainedMethod(Method[TrainedNetwork]):
    """A detector that trains on stored features; the headline is the last epoch, whatever the test images say.

    `oracle_choice` is the authors' rule of choosing an epoch on the test images: by image AUROC (ties: pixel AUROC), or
    another epoch for each metric.
    """

    state_asset: ClassVar[Literal["template_set", "memory_bank", "trained_model"]] = "trained_model"
    state_type: ClassVar[type[State]] = TrainedNetwork
    update_reads: ClassVar[str] = "on all images, from the stored weights on"
    oracle_choice: ClassVar[Literal["image_auroc", "each"]] = "image_auroc"

    epochs: int = fit_field(..., ge=1, description="passes over the nominal images")
    batch_size: int = fit_field(..., ge=1, description="images a step")
    held_out: float = fit_field(
        0.0, ge=0, lt=1, description="part of the nominal images that does not train, for nominal-only thresholds"
    )
    patience: int | None = fit_field(
        None, ge=1, description="stop after so many epochs that do not lower the training loss; null: never"
    )
    warm_start: bool = fit_field(
        False, description="with new nominal images, go on from the stored weights instead of starting again"
    )
    warm_epochs: int | None = fit_field(None, ge=1, description="epochs of a warm start; null: a tenth of epochs")
    oracle_every: int | None = fit_field(
        None, ge=1, description="keep the weights after every so many epochs and report the best on the test images"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.refuse_left_out(self.exclude_same_image, "exclude_same_image: ")
        if self.warm_epochs is not None and not self.warm_start:
            raise ValueError("warm_epochs: only a warm start reads it; set warm_start, or remove the key")
        if self.oracle_every is not None and self.oracle_every > self.epochs:
            raise ValueError(f"oracle_every: {self.oracle_every} is beyond the last of {self.epochs} epochs")
        return self

    @abstractmethod
    def training(self, features: Features, weights: dict[str, Tensor] | None, runtime: Runtime) -> Training:
        """What `train` is to train on these images.

        Args:
            features: the nominal images.
            weights: of an earlier training; None: draw them with the seed.
            runtime: device and memory budget.

        Raises:
            ValueError: the features or the weights do not suit the parameters.
        """

    @property
    def updatable(self) -> bool:
        """By a warm start."""
        return self.warm_start

    def operations(self, taps: list[Tensor], images: int) -> Operations:
        """All images pass once an epoch."""
        size = sum(tap.numel() for tap in taps)
        return Operations(self.epochs * images * size, size)

    def in_small(self, images: int) -> Self:
        """One epoch."""
        del images
        return self.model_copy(update={"epochs": 1, "oracle_every": None})

    @property
    def leaves_out(self) -> bool:
        """What the weights took from which image is not known."""
        return False

    @property
    def holds_out(self) -> bool:
        """With a share `held_out`."""
        return self.held_out > 0

    def calibration_images(self, images: int) -> int:
        """Those that `held_out` keeps from training."""
        held_out = round(self.held_out * images)
        return held_out if held_out > 1 else 0

    def refuse_left_out(self, left_out: bool, key: str = "") -> None:
        """Refuse what would take a training of its own for every image.

        Raises:
            ValueError: images are to be left out.
        """
        if left_out:
            raise ValueError(f"{key}what {self.name} took from one image cannot be left out of its weights")

    def held_out_ids(self, state: TrainedNetwork) -> list[str]:
        """What `held_out` asked for."""
        return state.held_out

    def fit(self, features: Features, runtime: Runtime) -> TrainedNetwork:
        """Train from weights drawn with the seed.

        Raises:
            ValueError: no image, features that do not suit the parameters, or a loss that is no longer finite.
        """
        return self._train(features, None, runtime)

    def update(self, state: TrainedNetwork, new: Features, runtime: Runtime) -> TrainedNetwork:
        """Train on old and new images, from the stored weights on; not what `fit` of all would come to."""
        images = tuple(sorted({*state.image_ids, *state.held_out, *new.image_ids}))
        return self._train(replace(new, image_ids=images), state, runtime)

    def _train(self, features: Features, before: TrainedNetwork | None, runtime: Runtime) -> TrainedNetwork:
        from ad_assets.methods.training.loop import Plan, digest, train

        earlier = before or TrainedNetwork({}, [], starts=[])
        held_out = self._choose_held_out(features, earlier)
        features = replace(features, image_ids=tuple(sorted({*features.image_ids} - {*held_out})))
        training = self.training(features, before.weights if before else None, runtime)
        plan = Plan(
            images=len(features),
            epochs=self.epochs if before is None else self.warm_epochs or max(1, self.epochs // 10),
            batch_size=self.batch_size,
            seed=self.seed,
            first_epoch=earlier.epochs,
            patience=self.patience,
            keep_every=self.oracle_every,
            identity={
                "settings": self.stage_config("fit"),
                "images": hashlib.sha256("\n".join(features.image_ids).encode()).hexdigest(),
                "start": digest(before.weights) if before else "drawn",
            },
        )
        history = train(training, plan, runtime)
        return TrainedNetwork(
            weights={name: tensor.detach().cpu() for name, tensor in training.weights.items()},
            image_ids=list(features.image_ids),
            held_out=held_out,
            losses={name: earlier.losses.get(name, []) + values for name, values in history.losses.items()},
            seconds=earlier.seconds + history.seconds,
            starts=[*earlier.starts, earlier.epochs],
            macs=training.macs,
        )

    def _choose_held_out(self, features: Features, earlier: TrainedNetwork) -> list[str]:
        """As many as asked for, drawn by their ids, never one that an earlier training has seen.

        Of a group all or none: as near to the number asked for as whole groups come, with at least half as many left to
        train as was meant.
        """
        images, trained = {*features.image_ids}, {*earlier.image_ids}
        group_of = {image: group & images for group in features.groups for image in group & images}
        free = {group_of.get(image, frozenset([image])) for image in images}
        wanted, chosen = round(self.held_out * len(images)), list[str]()
        for group in sorted((each for each in free if not each & trained), key=lambda each: min(map(_place, each))):
            count = len(chosen) + len(group)
            if count - wanted <= wanted - len(chosen) and len(images) - count >= (len(images) - wanted) / 2:
                chosen += group
        return sorted(chosen)

    def curves(self, state: TrainedNetwork) -> dict[str, list[float]]:
        """Mean losses, epoch by epoch."""
        return state.losses

    def describe(self, state: TrainedNetwork) -> dict[str, Any]:
        """Epochs, seconds, size."""
        return {
            **super().describe(state),
            "training_images": len(state.image_ids),
            **({"held_out_images": len(state.held_out)} if state.held_out else {}),
            "parameters": sum(tensor.numel() for name, tensor in state.weights.items() if self.is_parameter(name)),
            "gmacs_per_image": state.macs / 1e9,
            "epochs": state.epochs,
            "fit_seconds": state.seconds,
            "seconds_per_epoch": state.seconds / max(1, state.epochs),
            **{f"last_{name}": values[-1] for name, values in state.losses.items() if values},
            **({"warm_started_at_epoch": ", ".join(map(str, state.starts[1:]))} if state.starts[1:] else {}),
        }

    def is_parameter(self, name: str) -> bool:
        """Whether one of the weights is trained, and no running mean or the like."""
        del name
        return True


def _place(image: str) -> bytes:
    return hashlib.sha256(image.encode()).digest()
