"""What a benchmark file cannot say: numbers that are none, names that are not seen, secrets; and names as written."""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from ad_assets.backbones.extractor import Extractor
from ad_assets.cli import main
from ad_assets.config.benchmark import Automation, Evaluation, Production, ReportStyle
from ad_assets.config.load import ConfigError, load_config
from ad_assets.datasets import READERS
from ad_assets.defs.build import build_definitions
from ad_assets.methods import METHODS
from ad_assets.settings.compute import Compute
from tests.support.bench_graph import config_tree, write_dataset

SECTIONS: list[type[BaseModel]] = [Compute, Evaluation, ReportStyle, Production, Automation, Extractor]
MODELS: list[type[BaseModel]] = [*SECTIONS, *METHODS.values(), *READERS.values()]
BOMB = "a: &a [1]\nb: &b [*a" + ", *a" * 999 + "]\nc: &c [*b" + ", *b" * 999 + "]\n"
SECRET = "hunter2"  # noqa: S105


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    write_dataset(tmp_path / "images", ["bolt"])
    return config_tree(tmp_path)


def load(tree: dict[str, Any], folder: Path, *overrides: str, **environ: str) -> Any:
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_config(path, overrides, environ)


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for each in get_args(annotation):
        if not isinstance(each, str | types.EllipsisType):
            yield from _types(each)


def _numeric(model: type[BaseModel]) -> list[str]:
    kinds = {name: list(_types(field.annotation)) for name, field in model.model_fields.items()}
    return [name for name, found in kinds.items() if (int in found or float in found) and bool not in found]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_no_number_of_any_section_may_be_true_or_no_number(model: type[BaseModel]) -> None:
    for field in _numeric(model):
        for value in (True, float("nan"), float("inf"), 10**30, 1e300):
            for written in (value, [value], [value, value], {"image_auroc": value}):
                with pytest.raises(ValidationError) as error:
                    model.model_validate({field: written})
                assert field in {fault["loc"][0] for fault in error.value.errors()}, (field, written)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compute.threads=1000000", "compute.threads: .*4096"),
        ("owners=vision", "owners: a list .*got 'vision'"),
        ("owners=[vision]", "owners: an e-mail address, or team:<name> .*got 'vision'"),
        ("datasets.parts.production={floors: {image_auroc: 90}}", "floors.image_auroc: .*less than or equal to 1"),
        ("datasets.parts.production={floors: {image_aurok: 1}}", "floors: unknown value 'image_aurok'; choose from"),
        ("datasets.parts.production=null", "production: is empty"),
        ("evaluation.fpr_limits=[0.3, 0.301]", "each is another"),
        ("evaluation.fpr_limits=[]", "fpr_limits: .*at least 1"),
        ("automation.nightly='* * * * * *'", "no cron time"),
        ("datasets.parts.studies={a: {base: small, vary: {sigma: [1]}, draws: true}}", "draws: .*got True"),
        ("datasets.parts.studies={a: {base: small, vary: {train_images: [true]}}}", "train_images is .*got True"),
        ("datasets.parts.studies={a: {base: small, vary: {contamination: [.nan]}}}", "contamination is .*got nan"),
        ("datasets.parts.studies={a: {base: small, vary: {sigma: [1, 1]}}}", "two combinations have one name"),
    ],
)
def test_what_means_nothing_is_refused(tree: dict[str, Any], tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tree, tmp_path, override)


@pytest.mark.parametrize(
    "override",
    [
        'datasets={"parts\\n": {reader: demo}}',
        'extractors={"lite0\\n": {}}',
        'comparisons={"all\\n": {datasets: [parts]}}',
        'datasets.parts.category="bolt\\n"',
        'datasets.parts.detectors={"small\\n": {}}',
        'datasets.parts.detectors.small.categories={"bolt\\n": {sigma: 1}}',
        'datasets.parts.studies={a: {base: small, variants: {"x\\n": {}}}}',
        'extractors.lite0.backbone="tf_efficientnet_lite0\\n"',
        'extractors.lite0.taps=["blocks.2\\n"]',
        'extractors.lite0.weights="hub\\n"',
        'compute.device="cpu\\n"',
        'automation.timezone="UTC\\n"',
    ],
)
def test_no_name_ends_in_a_newline(tree: dict[str, Any], tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"\\n"):
        load(tree, tmp_path, override)


@pytest.mark.parametrize("name", ["01", "on", "no", "null", "1e3", "0x10", "1.50", "2024-01-01", "True"])
def test_a_category_is_named_as_it_is_written(tree: dict[str, Any], tmp_path: Path, name: str) -> None:
    lane = tree["datasets"]["parts"]["detectors"]["small"]
    lane["categories"] = {"placeholder": {"sigma": 1.5}}
    text = yaml.safe_dump(tree).replace("placeholder:", f"{name}:")
    path = tmp_path / "bench.yaml"
    path.write_text(text)
    if name == "1.50":
        with pytest.raises(ConfigError, match="categories are named by"):
            load_config(path, environ={})
        return
    detector = load_config(path, environ={}).datasets["parts"].detectors["small"]
    assert (detector.method_for(name).sigma, detector.method_for("bolt").sigma) == (1.5, 4.0)


def test_names_that_look_like_numbers_are_found_where_they_are_used(tmp_path: Path) -> None:
    extractor = "{backbone: tf_efficientnet_lite0, weights: bundled, taps: [blocks.2, blocks.4], resize: [64, 64]}"
    lane = "{method: patchcore, extractor: 01, pooling: concat}"
    path = tmp_path / "bench.yaml"
    path.write_text(
        f"extractors: {{01: {extractor}}}\n"
        f"datasets: {{02: {{reader: folder, root: 03, category: 04, detectors: {{on: {lane}, 05: {lane}, "
        "null_: {method: ensemble, members: [on, 05]}}}}\n"
        "comparisons: {all: {datasets: [02]}}\n"
    )
    benchmark = load_config(path, environ={})
    dataset = benchmark.datasets["02"]
    assert (dataset.reader.root, getattr(dataset.reader, "category", None)) == ("03", "04")
    assert dataset.detectors["null_"].members == ("on", "05")
    assert benchmark.comparisons["all"].datasets == ("02",)


@pytest.mark.parametrize("text", ["/x #2", "#2", "&x b", "!x y"])
def test_the_value_of_an_override_is_taken_whole(tree: dict[str, Any], tmp_path: Path, text: str) -> None:
    assert load(tree, tmp_path, f"datasets.parts.root={text}").datasets["parts"].reader.root == text
    assert load(tree, tmp_path, AD_ASSETS__DATASETS__PARTS__ROOT=text).datasets["parts"].reader.root == text


def test_an_unknown_category_is_refused_where_categories_are_known(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    tree["datasets"]["parts"]["detectors"]["small"]["categories"] = {"bottel": {"sigma": 1}}
    with pytest.raises(ValueError, match=r"small.categories: no category bottel; .*choose from: bolt"):
        build_definitions(load(tree, tmp_path))
    for command, status in (("materialize", 2), ("status", 2), ("doctor", 1)):
        assert main([command, "--config", str(tmp_path / "bench.yaml")]) == status
        out = capsys.readouterr()
        assert "no category bottel" in out.out + out.err, command


def test_an_unknown_category_of_a_watched_folder_is_told_and_stops_nothing(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    tree["datasets"]["parts"]["production"] = {}
    tree["datasets"]["parts"]["detectors"]["small"]["categories"] = {"gone": {"sigma": 1}}
    build_definitions(load(tree, tmp_path))
    assert main(["status", "--config", str(tmp_path / "bench.yaml")]) == 0
    assert "FAULT datasets.parts.detectors.small.categories: no category gone" in capsys.readouterr().err
    assert main(["doctor", "--config", str(tmp_path / "bench.yaml")]) == 1
    assert "no category gone" in capsys.readouterr().out


def test_a_file_in_another_encoding_is_named_or_read(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["datasets"]["parts"]["root"] = "größe"
    path = tmp_path / "bench.yaml"
    text = yaml.safe_dump(tree, allow_unicode=True)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        path.write_bytes(text.encode(encoding))
        assert load_config(path, environ={}).datasets["parts"].reader.root == str(tmp_path / "größe")
    for data in (text.encode("latin-1"), text.encode("utf-16")[:-1]):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=rf"{path}:\d+: not UTF-"):
            load_config(path, environ={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: &a [*a]", "holds itself"),
        (BOMB, "aliases"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ("? [1, 2]\n: 3", "a key is a text"),
        ("compute: {threads: " + "9" * 5000 + "}", "5,000 digits"),
        ("x" * 300_000, "no benchmark file"),
    ],
)  # fmt: skip
def test_what_would_hang_or_crash_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path, environ={})


def test_an_ensemble_on_an_extractor_with_faults_is_no_second_fault(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["datasets"]["parts"]["detectors"]["both"] = {"method": "ensemble", "members": ["small", "full"]}
    with pytest.raises(ConfigError, match=r"1 fault\(s\)") as error:
        load(tree, tmp_path, "extractors.lite0.crop=900")
    assert "extractors.lite0: crop" in str(error.value)


def test_millions_of_variants_are_counted_and_not_made(tree: dict[str, Any], tmp_path: Path) -> None:
    lists = {key: list(range(1, 200)) for key in ("sigma", "seed", "neighbours")}
    tree["datasets"]["parts"]["studies"] = {"a": {"base": "small", "vary": lists}}
    with pytest.raises(ConfigError, match="7,880,599 combinations, at most 1,000"):
        load(tree, tmp_path)


def test_a_message_ends_after_two_thousand_characters_and_says_how_much_is_left(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    tree["datasets"]["parts"]["detectors"] = {f"lane{i}": {"method": "x" * 500} for i in range(200)}
    with pytest.raises(ConfigError, match=r"(?s)has 400 fault\(s\).*and \d+ more") as error:
        load(tree, tmp_path)
    assert len(str(error.value)) <= 2000


@pytest.mark.parametrize(
    "override",
    [
        f"store.storage_options.secret={SECRET}",
        f"store.storage_options.key={SECRET}",
        f"store.storage_options={{client_kwargs: {{aws_session_token: {SECRET}}}}}",
        f"store.storage_options={{endpoint_url: 'http://me:{SECRET}@host'}}",
        f"store.root=s3://me:{SECRET}@bucket/x",
        f"datasets.parts.root=ftp://me:{SECRET}@host/x",
        f"datasets.parts.root=simplecache::https://me:{SECRET}@host/x",
        f"datasets.parts.root='https://host/x?token={SECRET}'",
        f"datasets.parts.root='https://host/x?a=1&X-Amz-Signature={SECRET}'",
        f"datasets.parts.root='https://account.blob/x?sv=1&sig={SECRET}'",
        f"datasets.parts.manifest=https://me:{SECRET}@host/x.csv",
        f"datasets.parts={{reader: cifar10_one_class, source: 'https://host/x?access_token={SECRET}', root: x}}",
        f"extractors.lite0.weights=https://me:{SECRET}@host/x.safetensors",
        f"store.root='s3://bucket/x?key={SECRET}'",
        f"store={SECRET}",
        f"store.storage_options=[{SECRET}]",
        f"store.storage_options={{a: {SECRET}",
    ],
)
def test_a_secret_is_refused_and_never_repeated(tree: dict[str, Any], tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tree, tmp_path, override)
    assert SECRET not in str(error.value)
    assert ("://" in override) == ("a URL with a password, token or signature" in str(error.value))
