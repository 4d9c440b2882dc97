"""Fixtures of the whole-graph tests."""

from pathlib import Path

import dagster as dg
import pytest

from tests.bench_graph import Bench, write_dataset


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A benchmark on two generated categories, nothing materialized yet."""
    write_dataset(tmp_path / "images")
    return Bench(tmp_path, dg.DagsterInstance.ephemeral())
