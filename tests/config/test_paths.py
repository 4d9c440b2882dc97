"""Relative paths of a benchmark file begin at its folder, wherever the command is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ad_assets.config.load import ConfigError, load_config
from ad_assets.config.paths import PATHS
from ad_assets.datasets import READERS
from ad_assets.settings.home import LocalPath

TAPS = {"taps": ["blocks.2"], "resize": [64, 64]}
LANE = {"method": "patchcore", "extractor": "lite0", "pooling": "concat"}


def written(place: Path, **store: str) -> Path:
    """A benchmark file in `line`, every path of which is relative."""
    folder = place / "line"
    folder.mkdir(exist_ok=True)
    (folder / "own.safetensors").touch()
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "weights" / "resnet18.pth").touch()
    lite0 = {"backbone": "tf_efficientnet_lite0", **TAPS}
    parts = {"reader": "folder", "root": "images", "detectors": {"small": LANE}}
    tree: dict[str, Any] = {
        "extractors": {
            "lite0": lite0 | {"weights": "bundled"},
            "file": lite0 | {"weights": "own.safetensors"},
            "folder": {"backbone": "resnet18", "weights": "weights", "taps": ["layer2"], "resize": [64, 64]},
        },
        "datasets": {
            "parts": parts | {"production": {"outboxes": ["outbox", "s3://line/outbox"]}},
            "cifar": {
                "reader": "cifar10_one_class",
                "root": "cifar",
                "source": "download",
                "detectors": {"small": LANE},
            },
            "demo": {"reader": "demo", "detectors": {"small": LANE}},
        },
    }
    if store:
        tree["store"] = store
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def paths_of(file: str | Path, *overrides: str, **environ: str) -> dict[str, str]:
    benchmark = load_config(file, overrides, environ)
    parts, cifar, demo = (benchmark.datasets[name] for name in ("parts", "cifar", "demo"))
    assert parts.production
    return {
        "store": benchmark.store.root,
        "root": parts.reader.root,
        "source": cifar.reader.source,  # type: ignore[attr-defined]
        "unpacked": cifar.reader.root,
        "demo": demo.reader.root,
        "outbox": parts.production.outboxes[0],
        "remote": parts.production.outboxes[1],
        "file": benchmark.extractors["file"].weights,
        "folder": benchmark.extractors["folder"].weights,
        "word": benchmark.extractors["lite0"].weights,
    }


def test_paths_begin_at_the_folder_of_the_file_from_wherever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path)
    relative = {
        "store": ".ad_assets",
        "root": "images",
        "source": "download",
        "unpacked": "cifar",
        "demo": ".ad_assets/demo_images",
        "outbox": "outbox",
        "file": "own.safetensors",
        "folder": "weights",
    }
    same = {"remote": "s3://line/outbox", "word": "bundled"}
    for place, source in ((tmp_path, "line/bench.yaml"), (file.parent, "bench.yaml"), (Path("/"), str(file))):
        monkeypatch.chdir(place)
        folder = Path(source).parent
        assert paths_of(source) == same | {name: str(folder / path) for name, path in relative.items()}
        assert {str(Path(paths_of(source)[name]).absolute()) for name in relative} == {
            str(file.parent / path) for path in relative.values()
        }


def test_what_is_typed_begins_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, root="/somewhere/store")
    monkeypatch.chdir(tmp_path)
    found = paths_of(file, "datasets.parts.root=typed", AD_ASSETS__DATASETS__CIFAR__SOURCE="told")
    assert (found["store"], found["root"], found["source"]) == ("/somewhere/store", "typed", "told")
    assert load_config("demo", environ={}).store.root == ".ad_assets"


def test_a_second_store_does_not_appear_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, root="store")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store/heads/others").mkdir(parents=True)  # of another file
    assert paths_of(file)["store"] == str(file.parent / "store")
    (tmp_path / "store/heads/parts").mkdir()
    (tmp_path / "images").mkdir()
    with pytest.raises(ConfigError) as error:
        load_config("line/bench.yaml", environ={})
    assert "line/bench.yaml has 2 fault(s)" in str(error.value)
    assert "store.root: line/store is not there, and store is, in the working directory" in str(error.value)
    assert "Write ../store to go on with it" in str(error.value)
    assert "datasets.parts.root: line/images is not there" in str(error.value)
    (file.parent / "images").mkdir()
    assert load_config(file, ["store.root=store"], {}).store.root == "store"
    (file.parent / "store").mkdir()
    assert paths_of(file)["store"] == str(file.parent / "store")


def test_no_path_of_a_reader_is_forgotten() -> None:
    named = {field for reader in READERS.values() for field, info in reader.model_fields.items() if is_path(info)}
    assert {f"datasets.*.{field}" for field in named | {"root"}} <= set(PATHS)


def is_path(info: Any) -> bool:
    """Whether a field of a reader is a `LocalPath`, by the check that it carries."""
    [check] = LocalPath.__metadata__  # type: ignore[attr-defined]
    return check in info.metadata or repr(check) in repr(info.annotation)
