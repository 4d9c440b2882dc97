"""What a run of a category leaves in Dagster's databases: bytes of its events, of the largest, and growth of the files.

    python -m tests.benchmarks.bench_events [--lanes 3]

Two categories of twelve images, SQLite. The databases of PostgreSQL hold the same events, without the empty tables and
pages that a file a run has.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import dagster as dg
from dagster._serdes import serialize_value

from tests.support.bench_graph import Bench, write_dataset


def main() -> None:
    """Run both categories; print what the second has left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lanes", type=int, default=3, help="of PatchCore, with a smoothing each")
    lanes = parser.parse_args().lanes
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name, dg.instance_for_test() as instance:
        folder = Path(name)
        write_dataset(folder / "images")
        bench = Bench(folder, instance)
        small = bench.tree["datasets"]["parts"]["detectors"]["small"]
        bench.set("datasets.parts.detectors", {f"lane_{n}": {**small, "sigma": 1.0 + n} for n in range(lanes)})
        bench.run(categories=["nut"])
        before = _database_files(instance)
        bench.run(categories=["bolt"])
        for record in instance.get_run_records(ascending=True):
            sizes = [len(serialize_value(event)) for event in instance.all_logs(record.dagster_run.run_id)]
            category = record.dagster_run.tags.get("dagster/partition", "all categories")
            print(f"{category}: {len(sizes)} events, {sum(sizes):,} bytes, the largest {max(sizes):,}")
        for path, size in _database_files(instance).items():
            if grown := size - before.get(path, 0):
                print(f"{path.name if path.name in ('index.db', 'runs.db') else 'a run'}: {grown:,} bytes of SQLite")


def _database_files(instance: dg.DagsterInstance) -> dict[Path, int]:
    return {path: path.stat().st_size for path in Path(instance.root_directory).rglob("*.db")}


if __name__ == "__main__":
    main()
