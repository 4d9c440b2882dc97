"""The benchmark file as typed models, and the fingerprints of its sections. The only place that parses YAML.

A value comes from, weakest first: the file (``AD_ASSETS_CONFIG`` or ``--config``; a path, or the name of a file in
``ad_assets/configs``), the environment (``AD_ASSETS__COMPUTE__BATCH_SIZE=8``), the command line
(``--set compute.batch_size=8``). Relative paths are relative to the working directory.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ad_assets.datasets import READERS, Reader
from ad_assets.extractor import Extractor
from ad_assets.methods import METHODS, Method
from ad_assets.methods.ensemble import Ensemble
from ad_assets.report.papers import systems
from resources.compute import Compute
from resources.store import ArtifactStore

CONFIGS = Path(__file__).parent / "configs"
DEFAULT = "demo"
ENV_FILE = "AD_ASSETS_CONFIG"
ENV_PREFIX = "AD_ASSETS__"
NAME_PATTERN = r"^[a-z0-9_]+$"


class ConfigError(ValueError):
    """The benchmark file is wrong; the message lists every fault with its key path and the remedy."""


class Evaluation(BaseModel):
    """How score maps become metrics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fpr_limits: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.3, 0.05), description="AUPRO integration limits"
    )
    nominal_false_positive_rate: float = Field(
        0.05, gt=0, lt=1, description="false positive rate that the nominal-only threshold aims at"
    )
    calibration_images: int = Field(
        64, ge=1, description="most nominal training images scored left-out, for the nominal-only threshold"
    )


class ReportStyle(BaseModel):
    """How many pictures the report shows for each category and detector."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    false_alarms: int = Field(3, ge=0, le=50)
    misses: int = Field(3, ge=0, le=50)
    hits: int = Field(3, ge=0, le=50)


@dataclass(frozen=True)
class Detector:
    """One lane: a configured method on an extractor, or an ensemble of other lanes (`members`)."""

    name: str
    method: Method[Any] | None
    members: tuple[str, ...]
    extractor: str
    paper: str | None


@dataclass(frozen=True)
class Dataset:
    """A dataset and the detectors that run on it."""

    name: str
    reader: Reader
    detectors: dict[str, Detector]

    @property
    def extractors(self) -> list[str]:
        """Names of the extractors in use, each once, in the order of the detectors."""
        return list(dict.fromkeys(d.extractor for d in self.detectors.values()))


@dataclass(frozen=True)
class Benchmark:
    """A whole benchmark file, checked."""

    source: str
    store: ArtifactStore
    compute: Compute
    evaluation: Evaluation
    report: ReportStyle
    extractors: dict[str, Extractor]
    datasets: dict[str, Dataset]


def fingerprint(section: object) -> str:
    """A short stable address of any JSON value (and pydantic models): 24 hex digits of sha256.

    >>> fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
    True
    """

    def plain(value: object) -> object:
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        raise TypeError(f"{type(value).__name__} has no place in a fingerprint")

    text = json.dumps(section, sort_keys=True, separators=(",", ":"), default=plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def load_config(
    source: str | Path | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> Benchmark:
    """Read and check a benchmark file.

    Args:
        source: a path, the name of a shipped file, or None for ``AD_ASSETS_CONFIG`` and then the demo.
        overrides: ``dotted.key=value`` texts; values are YAML.
        environ: where ``AD_ASSETS__SECTION__KEY`` variables are looked up.

    Raises:
        ConfigError: anything is wrong; all faults at once.
    """
    path = find_file(str(source or environ.get(ENV_FILE) or DEFAULT))
    tree = _read_yaml(path)
    for name, value in sorted(environ.items()):
        if name.startswith(ENV_PREFIX):
            _assign(tree, name.removeprefix(ENV_PREFIX).lower().split("__"), value, name)
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {text}: write it as dotted.key=value")
        _assign(tree, key.split("."), value, f"--set {key}")
    return _Parser(str(path)).benchmark(tree)


def find_file(source: str) -> Path:
    """The path of a benchmark file, given as a path or as the name of a shipped one."""
    shipped = CONFIGS / f"{source}.yaml"
    for path in (Path(source), shipped):
        if path.is_file():
            return path
    names = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
    raise ConfigError(f"no benchmark file {source!r}: give a path, or one of the shipped names: {names}")


class _UniqueKeys(yaml.SafeLoader):
    """YAML without silently overwritten duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise ConfigError(f"{key.start_mark.name}:{key.start_mark.line + 1}: duplicate key {key.value!r}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        # The loader is a SafeLoader; it only adds the check for duplicate keys.
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping with the keys datasets, extractors, ...")
    return tree


def _assign(tree: dict[str, Any], keys: list[str], text: str, origin: str) -> None:
    node = tree
    for key in keys[:-1]:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{origin}: {key!r} is a value, not a section")
    try:
        node[keys[-1]] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: the value {text!r} is not valid YAML") from error


ModelT = TypeVar("ModelT", bound=BaseModel)


class _Parser:
    """Turns the tree of a benchmark file into models, collecting every fault before it gives up."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.faults: list[str] = []

    def benchmark(self, tree: dict[str, Any]) -> Benchmark:
        sections = {"store", "compute", "evaluation", "report", "extractors", "datasets"}
        self._only(tree, sections, "")
        store = self._model(ArtifactStore, tree.get("store"), "store")
        compute = self._model(Compute, tree.get("compute"), "compute")
        evaluation = self._model(Evaluation, tree.get("evaluation"), "evaluation")
        report = self._model(ReportStyle, tree.get("report"), "report")
        extractors: dict[str, Extractor] = {}
        for name, section in self._named(tree, "extractors"):
            extractor = self._model(Extractor, section, f"extractors.{name}")
            if extractor:
                extractors[name] = extractor
        datasets: dict[str, Dataset] = {}
        for name, section in self._named(tree, "datasets"):
            dataset = self._dataset(name, section, extractors, set(tree.get("extractors") or {}))
            if dataset:
                datasets[name] = dataset
        if not datasets and not self.faults:
            self.faults.append("datasets: name at least one dataset")
        if self.faults or not (store and compute and evaluation and report):
            raise ConfigError("\n  ".join([f"{self.source} has {len(self.faults)} fault(s):", *self.faults]))
        return Benchmark(self.source, store, compute, evaluation, report, extractors, datasets)

    def _dataset(self, name: str, section: object, extractors: dict[str, Extractor], known: set[str]) -> Dataset | None:
        path = f"datasets.{name}"
        options = self._mapping(section, path)
        reader_type = self._choice(options.pop("reader", None), READERS, f"{path}.reader")
        lanes = self._mapping(options.pop("detectors", {}), f"{path}.detectors")
        detectors: dict[str, Detector] = {}
        for lane, entry in lanes.items():
            if not self._name(lane, f"{path}.detectors"):
                continue
            if lane in ("features", "image_index", "leaderboard", "report"):
                self.faults.append(f"{path}.detectors.{lane}: the name is an asset's; choose another")
            detector = self._detector(lane, entry, f"{path}.detectors.{lane}", known, detectors)
            if detector:
                detectors[lane] = detector
        for detector in detectors.values():
            frames = {extractors[detectors[m].extractor].geometry for m in detector.members if m in detectors}
            if len(frames) > 1:
                self.faults.append(
                    f"{path}.detectors.{detector.name}.members: the extractors resize and crop differently, so their "
                    "maps do not overlay; give them the same resize and crop"
                )
        reader = self._model(reader_type, options, path) if reader_type else None
        return Dataset(name, reader, detectors) if reader else None

    def _detector(
        self, name: str, section: object, path: str, extractors: set[str], earlier: dict[str, Detector]
    ) -> Detector | None:
        options = self._mapping(section, path)
        paper = options.pop("paper", None)
        if paper is not None:
            self._choice(paper, {system: system for system in systems()}, f"{path}.paper")
        method = options.pop("method", None)
        if method == Ensemble.name:
            ensemble = self._model(Ensemble, options, path)
            for member in ensemble.members if ensemble else ():
                if member not in earlier or earlier[member].members:
                    self.faults.append(
                        f"{path}.members: {member!r} is not a detector above this one; choose from: "
                        + (", ".join(n for n, d in earlier.items() if not d.members) or "none")
                    )
                    return None
            return (
                Detector(name, None, tuple(ensemble.members), earlier[ensemble.members[0]].extractor, paper)
                if ensemble
                else None
            )
        extractor = self._choice(options.pop("extractor", None), {e: e for e in extractors}, f"{path}.extractor")
        choices: dict[str, Any] = {**METHODS, Ensemble.name: Ensemble}
        method_type = self._choice(method, choices, f"{path}.method")
        configured = self._model(method_type, options, path) if method_type else None
        return Detector(name, configured, (), extractor, paper) if configured and extractor else None

    def _model(self, model: type[ModelT], section: object, path: str) -> ModelT | None:
        values = self._mapping({} if section is None else section, path)
        try:
            return model.model_validate(values)
        except ValidationError as error:
            for fault in error.errors():
                place = ".".join([path, *map(str, fault["loc"])])
                if fault["type"] == "extra_forbidden":
                    self._unknown(str(fault["loc"][-1]), model.model_fields, place)
                elif fault["type"] == "missing":
                    self.faults.append(f"{place}: is required")
                else:
                    message = fault["msg"].removeprefix("Value error, ")
                    self.faults.append(f"{place}: {message} (got {fault['input']!r})")
            return None

    def _mapping(self, section: object, path: str) -> dict[str, Any]:
        if isinstance(section, Mapping):
            return dict(section)
        self.faults.append(f"{path}: expected a mapping of keys to values (got {section!r})")
        return {}

    def _named(self, tree: dict[str, Any], section: str) -> Iterable[tuple[str, object]]:
        entries = self._mapping(tree.get(section) or {}, section)
        return [(name, value) for name, value in entries.items() if self._name(name, section)]

    def _name(self, name: object, path: str) -> bool:
        if isinstance(name, str) and re.match(NAME_PATTERN, name):
            return True
        self.faults.append(f"{path}.{name}: names are lower-case letters, digits and underscores")
        return False

    def _only(self, tree: Mapping[str, Any], allowed: Iterable[str], path: str) -> None:
        for key in tree:
            if key not in allowed:
                self._unknown(str(key), allowed, f"{path}{key}")

    def _choice(self, value: object, choices: Mapping[str, Any], path: str) -> Any:
        if isinstance(value, str) and value in choices:
            return choices[value]
        problem = "is required" if value is None else f"unknown value {value!r}"
        self.faults.append(f"{path}: {problem}; choose from: {', '.join(choices) or 'none defined'}")
        return None

    def _unknown(self, key: str, allowed: Iterable[str], place: str) -> None:
        close = difflib.get_close_matches(key, list(allowed), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        self.faults.append(f"{place}: unknown key; {hint}allowed: {', '.join(sorted(allowed))}")
