"""The benchmark file: what is accepted, what is refused and how it says so, what enters a fingerprint."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ad_assets.benchmark import fingerprint
from ad_assets.config import CONFIGS, ConfigError, find_file, load_config
from tests.bench_graph import config_tree, write_dataset


def load(tree: dict[str, Any], folder: Path, *overrides: str, **environ: str) -> Any:
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_config(path, overrides, environ)


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    write_dataset(tmp_path / "images", ["bolt"])
    return config_tree(tmp_path)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_shipped_file_loads(name: str) -> None:
    benchmark = load_config(name, environ={})
    assert all(dataset.detectors for dataset in benchmark.datasets.values())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "datasets.parts.detectors.small.coreset_ratio=2",
            "datasets.parts.detectors.small.coreset_ratio: .*1.*got 2",
        ),
        ("datasets.parts.detectors.small.coreset_ratio=0", "coreset_ratio: .*greater than 0"),
        ("datasets.parts.detectors.small.coreset_ration=0.1", "unknown key; did you mean 'coreset_ratio'"),
        (
            "datasets.parts.detectors.small.method=patchcor",
            "method: unknown value 'patchcor'; choose from: .*patchcore",
        ),
        (
            "datasets.parts.detectors.small.extractor=b6",
            "small.extractor: unknown value 'b6'; choose from: lite0",
        ),
        (
            "datasets.parts.detectors.small.paper=Nobody",
            "small.paper: unknown value 'Nobody'; choose from: .*PatchCore-10",
        ),
        ("extractors.lite0.taps=[blocks.9]", "extractors.lite0.*blocks.9.*blocks.2"),
        ("extractors.lite0.backbone=[1]", "extractors.lite0.backbone"),
        ("extractors.lite0.crop=128", "extractors.lite0.*crop"),
        ("datasets.parts.reader=vidi", "datasets.parts.reader: unknown value 'vidi'; choose from: .*folder"),
        ("datasets.parts.roots=x", "datasets.parts.roots: unknown key; did you mean 'root'"),
        ("compute.batch_size=none", "compute.batch_size: .*integer"),
        ("compute.precison=float32", "compute.precison: unknown key; did you mean 'precision'"),
        ("evaluation.fpr_limits=[1.5]", "evaluation.fpr_limits.*1"),
        ("dataset.parts=x", "dataset: unknown key; did you mean 'datasets'"),
        ("datasets.Parts={reader: demo}", "datasets.Parts: names are lower-case"),
        ("datasets.parts.detectors.report={method: patchcore, extractor: lite0}", "the name is an asset's"),
        ("datasets=3", "datasets: expected a mapping"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(
    tree: dict[str, Any], tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tree, tmp_path, override)


def test_all_faults_are_told_at_once(tree: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tree, tmp_path, "compute.batch_size=0", "extractors.lite0.taps=[x]", "store.rot=1")
    assert "3 fault(s)" in str(error.value)


def test_what_is_no_benchmark_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shipped names: demo, mtd, mvtec_ad"):
        find_file("nowhere")
    for text, message in [
        ("a: [", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("a: 1\na: 2", "duplicate key 'a'"),
    ]:
        path = tmp_path / "x.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_config(path, environ={})
    with pytest.raises(ConfigError, match=r"dotted\.key=value"):
        load_config("demo", ["compute"], {})


def test_the_command_line_overrides_the_environment_and_that_the_file(tree: dict[str, Any], tmp_path: Path) -> None:
    environ = {"AD_ASSETS__COMPUTE__BATCH_SIZE": "7", "AD_ASSETS__COMPUTE__MEMORY_GB": "2.5"}
    benchmark = load(tree, tmp_path, "compute.batch_size=9", **environ)
    assert (benchmark.compute.batch_size, benchmark.compute.memory_gb) == (9, 2.5)
    benchmark = load_config(None, environ={"AD_ASSETS_CONFIG": str(tmp_path / "bench.yaml")})
    assert benchmark.source == str(tmp_path / "bench.yaml")
    assert load_config(None, environ={}).source.endswith("demo.yaml")


def test_an_ensemble_names_lanes_above_it_in_one_frame(tree: dict[str, Any], tmp_path: Path) -> None:
    lanes = tree["datasets"]["parts"]["detectors"]
    lanes["both"] = {"method": "ensemble", "members": ["small", "full"]}
    assert load(tree, tmp_path).datasets["parts"].detectors["both"].members == ("small", "full")
    with pytest.raises(ConfigError, match="'huge' is not a detector above this one; choose from: small, full"):
        load(tree, tmp_path, "datasets.parts.detectors.both.members=[small, huge]")
    tree["extractors"]["other"] = {**tree["extractors"]["lite0"], "resize": [96, 96]}
    lanes["full"]["extractor"] = "other"
    with pytest.raises(ConfigError, match="resize and crop differently"):
        load(tree, tmp_path)


def test_a_fingerprint_follows_values_and_nothing_else() -> None:
    assert fingerprint({"a": 1, "b": [1.5, None]}) == fingerprint({"b": (1.5, None), "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({"a": "1"}) != fingerprint({"a": 1})
    with pytest.raises(TypeError):
        fingerprint({"a": object()})
    with pytest.raises(ValueError, match="JSON"):
        fingerprint(float("nan"))
