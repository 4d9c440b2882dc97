"""What a detector is: parameters, ``fit(features) -> state``, ``score(state, batch) -> ScoreMaps``.

A method is a frozen pydantic model, so a benchmark file configures it directly. Every parameter says which stage
of the graph reads it (`fit_field`, `match_field` or `score_field`): that decides what a changed value rebuilds. Methods
register by name and the lanes of the graph are built from the registry. Modules of methods import torch inside
functions, because the registry is read whenever definitions load.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar, cast, get_args

from pydantic import BaseModel, Field, field_validator

from ad_assets.methods.data import Batch, Features, Frame, LoadMatches, Matches, ScoreMaps
from ad_assets.methods.growth import Growth
from ad_assets.methods.needs import Needs
from ad_assets.methods.operations import Operations
from ad_assets.methods.runtime import Runtime
from ad_assets.methods.state import State
from ad_assets.settings.model import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.scoring_graph import ScoringGraph

Stage = Literal["fit", "match", "score"]


def fit_field(default: Any = ..., **constraints: Any) -> Any:
    """A parameter read when the state is made: changing it rebuilds the state and all that follows."""
    return Field(default, json_schema_extra={"stage": "fit"}, **constraints)


def match_field(default: Any = ..., **constraints: Any) -> Any:
    """A parameter read when images are matched with the state (`Method.match`): changing it leaves the state."""
    return Field(default, json_schema_extra={"stage": "match"}, **constraints)


def score_field(default: Any = ..., **constraints: Any) -> Any:
    """A parameter read when images are scored: changing it rebuilds score maps and metrics only."""
    return Field(default, json_schema_extra={"stage": "score"}, **constraints)


StateT = TypeVar("StateT", bound=State)


class Method(Settings, ABC, Generic[StateT]):
    """A configured detector.

    Class facts: `name` in benchmark files, `version` (bumped when the numbers change), `update_reads` (for people: what
    an update learns from), `state_asset` (what the field calls the state), `state_type`, `presets` (named sets of
    values, for ``preset:`` in benchmark files; a preset may hold ``categories``, values for single categories),
    `matched` (the splits whose images are matched before they are scored; empty for most methods), `lengths` (the
    parameters of scoring that are in pixels, such as smoothing), `reads_class_token` (whether the last tap may be a
    class token), `later` (parameters that came after others were in use: at their defaults they are left out of
    addresses, which so stay as they were), `scores_fall` (whether new images score much lower the more images are
    learnt, so that scores left out with a group are brought to those of a whole state).
    """

    largest: ClassVar[float] = 1_000_000
    name: ClassVar[str]
    version: ClassVar[int]
    update_reads: ClassVar[str] = "on the new images alone"
    state_asset: ClassVar[Literal["template_set", "memory_bank", "trained_model"]]
    state_type: ClassVar[type[State]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    matched: ClassVar[tuple[Literal["train", "test"], ...]] = ()
    lengths: ClassVar[tuple[str, ...]] = ()
    reads_class_token: ClassVar[bool] = False
    later: ClassVar[frozenset[str]] = frozenset({"roi_fit"})
    scores_fall: ClassVar[bool] = False
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

    @property
    def is_random(self) -> bool:
        """Whether `seed` has a part in the fit or the search, at these parameters; if not, all seeds agree."""
        return True

    @property
    def turned_by(self) -> tuple[int, ...]:
        """Degrees, counterclockwise, by which nominal images are learnt turned too: `Features.turned`."""
        return ()

    @property
    def holds_out(self) -> bool:
        """Whether `fit` keeps some images from training, for thresholds: all or none of each of `Features.groups`."""
        return False

    def held_out_ids(self, state: StateT) -> list[str]:
        """Ids of nominal images held out of training: they set the threshold where `leaves_out` is False."""
        del state
        return []

    @property
    def leaves_out(self) -> bool:
        """Whether `score` heeds `left_out`: it can score an image without what the state took from it."""
        return False

    def calibration_images(self, images: int) -> int:
        """How many of so many nominal images can be scored for a threshold: one cannot be left out of itself."""
        return images if self.leaves_out and images > 1 else 0

    def at_step(self, step: int) -> Self:
        """The method for maps of which a pixel stands for so many pixels of the extractor's input, along each axis.

        Its `lengths`, which are in pixels of the input, are those in pixels of the maps then.
        """
        if step == 1:
            return self
        lengths = {name: value for name in self.lengths if (value := getattr(self, name)) is not None}
        # Sides of kernels stay odd, and of pools at least one.
        scaled = {
            n: value / step if isinstance(value, float) else value // step // 2 * 2 + 1 for n, value in lengths.items()
        }
        return self.model_copy(update=scaled)

    @property
    def folds(self) -> int | None:
        """In how many parts nominal images are scored for a threshold, each by the state without it (`without`).

        None: images are left out one by one, which leaves no trace of them.
        """
        return None

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
            if isinstance(field.json_schema_extra, dict)
            and field.json_schema_extra.get("stage") == stage
            and not (name in self.later and getattr(self, name) == field.default)
        }
        return {"method": self.name, "version": self.version, **self.model_dump(mode="json", include=names)}

    @abstractmethod
    def fit(self, features: Features, runtime: Runtime) -> StateT:
        """Learn the nominal images.

        Raises:
            ValueError: the features do not suit the parameters (no image, wrong number of taps, ...).
        """

    def match(
        self, state: StateT, images: Features, runtime: Runtime, *, left_out: bool = False
    ) -> Iterator[tuple[tuple[str, ...], Matches]]:
        """Yield ``(image ids, matches)`` batch by batch, in order; methods that score features directly match nothing.

        A method whose scores start with a costly search in the state yields what that search finds. It is an asset of
        its own between state and score maps, so another way of scoring costs no search.

        Args:
            state: what `prepare` returned.
            images: those to match; images that were trained on may be matched at less cost if they come together.
            runtime: device and memory budget.
            left_out: match every image with the state without what that took from it.
        """
        del state, runtime, left_out
        for ids in images.id_batches():
            yield ids, {}

    def search_quality(self, state: StateT, nominal: Features, runtime: Runtime) -> dict[str, float]:
        """How well an approximate `match` finds what an exact one would, by nominal images alone; empty: it is exact.

        Args:
            state: what `prepare` returned.
            nominal: images that it was fitted on.
            runtime: device and memory budget.

        Returns:
            By names of the metrics' catalogue.
        """
        del state, nominal, runtime
        return {}

    def growth(self, state: StateT, earlier: StateT, runtime: Runtime) -> Growth | None:
        """How a state grew out of an earlier one, whose matches so need not all be sought again.

        Args:
            state: what `prepare` returned.
            earlier: as it was stored; fitted with the same settings on features of the same extractor.
            runtime: device and memory budget.

        Returns:
            None where it did not, or where a match with the whole state costs no more.
        """
        del state, earlier, runtime
        return None

    @abstractmethod
    def score(self, state: StateT, batch: Batch, runtime: Runtime) -> ScoreMaps:
        """Score a batch; the result does not depend on how images are batched. Tensors are returned on the CPU.

        Args:
            state: what `prepare` returned.
            batch: the images.
            runtime: device and memory budget.

        Raises:
            ValueError: features of other shapes than those fitted on, NaN or infinity, or too few images left.
        """

    def excluded_ids(self, batch: Batch) -> Sequence[str] | None:
        """The ids of the images to score without what the state took from them; None: there are none.

        Raises:
            ValueError: images are to be left out, and their ids are not given.
        """
        if batch.left_out and batch.image_ids is None:
            raise ValueError("to score images without what the state took from them, score needs their ids")
        return batch.image_ids if batch.left_out or self.exclude_same_image else None

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

    def without(self, state: StateT, image_ids: Collection[str], train: Features, runtime: Runtime) -> StateT:
        """The state without what it took from several images, near-copies of one another: to it they are new.

        Of a selection (a coreset, sheets) what is left stays as it is; nothing is selected in place of what goes.

        Args:
            state: what `prepare` returned.
            image_ids: some of the images that it was fitted on.
            train: the features of all of them.
            runtime: device and memory budget.

        Raises:
            NotImplementedError: the method leaves out single images at most.
            ValueError: too little is left.
        """
        raise NotImplementedError(f"{self.name} leaves out single images at most")

    @property
    def join_fault(self) -> str:
        """Why states of several categories cannot become one (`join`), in words; empty where they can."""
        return f"method {self.name} has no join of what it learnt"

    def join(self, states: Sequence[StateT]) -> StateT:
        """One state of those of several categories, fitted with the same settings on features of one extractor.

        Args:
            states: as they were stored; their order changes nothing.

        Raises:
            NotImplementedError: there is none: see `join_fault`.
            ValueError: there are no states, or ones that do not go together.
        """
        del states
        raise NotImplementedError(self.join_fault)

    def prepare(
        self, state: StateT, train: Features, runtime: Runtime, load_matches: LoadMatches | None = None
    ) -> StateT:
        """Work out what scoring needs and the stored state leaves to the stored features; most states are whole.

        Args:
            state: as it was stored.
            train: the features it was fitted on.
            runtime: device and memory budget.
            load_matches: stored matches of the images of `matched`; None: there are none.
        """
        del train, runtime, load_matches
        return state

    def needs(self, taps: list[Tensor], images: int) -> Needs:
        """What a fit of so many images, and scoring with it, hold at once.

        Args:
            taps: of any image, each (1, C, h, w); only their shapes are read.
            images: nominal images.
        """
        del taps, images
        return Needs()

    def operations(self, taps: list[Tensor], images: int) -> Operations:
        """What the time of a fit of so many images, and of scoring one image then, grows with.

        Args:
            taps: of any image, each (1, C, h, w); only their shapes are read.
            images: nominal images.

        Raises:
            NotImplementedError: it is not known, in words.
        """
        return Operations(images * sum(tap.numel() for tap in taps), sum(tap.numel() for tap in taps))

    def in_small(self, images: int) -> Self:
        """The method with which so few images take the way that many take with this one, to be timed."""
        del images
        return self

    @property
    def graph_fault(self) -> str:
        """Why its scoring is not to be had as one graph of tensors (`graph`), in words; empty where it is."""
        return f"method {self.name} has no graph of its scoring"

    def graph_bytes(self, taps: Sequence[tuple[int, ...]]) -> int:
        """Bytes of the state as its graph takes it, as far as the shapes (C, h, w) of the taps say; else 0."""
        del taps
        return 0

    def graph(self, frame: Frame) -> ScoringGraph:
        """The scoring of one new image as operations on tensors alone, in float32, for an exporter.

        Args:
            frame: shapes of the taps and of the map.

        Raises:
            NotImplementedError: there is none: see `graph_fault`.
        """
        del frame
        raise NotImplementedError(self.graph_fault)

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
