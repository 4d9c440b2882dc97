"""``deploy/postgresql``: the shipped instance configuration on a real PostgreSQL server."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.support.bench_graph import Bench, write_dataset
from tests.support.deployment import DEPLOY, REPOSITORY, need_packages, postgres

need_packages("dagster_postgres")
pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A DAGSTER_HOME with the shipped file."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copyfile(DEPLOY / "postgresql" / "dagster.yaml", folder / "dagster.yaml")
    with postgres() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield folder


def status(tmp_path: Path, home: Path) -> str:
    """What ``ad-assets status`` says."""
    command = [sys.executable, "-m", "ad_assets.cli", "status", "--config", str(tmp_path / "bench.yaml")]
    environ = {**os.environ, "DAGSTER_HOME": str(home)}
    return subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=True).stdout


def test_the_shipped_instance_materializes_a_category_and_knows_it(tmp_path: Path, home: Path) -> None:
    from dagster_postgres import PostgresEventLogStorage

    write_dataset(tmp_path / "images")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
        assert instance.run_monitoring_enabled
        assert not instance.telemetry_enabled
        bench = Bench(tmp_path, instance)

        built, found = bench.run(categories=["bolt"])
        assert {partition for _, partition in built} == {"bolt", None}
        assert not found
        assert not bench.plan(categories=["bolt"]), "a category that was just made is stale"
        assert {partition for _, partition in bench.stale()} <= {"nut", None}
        told = status(tmp_path, home)
        assert "nut" in told
        assert "bolt" not in told
        assert {partition for _, partition in bench.plan()} == {"nut", None}

        # One accelerator, one extraction at a time; without one the stages take no slot.
        assert instance.global_op_concurrency_default_limit == 1

        bench.run()
        assert not bench.plan()
        assert not bench.stale()
        bench.set("datasets.parts.detectors.small.coreset_ratio", 0.2)
        expected = {("parts/small/memory_bank", "bolt"), ("parts/small/memory_bank", "nut")}
        assert expected <= bench.plan().keys()
        assert bench.stale() & {(f"parts/{name}", "bolt") for name in ("features/lite0", "full/memory_bank")} == set()

    # Another process finds all of it again.
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_latest_materialization_event(dg.AssetKey(["parts", "leaderboard"])) is not None
