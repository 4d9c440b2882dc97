"""The artifact store: one test body on a local folder and on an S3 protocol server on loopback."""

import os
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save

from ad_assets.store.store import ArtifactStore, CorruptArtifactError
from tests.benchmarks.measure import peak_anonymous_megabytes
from tests.support.forked import Forked


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "local":
        return ArtifactStore(root=str(tmp_path / "store"))
    return request.getfixturevalue("s3_store")


def test_what_is_written_is_read_back(store: ArtifactStore) -> None:
    tensors = {"maps": torch.randn(3, 5), "ids": torch.arange(4), "half": torch.randn(2).to(torch.bfloat16)}
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    store.write_tensors("t/x.safetensors", tensors, {"seconds": "1.5"})
    store.write_table("t/x.parquet", table)
    store.write_json("t/x.json", {"b": [1, 2.5, None], "a": "ü"})
    store.write_text("t/x.txt", "größe")
    read = store.read_tensors("t/x.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor)
        assert read[name].dtype == tensor.dtype
    assert store.read_notes("t/x.safetensors") == {"seconds": "1.5"}
    assert store.read_table("t/x.parquet").equals(table)
    assert store.read_json("t/x.json") == {"b": [1, 2.5, None], "a": "ü"}
    assert store.read_text("t/x.txt") == "größe"
    many = store.read_many_tensors(["t/x.safetensors"] * 3)
    assert [torch.equal(m["maps"], tensors["maps"]) for m in many] == [True] * 3
    store.write_tensors("t/y.safetensors", {f"tap{'s' * 90}{n}": torch.zeros(1) for n in range(40)}, {"seconds": "2"})
    notes = store.read_many_notes(["t/x.safetensors", "t/y.safetensors", "t/x.safetensors"])  # y has a long header
    assert [own["seconds"] for own in notes] == ["1.5", "2", "1.5"]


def test_files_are_those_of_the_library_without_a_copy_of_the_tensors(tmp_path: Path) -> None:
    kinds = ("bool", "uint8", "int8", "int16", "float16", "bfloat16", "int32", "float32", "float64", "int64")
    tensors = {f"{n}": (9 * torch.randn(3, 5)).to(getattr(torch, kind)) for n, kind in enumerate(kinds)}
    tensors |= {
        "a.1": torch.randn(7),
        "a.0": torch.randn(2, 0, 3),
        "one": torch.tensor(4),
        "turned": torch.randn(4, 2).T,
    }
    store = ArtifactStore(root=str(tmp_path))
    store.write_tensors("t/x.safetensors", tensors)
    written = store.local_path("t/x.safetensors").read_bytes()
    notes = {"checksum": store.checksum("t/x.safetensors")}
    assert written == save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=notes)
    large = torch.zeros(30_000_000)
    large[0] = 1  # pages of its own
    store.write_tensors("t/warm.safetensors", {"rows": large[:10]})
    assert peak_anonymous_megabytes(lambda: store.write_tensors("t/y.safetensors", {"rows": large})) < 40


def test_listing_usage_and_deletion(store: ArtifactStore) -> None:
    assert store.files() == []
    store.write_bytes("a/one", b"12345")
    store.write_bytes("a/b/two", b"123")
    store.write_bytes("c", b"1")
    assert [(file.path, file.size) for file in store.files("a")] == [("a/b/two", 3), ("a/one", 5)]
    assert store.usage() == 9
    assert abs(store.files("c")[0].changed - time.time()) < 60
    store.delete(["a/b/two", "never/there"])
    assert not store.exists("a/b/two")
    assert store.exists("a/one")
    assert not store.exists("a")


def test_an_artifact_exists_once_it_is_committed(store: ArtifactStore) -> None:
    artifact = store.artifact("memory_bank", "abc")
    store.write_tensors(artifact.at("state.safetensors"), {"rows": torch.ones(2)})
    assert not artifact.exists()
    artifact.commit({"asset": "x"})
    assert store.artifact("memory_bank", "abc").exists()
    record = artifact.record()
    [(name, (size, checksum))] = record.pop("files").items()
    assert (name, record) == ("state.safetensors", {"asset": "x"})
    assert (size, checksum) == (store.usage(artifact.at(name)), store.checksum(artifact.at(name)))


def test_another_process_sees_what_was_written(store: ArtifactStore) -> None:
    assert store.read_head(("demo", "image_index"), "brick") is None
    other = ArtifactStore(root=store.root, storage_options=store.storage_options)
    other.heads.write(
        other.head_path(("demo", "image_index"), "brick"), {"version": "1", "parts": {}, "code_version": "2"}
    )
    assert store.read_head(("demo", "image_index"), "brick") == {"version": "1", "parts": {}, "code_version": "2"}


def test_what_is_absent_or_broken_is_named(store: ArtifactStore) -> None:
    for read in (store.read_bytes, store.read_json, store.read_tensors, store.read_table):
        with pytest.raises(FileNotFoundError, match=r"no/such\.file is not in the store"):
            read("no/such.file")
    store.write_bytes("bad/file", b"neither one nor the other")
    for read in (store.read_json, store.read_tensors, store.read_table):
        with pytest.raises(CorruptArtifactError, match=r"bad/file is damaged .*: `ad-assets materialize --verify`"):
            read("bad/file")
    with pytest.raises(ValueError, match="JSON"):
        store.write_json("bad/nan", float("nan"))
    assert not store.exists("bad/nan")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(root=str(tmp_path))
    store.write_bytes("x", b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        store.write_bytes("x", b"new")
    assert store.read_bytes("x") == b"old"
    assert [file.path for file in store.files()] == ["x"]


def test_a_killed_writer_leaves_only_whole_files(tmp_path: Path) -> None:
    def write(ready: Path) -> int:
        store = ArtifactStore(root=str(tmp_path / "store"))
        ready.touch()
        for value in range(10**9):
            store.write_tensors(f"x{value % 3}", {"t": torch.full((200_000,), float(value))})
        return 0

    for moment in (0.05, 0.11, 0.23):
        ready = tmp_path / f"{moment}"
        writer = Forked(partial(write, ready), tmp_path / "log.txt", {})
        while not ready.exists() and writer.poll() is None:
            time.sleep(0.005)
        time.sleep(moment)
        writer.kill()
        assert writer.poll() == -signal.SIGKILL
    store = ArtifactStore(root=str(tmp_path / "store"))
    whole = [file.path for file in store.files()]
    assert whole
    for path in whole:
        tensor = store.read_tensors(path)["t"]
        assert tensor.shape == (200_000,)
        assert (tensor == tensor[0]).all()
    shutil.rmtree(tmp_path)


def test_writing_beside_a_process_that_removes_empty_folders(tmp_path: Path) -> None:
    one, two = (ArtifactStore(root=str(tmp_path / "store")) for _ in range(2))
    failed: list[BaseException] = []

    def busy(store: ArtifactStore, name: str) -> None:
        try:
            for _ in range(300):
                store.write_bytes(f"attempts/parts/small/{name}", b"1")
                store.delete([f"attempts/parts/small/{name}"])
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=busy, args=each) for each in ((one, "bolt"), (two, "nut"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_tensors_and_notes_are_of_one_moment(tmp_path: Path) -> None:
    store, stop = ArtifactStore(root=str(tmp_path)), threading.Event()

    def replace() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            store.write_tensors("checkpoint", {"step": torch.tensor(step)}, {"step": str(step)})

    store.write_tensors("checkpoint", {"step": torch.tensor(0)}, {"step": "0"})
    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(300):
            tensors, notes = store.read_noted_tensors("checkpoint")
            assert int(tensors["step"]) == int(notes["step"])
    finally:
        stop.set()
        writer.join()
