"""Every setting of the benchmark file, flipped: what it can change gets another address, and nothing else does."""

import copy
import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import (
    Automation,
    Benchmark,
    Dataset,
    Detector,
    Evaluation,
    Production,
    ReportStyle,
    Study,
    Variant,
)
from ad_assets.config.faults import ConfigError
from ad_assets.config.parse import SectionParser
from ad_assets.datasets import READERS
from ad_assets.datasets.readers.folder import FolderReader
from ad_assets.graph import stages as graph_stages
from ad_assets.graph.lanes import stages_of
from ad_assets.graph.stage import Stage, StageSettings
from ad_assets.methods import METHODS, Method
from ad_assets.settings.compute import Compute
from ad_assets.settings.extract import Extract
from ad_assets.store.store import ArtifactStore
from tests.support.bench_graph import config_tree, draw_image, write_image

# Each that is allowed for a key is tried.
VALUES: list[Any] = [
    *(True, False, 0, 1, 7, 0.5, 0.05, 12, "12", [1], [0.1], ["blocks.1", "blocks.3"], [128, 128], 48, [0.4, 0.4, 0.4]),
    *("random(1)", "tf_efficientnet_lite1", "bicubic", "bfloat16", "original", "nearest", "any_pixel", "red", "skip"),
    *(
        "small",
        "folder",
        {"image_auroc": 0.5},
        "elsewhere",
        "eager",
        "5 5 * * *",
        "Europe/Berlin",
        "auto",
        {"auto_mkdir": True},
        {"size": 32, "overlap": 0},
        "float16",
        "openvino",
        "ray",
    ),
]
# What each key changes by itself: kinds of assets. A key that is named in neither table fails.
EXTRACTOR = {key: {"features"} for key in Extractor.model_fields} | {
    "resize": {"features", "score_maps", "metrics"},
    "crop": {"features", "score_maps", "metrics"},
    "tiles": {"features", "score_maps", "metrics"},
}
EVALUATION = {
    "fpr_limits": {"metrics"},
    "nominal_false_positive_rate": {"metrics"},
    "resolution": {"metrics"},
    "calibration_images": {"score_maps"},
}
PRODUCTION = {"floors": {"champion"}, "margin": {"champion"}, "held_out": {"image_index"}}
READER: dict[str, set[str]] = {key: {"image_index"} for key in FolderReader.model_fields} | {"root": set()}
# These decide when something is done, how fast, and where it lies; or which images get into an index, whose own
# address is what it holds.
NOWHERE = {
    *(f"store.{key}" for key in ArtifactStore.model_fields),
    *(f"compute.{key}" for key in ("device", "batch_size", "memory_gb", "device_memory_gb")),
    *(f"compute.{key}" for key in ("checkpoint_steps", "threads")),
    *(f"extract.{key}" for key in Extract.model_fields),
    *(f"automation.{key}" for key in Automation.model_fields),
    *(f"production.{key}" for key in Production.model_fields if key not in PRODUCTION),
}


def keys() -> Iterator[tuple[str, str]]:
    sections: list[tuple[str, type[BaseModel]]] = [
        ("store", ArtifactStore),
        ("compute", Compute),
        ("extract", Extract),
        ("evaluation", Evaluation),
        ("report", ReportStyle),
        ("automation", Automation),
        ("extractor", Extractor),
        ("production", Production),
        ("reader", FolderReader),
    ]
    for section, model in sections:
        yield from ((section, key) for key in model.model_fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("addresses")
    for images in ("images", "copy"):
        for place in ("train/good", "test/good"):
            write_image(root / images / "bolt" / place / "0.png", draw_image(0))
    (root / "images.csv").write_text("image_path,split,label,category\nbolt/train/good/0.png,train,good,bolt\n")
    return root


def start(folder: Path, detector: dict[str, Any], *, production: bool = False) -> dict[str, Any]:
    tree = config_tree(folder)
    parts = tree["datasets"]["parts"]
    parts["detectors"] = {"small": {"extractor": "lite0", **detector}}
    if production:
        parts["production"] = {}
    return tree


def addresses(tree: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Asset -> its kind, and the fingerprint of what it reads of the benchmark file."""
    stages = stages_of(SectionParser("test").benchmark(copy.deepcopy(tree)))
    return {stage.name: (stage.kind, stage.code_version) for stage in stages}


def flipped(
    folder: Path, tree: dict[str, Any], section: dict[str, Any], key: str
) -> Iterator[dict[str, tuple[str, str]]]:
    """The addresses under each other value that is allowed."""
    allowed = False
    before = section.get(key)
    for value in [*VALUES, str(folder / "copy"), str(folder / "images.csv")]:
        if value == before and type(value) is type(before):
            continue
        section[key] = value
        try:
            found = addresses(tree)
        except (ConfigError, ValueError, ValidationError, OSError):
            continue
        allowed = True
        yield found
    assert allowed, f"none of VALUES is allowed for {key}: add one"


def changed(before: dict[str, tuple[str, str]], after: dict[str, tuple[str, str]]) -> set[str]:
    return {kind for name, (kind, address) in after.items() if before.get(name) != (kind, address)}


@pytest.mark.parametrize(("section", "key"), list(keys()))
def test_a_setting_changes_the_addresses_of_what_reads_it(folder: Path, section: str, key: str) -> None:
    tree = start(folder, {"method": "patchcore"}, production=section == "production")
    parts = tree["datasets"]["parts"]
    parts |= {"roi": "roi.png"} if key == "roi_margin" else {}  # which it needs
    before = addresses(tree)
    places = {"extractor": tree["extractors"]["lite0"], "production": parts.get("production"), "reader": parts}
    own = places[section] if section in places else tree.setdefault(section, {})
    tables: dict[str, dict[str, set[str]]] = {
        "extractor": EXTRACTOR,
        "evaluation": EVALUATION,
        "production": PRODUCTION,
        "reader": READER,
        "report": {name: {"category_report"} for name in ReportStyle.model_fields},
        "compute": {"precision": {"features"}, "engine": {"features"}},
    }
    expected = set() if f"{section}.{key}" in NOWHERE else tables[section][key]
    touched = set().union(*(changed(before, after) for after in flipped(folder, tree, own, key)))
    assert touched == expected


def whole(folder: Path) -> dict[str, Any]:
    """A benchmark file with every kind of stage."""
    tree = start(folder, {"method": "patchcore", "pooling": "concat"}, production=True)
    parts = tree["datasets"]["parts"]
    parts["detectors"] |= {
        "sheets": {"method": "hetmm", "extractor": "lite0", "windows": [3, 3], "categories": {"bolt": {"sheets": 3}}},
        "small": {**parts["detectors"]["small"], "export": {"runtime": "onnx"}},
        "trained": {"method": "simplenet", "extractor": "lite0", "epochs": 2, "oracle_every": 1},
        "both": {"method": "ensemble", "members": ["small", "sheets"]},
        "one": {"method": "joint", "of": "small"},
    }
    parts["studies"] = {
        "seeds": {"base": "small", "vary": {"coreset_ratio": [0.1, 0.5]}},
        "shots": {"base": "small", "vary": {"train_images": [1]}},
    }
    tree["comparisons"] = {"all": {"datasets": ["parts"]}}
    return tree


class NoGate:
    """Judges nothing: an index has its checks where there is a gate."""

    def filter(self, *_: Any) -> Any: ...


def reached(value: Any, seen: set[int]) -> Iterator[Any]:
    """All objects that a function can reach by its closure, its defaults and what it is bound to."""
    if id(value) in seen or isinstance(value, Stage):
        return
    seen.add(id(value))
    yield value
    inner: list[Any] = []
    if isinstance(value, partial):
        inner = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        inner = list(value)
    elif inspect.isfunction(value):
        inner = [cell.cell_contents for cell in value.__closure__ or ()] + list(value.__defaults__ or ())
    for each in inner:
        yield from reached(each, seen)


def test_no_setting_reaches_a_build_but_by_the_settings_of_its_stage(folder: Path) -> None:
    stages = stages_of(SectionParser("test").benchmark(whole(folder)), gate=lambda *_: NoGate())
    assert len({stage.kind for stage in stages}) == 18
    # What opens images and says in which frame they are is handed over; its options are part of addresses upstream.
    sections = (Benchmark, Dataset, Detector, Study, Variant, Evaluation, ReportStyle, Production, Automation)
    sections += (Compute, Extract)
    for stage in stages:
        for function in (stage.build, stage.address, stage.answer_checks, stage.must_rebuild):
            found = [each for each in reached(function, set()) if isinstance(each, (*sections, Method, StageSettings))]
            assert not found, f"{stage.name} reads a {type(found[0]).__name__} past its settings"


MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.iter_modules(graph_stages.__path__, f"{graph_stages.__name__}.")
]


NO_STAGES = {"near_copies"}  # whose version is part of what they keep beside the stages: see their own tests


@pytest.mark.parametrize(
    "loaded",
    [each for each in MODULES if hasattr(each, "VERSION") and each.__name__.rpartition(".")[2] not in NO_STAGES],
)
def test_the_version_of_a_stage_is_part_of_its_addresses(
    folder: Path, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = addresses(whole(folder))
    own = {stage.kind for stage in loaded_stages(folder, loaded.__name__)}
    assert own
    monkeypatch.setattr(loaded, "VERSION", loaded.VERSION + 1)
    after = addresses(whole(folder))
    ensembles = {name for name in before if name.split("/")[1:] == ["both", "score_maps"]}
    assert {name for name in before if before[name] != after[name]} == {
        name for name, (kind, _) in before.items() if kind in own and name not in ensembles
    }


def loaded_stages(folder: Path, module: str) -> list[Stage]:
    """The stages whose build a module defines."""
    stages = stages_of(SectionParser("test").benchmark(whole(folder)))
    return [stage for stage in stages if (stage.build or stage.scan).__module__ == module]  # type: ignore[union-attr]


METHOD_KEYS = [(name, key) for name, method in sorted(METHODS.items()) for key in method.model_fields]
# How many neighbours a bank's table keeps may follow from them.
KEPT = {"neighbours", "coreset_ratio", "kept_neighbours"}


@pytest.mark.parametrize(("method", "key"), METHOD_KEYS)
def test_a_parameter_changes_the_address_of_the_stage_that_reads_it(method: str, key: str) -> None:
    extra = METHODS[method].model_fields[key].json_schema_extra
    assert isinstance(extra, dict)
    plain = METHODS[method]()
    # Not validated: some values are allowed beside others only, and what is asked is where they are written down.
    other = plain.model_copy(update={key: 7 if getattr(plain, key) != 7 else 8})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pydantic tells that 7 is no text
        changed = {
            stage for stage in ("fit", "match", "score") if other.stage_config(stage) != plain.stage_config(stage)
        }
    assert extra["stage"] in changed
    assert changed <= {extra["stage"], *(["match"] if key in KEPT else [])}


@pytest.mark.parametrize("name", sorted(READERS.keys() - {"blind"}))
def test_an_index_is_addressed_by_every_option_of_its_reader_but_where_it_lies(name: str) -> None:
    unread = {
        "root",
        "source",
        *(["manifest", "roi", "roi_margin", "groups"] if name == "folder" else []),
    }  # unset: as before
    for options in [{"split": "random"}, {"split": "exposure"}] if name == "mtd" else [{}]:
        reader = READERS[name](root="x", **options)
        config = reader.index_config()
        other = {"random": {"test_exposures"}, "exposure": {"train_fraction", "seed"}}.get(options.get("split", ""), ())
        missing = reader.model_dump(mode="json").keys() - config.keys()
        assert missing == {*(unread & type(reader).model_fields.keys()), *other}
        assert all(config[key] == value for key, value in reader.model_dump(mode="json").items() if key not in missing)
