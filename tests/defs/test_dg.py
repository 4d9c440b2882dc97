"""`dg` in this repository: what it scaffolds is loaded with the assets of the benchmark file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.bench_graph import config_tree, write_dataset
from tests.support.places import REPOSITORY

DG = Path(sys.executable).with_name("dg")
MINE = """
import dagster as dg

@dg.asset(deps=[["parts", "image_index"]])
def mine() -> None: ...
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The repository with a small benchmark, to scaffold in."""
    for name in ("ad_assets", "resources"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "project", tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(REPOSITORY / "pyproject.toml", tmp_path / "pyproject.toml")
    write_dataset(tmp_path / "images", ("bolt",))
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(config_tree(tmp_path)))
    (tmp_path / "home").mkdir()
    return tmp_path


def start(clone: Path, *arguments: str) -> "subprocess.Popen[str]":
    environ = {
        **os.environ,
        "PYTHONPATH": str(clone),
        "DAGSTER_HOME": str(clone / "home"),
        "AD_ASSETS_CONFIG": str(clone / "bench.yaml"),
        "PYTHONWARNINGS": "ignore",
    }
    pipe = subprocess.PIPE
    return subprocess.Popen([DG, *arguments], cwd=clone, env=environ, stdout=pipe, stderr=pipe, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, out + error
    return out


@pytest.mark.slow
def test_dg_scaffolds_checks_lists_and_launches(clone: Path) -> None:
    said(start(clone, "scaffold", "defs", "dagster.asset", "mine.py"))
    said(start(clone, "scaffold", "defs", "ad_assets.Benchmark", "line1"))
    (clone / "project" / "defs" / "mine.py").write_text(MINE)
    check = start(clone, "check", "defs")
    listed = json.loads(said(start(clone, "list", "defs", "--json")))
    assert "All definitions loaded successfully" in said(check)
    assets = {asset["asset_key"] for asset in listed["assets"]}
    assert {"mine", "parts/image_index", "parts/leaderboard", "line1/image_index", "line1/patchcore/metrics"} <= assets
    assert {job["name"] for job in listed["jobs"]} == {"parts_category", "line1_category"}
    said(start(clone, "launch", "--assets", "key:parts/image_index", "--partition", "bolt"))
    assert (clone / "store" / "heads" / "parts" / "image_index" / "bolt.json").is_file()
