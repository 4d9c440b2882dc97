"""Every method of the registry with each of its choices, driven through the steps of a lane on tiny features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from inspect import get_annotations
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
from safetensors.torch import load, save
from torch import Tensor

from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import METHODS, Features, Method, Runtime, State
from ad_assets.methods.data import by_image, together
from ad_assets.methods.runtime import Checkpoints
from ad_assets.methods.training.base import TrainedMethod
from tests.support.tap_features import tap_features

# Options that suit tiny features; those of a method that is not named are its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "hetmm": {"windows": (3, 1), "sheets": 2},
    "padim": {"channels": 5},
    "patchcluster": {"pre_dimensions": 6, "dimensions": 6, "coreset_ratio": 0.5, "neighbours": 2},
    "patchcore_lof": {"pre_dimensions": 6, "dimensions": 6, "neighbours": 3},
    "patchcore": {"pre_dimensions": 6, "dimensions": 6, "coreset_ratio": 0.5},
    "rad": {"neighbours": 2},
    "fod": {"widths": (4, 4), "heads": 1, "depth": 1, "epochs": 1, "batch_size": 2, "warm_start": True},
    "simplenet": {"pre_dimensions": 6, "dimensions": 6, "hidden_units": 4, "epochs": 1, "warm_start": True},
    "spade": {"neighbours": 2},
    "superadd": {"max_rows": 20, "subsets": 2},
}
# What a choice needs beside it; None: its default.
BESIDE: dict[tuple[str, Any], dict[str, Any]] = {
    ("subsampling", "random"): {"coreset_ratio": 0.5},
    ("subsampling", "proxies"): {"coreset_ratio": 0.5},
    ("anchors", "official"): {"coreset_ratio": 0.5},
    ("image_score", "mean_of_max_pool"): {"image_pool": 2},
    ("pooling", "concat"): {"pre_dimensions": None, "dimensions": None},
    ("search", "ivfpq"): {"lists": 2, "subquantisers": 2, "bits": 2},
    ("weighing", "intra"): {"inter": False},
    ("reference", "prototype"): {"prototypes": 2, "passes": 2},
    ("reference", "codebook"): {"codes": 4, "passes": 2},
    ("intra", False): {"inter": True},
}
NULLABLE = {"sheets", "max_rows", "radius"}  # options whose None is a value of its own
# Combinations that no single choice brings about.
MORE: list[tuple[str, dict[str, Any]]] = [
    ("fod", {"intra": False, "inter": False, "criterion": "rec"}),
    ("hetmm", {"sheets": None}),
    ("patchcluster", {"coreset_ratio": 1.0, "skip": "self"}),
    ("patchcore", {"coreset_ratio": 1.0, "skip": "self", "image_score": "reweighted"}),
    ("patchcore", {"projection": 4}),
    ("rad", {"radius": None}),
    ("simplenet", {"noise_mix": 2, "patches_per_image": 5}),
    ("superadd", {"max_rows": None, "subsets": None}),
]
REFUSED = {(name, "subsampling", "proxies") for name in ("patchcore_lof", "anomalydino")} | {
    (name, "exclude_same_image", True) for name, method in METHODS.items() if issubclass(method, TrainedMethod)
}


class Variant(NamedTuple):
    """A method and the options that it is tried with beside those in `SMALL`."""

    method: str
    options: dict[str, Any]

    def __str__(self) -> str:
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.options.items())])


def choices(method: type[Method[Any]]) -> Iterator[tuple[str, Any]]:
    """Every value of every option that is one of a few, but for the defaults."""
    for name, field in method.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        values = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
        values += [True, False] if field.annotation is bool else []
        yield from ((name, value) for value in values if value != field.default)


def variants() -> list[Variant]:
    """The methods with each of their choices; what methods share is tried with one of them."""
    found: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in METHODS]
    tried = set()
    for name, method in sorted(METHODS.items()):
        for key, value in choices(method):
            owner = next(kind for kind in method.__mro__ if key in get_annotations(kind))
            if (owner, key, value) not in tried and (name, key, value) not in REFUSED:
                tried.add((owner, key, value))
                found.append((name, {key: value}))
    return [Variant(name, options) for name, options in found + MORE]


def configured(name: str, options: dict[str, Any]) -> Method[Any]:
    """A method with options that suit tiny features."""
    merged = {**SMALL.get(name, {}), **options}
    for choice in options.items():
        merged |= BESIDE.get(choice, {})
    return METHODS[name](**{key: value for key, value in merged.items() if value is not None or key in NULLABLE})


class Images(NamedTuple):
    """Features of the nominal images, of those that an update brings, and of test images."""

    nominal: Features
    new: Features
    test: Features
    map_size: tuple[int, int] = (8, 8)


def images_of(taps: list[Tensor], nominal: int, new: int, batch_size: int, map_size: tuple[int, int]) -> Images:
    """Taps (N, C, h, w) of all images: so many nominal ones first, then new ones, then test images."""
    every = tap_features(taps, batch_size)
    parts = [slice(0, nominal), slice(nominal, nominal + new), slice(nominal + new, None)]
    return Images(*(replace(every, image_ids=every.image_ids[part]) for part in parts), map_size)


def tiny_images() -> Images:
    """Six images, 4 x 4 and 2 x 2 patches."""
    generator = torch.Generator().manual_seed(1)
    taps = [torch.randn(6, 4, 4, 4, generator=generator), torch.randn(6, 6, 2, 2, generator=generator)]
    return images_of(taps, 3, 1, batch_size=2, map_size=(8, 8))


class Halfway(Checkpoints):
    """Checkpoints as the store keeps them, of which the first is taken up."""

    def __init__(self, every: int = 1) -> None:
        super().__init__(every)
        self.first: tuple[bytes, dict[str, Any]] | None = None

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.first and (load(self.first[0]), self.first[1])

    def save(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        self.first = self.first or (stored(tensors), info)

    def keep(self, _epoch: int, weights: dict[str, Tensor]) -> None:
        stored(weights)


def stored(tensors: dict[str, Tensor]) -> bytes:
    """What the store would write."""
    return save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})


def lane(
    method: Method[Any],
    tools: Runtime,
    images: Images,
    step_done: Callable[[str], None] = lambda _: None,
    fitted: State | None = None,
    *,
    resume: bool = True,
) -> dict[str, Any]:
    """What a lane of the graph does with a method, step by step: the result of each by name.

    Args:
        method: as configured.
        tools: the device and its budgets.
        images: what it is fitted on and scores.
        step_done: called with the name of each step at its end.
        fitted: a state to score with; None: it is fitted.
        resume: whether a training is also taken up half way, and goes on with new images.
    """
    nominal, new, test, map_size = images
    nominal, new = (replace(each, turned=[each.load] * len(method.turned_by)) for each in (nominal, new))
    halfway = Halfway()
    steps: dict[str, Any] = {}

    def did(name: str, result: Any) -> Any:
        steps[name] = result
        step_done(name)
        return result

    if fitted is None:
        fitted = did("fit", method.fit(nominal, replace(tools, checkpoints=halfway)))
        if halfway.first and resume:
            did("resume", method.fit(nominal, replace(tools, checkpoints=halfway)))
        if method.updatable and (resume or not isinstance(method, TrainedMethod)):
            did("update", method.update(fitted, new, tools))
    state = type(fitted).from_parts(load(stored(fitted.tensors())), fitted.info())
    on_device = state.to(tools.device)
    step_done("restore")
    load_matches = None
    if method.matched:
        table: dict[str, Any] = {}
        for those in (nominal, test):
            for ids, matches in method.match(on_device, those, tools):
                table |= by_image(ids, matches)
        did("match", together(list(table), table))
        load_matches = lambda ids: together(ids, table)  # noqa: E731
    scorer = Scorer(method, state, nominal, load_matches, map_size, tools)
    step_done("prepare")
    did("score", [scores for _, scores in scorer(nominal)])
    if load_matches:
        did("score new", [scores for _, scores in scorer(test, new=True)])
    if method.leaves_out:
        did("score left out", [scores for _, scores in scorer(nominal, left_out=True)])
    did("nominal scores", scorer.nominal(nominal, 3))
    return steps


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a result."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, State):
        return list(value.tensors().values())
    if is_dataclass(value):
        return tensors([getattr(value, field.name) for field in fields(value)])
    if isinstance(value, dict):
        return tensors(list(value.values()))
    if isinstance(value, list | tuple):
        return [tensor for entry in value for tensor in tensors(entry)]
    return [torch.tensor(value)] if isinstance(value, float) else []
