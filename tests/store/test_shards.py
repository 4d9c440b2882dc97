"""Packed files are what single files are: the same bytes by the same paths, whoever writes, packs or is killed."""

import os
import random
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ad_assets.store import packed_store, shard_format, shard_packing, shard_writer
from ad_assets.store.shard_format import is_shard
from ad_assets.store.shard_writer import ShardWriter
from ad_assets.store.store import ArtifactStore, CorruptArtifactError, MissingFileError
from tests.support.forked import Forked

FOLDER = "features/extractor"


def path_of(number: int) -> str:
    name = f"{number * 7919 % 256:02x}{number:06d}"  # in another order than they are written
    return f"{FOLDER}/{name[:2]}/{name}.safetensors"


def tensors_of(number: int, kind: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(number)
    return {"tap0": torch.randn(3, 5, 5, generator=draw).to(kind), "tap1": torch.randn(7, generator=draw).to(kind)}


def notes_of(number: int) -> dict[str, str]:
    return {"seconds": f"+{number:04d}"}


def pack(store: ArtifactStore, numbers: range | list[int], kind: torch.dtype = torch.float32, shift: int = 0) -> None:
    with ShardWriter(store, FOLDER, [path_of(n) for n in numbers] if shift else ()) as shards:
        for number in numbers:
            shards.add(path_of(number), tensors_of(number + shift, kind), notes_of(number))


def again(store: ArtifactStore) -> ArtifactStore:
    """As another process has it."""
    return ArtifactStore(root=store.root, storage_options=store.storage_options)


def physical(store: ArtifactStore) -> list[str]:
    return [file.path for file in super(packed_store.PackedStore, store).files(FOLDER)]


def assert_holds(store: ArtifactStore, wanted: dict[int, int], kind: torch.dtype = torch.float32) -> None:
    """Number -> that of its tensors, all there is."""
    assert [file.path for file in store.files("features")] == sorted(map(path_of, wanted))
    paths = [path_of(number) for number in wanted]
    for found, number in zip(store.read_many_tensors(paths), wanted.values(), strict=True):
        expected = tensors_of(number, kind)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "local":
        return ArtifactStore(root=str(tmp_path / "store"))
    return request.getfixturevalue("s3_store")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some five files each."""
    monkeypatch.setattr(shard_format, "SHARD", 3000)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_a_packed_file_is_the_single_file_bit_by_bit(store: ArtifactStore, tmp_path: Path, kind: torch.dtype) -> None:
    single = ArtifactStore(root=str(tmp_path / "single"))
    numbers = range(23)
    for number in numbers:
        single.write_tensors(path_of(number), tensors_of(number, kind), notes_of(number))
    pack(store, numbers, kind)
    assert 2 <= len(physical(store)) <= 6
    for reader in (store, again(store)):
        assert [(f.path, f.size) for f in reader.files("features")] == [
            (f.path, f.size) for f in single.files("features")
        ]
        for number in numbers:
            path = path_of(number)
            assert reader.fetch(path) == single.fetch(path)
            assert reader.checksum(path) == single.checksum(path)
            assert reader.exists(path)
            assert reader.files(path) == [file for file in reader.files() if file.path == path]
        paths = [path_of(number) for number in numbers]
        assert reader.read_many_notes(paths) == single.read_many_notes(paths)
        assert_holds(reader, {number: number for number in reversed(numbers)}, kind)
    assert not store.exists(path_of(99))
    with pytest.raises(MissingFileError, match="is not in the store"):
        store.read_tensors(path_of(99))


def test_any_order_of_writes_packs_and_deletions_leaves_what_single_files_would(store: ArtifactStore) -> None:
    choose = random.Random(1)  # noqa: S311 - repeatable, not secret
    stores = [store, again(store)]
    wanted: dict[int, int] = {}
    for step in range(12 if store.is_local else 6):
        one = choose.choice(stores)
        numbers = choose.sample(range(20), 6)
        act = choose.choice(["new", "replaced", "single", "delete", "pack"])
        if act == "new":
            numbers = [number for number in numbers if number not in wanted]
            pack(one, numbers)
            wanted |= {number: number for number in numbers}
        elif act == "replaced":
            pack(one, numbers, shift=100 * step + 100)
            wanted |= {number: number + 100 * step + 100 for number in numbers}
        elif act == "single":
            for number in numbers:
                one.write_tensors(path_of(number), tensors_of(number + 50), notes_of(number))
            wanted |= {number: number + 50 for number in numbers}
        elif act == "delete":
            one.delete(map(path_of, numbers))
            wanted = {number: own for number, own in wanted.items() if number not in numbers}
        else:
            shard_packing.pack(one, FOLDER)
            assert all(map(is_shard, physical(one)))
        for reader in (*stores, again(store)):
            assert_holds(reader, wanted)


def test_what_replaces_a_single_file_counts_rather_than_what_that_hid(store: ArtifactStore) -> None:
    numbers = range(12)
    for _ in range(3):  # names of shards are drawn
        pack(store, numbers)
        for number in numbers:
            store.write_tensors(path_of(number), tensors_of(number + 50), notes_of(number))
        assert_holds(again(store), {number: number + 50 for number in numbers})
        pack(store, numbers, shift=100)
        assert_holds(again(store), {number: number + 100 for number in numbers})
        store.delete(map(path_of, numbers))
        assert physical(store) == []


def test_what_another_process_packed_anew_is_found_again(store: ArtifactStore) -> None:
    pack(store, range(20))
    other = again(store)
    other.files(FOLDER)
    store.delete([path_of(3)])
    kept = [number for number in range(20) if number != 3]
    for found, number in zip(other.read_many_tensors(list(map(path_of, kept))), kept, strict=True):
        assert torch.equal(found["tap0"], tensors_of(number)["tap0"])
    with pytest.raises(MissingFileError):
        other.read_tensors(path_of(3))


def test_two_that_write_and_one_that_deletes_and_packs_lose_nothing(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    pack(ArtifactStore(root=root), range(100, 130))
    failed: list[BaseException] = []

    def write(first: int) -> None:
        try:
            for start in range(first, first + 30, 3):
                pack(ArtifactStore(root=root), range(start, start + 3))
        except BaseException as error:
            failed.append(error)
            raise

    def tidy() -> None:
        try:
            for number in range(100, 110):
                ArtifactStore(root=root).delete([path_of(number)])
                shard_packing.pack(ArtifactStore(root=root), FOLDER)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=write, args=(0,)), threading.Thread(target=write, args=(30,))]
    threads.append(threading.Thread(target=tidy))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert_holds(ArtifactStore(root=root), {number: number for number in [*range(60), *range(110, 130)]})


def test_packing_merges_small_shards_and_drops_what_does_not_count(store: ArtifactStore) -> None:
    for number in range(8):
        pack(store, [number])
    store.write_tensors(path_of(8), tensors_of(8), notes_of(8))
    assert len(physical(store)) == 9
    before = {file.path: store.fetch(file.path) for file in store.files("features")}
    assert shard_packing.pack(again(store), FOLDER) == (9, 2)
    assert len(physical(store)) == 2
    assert {file.path: store.fetch(file.path) for file in again(store).files("features")} == before
    assert shard_packing.pack(again(store), FOLDER) == (2, 2)


def test_another_process_reads_all_headers_of_a_bucket_from_one_object(
    s3_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(s3_store, range(20))
    read: list[str] = []
    real = packed_store.PackedStore._read_header

    def counted(self: packed_store.PackedStore, file: Any) -> Any:
        read.append(file.path)
        return real(self, file)

    monkeypatch.setattr(packed_store.PackedStore, "_read_header", counted)
    shards = physical(s3_store)
    assert_holds(again(s3_store), {number: number for number in range(20)})
    assert sorted(read) == shards
    assert_holds(again(s3_store), {number: number for number in range(20)})
    assert len(read) == len(shards)
    s3_store.delete([path_of(3)])
    s3_store.write_bytes(f"snapshots/{FOLDER}.json.gz", b"damaged")
    assert_holds(again(s3_store), {number: number for number in range(20) if number != 3})


def damaged_shard(store: ArtifactStore, path: str) -> Path:
    return store.local_path(store.shard_of(path))


@pytest.mark.parametrize("how", ["flipped", "note", "short", "empty", "gone", "of another"])
def test_damage_is_told_by_name_and_never_read(tmp_path: Path, how: str) -> None:
    store = ArtifactStore(root=str(tmp_path))
    pack(store, range(20))
    shard = damaged_shard(store, path_of(4))
    own = [file for file in store._folders[FOLDER].packed.values() if store.local_path(file.shard) == shard]
    last, content = max(own, key=lambda file: file.start), shard.read_bytes()
    # Who has read a header needs no part of it again.
    for reader in (again(store),) if how == "note" else (store, again(store)):
        if how in ("flipped", "note"):
            place = last.start + last.size - 3 if how == "flipped" else content.index(b"+00") + 1
            shard.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        elif how == "short":
            shard.write_bytes(content[:-40])
        elif how == "empty":
            shard.write_bytes(b"")
        elif how == "gone":
            shard.unlink(missing_ok=True)
        else:
            other = next(path for path in shard.parent.iterdir() if path != shard)
            shard.write_bytes(other.read_bytes())
        with pytest.raises((CorruptArtifactError, MissingFileError), match=Path(last.path).stem):
            reader.read_tensors(last.path)
        assert not reader.holds_tensors(last.path)
        shard.write_bytes(content)
    whole = ArtifactStore(root=str(tmp_path))
    assert set(map(path_of, range(20))) >= {file.path for file in whole.files("features")}
    for file in whole.files("features"):
        whole.checksum(file.path)


def test_a_writer_killed_at_any_file_operation_loses_no_shard_that_was_written(tmp_path: Path) -> None:
    """At each rename, sync and removal in turn: writing new files, replacing them, deleting and packing."""

    def act(root: Path, fatal: int) -> int:
        count = 0

        def counted(real: object, *arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == fatal:
                os._exit(9)  # as SIGKILL: nothing is tidied
            return real(*arguments, **options)  # type: ignore[operator]

        for owner, name in ((os, "fsync"), (Path, "replace"), (os, "unlink"), (os, "remove")):
            setattr(
                owner, name, partial(counted, getattr(owner, name)) if owner is os else _method(owner, name, counted)
            )
        store = ArtifactStore(root=str(root))
        pack(store, range(10, 20))
        pack(store, range(5), shift=100)
        store.write_tensors(path_of(30), tensors_of(30), notes_of(30))
        shard_packing.pack(store, FOLDER)
        store.delete([path_of(9)])
        return 0

    for fatal in range(1, 60):
        root = tmp_path / f"{fatal}"
        pack(ArtifactStore(root=str(root)), range(10))
        status = Forked(partial(act, root, fatal), tmp_path / "log.txt", {}).wait()
        store = ArtifactStore(root=str(root))
        there = {file.path for file in store.files("features")}
        assert there >= {path_of(number) for number in range(9)}
        for number in range(31):
            if path_of(number) in there:
                found = store.read_tensors(path_of(number))["tap0"]
                allowed = [number, number + 100] if number < 5 else [number]
                assert any(torch.equal(found, tensors_of(one)["tap0"]) for one in allowed)
        if status == 0:
            assert there == {path_of(number) for number in [*range(9), *range(10, 20), 30]}
            break
    else:
        pytest.fail("never came to its end")
    assert fatal > 10


def _method(owner: Any, name: str, counted: Any) -> Any:
    real = getattr(owner, name)
    return lambda self, *arguments, **options: counted(real, self, *arguments, **options)


def test_a_shard_is_written_after_some_seconds_though_it_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(root=str(tmp_path))
    with ShardWriter(store, FOLDER) as shards:
        shards.add(path_of(0), tensors_of(0), {})
        assert physical(store) == []
        monkeypatch.setattr(shard_writer, "SECONDS", 0.0)
        shards.add(path_of(1), tensors_of(1), {})
        assert len(physical(store)) == 1


def test_an_error_of_the_caller_keeps_what_is_complete(tmp_path: Path) -> None:
    store = ArtifactStore(root=str(tmp_path))

    def fail() -> None:
        with ShardWriter(store, FOLDER) as shards:
            shards.add(path_of(0), tensors_of(0), {})
            raise RuntimeError("the backbone failed")

    with pytest.raises(RuntimeError, match="the backbone"):
        fail()
    assert_holds(again(store), {0: 0})
