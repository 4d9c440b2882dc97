"""What a changed setting rebuilds, found by changing it: addresses of a whole small graph before and after.

Nothing here is a list of settings. A setting of a method or a reader is asked of what these say their stages read
(`Method.stage_config`, `Reader.index_config`); any other is changed in a benchmark file that has every kind of stage.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel

from ad_assets.config.faults import ConfigError
from ad_assets.config.parse import SectionParser
from ad_assets.config.sections import NAME, Setting
from ad_assets.datasets import READERS
from ad_assets.graph.lanes import dataset_stages
from ad_assets.graph.stage import Stage
from ad_assets.graph.stages.comparison import comparison_stage
from ad_assets.methods import METHODS
from ad_assets.methods.base import Stage as MethodStage

CATEGORY = "bolt"
TRIED = 12  # other values of a setting, at most
# What `<name>` stands for in the file that is changed.
NAMES = {
    "extractors": ("lite0",),
    "datasets": ("parts", "published", "mix"),
    "detectors": ("small", "both", "one"),
    "studies": ("seeds",),
    "comparisons": ("all",),
    "categories": (CATEGORY,),
}
_REQUIRED: Mapping[str, Mapping[str, Any]] = {"tiles": {"size": 64, "overlap": 0}}  # in sections that it does not have
# Values that name other sections of the file.
_NAMED: Mapping[str, Sequence[Any]] = {
    "extractor": ("wide",),
    "of": ("other", "twin"),  # of a blind dataset, of a joint detector
    "gatekeeper": ("small",),
    "members": (["small", "trained"],),
    "base": ("trained",),
    "datasets": (["published"],),
}
_ABSENT = object()
_Model = TypeVar("_Model", bound=BaseModel)
_BESIDE: Mapping[str, Mapping[str, Any]] = {"variants": {"vary": _ABSENT}}

# Name of a stage -> its kind, the fingerprint of what it reads of the file, what it depends on.
Nodes = Mapping[str, tuple[str, str, tuple[str, ...]]]


@cache
def rebuilt_by(setting: Setting) -> tuple[str, ...] | None:
    """The kinds of assets that a changed value rebuilds first; all that follows from them is rebuilt too.

    None: its value holds other settings, and rebuilds what these do.

    Args:
        setting: one of `all_settings`.

    Raises:
        ValueError: it is of neither method nor reader, and no other value of it is known.
    """
    if setting.name in ("preset", "categories"):
        return None
    if setting.kind in READERS and setting.kind != "blind":  # which has no options without the dataset above
        return ("image_index",) if _index_reads(setting) else ()
    if "stage" in setting.schema:
        return _stages_that_read(setting)
    return _changed_in_a_file(setting)


def _index_reads(setting: Setting) -> bool:
    """Whether a reader's index is addressed by one of its options, beside some others."""
    reader = READERS[setting.kind]
    plain = reader.model_construct(root="x")
    # An option may count beside another alone, such as how a split is drawn.
    ways = [
        {name: value}
        for name, field in reader.model_json_schema()["properties"].items()
        for value in field.get("enum", ())
        if name != setting.name
    ]
    return any(
        other.index_config() != base.index_config()
        for beside in [{}, *ways]
        for base in [plain.model_copy(update=beside)]
        for other in _copies(base, setting)
    )


def _stages_that_read(setting: Setting) -> tuple[str, ...]:
    """The first kind of asset that reads a parameter of a method; of one that all have, those of all methods."""
    kinds: dict[str, None] = {}
    for method in [METHODS[setting.kind]] if setting.kind else METHODS.values():
        plain = method()
        by_stage: dict[MethodStage, str] = {"fit": plain.state_asset, "match": "neighbours", "score": "score_maps"}
        for other in _copies(plain, setting) if setting.name in method.model_fields else ():
            read = [kind for stage, kind in by_stage.items() if other.stage_config(stage) != plain.stage_config(stage)]
            kinds |= dict.fromkeys(read[:1])
    return tuple(kinds)


def _copies(model: _Model, setting: Setting) -> Iterator[_Model]:
    """A method or reader with other values. They are not validated: some are allowed beside others only."""
    for value in _others(setting.schema, getattr(model, setting.name)):
        yield model.model_copy(update={setting.name: tuple(value) if isinstance(value, list) else value})


def _changed_in_a_file(setting: Setting) -> tuple[str, ...]:
    """As `rebuilt_by`, for a setting that is changed in a file.

    Raises:
        ValueError: no other value is known that is allowed.
    """
    for exported in (True, False):  # what is exported admits fewer values
        found = [
            (before, after)
            for place in _places(setting.section)
            for before, after in _variants(_file(exported=exported), place, setting)
            if after is not None
        ]
        if found:
            return tuple(dict.fromkeys(kind for before, after in found for kind in _first(before, after)))
    raise ValueError(f"{setting.path}: give its field an example (`examples`) of a value other than its default")


def _variants(tree: dict[str, Any], place: list[str], setting: Setting) -> Iterator[tuple[Nodes, Nodes | None]]:
    """The graph before and after the setting has another value, for some such values."""
    single = "const" in setting.schema  # then what counts is whether its section is there
    without = _nodes(tree) if single else None
    section = _section(tree, place)
    before = without if single else _nodes(tree)
    if before is None or (setting.kind and setting.kind not in (section.get("reader"), section.get("method"))):
        return
    was = dict(section)
    for value in _others(setting.schema, was.get(setting.name, setting.schema.get("default")), setting.name):
        section.clear()
        own = {**was, **_BESIDE.get(setting.name, {}), setting.name: value}
        section |= {name: each for name, each in own.items() if each is not _ABSENT}
        yield before, _nodes(tree)


def _places(section: str) -> list[list[str]]:
    """The keys that lead to a section in the file, for each that is of its kind."""
    places: list[list[str]] = [[]]
    for key in section.split(".") if section else []:
        places = [[*place, name] for place in places for name in (NAMES[place[-1]] if key == NAME else (key,))]
    return places


def _section(tree: dict[str, Any], place: list[str]) -> dict[str, Any]:
    for key in place:
        tree = tree.setdefault(key, dict(_REQUIRED.get(key, {})))
    return tree


def _others(schema: Mapping[str, Any], now: Any, name: str = "") -> Iterator[Any]:
    """Values that a schema admits, the present one apart; some may be refused for other reasons."""
    admitted = [*_NAMED.get(name, ()), *_admitted(schema)]
    return islice((value for value in admitted if value != now or type(value) is not type(now)), TRIED)


def _admitted(schema: Mapping[str, Any]) -> Iterator[Any]:
    yield from schema.get("examples", ())
    for each in schema.get("anyOf", ()):
        yield from _admitted(each)
    kind = schema.get("type")
    if "enum" in schema:
        yield from schema["enum"]
    elif kind == "boolean":
        yield from (True, False)
    elif kind in ("integer", "number"):
        yield from (16, 7, 12, 1, 0) if kind == "integer" else (0.5, 0.25, 0.05, 7.0)
    elif kind == "array":
        inner = schema.get("prefixItems", [schema.get("items", {})])
        yield from ([value] * schema.get("minItems", 1) for value in _admitted(inner[0]))
    elif kind in ("null", "string"):
        yield schema.get("const", None if kind == "null" else "other")


def _first(before: Nodes, after: Nodes) -> Iterator[str]:
    """The kinds of the stages that differ, but for those that follow from others that do."""
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    nodes = {**before, **after}

    @cache
    def follows(name: str) -> bool:
        return any(dep in changed or follows(dep) for dep in nodes[name][2])

    return (nodes[name][0] for name in nodes if name in changed and not follows(name))


def _nodes(tree: dict[str, Any]) -> Nodes | None:
    """Name of each stage -> what its address is made of, upstream first; None: the file is refused."""
    stages: list[Stage] = []
    try:
        benchmark = SectionParser("rebuilds").benchmark(copy.deepcopy(tree))
        for dataset in benchmark.datasets.values():
            stages += dataset_stages(benchmark, dataset, (CATEGORY,), None)
    except (ConfigError, ValueError):
        return None
    boards = {stage.key[0]: stage for stage in stages if stage.kind == "leaderboard"}
    stages += [comparison_stage(each, boards) for each in benchmark.comparisons.values()]
    return {stage.name: (stage.kind, stage.code_version, tuple(dep.name for dep in stage.deps)) for stage in stages}


def _file(*, exported: bool) -> dict[str, Any]:
    """A benchmark file with every kind of stage, that of bundles if a detector is to be exported."""
    extractor = {
        "backbone": "tf_efficientnet_lite0",
        "weights": "bundled",
        "taps": ["blocks.1", "blocks.2", "blocks.4"],
    }
    small = {"method": "patchcore", "extractor": "lite0"}
    lanes = {
        "small": small,
        "twin": {**small, "seed": 1},
        "one": {"method": "joint", "of": "small"},
        "sheets": {"method": "hetmm", "extractor": "lite0"},
        "trained": {"method": "simplenet", "extractor": "lite0", "epochs": 2, "oracle_every": 1},
        "both": {"method": "ensemble", "members": ["small", "sheets"]},
    }
    if exported:
        lanes["exported"] = {"method": "patchcore", "extractor": "wide", "export": {"runtime": "onnx"}}
    studies = {"seeds": {"base": "small", "vary": {"seed": [0, 1, 2]}}}
    line = {"reader": "folder", "root": "images", "production": {}, "detectors": lanes, "studies": studies}
    return {
        "extractors": {name: {**extractor, "resize": [64, side]} for name, side in (("lite0", 64), ("wide", 128))},
        "datasets": {
            "parts": line,
            "published": {"reader": "mvtec_ad", "root": "images", "detectors": {"small": dict(small)}},
            "other": {"reader": "btad", "root": "images"},
            "mix": {"reader": "blind", "of": "published", "detectors": {"small": dict(small)}},
        },
        "comparisons": {"all": {"datasets": ["parts", "published"]}},
    }
