"""Every setting of the benchmark file, flipped: what it can change gets another address, and nothing else does."""

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Automation, Evaluation, Production, ReportStyle
from ad_assets.config.faults import ConfigError
from ad_assets.config.parse import SectionParser
from ad_assets.datasets import READERS
from ad_assets.datasets.readers.folder import FolderReader
from ad_assets.graph.lanes import stages_of
from ad_assets.methods import METHODS
from ad_assets.settings.compute import Compute
from ad_assets.store.store import ArtifactStore
from tests.support.bench_graph import config_tree, draw_image, write_image

# Each that is allowed for a key is tried.
VALUES: list[Any] = [
    *(True, False, 0, 1, 7, 0.5, 0.05, 12, "12", [1], [0.1], ["blocks.1", "blocks.3"], [128, 128], 48, [0.4, 0.4, 0.4]),
    *("random(1)", "tf_efficientnet_lite1", "bicubic", "bfloat16", "original", "nearest", "any_pixel", "red", "skip"),
    *("small", {"image_auroc": 0.5}, "elsewhere", "eager", "5 5 * * *", "Europe/Berlin", "auto", {"auto_mkdir": True}),
]
# What each key changes by itself: kinds of assets. A key that is named in neither table fails.
EXTRACTOR = {key: {"features"} for key in Extractor.model_fields} | {
    "resize": {"features", "score_maps", "metrics"},
    "crop": {"features", "score_maps", "metrics"},
}
EVALUATION = {
    "fpr_limits": {"metrics"},
    "nominal_false_positive_rate": {"metrics"},
    "resolution": {"metrics"},
    "calibration_images": {"score_maps"},
}
PRODUCTION = {"floors": {"champion"}, "margin": {"champion"}}
READER: dict[str, set[str]] = {key: {"image_index"} for key in FolderReader.model_fields} | {"root": set()}
# These decide when something is done, how fast, and where it lies; or which images get into an index, whose own
# address is what it holds.
NOWHERE = {
    *(f"store.{key}" for key in ArtifactStore.model_fields),
    *(f"compute.{key}" for key in ("device", "batch_size", "memory_gb", "checkpoint_steps", "threads")),
    *(f"automation.{key}" for key in Automation.model_fields),
    *(f"production.{key}" for key in ("settle_seconds", "patience_seconds", "gatekeeper", "suspicious_rate")),
}


def keys() -> Iterator[tuple[str, str]]:
    sections: list[tuple[str, type[BaseModel]]] = [
        ("store", ArtifactStore),
        ("compute", Compute),
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
    before = addresses(tree)
    parts = tree["datasets"]["parts"]
    places = {"extractor": tree["extractors"]["lite0"], "production": parts.get("production"), "reader": parts}
    own = places[section] if section in places else tree.setdefault(section, {})
    tables: dict[str, dict[str, set[str]]] = {
        "extractor": EXTRACTOR,
        "evaluation": EVALUATION,
        "production": PRODUCTION,
        "reader": READER,
        "report": {name: {"report"} for name in ReportStyle.model_fields},
        "compute": {"precision": {"features"}},
    }
    expected = set() if f"{section}.{key}" in NOWHERE else tables[section][key]
    reached = set().union(*(changed(before, after) for after in flipped(folder, tree, own, key)))
    assert reached == expected


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
    unread = {"root", "source", *(["manifest"] if name == "folder" else [])}  # no manifest: as before there were any
    for options in [{"split": "random"}, {"split": "exposure"}] if name == "mtd" else [{}]:
        reader = READERS[name](root="x", **options)
        config = reader.index_config()
        other = {"random": {"test_exposures"}, "exposure": {"train_fraction", "seed"}}.get(options.get("split", ""), ())
        missing = reader.model_dump(mode="json").keys() - config.keys()
        assert missing == {*(unread & type(reader).model_fields.keys()), *other}
        assert all(config[key] == value for key, value in reader.model_dump(mode="json").items() if key not in missing)
