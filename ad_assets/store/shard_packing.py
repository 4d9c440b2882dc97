"""Packs files of their own into shards, and anew what small, partly superseded and partly deleted shards hold.

What is packed lies in its new shard before its old place is deleted: whenever a process is killed, all is there, some
of it twice, and the next one deletes that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from ad_assets.store import shard_format
from ad_assets.store.layout import PACKED
from ad_assets.store.shard_format import Unpacked, generation_of
from ad_assets.store.tensor_files import notes_of, without_checksum

if TYPE_CHECKING:
    from ad_assets.store.packed_store import PackedStore

T = TypeVar("T")


def pack(store: PackedStore, folder: str) -> tuple[int, int]:
    """Pack all files of their own in a folder, and merge its small shards.

    Files that are no tensor files stay as they are: whoever needs one is told that it is damaged.

    Args:
        store: the store.
        folder: such as ``features/<extractor>``.

    Returns:
        How many objects the folder was, and how many it is now.
    """
    with store.packing:
        state = store.look(folder)
        before = len(state.single) + len(state.shards)
        _pack_single(store, folder, sorted(state.single))
        state = store.look(folder)
        partly = {
            shard
            for shard, files in state.shards.items()
            if any(state.packed[file.path] != file or not file.whole for file in files)
        }
        small: dict[int, list[str]] = defaultdict(list)
        for shard, files in state.shards.items():
            if shard not in partly and sum(file.size for file in files) < shard_format.SHARD / 2:
                small[generation_of(shard)].append(shard)
        merged = [shard for own in small.values() if len(own) > 1 for shard in own]
        pack_anew(store, folder, [*partly, *merged], ())
        state = store.look(folder)
        return before, len(state.single) + len(state.shards)


def pack_anew(store: PackedStore, folder: str, shards: Sequence[str], gone: Collection[str]) -> None:
    """Pack what counts in some shards, but for paths that are to go, into new ones of the same generation."""
    state = store.look(folder)
    by_generation: dict[int, list[str]] = defaultdict(list)
    for shard in sorted(shards):
        if shard in state.shards:
            by_generation[generation_of(shard)].append(shard)
    for generation, own in by_generation.items():
        kept = [
            file
            for shard in own
            for file in state.shards[shard]
            # What a file of its own hides is kept: that may be damaged.
            if file.whole and file.path not in gone and state.packed[file.path] == file
        ]
        for batch in _cut_up(kept, lambda file: file.size):
            data = store.packed_bytes(batch)
            files = [Unpacked(file.path, [each], file.notes) for file, each in zip(batch, data, strict=True)]
            store.write_shard(folder, files, generation)
        store.delete_files(own)
    store.look(folder)


def drop_replaced(store: PackedStore, folder: str, paths: Collection[str]) -> None:
    """Delete files that a later shard holds anew: those of their own, which hide it, and shards of nothing else."""
    with store.packing:
        state = store.look(folder)
        store.delete_files(sorted(state.single & set(paths)))
        store.delete_files(
            shard
            for shard, files in sorted(state.shards.items())
            if all(file.path in paths and state.packed[file.path] != file for file in files)
        )
        store.look(folder)


def packed_folders(store: PackedStore) -> list[str]:
    """The folders that may hold shards, sorted."""
    paths = (file.path.split("/") for file in store.files(PACKED))
    return sorted({"/".join(parts[:2]) for parts in paths if len(parts) > 2})


def _pack_single(store: PackedStore, folder: str, paths: Sequence[str]) -> None:
    packed = store.look(folder).packed
    for batch in _read_in_batches(store, paths):
        files: dict[int, list[Unpacked]] = defaultdict(list)
        for path, data in batch:
            try:
                notes = without_checksum(notes_of(data))
            except (ValueError, AttributeError):
                continue
            # So that what hid a packed file counts rather than it.
            generation = 1 + generation_of(packed[path].shard) if path in packed else 0
            files[generation].append(Unpacked(path, [data], notes))
        for generation, own in files.items():
            store.write_shard(folder, own, generation)
            store.delete_files(file.path for file in own)


def _read_in_batches(store: PackedStore, paths: Sequence[str]) -> Iterator[list[tuple[str, bytes]]]:
    """Paths and contents, about a shard at a time."""
    batch: list[tuple[str, bytes]] = []
    for first in range(0, len(paths), store.requests_at_once):
        some = paths[first : first + store.requests_at_once]
        batch += zip(some, store.each(store.single_bytes, some), strict=True)
        if sum(len(data) for _, data in batch) >= shard_format.SHARD:
            yield batch
            batch = []
    if batch:
        yield batch


def _cut_up(items: Sequence[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= shard_format.SHARD:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
