"""Promise 4: the same answer whatever the batch, the store or the order of files."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from ad_assets.store.store import ArtifactStore
from tests.support.bench_graph import Bench


def results(bench: Bench) -> dict[tuple[str, str], dict[tuple[str, str], float]]:
    return {(d, c): bench.rows(d, c) for d in ("small", "full") for c in ("bolt", "nut")}


@pytest.fixture
def expected(bench: Bench) -> dict[tuple[str, str], dict[tuple[str, str], float]]:
    bench.make()
    return results(bench)


def test_one_by_one_equals_a_batch(bench: Bench, expected: object, tmp_path: Path) -> None:
    other = Bench(tmp_path, dg.DagsterInstance.ephemeral())
    other.set("store", {"root": str(tmp_path / "other")})
    other.set("compute", {"device": "cpu", "batch_size": 1, "memory_gb": 0.1, "threads": 1})
    other.make()
    found = results(other)
    for lane, rows in results(bench).items():
        assert found[lane] == pytest.approx(rows, abs=1e-4), lane


def test_an_object_store_equals_a_folder(
    bench: Bench, expected: object, tmp_path: Path, s3_store: ArtifactStore
) -> None:
    other = Bench(tmp_path, dg.DagsterInstance.ephemeral())
    other.set("store", {"root": s3_store.root, "storage_options": s3_store.storage_options})
    built, _ = other.make()
    assert built
    assert results(other) == expected
    # Everything is found again, by another process as it were.
    again = Bench(tmp_path, dg.DagsterInstance.ephemeral())
    again.set("store", {"root": s3_store.root, "storage_options": s3_store.storage_options})
    assert again.make() == (set(), built)


def test_names_of_files_do_not_matter(bench: Bench, expected: object, tmp_path: Path) -> None:
    train = bench.images / "bolt/train/good"
    for number, path in enumerate(sorted(train.iterdir(), reverse=True)):
        shutil.move(path, train / f"renamed_{number}.png")
    built, _ = bench.make(categories=["bolt"])
    # The index lists other names, and the report shows some; nothing else is made again.
    assert {name for name, _ in built} == {"parts/image_index", "parts/category_report", "parts/report"}
    assert results(bench) == expected
