"""Writes files of tensors into shards as they come, from any number of threads."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ad_assets.store import shard_format
from ad_assets.store.checksums import sealed_tensors
from ad_assets.store.packed_store import PackedStore
from ad_assets.store.shard_format import Unpacked
from ad_assets.store.shard_packing import drop_replaced
from ad_assets.store.tensor_files import unwritten_tensors

if TYPE_CHECKING:
    from torch import Tensor

SECONDS = 10.0  # after which a shard is written though it is small: a kill loses no more than that


def first_generation(store: PackedStore, folder: str, replaced: Collection[str]) -> int:
    """Of shards that count rather than those that hold the files at some paths now."""
    return store.next_generation(folder, replaced) if replaced else 0


class ShardWriter:
    """Packs files into shards of one folder; all are written when the block is left, even by an error.

    Args:
        store: the store.
        folder: of the files, such as ``features/<extractor>``.
        replaced: paths of files of which others are made: what is written counts rather than they, which then go.
        generation: of the shards; None: one that counts rather than what is replaced. Several processes that replace
            files together have it said, and whoever waits for them lets the old ones go.
    """

    def __init__(
        self, store: PackedStore, folder: str, replaced: Collection[str] = (), generation: int | None = None
    ) -> None:
        self._store, self._folder, self._replaced = store, folder, set(replaced)
        self._generation = first_generation(store, folder, replaced) if generation is None else generation
        self._lock = Lock()
        self._waiting: list[Unpacked] = []
        self._since = 0.0
        self._written: set[str] = set()

    def add(self, path: str, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
        """Take a file; whoever completes a shard writes it. The tensors are copied."""
        header, parts = unwritten_tensors(tensors)
        start, _ = sealed_tensors(path, header, notes, parts)
        file = Unpacked(path, [b"".join((start, *parts))], dict(notes))
        with self._lock:
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting.append(file)
            full = sum(each.size for each in self._waiting) >= shard_format.SHARD
            complete = self._take() if full or time.monotonic() - self._since >= SECONDS else []
        self._write(complete)

    def _take(self) -> list[Unpacked]:
        complete, self._waiting = self._waiting, []
        return complete

    def _write(self, files: list[Unpacked]) -> None:
        if files:
            self._store.write_shard(self._folder, files, self._generation)
            with self._lock:
                self._written |= {file.path for file in files}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            complete = self._take()
        if error is not None:
            with suppress(OSError):  # of what is to blame the caller knows
                self._write(complete)
            return
        self._write(complete)
        if self._replaced & self._written:
            drop_replaced(self._store, self._folder, self._replaced & self._written)
        if self._written:
            self._store.note_headers(self._folder)
