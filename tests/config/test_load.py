"""The benchmark file: what is accepted, what is refused and how it says so, what enters a fingerprint."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from ad_assets.config.benchmark import fingerprint
from ad_assets.config.load import ConfigError, find_file, load_config, suited
from ad_assets.config.spelling import WrittenFloat, WrittenInt
from ad_assets.defs.build import build_definitions
from tests.support.bench_graph import config_tree, write_dataset
from tests.support.shipped import NAMES, shipped


def load(tree: dict[str, Any], folder: Path, *overrides: str, **environ: str) -> Any:
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_config(path, overrides, environ)


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    write_dataset(tmp_path / "images", ["bolt"])
    return config_tree(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_file_loads(name: str) -> None:
    benchmark = shipped(name)
    assert all(dataset.detectors for dataset in benchmark.datasets.values())


@pytest.mark.parametrize("name", NAMES)
def test_no_number_of_a_loaded_file_remembers_how_it_was_written(name: str) -> None:
    def values(thing: object, place: str) -> Iterator[tuple[str, object]]:
        yield place, thing
        if is_dataclass(thing):
            parts: Any = {field.name: getattr(thing, field.name) for field in fields(thing)}
        elif isinstance(thing, BaseModel):
            parts = dict(thing)
        else:
            parts = (
                thing
                if isinstance(thing, Mapping)
                else dict(enumerate(thing))
                if isinstance(thing, tuple | list)
                else {}
            )
        for key, part in parts.items():
            yield f"{place} key {key}", key
            yield from values(part, f"{place}.{key}")

    found = list(values(shipped(name), name))
    assert len(found) > 50
    assert not [place for place, value in found if isinstance(value, WrittenInt | WrittenFloat)]


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
        ("datasets.parts.detectors.small.layers=[3]", r"small.layers: the extractor has 2 taps \(got \[3\]\)"),
        ("datasets.parts.detectors.small.layers=[2,1]", "small.layers: .*shallow to deep"),
        ("datasets.parts.detectors.small.preset=x", "small.preset: unknown value 'x'; choose from: none"),
        ("datasets.parts.detectors.small.categories.bolt.sigma=-1", "small.categories.bolt.sigma: .*greater"),
        ("datasets.parts.detectors.h={method: hetmm, extractor: lite0}", "h.windows: 3 values for 2 layers"),
        (
            "datasets.parts.detectors.h={method: hetmm, extractor: lite0, preset: mdt}",
            "h.preset: unknown value 'mdt'; choose from: mvtec_ad, mtd",
        ),
        ("datasets.parts.studies={a: {base: smal, vary: {sigma: [1]}}}", "studies.a.base: unknown value 'smal'"),
        ("datasets.parts.studies={a: {base: [small, smal], vary: {sigma: [1]}}}", "a.base: unknown value 'smal'"),
        ("datasets.parts.studies={a: {base: [small, small], vary: {sigma: [1]}}}", "a.base: .* without repetition"),
        ("datasets.parts.studies={a: {base: [], vary: {sigma: [1]}}}", "a.base: a detector above, or a list"),
        ("datasets.parts.studies={a: {base: small}}", "studies.a: give vary .* or variants"),
        ("datasets.parts.studies={a: {base: small, vary: {sigma: 1}}}", "studies.a.vary.sigma: a list of values"),
        ("datasets.parts.studies={a: {base: small, vary: {sigm: [1]}}}", "sigm=1.sigm: unknown key; did you mean"),
        ("datasets.parts.studies={a: {base: small, vary: {sigma: [1]}, draws: 0}}", "studies.a.draws: .*got 0"),
        ("datasets.parts.studies={a: {base: small, vary: {train_images: [0]}}}", "train_images is a number"),
        ("datasets.parts.decison={}", "parts.decison: unknown key; did you mean 'decision'"),
        ("datasets.parts.detectors.small.decision.false_alarm_rat=0.1", "decision.false_alarm_rat: unknown key; did"),
        ("datasets.parts.detectors.small.descision={}", "small.descision: unknown key; did you mean 'decision'"),
        ("datasets.parts.decision.false_alarm_rate=0", "parts.decision.false_alarm_rate: .*greater than 0"),
        ("datasets.parts.decision.false_alarm_rate=1", "parts.decision.false_alarm_rate: .*less than 1"),
        ("datasets.parts.decision.categories.bolt.rate=0.1", "bolt.rate: unknown key; .*allowed: false_alarm_rate"),
        ("datasets.parts.decision.categories={bolt (copy): {}}", "decision.categories: .*letters, digits"),
        ("datasets.parts.studies={a: {base: small, var: {}}}", "studies.a.var: unknown key; did you mean"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(
    tree: dict[str, Any], tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tree, tmp_path, override)


def test_a_class_token_is_no_layer_of_a_detector_that_does_not_read_it(tree: dict[str, Any], tmp_path: Path) -> None:
    taps = ["blocks.0", "blocks.1", "class_token"]
    tree["extractors"]["vit"] = {"backbone": "test_vit", "weights": "random(0)", "taps": taps, "resize": [64, 64]}
    tree["datasets"]["parts"]["detectors"] = {
        "rad": {"method": "rad", "extractor": "vit"},
        "bank": {"method": "patchcore", "extractor": "vit", "layers": [1, 2]},
    }
    detectors = load(tree, tmp_path).datasets["parts"].detectors
    assert (detectors["rad"].method.layers, detectors["bank"].method.layers) == (None, (1, 2))
    for layers in ("null", "[2, 3]"):
        wanted = r"\[1, 2\]" if layers == "null" else r"\[2\]"
        with pytest.raises(ConfigError, match=f"bank.layers: the last is the class token, .*; write layers: {wanted}"):
            load(tree, tmp_path, f"datasets.parts.detectors.bank.layers={layers}")


def test_all_faults_are_told_at_once(tree: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tree, tmp_path, "compute.batch_size=0", "extractors.lite0.taps=[x]", "store.rot=1")
    assert "3 fault(s)" in str(error.value)


def test_what_is_no_benchmark_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"shipped names: {', '.join(NAMES)}"):
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


def test_a_preset_gives_way_to_what_is_written_and_both_to_a_category(tree: dict[str, Any], tmp_path: Path) -> None:
    lane = {"method": "hetmm", "extractor": "lite0", "preset": "mtd", "sheets": 4, "alpha": 0.7}
    tree["datasets"]["parts"]["detectors"]["h"] = lane | {"categories": {"bolt": {"windows": [5, 1]}}}
    detector = load(tree, tmp_path).datasets["parts"].detectors["h"]
    nut, bolt = detector.method_for("nut"), detector.method_for("bolt")
    assert (nut.windows, nut.alpha, nut.sheets) == ((3, 3), 0.7, 4)
    assert (bolt.windows, bolt.alpha, bolt.sheets) == ((5, 1), 0.7, 4)
    # Windows are read when images are scored: what is learnt is the same for all categories.
    assert detector.stage_configs("fit")[1] == {}
    assert set(detector.stage_configs("score")[1]) == {"bolt"}
    with pytest.raises(ValueError, match="no category washer; choose from: bolt"):
        build_definitions(load(tree, tmp_path, "datasets.parts.detectors.h.categories.washer.alpha=0.5"))


def test_variants_of_a_study_differ_from_its_base_in_what_they_name(tree: dict[str, Any], tmp_path: Path) -> None:
    parts = tree["datasets"]["parts"]
    parts["detectors"]["small"]["categories"] = {"bolt": {"sigma": 2.0, "neighbours": 3}}
    parts["studies"] = {
        "blur": {"base": "small", "vary": {"sigma": [0, 8.0], "train_images": [1, 2]}, "draws": 3},
        "named": {"base": "full", "variants": {"as it is": {}, "others": {"seed": 5}}},
    }
    studies = load(tree, tmp_path).datasets["parts"].studies
    blur = studies["blur"]
    assert [v.name for v in blur.variants] == [f"sigma={s}, train_images={t}" for s in (0, 8.0) for t in (1, 2)]
    assert [v.train_images for v in blur.variants] == [1, 2, 1, 2]
    last = blur.variants[-1].detector
    # What a study varies wins over a category's own value; all else is the category's.
    assert (last.method_for("bolt").sigma, last.method_for("bolt").neighbours) == (8.0, 3)
    assert (last.method_for("nut").sigma, last.method_for("nut").neighbours) == (8.0, 1)
    assert [v.detector.method_for("nut").seed for v in studies["named"].variants] == [0, 5]


def test_overrides_go_to_the_files_that_have_what_they_name() -> None:
    overrides = [
        "datasets.mtd.root=/a",
        "datasets.parts.root=/b",
        "extractors.wrn50.resize=1",
        "extractors.lite0.resize=1",
    ]
    variables = {"AD_ASSETS__DATASETS__PARTS__ROOT": "/b", "AD_ASSETS__STORE__ROOT": "s", "HOME": "h"}
    found, environ = suited("mtd_papers", [*overrides, "store.root=x"], variables)
    assert found == [overrides[0], overrides[2], "store.root=x"]
    assert environ == {"AD_ASSETS__STORE__ROOT": "s", "HOME": "h"}


def test_a_fingerprint_follows_values_and_nothing_else() -> None:
    assert fingerprint({"a": 1, "b": [1.5, None]}) == fingerprint({"b": (1.5, None), "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({"a": "1"}) != fingerprint({"a": 1})
    with pytest.raises(TypeError):
        fingerprint({"a": object()})
    with pytest.raises(ValueError, match="JSON"):
        fingerprint(float("nan"))
