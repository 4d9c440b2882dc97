"""The settings that a lane's numbers follow from, in one line for people: those that are not at their defaults."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Benchmark, Dataset, Detector, Evaluation
from ad_assets.papers.published import MEAN
from ad_assets.report.lane_settings import SEPARATOR


def all_settings(benchmark: Benchmark, dataset: Dataset) -> dict[tuple[str, str], str]:
    """(detector, category or ``"mean"``) -> `lane_settings`, of the categories alone that a lane sets something for."""
    told = {}
    for name, detector in dataset.detectors.items():
        lanes = [dataset.detectors[member] for member in detector.members] or [detector]
        named = {category for each in lanes for category in each.categories} | {*dataset.decided_apart(detector)}
        told[name, MEAN] = lane_settings(benchmark, dataset, detector, "")
        told |= {(name, each): lane_settings(benchmark, dataset, detector, each) for each in named}
    return told


def lane_settings(benchmark: Benchmark, dataset: Dataset, detector: Detector, category: str) -> str:
    """How a lane learns and scores, its extractor, how it decides, and the dataset, as ``padim(channels=50); ...``.

    Args:
        benchmark: the checked benchmark file.
        dataset: one of its datasets.
        detector: one of its detectors.
        category: one with settings of its own has these; ``""``: those of the lane.
    """
    evaluation = benchmark.evaluation
    names = detector.members or (detector.name,)
    extractors = dict.fromkeys(_extractor(benchmark.extractors[dataset.detectors[name].extractor]) for name in names)
    parts = [
        _method(dataset, detector, category),
        *extractors,
        _call("decision", _decision(dataset, detector, category, evaluation)),
        _call("evaluation", _apart(evaluation, leave={"nominal_false_positive_rate"})),
        _call(f"{dataset.reader.name} reader", _apart(dataset.reader)),
    ]
    return SEPARATOR.join(part for part in parts if part)


def _method(dataset: Dataset, detector: Detector, category: str) -> str:
    if detector.members:
        members = (_method(dataset, dataset.detectors[name], category) for name in detector.members)
        return f"ensemble of {' and '.join(members)}"
    method = detector.method_for(category)
    joined = {"joins": detector.joins} if detector.joins else {}
    draws = {"draws": detector.draws} if detector.draws > 1 else {}
    return _call(method.name, {**_apart(method), **joined, **draws}, bare=True)


def _extractor(extractor: Extractor) -> str:
    settings = _apart(extractor, leave={"backbone"})
    if extractor.weight_file is not None:  # by content, wherever the file lies
        settings["weights"] = str(extractor.identity()["weights"])[:19]
    return _call(extractor.backbone, settings, bare=True)


def _decision(dataset: Dataset, detector: Detector, category: str, evaluation: Evaluation) -> dict[str, Any]:
    if dataset.reader.blind:
        return {}
    rate = dataset.false_alarm_rate(detector, category, evaluation)
    usual = type(evaluation).model_fields["nominal_false_positive_rate"].default
    groups = {"leave_out": "group"} if dataset.leaves_out_groups(detector) else {}
    return {**({"false_alarm_rate": rate} if rate != usual else {}), **groups}


def _apart(section: BaseModel, leave: Collection[str] = ()) -> dict[str, Any]:
    """The values of a section that are not its defaults."""
    return _placeless(section.model_dump(mode="json", exclude_defaults=True, exclude=set(leave)))


def _placeless(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without where a dataset lies, which makes no number; a reader may hold another one."""
    apart = {key: _placeless(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: value for key, value in apart.items() if key != "root" and value != {}}


def _call(name: str, settings: Mapping[str, Any], *, bare: bool = False) -> str:
    """``name(key=value, ...)``; without settings the name if `bare`, else nothing."""
    if not settings:
        return name if bare else ""
    return f"{name}({', '.join(f'{key}={_value(value)}' for key, value in settings.items())})"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return PurePath(value).name if PurePath(value).is_absolute() else value
    return json.dumps(value, ensure_ascii=False)
