"""Promise 5 where storage fails: passing faults change nothing, a full disk loses nothing, two processes agree."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ad_assets.cli import main
from ad_assets.defs import assets
from ad_assets.defs.runs import open_instance
from ad_assets.graph import build_attempts as attempts
from ad_assets.graph.stage import GPU
from ad_assets.graph.stages import fitted_state as models
from ad_assets.settings.compute import Compute
from ad_assets.store.retry import StorageError
from ad_assets.store.store import ArtifactStore
from tests.graph.test_crash import REPOSITORY, board, finish
from tests.graph.test_layouts import results
from tests.support.bench_graph import Bench, config_tree, write_dataset
from tests.support.flaky import Faults, make_flaky
from tests.support.forked import Forked, command

HEAD_COUNT = 2 * (3 + 2 * 4) + 2


@pytest.fixture
def calm(materialized: Bench) -> Bench:
    """The same benchmark, materialized while nothing fails."""
    return materialized


def readable(store: ArtifactStore) -> None:
    """Every artifact can be read back whole, those of the heads are there, and nothing temporary is left."""
    files = [file.path for file in store.files(temporary=True)]
    assert not [path for path in files if path.endswith(".tmp")]
    artifacts = [store.artifact(*path.split("/")[1:3]) for path in files if path.endswith("/artifact.json")]
    assert {head["version"] for head in heads(store).values()} <= {each.path.split("/")[2] for each in artifacts}
    assert [artifact.damaged(deep=True) for artifact in artifacts] == [[]] * len(artifacts)
    for path in files:
        if path.startswith("features/"):
            store.checksum(path)


def heads(store: ArtifactStore) -> dict[str, Any]:
    return {file.path: store.read_json(file.path) for file in store.files("heads")}


# -- passing faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["local", "memory", "s3"])
def test_five_percent_of_requests_fail(
    place: str, bench: Bench, calm: Bench, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if place == "memory":
        bench.set("store", {"root": f"memory://{bench.folder.name}"})
    elif place == "s3":
        store = request.getfixturevalue("s3_store")
        bench.set("store", {"root": store.root, "storage_options": store.storage_options})
    with monkeypatch.context() as patched:
        faults = Faults(0.05, seed=7)
        make_flaky(patched, bench.benchmark.store.opened[0], faults)
        bench.make()  # what gets through to an asset is raised
    assert faults.requests > (100 if place == "s3" else 300)
    assert faults.failed >= (5 if place == "s3" else 10)
    assert results(bench) == results(calm)
    assert {path: head["version"] for path, head in heads(bench.benchmark.store).items()} == {
        path: head["version"] for path, head in heads(calm.benchmark.store).items()
    }
    readable(bench.benchmark.store)
    assert bench.benchmark.store.files("attempts") == []


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """Errors that building states raises, in order; what is there when the list is empty goes well."""
    errors: list[BaseException] = []
    read = models.read_features

    def fails(*args: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return read(*args)

    monkeypatch.setattr(models, "read_features", fails)
    monkeypatch.setattr(assets, "REPEATS", dg.RetryPolicy(max_retries=2, delay=0.01))
    return errors


def steps_of(bench: Bench, kind: str) -> list[str]:
    return [
        record.event_log_entry.step_key.rpartition("__")[2]
        for record in bench.instance.get_event_records(dg.EventRecordsFilter(dg.DagsterEventType(kind)))
        if record.event_log_entry.step_key
    ]


def attempt(bench: Bench) -> dict[str, Any] | None:
    path = attempts.attempt_path(("parts", "small", "memory_bank"), "bolt")
    found: dict[str, Any] | None = bench.benchmark.store.read_json(path) if bench.benchmark.store.exists(path) else None
    return found


def only_small(bench: Bench) -> None:
    bench.tree["datasets"]["parts"]["detectors"].pop("full")
    bench.reload()


def test_an_asset_is_repeated_for_what_may_pass(bench: Bench, fit: list[BaseException]) -> None:
    only_small(bench)
    fit += [StorageError("the share does not answer"), OSError(errno.ESTALE, "Stale file handle")]
    assert bench.outcome(categories=["bolt"]).failures == ()
    assert attempt(bench) is None


def test_an_asset_is_given_up_after_its_repeats_and_automation_tries_again(
    bench: Bench, fit: list[BaseException]
) -> None:
    only_small(bench)
    for run in (1, 2):
        fit += [StorageError("the share does not answer")] * 3
        failures = bench.outcome(categories=["bolt"]).failures
        assert "parts__small__memory_bank: " in failures[0]
        assert "the share does not answer" in failures[0]
        assert not fit
        # The repeats of a run are one attempt; the record blames nothing that is the asset's own.
        record = attempt(bench)
        assert record
        assert (record["count"], record["error"]) == (run, "")
    assert bench.outcome(categories=["bolt"]).failures == ()
    assert attempt(bench) is None


@pytest.mark.parametrize("error", [ValueError("coreset_ratio does not suit"), dg.Failure("no test images")])
def test_what_does_not_mend_itself_fails_at_once(bench: Bench, fit: list[BaseException], error: Exception) -> None:
    only_small(bench)
    fit += [error] * 3
    failures = bench.outcome(categories=["bolt"]).failures
    assert str(error) in failures[0] or "no test images" in failures[0]
    assert len(fit) == 2
    record = attempt(bench)
    assert record
    assert record["count"] == 1
    assert type(error).__name__ in record["error"]


def test_an_interrupted_step_ends_the_command_and_has_not_failed(bench: Bench, fit: list[BaseException]) -> None:
    only_small(bench)
    fit += [KeyboardInterrupt()] * 3
    with pytest.raises(KeyboardInterrupt):
        bench.outcome()
    assert len(fit) == 2  # neither repeated, nor is the other category begun
    assert attempt(bench) is None


# -- a full disk ---------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_on_the_way(bench: Bench, calm: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, room = os.fsync, 20

    def full(descriptor: int) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        failures = bench.outcome().failures
    told = r"cannot be written: No space left on device, [\d,.]+ MB are free there. Free space, .*ad-assets gc"
    assert failures
    assert re.search(told, failures[0])
    assert not [file for file in bench.benchmark.store.files(temporary=True) if file.path.endswith(".tmp")]
    bench.make()
    assert results(bench) == results(calm)
    readable(bench.benchmark.store)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own; called with a size, it has that."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def sized(size: str) -> Path:
        options = f"{'remount,' if disk.is_mount() else ''}size={size}"
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True)
        if made.returncode:
            pytest.skip("mounting a small file system takes root")
        return disk

    yield sized
    if disk.is_mount():
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_file_system_that_is_really_full(bench: Bench, calm: Bench, small_disk: Callable[[str], Path]) -> None:
    bench.set("store", {"root": str(small_disk("1m") / "store")})
    failures = bench.outcome().failures
    assert "No space left on device, 0." in failures[0]
    assert not [file for file in bench.benchmark.store.files(temporary=True) if file.path.endswith(".tmp")]
    small_disk("100m")
    bench.make()
    assert results(bench) == results(calm)
    readable(bench.benchmark.store)


# -- two processes -------------------------------------------------------------------------------------------------


def test_two_processes_materialize_the_same_at_once(
    tmp_path: Path, calm: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "images")
    config = tmp_path / "bench.yaml"
    config.write_text(yaml.safe_dump(config_tree(tmp_path), sort_keys=False))
    call = ["materialize", "--config", str(config)]
    log = tmp_path / "log.txt"
    other = Forked(command(call), log, {"DAGSTER_HOME": str(tmp_path / "other")})
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "this"))
    assert main(call) == 0
    assert other.wait() == 0, log.read_text(encoding="utf-8")
    store = ArtifactStore(root=str(tmp_path / "store"))
    readable(store)
    versions = {path: head["version"] for path, head in heads(store).items()}
    assert versions == {path: head["version"] for path, head in heads(calm.benchmark.store).items()}
    assert len(versions) == HEAD_COUNT
    both = Bench(tmp_path, dg.DagsterInstance.ephemeral())
    assert results(both) == results(calm)
    assert store.files("attempts") == []


# -- pools ---------------------------------------------------------------------------------------------------------


def test_what_uses_a_gpu_takes_turns_where_there_may_be_one(bench: Bench) -> None:
    def pools() -> dict[str, str | None]:
        graph = bench.definitions.resolve_asset_graph()
        return {key.to_user_string(): next(iter(graph.get(key).pools), None) for key in graph.get_all_asset_keys()}

    assert set(pools().values()) == {None}  # its device is the CPU
    bench.set("compute.device", "cuda")
    assert {name.rpartition("/")[2] for name, pool in pools().items() if pool == GPU} == {
        *("lite0", "memory_bank", "neighbours", "score_maps"),
    }


def test_a_slot_of_a_finished_run_is_freed(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Compute, "may_use_gpu", lambda _: True)
    with open_instance("bench.yaml") as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default(GPU)
        assert storage.get_concurrency_info(GPU).slot_count == 1
        assert storage.claim_concurrency_slot(GPU, "00000000-0000-0000-0000-000000000000", "step").is_claimed
    with open_instance("bench.yaml") as instance:
        assert not instance.event_log_storage.get_concurrency_info(GPU).active_run_ids
        pooled = Bench(tmp_path, instance)
        only_small(pooled)
        assert pooled.outcome(categories=["bolt"]).failures == ()
        assert not instance.event_log_storage.get_concurrency_info(GPU).active_run_ids


# -- the real demo -------------------------------------------------------------------------------------------------


FLAKY_COMMAND = """
import sys, fsspec, pytest
from ad_assets.cli import main
from ad_assets.cli import main
from ad_assets.defs import assets
from tests.support.flaky import Faults, make_flaky
faults = Faults(0.05, seed=3)
make_flaky(pytest.MonkeyPatch(), fsspec.filesystem("file"), faults)
assets.is_temporary = lambda _: False
status = main(sys.argv[1:])
assert faults.failed > 50, faults.failed
sys.exit(status)
"""


@pytest.mark.slow
def test_the_demo_while_five_percent_of_requests_fail(tmp_path: Path) -> None:
    calm, flaky = tmp_path / "calm", tmp_path / "flaky"
    for folder in (calm, flaky):
        folder.mkdir()
    expected = finish(calm, "--category", "brick")
    settings = {"store.root": str(flaky / "store"), "datasets.demo.root": str(flaky / "images")}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    call = ["materialize", "--config", "demo", "--category", "brick", *sets]
    environ = {**os.environ, "DAGSTER_HOME": str(flaky / "home")}
    done = subprocess.run(
        [sys.executable, "-c", FLAKY_COMMAND, *call], cwd=REPOSITORY, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "trying again in" in done.stderr
    assert board(flaky) == expected
