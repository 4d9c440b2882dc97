"""A detector, a reader and a metric of another package, by entry points, through the graph to the report."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from pyarrow import parquet

from ad_assets.config.load import ConfigError, load_config
from tests.support.bench_graph import config_tree, draw_image, write_image
from tests.support.places import REPOSITORY

SIGMAS = {"sharp": 1.0, "blurred": 60.0}
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


def test_a_detector_a_reader_and_a_metric_of_another_package(tmp_path: Path) -> None:
    for number in range(6):
        write_image(tmp_path / f"images/bolt/train_good_{number}.png", draw_image(number))
        write_image(tmp_path / f"images/bolt/test_good_{number}.png", draw_image(100 + number))
        write_image(tmp_path / f"images/bolt/test_spot_{number}.png", draw_image(200 + number, defect=number != 3))
    tree = config_tree(tmp_path)
    parts = tree["datasets"]["parts"]
    lanes = {name: {"method": "mean_template", "extractor": "lite0", "sigma": sigma} for name, sigma in SIGMAS.items()}
    parts |= {"reader": "flat", "detectors": lanes}
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(tree))
    site = install(tmp_path)
    done = command(tmp_path, site, "materialize")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'gone' of toy-extension cannot be imported: ModuleNotFoundError" in done.stderr
    [board] = (tmp_path / "store/artifacts/leaderboard").glob("*/leaderboard.parquet")
    rates = {
        row["detector"]: row["value"]
        for row in parquet.read_table(board).to_pylist()
        if (row["metric"], row["category"]) == ("image_fpr_95", "mean")
    }
    assert rates["sharp"] < rates["blurred"], "the marked cell below would say nothing"
    [heads] = [line for line in done.stdout.splitlines() if "FPR at 95 % recall" in line]
    below = done.stdout[done.stdout.index(heads) :].splitlines()
    line = next(line for line in below if line.startswith("sharp"))
    assert f"{100 * rates['sharp']:.1f}" in line
    [report] = (tmp_path / "store/artifacts/report").glob("*/report.html")
    results = report.read_text(encoding="utf-8").split('<section id="results">')[1].split("</section>")[0]
    assert "FPR at 95 % recall" in results
    lines = {name: results.split(f"</svg>{name}</th>")[1].split("</tr>")[0] for name in SIGMAS}
    assert [name for name in SIGMAS if f">{100 * rates[name]:.1f}<" not in lines[name]] == []
    module = site / "toy_metric.py"
    module.write_text(module.read_text().replace("version=1", "version=2"))
    status = command(tmp_path, site, "status").stdout
    assert "everything is up to date" not in status
    assert "metrics" in status
    # Here, where it is not installed, its names are unknown.
    with pytest.raises(ConfigError, match=r"(?s)'mean_template'.*'flat'"):
        load_config(tmp_path / "bench.yaml", environ={})
