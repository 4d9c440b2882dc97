"""What an asset's page in the UI shows of its definition: its settings, and where they and its code stand."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import dagster as dg

from ad_assets.config.benchmark import Benchmark, Detector
from ad_assets.graph.stage import Stage

HIDDEN = ("version", "dataset", "tables", "geometry")  # say nothing to people, or what other settings say


def definition_metadata(stage: Stage, benchmark: Benchmark) -> dict[str, Any]:
    """The settings that the artifacts of a stage follow from, those of its lane among them, and code references."""
    settings = {f"settings/{name}": value for name, value in _settings(stage, benchmark).items()}
    return {**settings, "dagster/code_references": _references(stage, benchmark)}


def _settings(stage: Stage, benchmark: Benchmark) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    detector = _detector(stage, benchmark)
    if detector:
        extractor = benchmark.extractors[detector.extractor]
        method = detector.method.model_dump(mode="json") if detector.method else {"members": list(detector.members)}
        shown |= {"backbone": extractor.backbone, "taps": ", ".join(extractor.taps), **dict(_readable(method))}
    shown |= dict(_readable(stage.settings.address()))
    if detector and detector.joins:
        shown["of"] = detector.joins
    if detector and detector.method:
        shown["method"] = detector.method.name  # a state may be shared by several
    if own := {name: dict(_readable(each.apart_from(stage.settings))) for name, each in stage.own_settings.items()}:
        shown["categories"] = dg.MetadataValue.json(own)
    return shown


def _readable(config: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """The settings that have a value, as texts and numbers, with those of sections; not what is nested deeper."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from () if section else _readable(value, f"{name}.")
        elif value is None or name in HIDDEN:
            continue
        elif isinstance(value, list | tuple):
            yield f"{section}{name}", ", ".join(map(str, value))
        else:
            yield f"{section}{name}", value


def _references(stage: Stage, benchmark: Benchmark) -> dg.CodeReferencesMetadataValue:
    build: Any = stage.build or stage.scan
    while isinstance(build, partial):
        build = build.func
    places = [(build.__code__.co_filename, build.__code__.co_firstlineno, "how it is made")]
    detector = _detector(stage, benchmark)
    if detector and detector.method:
        places.append((*_place_of(type(detector.method)), "the method"))
    places.append((str(Path(benchmark.source).resolve()), 1, "benchmark file"))
    return dg.CodeReferencesMetadataValue(
        code_references=[
            dg.LocalFileCodeReference(file_path=file, line_number=line, label=label) for file, line, label in places
        ]
    )


@cache
def _place_of(method: type) -> tuple[str, int]:
    return inspect.getfile(method), inspect.getsourcelines(method)[1]


def _detector(stage: Stage, benchmark: Benchmark) -> Detector | None:
    dataset = benchmark.datasets.get(stage.key[0])
    return dataset.detectors.get(stage.key[1]) if dataset and len(stage.key) > 1 else None
