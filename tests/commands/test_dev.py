"""``ad-assets dev``: the UI of a benchmark file, from any folder."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ad_assets.cli import main
from ad_assets.config.load import load_config
from ad_assets.ui import dev
from tests.support.bench_graph import config_tree


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of each ``dg dev`` that was started, in an environment that the test may change."""
    calls: list[list[str]] = []
    monkeypatch.setattr(dev, "run", calls.append)
    monkeypatch.setattr(os, "environ", os.environ.copy() | {"DAGSTER_HOME": ""})
    return calls


def test_a_file_is_served_from_any_folder_and_its_records_lie_beside_it(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    tree: dict[str, Any] = config_tree(tmp_path)
    tree["store"]["root"] = "store"
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.chdir(elsewhere)
    os.environ["AD_ASSETS__DATASETS__PARTS__ROOT"] = "typed"
    assert main(["dev", "--config", "../bench.yaml", "--port", "3017"]) == 0
    [arguments] = started
    project = Path(arguments[1])
    assert arguments == ["--target-path", str(project), "-h", "127.0.0.1", "-p", "3017"]
    assert project == tmp_path / ".dagster_home" / "ui"
    settings = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    assert (project / settings["root_module"] / "defs").is_dir()
    assert not list(elsewhere.iterdir())
    monkeypatch.chdir(project)  # where its processes run
    served = load_config(environ=os.environ)
    assert served.store.root == str(tmp_path / "store")
    assert served.datasets["parts"].reader.root == str(elsewhere / "typed")


def test_a_shipped_file_keeps_its_store_in_the_working_directory(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["dev"]) == 0
    assert started[0][1] == str(tmp_path / ".dagster_home" / "ui")
    monkeypatch.chdir("/")
    served = load_config(environ=os.environ)
    assert served.store.root == str(tmp_path / ".ad_assets")
    assert served.datasets["demo"].reader.root == str(tmp_path / ".ad_assets/demo_images")


def test_a_fault_is_told_before_anything_starts(
    started: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench.yaml").write_text("datasets: {parts: {reader: nowhere}}")
    assert main(["dev", "--config", str(tmp_path / "bench.yaml")]) == 2
    assert "datasets.parts.reader: unknown value 'nowhere'" in capsys.readouterr().err
    assert not started
