"""Promise 5: a run killed at any moment loses the work in hand and nothing else."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ad_assets.store.store import ArtifactStore
from tests.support.places import REPOSITORY

# Wall-clock figures differ from run to run; everything else of a leaderboard row must not.
TIMED = ("seconds",)
# A memory bank, a template set, and all that they need.
LANES = ("--select", 'key:"demo/patchcore_1/metrics" or key:"demo/hetmm_10/metrics"')


def start(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    environ = {**os.environ, "DAGSTER_HOME": str(folder / "home")}
    settings = {"store.root": str(folder / "store"), "datasets.demo.root": str(folder / "images")}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ad_assets.cli", "materialize", *arguments, "--config", "demo", *sets],
            cwd=REPOSITORY,
            env=environ,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def board(folder: Path) -> list[dict[str, Any]]:
    store = ArtifactStore(root=str(folder / "store"))
    head = store.read_head(("demo", "leaderboard"), None)
    assert head is not None
    path = folder / "store" / store.artifact("leaderboard", head["version"]).at("leaderboard.parquet")
    rows = pq.read_table(path).to_pylist()
    return [{k: v for k, v in row.items() if k not in TIMED} for row in rows if row["protocol"] != "timing"]


def feature_files(folder: Path) -> dict[str, tuple[int, int]]:
    root = folder / "store" / "features"
    return {
        str(path.relative_to(root)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in root.rglob("*.safetensors")
        if not path.name.startswith(".")
    }


def run_and_kill(folder: Path, moment: float, *arguments: str) -> None:
    """Start a run and kill it; no feature file that was there before may be written again."""
    before = feature_files(folder)
    run = start(folder, *arguments)
    try:
        run.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    after = feature_files(folder)
    assert {path: after[path] for path in before} == before, f"extracted again, killed at {moment:.1f} s"


def finish(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run to the end and return the leaderboard."""
    before = feature_files(folder)
    assert start(folder, *arguments).wait() == 0, (folder / "log.txt").read_text()
    after = feature_files(folder)
    assert {path: after[path] for path in before} == before, "extracted again after a kill"
    return board(folder)


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path: Path) -> None:
    calm = tmp_path / "calm"
    calm.mkdir()
    started = time.monotonic()
    expected = finish(calm, *LANES)
    length = time.monotonic() - started
    moments = random.Random(0)  # noqa: S311 - repeatable, not secret
    for number in range(20):
        folder = tmp_path / f"kill{number}"
        folder.mkdir()
        moment = moments.uniform(0.5, length)
        run_and_kill(folder, moment, *LANES)
        assert finish(folder, *LANES) == expected, f"another leaderboard after a kill at {moment:.1f} s"
        assert len(feature_files(folder)) == len(feature_files(calm))
        shutil.rmtree(folder)


def test_one_category_killed_twice_on_its_way(tmp_path: Path) -> None:
    brick = ("--category", "brick", *LANES)
    folder, calm = tmp_path / "killed", tmp_path / "calm"
    calm.mkdir()
    expected = finish(calm, *brick)
    shutil.copytree(calm / "images", folder / "images")
    for moment in (5.0, 8.0):
        run_and_kill(folder, moment, *brick)
    assert finish(folder, *brick) == expected
