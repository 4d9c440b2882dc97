"""Storage that fails now and then, as networks do: what tests of passing faults share."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable
from typing import Any

import fsspec
import pytest

import ad_assets.datasets.files
import ad_assets.store.files
import ad_assets.store.retry
import ad_assets.store.store

PASSING = (
    TimeoutError("the read timed out"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.EBUSY, "Please reduce your request rate."),
)


class Faults:
    """Makes a part of all requests fail, half of them before and half after their effect.

    Args:
        rate: of requests that fail.
        seed: of the choice.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self.requests = 0
        self.failed = 0
        self._rate = rate
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._inside = threading.local()

    def around(self, request: Callable[..., Any]) -> Callable[..., Any]:
        """A request that fails now and then; what it asks for in turn does not fail by itself."""

        def made(*args: Any, **options: Any) -> Any:
            if getattr(self._inside, "now", False):
                return request(*args, **options)
            self.requests += 1
            fate, error = self._random.random() / self._rate, self._random.choice(PASSING)
            self.failed += fate < 1
            if fate < 0.5:
                raise error
            self._inside.now = True
            try:
                answer = request(*args, **options)
                # A walk is made only as its results are asked for.
                answer = list(answer) if hasattr(answer, "__next__") else answer
            finally:
                self._inside.now = False
            if fate < 1:
                raise error
            return answer

        return made


def make_flaky(monkeypatch: pytest.MonkeyPatch, fs: fsspec.AbstractFileSystem, faults: Faults) -> None:
    """Make a file system fail now and then, for stores and data sets; and all files of the local disk."""
    # fsspec keeps one object for the same options, so that a store made later gets this one too.
    for name in ("info", "find", "ls", "cat_file", "pipe_file", "rm_file"):
        monkeypatch.setattr(fs, name, faults.around(getattr(fs, name)))
    for module, name in (
        (ad_assets.store.files, "read_whole"),
        (ad_assets.store.files, "find_files"),
        (ad_assets.store.store, "write_whole"),
        (ad_assets.store.store, "map_tensors"),
        (ad_assets.store.store, "verify"),
        (ad_assets.store.store, "checksum_of"),
        (ad_assets.datasets.files, "walk_local"),
    ):
        monkeypatch.setattr(module, name, faults.around(getattr(module, name)))
    monkeypatch.setattr(ad_assets.store.retry, "FIRST_PAUSE", 0.001)
