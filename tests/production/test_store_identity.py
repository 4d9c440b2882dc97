"""A quarantine does not open because its store, or a part of it, is gone."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest

from ad_assets.config.faults import ConfigError
from ad_assets.production.review_decisions import has_admissions
from ad_assets.production.store_identity import BESIDE, MARKER, begin_anew, check_store, enter_store
from ad_assets.store.store import ArtifactStore, CorruptArtifactError
from tests.support.bench_graph import Bench

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
    assert "admitted and held, are missing from the store" in told
    assert "--new-store" in told
    assert not has_admissions(store, "parts", "bolt")
    begin_anew(dataset, store, produced.instance)
    assert not refusal(produced)


def test_a_damaged_marker_is_refused_and_told_until_the_store_is_said_to_be_new(produced: Bench) -> None:
    store, dataset = produced.benchmark.store, produced.benchmark.datasets["parts"]
    store.local_path(MARKER).write_bytes(b"")
    (produced.images / BESIDE).unlink()
    for instance in (produced.instance, dg.DagsterInstance.ephemeral()):
        with pytest.raises(CorruptArtifactError, match=r"store\.json is damaged .*--new-store"):
            enter_store(dataset, store, instance)
    begin_anew(dataset, store, produced.instance)
    assert not refusal(produced)


def test_two_runs_that_begin_at_once_give_a_store_one_id(tmp_path: Path, produced: Bench) -> None:
    store, dataset = ArtifactStore(root=str(tmp_path / "new")), produced.benchmark.datasets["parts"]
    instances = [dg.DagsterInstance.ephemeral() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda instance: begin_anew(dataset, store, instance), instances))
    for instance in instances:
        check_store(dataset, store, instance)


def test_a_champion_is_not_made_in_a_store_that_is_not_the_known_one(produced: Bench, tmp_path: Path) -> None:
    other = ArtifactStore(root=str(tmp_path / "other"))
    begin_anew(produced.benchmark.datasets["parts"], other, dg.DagsterInstance.ephemeral())
    begin_anew(produced.benchmark.datasets["parts"], produced.benchmark.store, produced.instance)
    checks = {stage.kind: stage.check_store for stage in produced.stages if stage.check_store}
    assert checks.keys() == {"image_index", "champion"}
    for admit in checks.values():
        with pytest.raises(ConfigError, match="has the id"):
            admit(other, produced.instance)
