"""What a detector is: parameters, ``fit(features) -> state``, ``score(state, taps) -> ScoreMaps``.

A method is a frozen pydantic model, so a benchmark file configures it directly. Every parameter says which stage
of the graph reads it (`fit_field` or `score_field`): that decides what a changed value rebuilds. Methods register by
name and the lanes of the graph are built from the registry. Modules of methods import torch inside functions,
because the registry is read whenever definitions load.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, cast, get_args

from pydantic import BaseModel, Field, field_validator

from ad_assets.methods.state import State
from ad_assets.settings.model import Settings

if TYPE_CHECKING:
    from torch import Tensor

Stage = Literal["fit", "match", "score"]
ProgressReport = Callable[[str, int, int], None]


def fit_field(default: Any = ..., **constraints: Any) -> Any:
    """A parameter read when the state is made: changing it rebuilds the state and all that follows."""
    return Field(default, json_schema_extra={"stage": "fit"}, **constraints)


def match_field(default: Any = ..., **constraints: Any) -> Any:
    """A parameter read when images are matched with the state (`matching.py`): changing it leaves the state."""
    return Field(default, json_schema_extra={"stage": "match"}, **constraints)


def score_field(default: Any = ..., **constraints: Any) -> Any:
    """A parameter read when images are scored: changing it rebuilds score maps and metrics only."""
    return Field(default, json_schema_extra={"stage": "score"}, **constraints)


def _no_report(what: str, done: int, total: int) -> None:
    del what, done, total


class Checkpoints(ABC):
    """Where training keeps what a run that was killed goes on from; every write is atomic.

    Args:
        every: optimiser steps between two checkpoints.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    @abstractmethod
    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and JSON values of the last checkpoint, or None."""

    @abstractmethod
    def save(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Replace the checkpoint."""

    @abstractmethod
    def keep(self, epoch: int, weights: dict[str, Tensor]) -> None:
        """Keep the weights after an epoch, for protocols that choose an epoch."""


@dataclass(frozen=True)
class Runtime:
    """Where a method runs and what it may use.

    Args:
        device: torch device name, such as ``cpu`` or ``cuda:0``.
        memory_gb: budget in GB for temporary tensors of one call.
        report: called as ``report(what, done, total)`` from time to time.
        precision: of the products in training; sums, losses and weights are float32 either way.
        checkpoints: None where an interrupted training may start again.
    """

    device: str = "cpu"
    memory_gb: float = 1.0
    report: ProgressReport = _no_report
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoints: Checkpoints | None = None

    def check_budget(self, what: str, need_gb: float, parts: str, remedy: str) -> None:
        """Refuse what would not fit the memory budget.

        Raises:
            ValueError: with what was asked for (`parts`), and the remedy.
        """
        if need_gb > self.memory_gb:
            raise ValueError(self._refusal(what, need_gb, parts, remedy))

    def most_images(self, bytes_each: int) -> int:
        """How many images the budget holds all at once, so many bytes each."""
        return int(self.memory_gb * 1e9 // bytes_each)

    def check_images(self, what: str, images: int, bytes_each: int, parts: str, remedy: str) -> None:
        """Refuse more images at once than `most_images`.

        Raises:
            ValueError: as `check_budget`.
        """
        if images > self.most_images(bytes_each):
            raise ValueError(self._refusal(what, 1e-9 * images * bytes_each, parts, remedy))

    def _refusal(self, what: str, need_gb: float, parts: str, remedy: str) -> str:
        return (
            f"{what} need {need_gb:.3g} GB ({parts}), the budget is {self.memory_gb:g} GB: raise "
            f"compute.memory_gb if this machine has more, or {remedy}"
        )


@dataclass(frozen=True)
class Features:
    """Backbone features of a list of images, loaded batch by batch.

    Args:
        image_ids: one sha256 an image, in a canonical order that does not depend on file names.
        load: maps image ids and positions of taps (from 0; None: all) to taps of one extractor, each ``(B, C, h, w)``
            float32, shallow to deep.
        batch_size: images a batch; never changes a result.
        layers: positions of the taps that are loaded; None: all.
    """

    image_ids: tuple[str, ...]
    load: Callable[[Sequence[str], tuple[int, ...] | None], list[Tensor]]
    batch_size: int = 16
    layers: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def id_batches(self) -> Iterator[tuple[str, ...]]:
        """Yield the image ids batch by batch, in order."""
        for first in range(0, len(self.image_ids), self.batch_size):
            yield self.image_ids[first : first + self.batch_size]

    def batches(self) -> Iterator[tuple[tuple[str, ...], list[Tensor]]]:
        """Yield ``(image ids, taps)`` in order."""
        for ids in self.id_batches():
            yield ids, self.load(ids, self.layers)

    def sample(self) -> list[Tensor]:
        """The taps of the first image, each ``(1, C, h, w)``: what shapes the others will have.

        Raises:
            ValueError: there is no image.
        """
        if not self.image_ids:
            raise ValueError("no nominal image to fit: the train split is empty")
        return self.load(self.image_ids[:1], self.layers)

    def layer(self, number: int) -> Features:
        """The same images with one tap: the `number`-th of those that are loaded, from 0."""
        return dataclasses.replace(self, layers=(self.layers[number] if self.layers else number,))


@dataclass(frozen=True)
class ScoreMaps:
    """Raw anomaly scores, higher is more anomalous, in no fixed range.

    Args:
        maps: ``(B, H, W)`` float32.
        image_scores: ``(B,)`` float32.
    """

    maps: Tensor
    image_scores: Tensor


def check_finite(*tensors: Tensor) -> None:
    """Refuse features that no score can come from.

    Raises:
        ValueError: NaN or infinity.
    """
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise ValueError("features hold NaN or infinity: check the images, or use precision float32")


StateT = TypeVar("StateT", bound=State)


class Method(Settings, ABC, Generic[StateT]):
    """A configured detector.

    Class facts: `name` in benchmark files, `version` (bumped when the numbers change), `update_reads` (for people: what
    an update learns from), `state_asset` (what the field calls the state), `state_type`, `presets` (named sets of
    values, for ``preset:`` in benchmark files; a preset may hold ``categories``, values for single categories).
    """

    largest: ClassVar[float] = 1_000_000
    name: ClassVar[str]
    version: ClassVar[int]
    update_reads: ClassVar[str] = "on the new images alone"
    state_asset: ClassVar[Literal["template_set", "memory_bank", "trained_model"]]
    state_type: ClassVar[type[State]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    seed: int = fit_field(0, ge=0, le=2**53, description="seed of every random choice of the fit")
    layers: tuple[int, ...] | None = fit_field(
        None, min_length=1, description="taps of the extractor that are read, by position from 1; null: all"
    )

    exclude_same_image: bool = score_field(
        False, description="score an image that was trained on without what the state took from it (blind settings)"
    )

    @field_validator("layers")
    @classmethod
    def _ascending(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers and (layers[0] < 1 or list(layers) != sorted(set(layers))):
            raise ValueError("count taps from 1 and name each once, shallow to deep")
        return layers

    @property
    def updatable(self) -> bool:
        """Whether it has `update`."""
        return False

    def unseen(self, state: StateT) -> list[str]:
        """Ids of nominal images held out of training: they set the threshold where no score leaves an image out."""
        del state
        return []

    @property
    def leaves_out(self) -> bool:
        """Whether `score` heeds `left_out`: it can score an image without what the state took from it."""
        return False

    def check_layers(self, count: int) -> None:
        """Refuse a number of layers that does not suit the parameters; most methods take any.

        Raises:
            ValueError: naming the parameter.
        """

    def stage_config(self, stage: Stage) -> dict[str, Any]:
        """The parameters that one stage reads, as JSON values, with the method's name and version."""
        names = {
            name
            for name, field in type(self).model_fields.items()
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("stage") == stage
        }
        return {"method": self.name, "version": self.version, **self.model_dump(mode="json", include=names)}

    @abstractmethod
    def fit(self, features: Features, runtime: Runtime) -> StateT:
        """Learn the nominal images.

        Raises:
            ValueError: the features do not suit the parameters (no image, wrong number of taps, ...).
        """

    @abstractmethod
    def score(
        self,
        state: StateT,
        taps: list[Tensor],
        map_size: tuple[int, int],
        runtime: Runtime,
        *,
        image_ids: Sequence[str] | None = None,
        left_out: bool = False,
    ) -> ScoreMaps:
        """Score a batch; the result does not depend on how images are batched.

        Args:
            state: what `fit` returned.
            taps: each ``(B, C, h, w)`` float32, as the features have them.
            map_size: height and width of the maps, pixels of the cropped input.
            runtime: device and memory budget.
            image_ids: the B images, by which those that were trained on are recognised; None: none was.
            left_out: score every image without what the state took from it (nominal-only thresholds need it), as
                `exclude_same_image` asks for.
        """

    def hidden(self, image_ids: Sequence[str] | None, left_out: bool) -> Sequence[str] | None:
        """The ids of the images to score without what the state took from them; None: there are none.

        Raises:
            ValueError: images are to be left out, and their ids are not given.
        """
        if left_out and image_ids is None:
            raise ValueError("to score images without what the state took from them, score needs their ids")
        return image_ids if left_out or self.exclude_same_image else None

    def update(self, state: StateT, new: Features, runtime: Runtime) -> StateT:
        """The state on old and new images, at the cost of the new ones; it ends where `fit` of all would.

        Args:
            state: as it was stored.
            new: features of the new images alone.
            runtime: device and memory budget.

        Raises:
            NotImplementedError: the method is not `updatable`.
        """
        raise NotImplementedError(f"{self.name} learns from all images at once")

    def complete(self, state: StateT, train: Features, runtime: Runtime) -> StateT:
        """Read back what the stored state leaves to the stored features; most states are whole.

        Args:
            state: as it was stored.
            train: the features it was fitted on.
            runtime: device and memory budget.
        """
        del train, runtime
        return state

    def most_images(self, taps: list[Tensor], runtime: Runtime) -> int | None:
        """The most nominal images that fit the budget; None: as many as there are.

        With one more a fit of all, or scoring with it, is refused, though updates may have come that far.

        Args:
            taps: of any image, each (1, C, h, w).
            runtime: memory budget.
        """
        del taps, runtime
        return None

    def curves(self, state: StateT) -> dict[str, list[float]]:
        """Curves of the training worth a plot beside the state, one value an epoch, by title."""
        del state
        return {}

    def maps(self, state: StateT) -> dict[str, Tensor]:
        """Maps (H, W) worth a picture beside the state, by title."""
        del state
        return {}

    def describe(self, state: StateT) -> dict[str, int | float | str]:
        """Numbers worth showing beside the state: rows, bytes, radius."""
        tensors = state.tensors().values()
        return {"bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors)}


METHODS: dict[str, type[Method[Any]]] = {}
MethodT = TypeVar("MethodT", bound=type[Method[Any]])


def register(method: MethodT) -> MethodT:
    """Class decorator: make a method available to benchmark files under its name.

    Raises:
        TypeError: a parameter does not say which stage reads it.
    """
    for name, field in cast(type[BaseModel], method).model_fields.items():
        extra = field.json_schema_extra
        if not (isinstance(extra, dict) and extra.get("stage") in get_args(Stage)):
            raise TypeError(f"{method.__name__}.{name}: declare it with fit_field, match_field or score_field")
    METHODS[method.name] = method
    return method
