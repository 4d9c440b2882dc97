"""In a fresh environment: a project that `create-dagster` makes, this package, and two components."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import REPOSITORY

PATIENCE = 3600
BY_THE_WAY = (".*", "tests", "docs", "*.egg-info", "build", "__pycache__")


class Environment:
    """A fresh virtual environment, and commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        self._environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AD_ASSETS"))
        }
        self._environ |= {
            "VIRTUAL_ENV": str(folder / "venv"),
            "PATH": f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "DAGSTER_HOME": str(folder / "home"),
        }
        (folder / "home").mkdir()

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        done = subprocess.run(
            command, cwd=cwd or self.folder, env=self._environ, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
        return done.stdout

    def install(self, *requirements: str | Path) -> None:
        self.run("pip", "install", "--quiet", "-c", REPOSITORY / "constraints.txt", *requirements)


@pytest.mark.slow
def test_two_components_in_a_fresh_project_check_and_launch(tmp_path: Path) -> None:
    pins = (REPOSITORY / "constraints.txt").read_text()
    [release] = re.findall(r"^dagster==(.*)$", pins, re.MULTILINE)
    source = shutil.copytree(REPOSITORY, tmp_path / "source", ignore=shutil.ignore_patterns(*BY_THE_WAY))
    fresh = Environment(tmp_path)
    fresh.install(f"create-dagster=={release}", "dagster-dg-cli", "dagster-webserver")
    fresh.run("create-dagster", "project", "plant", "--no-uv-sync")
    plant = tmp_path / "plant"
    fresh.install("-e", plant, source)

    fresh.run("dg", "scaffold", "defs", "ad_assets.Benchmark", "line1", cwd=plant)
    fresh.run("dg", "scaffold", "defs", "ad_assets.Benchmark", "line2", "--file", "parts.yaml", cwd=plant)
    assert (plant / "src" / "plant" / "defs" / "line2" / "parts.yaml").is_file()
    fresh.run("dg", "check", "defs", cwd=plant)
    listed = json.loads(fresh.run("dg", "list", "defs", "--json", cwd=plant))
    assert {asset["asset_key_parts"][0] for asset in listed["assets"]} == {"line1", "line2"}
    assert "ad_assets.Benchmark" in fresh.run("dg", "list", "components", "--json", cwd=plant)

    fresh.run("dg", "launch", "--assets", 'key:"line1/*" or key:"line1/patchcore/*"', "--partition", "brick", cwd=plant)
    heads = plant / ".ad_assets" / "heads" / "line1"
    assert {path.parent.name for path in heads.rglob("brick.json")} >= {"image_index", "memory_bank", "metrics"}
    fresh.run("dg", "launch", "--job", "line2_category", "--partition", "brick", cwd=plant)
    assert (heads.parent / "line2" / "patchcore" / "metrics" / "brick.json").is_file()
