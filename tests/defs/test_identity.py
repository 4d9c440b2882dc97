"""A quarantine does not open because its store, or a part of it, is gone."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from ad_assets.checking import ConfigError
from ad_assets.defs.admissions import has_admissions
from ad_assets.defs.identity import BESIDE, begin_anew, check_store
from resources.store import ArtifactStore
from tests.bench_graph import Bench

INDEX = dg.AssetKey(["parts", "image_index"])


@pytest.fixture
def produced(bench: Bench) -> Bench:
    """A production dataset with one category indexed."""
    bench.set("datasets.parts.production", {"settle_seconds": 0})
    assert not refusal(bench)
    return bench


def refusal(bench: Bench) -> str:
    job = bench.definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        asset_selection=[INDEX], partition_key="bolt", instance=bench.instance, raise_on_error=False
    )
    return "\n".join(str(e.step_failure_data.error) for e in result.filter_events(lambda event: event.is_step_failure))


def test_an_empty_or_another_store_is_refused_until_it_is_said_to_be_new(produced: Bench, tmp_path: Path) -> None:
    store, dataset = produced.benchmark.store, produced.benchmark.datasets["parts"]
    shutil.move(store.root, tmp_path / "kept")
    assert "has no marker: it is empty, not mounted" in refusal(produced)
    assert not store.files()  # nobody was admitted
    other = ArtifactStore(root=str(tmp_path / "other"))
    begin_anew(produced.benchmark.datasets["parts"], other, dg.DagsterInstance.ephemeral())
    begin_anew(dataset, ArtifactStore(root=str(tmp_path / "kept")), produced.instance)
    with pytest.raises(ConfigError, match=r"has the id .*its own has the id .*--new-store"):
        check_store(dataset, other, produced.instance)
    # An instance that knows nothing asks beside the images.
    with pytest.raises(ConfigError, match="has the id"):
        check_store(dataset, other, dg.DagsterInstance.ephemeral())
    (produced.images / BESIDE).unlink()
    check_store(dataset, other, dg.DagsterInstance.ephemeral())
    begin_anew(dataset, store, produced.instance)
    assert not refusal(produced)


def test_lost_admissions_of_an_indexed_category_are_refused(produced: Bench) -> None:
    store, dataset = produced.benchmark.store, produced.benchmark.datasets["parts"]
    store.delete(["admissions/parts/bolt.json"])
    told = refusal(produced)
    assert "its admissions are gone from the store" in told
    assert "--new-store" in told
    assert not has_admissions(store, "parts", "bolt")
    begin_anew(dataset, store, produced.instance)
    assert not refusal(produced)
