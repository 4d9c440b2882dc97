"""Every method computes on a CUDA device what it does on the CPU, and leaves nothing there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from inspect import get_annotations
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from pydantic import ValidationError

from ad_assets.graph.stages.score_maps import Scorer
from ad_assets.methods import METHODS, Features, Method, Runtime, State
from ad_assets.methods.memory_bank.search import by_image, together
from ad_assets.methods.training.base import TrainedMethod
from tests.methods.training.test_loop import Memory
from tests.support.emulated_device import cuda_device
from tests.support.tap_features import tap_features

MAP_SIZE = (8, 8)
# Options that suit tiny features; those of a method that is not named are its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "hetmm": {"windows": (3, 1), "sheets": 2},
    "padim": {"channels": 5},
    "patchcluster": {"pre_dimensions": 6, "dimensions": 6, "coreset_ratio": 0.5, "neighbours": 2},
    "patchcore_lof": {"pre_dimensions": 6, "dimensions": 6, "neighbours": 3},
    "patchcore": {"pre_dimensions": 6, "dimensions": 6, "coreset_ratio": 0.5},
    "fod": {"widths": (4, 4), "heads": 1, "depth": 1, "epochs": 1, "batch_size": 2, "warm_start": True},
    "simplenet": {"pre_dimensions": 6, "dimensions": 6, "hidden_units": 4, "epochs": 1, "warm_start": True},
    "spade": {"neighbours": 2},
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
# Combinations that no single choice brings about.
MORE: list[tuple[str, dict[str, Any]]] = [
    ("fod", {"intra": False, "inter": False, "criterion": "rec"}),
    ("hetmm", {"sheets": None}),
    ("patchcluster", {"coreset_ratio": 1.0, "skip": "self"}),
    ("patchcore", {"coreset_ratio": 1.0, "skip": "self", "image_score": "reweighted"}),
    ("patchcore", {"projection": 4}),
    ("simplenet", {"noise_mix": 2}),
]
REFUSED = {("patchcore_lof", "subsampling", "proxies")} | {
    (name, "exclude_same_image", True) for name, method in METHODS.items() if issubclass(method, TrainedMethod)
}


def choices(method: type[Method[Any]]) -> Iterator[tuple[str, Any]]:
    """Every value of every option that is one of a few, but for the defaults."""
    for name, field in method.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        values = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
        values += [True, False] if field.annotation is bool else []
        yield from ((name, value) for value in values if value != field.default)


def cases() -> list[Any]:
    """The methods with each of their choices; what methods share is tried with one of them."""
    found: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in METHODS]
    tried = set()
    for name, method in sorted(METHODS.items()):
        for key, value in choices(method):
            owner = next(kind for kind in method.__mro__ if key in get_annotations(kind))
            if (owner, key, value) not in tried and (name, key, value) not in REFUSED:
                tried.add((owner, key, value))
                found.append((name, {key: value}))
    return [
        pytest.param(name, options, id=" ".join([name, *(f"{key}={value}" for key, value in options.items())]))
        for name, options in found + MORE
    ]


def configured(name: str, options: dict[str, Any]) -> Method[Any]:
    merged = {**SMALL.get(name, {}), **options}
    for choice in options.items():
        merged |= BESIDE.get(choice, {})
    return METHODS[name](**{key: value for key, value in merged.items() if value is not None or key == "sheets"})


def features(first: int, images: int) -> Features:
    """Images numbered from `first`."""
    generator = torch.Generator().manual_seed(1)
    taps = [torch.randn(6, 4, 4, 4, generator=generator), torch.randn(6, 6, 2, 2, generator=generator)]
    every = tap_features(taps, batch_size=2)
    return replace(every, image_ids=every.image_ids[first : first + images])


def lane(method: Method[Any], device: str, device_memory_gb: float = 0.1) -> dict[str, Any]:
    """What a lane of the graph does with a method, step by step."""
    memory = Memory(1)
    tools = Runtime(device, 0.1, checkpoints=memory, device_memory_gb=device_memory_gb)
    nominal, new, test = features(0, 3), features(3, 1), features(4, 2)
    steps: dict[str, Any] = {"fit": method.fit(nominal, tools)}
    if memory.saved:
        steps["resumed"] = method.fit(nominal, tools)
    if method.updatable:
        steps["updated"] = method.update(steps["fit"], new, replace(tools, checkpoints=None))
    state = steps["fit"]
    load_matches = None
    if method.matched:
        table: dict[str, Any] = {}
        for images in (nominal, test):
            for ids, matches in method.match(state.to(device), images, tools):
                table |= by_image(ids, matches)
        steps["matched"] = together(list(table), table)
        load_matches = lambda ids: together(ids, table)  # noqa: E731
    scorer = Scorer(method, state, nominal, load_matches, MAP_SIZE, tools)
    steps["scores"] = [scores for _, scores in scorer(nominal)]
    if load_matches:
        steps["scores of a prediction"] = [scores for _, scores in scorer(test, new=True)]
    if method.leaves_out:
        steps["left-out scores"] = [scores for _, scores in scorer(nominal, left_out=True)]
    steps["nominal"] = scorer.nominal(nominal, 3)
    return steps


def tensors(value: Any) -> list[torch.Tensor]:
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


@pytest.mark.parametrize(("name", "key", "value"), sorted(REFUSED))
def test_what_is_not_tried_is_refused(name: str, key: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        configured(name, {key: value})


@pytest.mark.parametrize(("name", "options"), cases())
def test_a_lane_on_a_device_is_that_on_the_cpu(name: str, options: dict[str, Any]) -> None:
    method = configured(name, options)
    expected = lane(method, "cpu")
    with cuda_device() as device:
        found = lane(method, device)
    assert found.keys() == expected.keys()
    # Adam makes whole steps of gradients that are but rounding.
    tolerance = 1e-3 if isinstance(method, TrainedMethod) else 1e-4
    for step in expected:
        pairs = list(zip(tensors(found[step]), tensors(expected[step]), strict=True))
        assert {own.device.type for own, _ in pairs} <= {"cpu"}, f"{step} is left on the device"
        assert all(type(own) is torch.Tensor for own, _ in pairs)
        for own, other in pairs:
            torch.testing.assert_close(own, other, rtol=1e-3, atol=tolerance)
