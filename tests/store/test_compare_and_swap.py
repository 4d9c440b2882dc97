"""Files that several processes change at once: nobody's change is lost, on a folder and on an S3 server."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest

from ad_assets.store import compare_and_swap as exchange
from ad_assets.store.compare_and_swap import LOCK, SwapFile
from ad_assets.store.retry import StorageError
from ad_assets.store.store import ArtifactStore
from tests.conftest import new_s3_store
from tests.support.places import REPOSITORY

PATH = "decisions/parts/bolt.json"

# What one of several processes runs: it adds so many entries of its own to the file, one by one.
WRITER = """
import json, sys
import fsspec
from ad_assets.store.compare_and_swap import SwapFile

root, options, path, name, count = sys.argv[1], json.loads(sys.argv[2]), *sys.argv[3:]
fs, base = fsspec.core.url_to_fs(root, use_listings_cache=False, **options)

def adding(entry):
    return lambda data: json.dumps({**(json.loads(data) if data else {}), entry: name}).encode()

for number in range(int(count)):
    SwapFile(fs, base, path, path).update(adding(f"{name}-{number}"))
"""


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "local":
        return ArtifactStore(root=str(tmp_path / "store"))
    return new_s3_store(request.getfixturevalue("s3_endpoint_in_turn"))


def add(entry: str) -> "exchange.Change":
    return lambda data: json.dumps({**(json.loads(data) if data else {}), entry: 1}).encode()


def write_from(store: ArtifactStore, processes: int, entries: int) -> dict[str, str]:
    """What the file holds after so many processes have added so many entries each."""
    options = json.dumps(store.storage_options)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, store.root, options, PATH, f"writer{number}", str(entries)],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        for number in range(processes)
    ]
    assert [process.wait() for process in started] == [0] * processes
    found: dict[str, str] = store.read_json(PATH)
    return found


def test_three_processes_lose_no_entry(store: ArtifactStore) -> None:
    assert len(write_from(store, 3, 20)) == 60
    assert {file.path for file in store.files()} <= {PATH, LOCK}


@pytest.mark.slow
def test_eight_processes_lose_none_of_two_hundred_entries_each(store: ArtifactStore) -> None:
    assert len(write_from(store, 8, 200)) == 1600


def test_a_change_is_made_again_on_what_another_has_written_meanwhile(store: ArtifactStore) -> None:
    other = ArtifactStore(root=store.root, storage_options=store.storage_options)
    seen: list[bytes | None] = []

    def change(data: bytes | None) -> bytes:
        seen.append(data)
        if len(seen) == 1:
            other.update(PATH, add("theirs"))
        return add("ours")(data)

    store.update(PATH, change)
    assert seen == [None, b'{"theirs": 1}']
    assert store.read_json(PATH) == {"theirs": 1, "ours": 1}
    before = store.files(PATH)
    store.update(PATH, add("ours"))
    assert store.files(PATH) == before  # the same content is not written again


def test_a_file_that_was_deleted_meanwhile_is_made_anew(store: ArtifactStore) -> None:
    store.update(PATH, add("old"))
    seen: list[bytes | None] = []

    def change(data: bytes | None) -> bytes:
        if not seen:
            store.delete([PATH])
        seen.append(data)
        return add("new")(data)

    store.update(PATH, change)
    assert seen == [b'{"old": 1}', None]
    assert store.read_json(PATH) == {"new": 1}


def test_a_write_whose_answer_was_lost_is_not_made_twice(
    s3_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_store.update(PATH, add("first"))
    fs, _ = s3_store.opened
    pipe, lost = fs.pipe_file, [ConnectionResetError("the answer was lost")]

    def written_and_lost(*args: object, **options: object) -> None:
        pipe(*args, **options)
        if lost:
            raise lost.pop()

    monkeypatch.setattr(fs, "pipe_file", written_and_lost)
    monkeypatch.setattr("ad_assets.store.retry.FIRST_PAUSE", 0.001)
    changes: list[bytes | None] = []

    def change(data: bytes | None) -> bytes:
        changes.append(data)
        return add("second")(data)

    s3_store.update(PATH, change)
    assert changes == [b'{"first": 1}']
    assert s3_store.read_json(PATH) == {"first": 1, "second": 1}


def test_a_server_that_ignores_conditions_is_found_out(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.can_update("doctor/probe")
    monkeypatch.setattr(SwapFile, "swap", lambda *_: True)
    assert not store.can_update("doctor/probe")


def test_threads_of_one_process_lose_nothing_in_memory() -> None:
    store = ArtifactStore(root="memory://exchange")
    threads = [
        threading.Thread(target=lambda n=number: [store.update(PATH, add(f"{n}-{i}")) for i in range(20)])
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.read_json(PATH)) == 80


def test_a_lock_that_is_held_for_ever_and_a_file_that_never_rests_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import filelock

    store = ArtifactStore(root=str(tmp_path))
    monkeypatch.setattr(exchange, "LOCK_SECONDS", 0.01)
    with filelock.FileLock(tmp_path / LOCK), pytest.raises(StorageError, match=r"another process has held .*\.lock"):
        store.update(PATH, add("x"))
    monkeypatch.setattr(exchange, "UPDATE_SECONDS", 0.01)
    monkeypatch.setattr(SwapFile, "swap", lambda *_: None)
    with pytest.raises(StorageError, match="other processes kept changing it"):
        store.update(PATH, add("x"))


def test_a_file_system_without_conditional_writes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"has no conditional writes.*local folder, a share, or s3://"):
        SwapFile(fsspec.filesystem("http"), "http://x", PATH, f"http://x/{PATH}")
