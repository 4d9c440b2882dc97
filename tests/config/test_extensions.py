"""A detector and a reader of another package, by entry points, through the graph to the leaderboard and the report."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from ad_assets.config.load import ConfigError, load_config
from tests.support.bench_graph import config_tree, draw_image, write_image
from tests.support.places import REPOSITORY

EXTENSION = Path(__file__).parents[1] / "data" / "extension"


def install(folder: Path) -> Path:
    """The extension as an installer leaves it: modules and their metadata; with it, one whose module is gone."""
    site = folder / "site"
    shutil.copytree(EXTENSION, site)
    project = tomllib.loads((site / "pyproject.toml").read_text())["project"]
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {module}" for name, module in points.items()))
    ]
    lines += ["[ad_assets.methods]", "gone = no_such_module"]
    info = site / "toy_extension-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
    return site


def command(folder: Path, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ad_assets.cli", *arguments, "--config", str(folder / "bench.yaml")],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{site}", "DAGSTER_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_detector_and_a_reader_of_another_package(tmp_path: Path) -> None:
    for number in range(6):
        write_image(tmp_path / f"images/bolt/train_good_{number}.png", draw_image(number))
        write_image(tmp_path / f"images/bolt/test_good_{number}.png", draw_image(100 + number))
        write_image(tmp_path / f"images/bolt/test_spot_{number}.png", draw_image(200 + number, defect=True))
    tree = config_tree(tmp_path)
    parts = tree["datasets"]["parts"]
    parts |= {"reader": "flat", "detectors": {"mean": {"method": "mean_template", "extractor": "lite0", "sigma": 1.0}}}
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(tree))
    done = command(tmp_path, install(tmp_path), "materialize")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'gone' of toy-extension cannot be imported: ModuleNotFoundError" in done.stderr
    assert "mean" in done.stdout
    [report] = (tmp_path / "store/artifacts/report").glob("*/report.html")
    assert "mean" in report.read_text(encoding="utf-8")
    # Here, where it is not installed, its names are unknown.
    with pytest.raises(ConfigError, match=r"(?s)'mean_template'.*'flat'"):
        load_config(tmp_path / "bench.yaml", environ={})
