"""The whole demo in a fresh store: Dagster's share of the wall time, and what loading the definitions costs.

Dagster's share is everything that is not the stages' own work: interpreter and imports, planning, runs, events.

    python -m tests.benchmarks.bench_demo
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dagster as dg

from tests.support.places import REPOSITORY

SHARE = 0.20
IMPORT_SECONDS = 3.0


def definitions_seconds() -> float:
    """Seconds of a process that loads the definitions and does nothing else; the best of five."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import ad_assets.definitions"], cwd=REPOSITORY, check=True)
        best = min(best, time.perf_counter() - started)
    return best


def demo_seconds(folder: Path) -> tuple[float, float]:
    """(wall seconds of the command, seconds inside stages)."""
    environ = {**os.environ, "DAGSTER_HOME": str(folder / "home")}
    settings = {"store.root": str(folder / "store"), "datasets.demo.root": str(folder / "images")}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "ad_assets.cli", "materialize", "--config", "demo", *sets],
        cwd=REPOSITORY,
        env=environ,
        check=True,
        capture_output=True,
    )
    wall = time.perf_counter() - started
    inside = 0.0
    with dg.DagsterInstance.from_config(str(folder / "home")) as instance:
        for key in instance.all_asset_keys():
            for record in instance.fetch_materializations(key, limit=100).records:
                event = record.asset_materialization
                if event is not None:
                    inside += float(event.metadata["stage_seconds"].value)  # type: ignore[arg-type]
    return wall, inside


def main() -> None:
    """Measure, print, and fail where a share is too large."""
    seconds = definitions_seconds()
    print(f"definitions: loaded in {seconds:.2f} s, interpreter included (limit {IMPORT_SECONDS:.0f} s)")
    assert seconds < IMPORT_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        wall, inside = demo_seconds(Path(folder))
    share = 1 - inside / wall
    print(f"demo: {wall:.1f} s, of which stages {inside:.1f} s; Dagster's share {share:.1%} (limit {SHARE:.0%})")
    assert share < SHARE


if __name__ == "__main__":
    main()
