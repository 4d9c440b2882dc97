"""A sealed test set: its labels are read by metrics alone, and each time that they are is on record."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ad_assets.config.faults import ConfigError
from ad_assets.graph import stages
from ad_assets.graph.graph import Graph
from ad_assets.graph.shown_results import dataset_results
from ad_assets.graph.stages import ground_truth
from ad_assets.graph.stages.image_index import read_index
from ad_assets.production.test_set_openings import LEDGER, openings_path, record_opening, told_openings
from ad_assets.store.store import ArtifactStore
from tests.support.bench_graph import Bench

TRUTH = {"label", "defect_type", "mask_paths", "mask_id", "anomaly_kind", "mask_saturations"}


class Closed(dict[str, Any]):
    """A row of a test image that tells its truth only after the ledger says so."""

    opened: bool = False

    def __getitem__(self, key: str) -> Any:
        assert Closed.opened or key not in TRUTH, f"{key} of a test image was read, and nothing tells of it"
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self.keys() else default


@pytest.fixture
def sealed(bench: Bench) -> Bench:
    bench.set("datasets.parts.sealed", True)
    return bench


def opened(bench: Bench, category: str = "bolt") -> list[str]:
    return [each.reader for each in LEDGER.read(bench.benchmark.store, openings_path("parts", category)).entries]


def test_each_reading_of_labels_is_on_record(sealed: Bench) -> None:
    sealed.make(categories=["bolt"])
    both = ["parts/full/metrics", "parts/small/metrics"]
    assert sorted(opened(sealed)) == both
    assert opened(sealed, "nut") == []
    sealed.make(categories=["bolt"])
    assert sorted(opened(sealed)) == both, "what was found was not read again"
    sealed.set("datasets.parts.detectors.small.sigma", 2.0)
    sealed.run(categories=["bolt"])
    sealed.set("datasets.parts.detectors.small.sigma", 4.0)
    sealed.make(categories=["bolt"])
    assert sorted(opened(sealed)) == [*both, "parts/small/metrics"]
    sealed.make(categories=["bolt"], force=True)
    assert len(opened(sealed)) == 5
    page = sealed.benchmark.store.read_bytes("reports/parts/index.html").decode()
    assert "Sealed test set: labels of a category were read up to 5 times, for 3 variants" in page
    told = told_openings(sealed.benchmark.store, "parts", ["bolt", "nut"])
    assert told.startswith("labels of a category were read up to 5 times, for 3 variants (parts/full/metrics, parts/")
    parts = sealed.benchmark.datasets["parts"]
    assert f"test set: {told}" in dataset_results(Graph(sealed.stages, sealed.benchmark.store), parts)
    [record] = sealed.instance.fetch_materializations(dg.AssetKey(["parts", "leaderboard"]), limit=1).records
    assert record.asset_materialization is not None
    assert record.asset_materialization.metadata["test_set"].value == told


def test_whether_it_is_sealed_changes_no_result_and_an_open_one_has_no_ledger(bench: Bench) -> None:
    bench.make(categories=["bolt"])
    assert opened(bench) == []
    bench.set("datasets.parts.sealed", True)
    assert bench.plan(categories=["bolt"]) == {}


def test_no_stage_before_the_metrics_reads_a_label(sealed: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*arguments: Any) -> list[dict[str, Any]]:
        return [Closed(row) if row["split"] == "test" else row for row in read_index(*arguments)]

    def opening(*arguments: Any) -> None:
        record_opening(*arguments)
        Closed.opened = True

    monkeypatch.setattr(Closed, "opened", False)
    monkeypatch.setattr(ground_truth, "record_opening", opening)
    for module in pkgutil.iter_modules(stages.__path__, f"{stages.__name__}."):
        loaded = importlib.import_module(module.name)
        if hasattr(loaded, "read_index"):
            monkeypatch.setattr(loaded, "read_index", closed)
    hetmm = {"method": "hetmm", "extractor": "lite0", "windows": [3, 3], "sheets": 3}
    sealed.set("datasets.parts.detectors.sheets", hetmm)
    sealed.make(categories=["bolt"])
    assert len(opened(sealed)) == 3


def test_no_opening_of_two_processes_is_lost(tmp_path: Path) -> None:
    def open_it(reader: str) -> None:
        store = ArtifactStore(root=str(tmp_path))
        for number in range(10):
            record_opening(store, "parts", "bolt", reader, str(number))

    threads = [threading.Thread(target=open_it, args=(name,)) for name in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = LEDGER.read(ArtifactStore(root=str(tmp_path)), openings_path("parts", "bolt")).entries
    assert sorted((each.reader, int(each.address)) for each in entries) == [
        (name, number) for name in ("one", "three", "two") for number in range(10)
    ]


def test_where_nothing_can_be_sealed(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"parts\.sealed: true or false \(got 'yes'\)"):
        bench.set("datasets.parts.sealed", "yes")
    bench.tree["datasets"]["parts"]["sealed"] = True
    with pytest.raises(ConfigError, match=r"parts\.sealed: test images decide which state becomes champion"):
        bench.set("datasets.parts.production", {})
    del bench.tree["datasets"]["parts"]["production"]
    lanes = bench.tree["datasets"]["parts"]["detectors"]
    with pytest.raises(ConfigError, match=r"blind\.sealed: of a blind dataset the test images are trained on"):
        bench.set(
            "datasets.blind",
            {"reader": "blind", "of": "parts", "setting": "test", "sealed": True, "detectors": {"full": lanes["full"]}},
        )
