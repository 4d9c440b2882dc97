"""The storage under a simulated line: at a request of choice a process dies, the disk fails or is full, or others act.

What is counted are the requests of the store in the order in which one thread makes them: reads and writes of whole
files, listings, deletions. Between them a process does nothing that lasts.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import fsspec
import pytest

import ad_assets.graph.stages.extraction
import ad_assets.graph.stages.score_maps
import ad_assets.store.compare_and_swap
import ad_assets.store.files
import ad_assets.store.retry
import ad_assets.store.store
from ad_assets.store.local import NoSpaceError

WRITES, SWAP = "write_whole", "swap"
KINDS = ("die before", "die after", "die half way", "fail once", "fail from there", "full from there")


class Killed(BaseException):
    """The process is no more: whatever it asks for after this is not done either."""


@dataclass(frozen=True)
class Fault:
    """What happens at the request of a number, counted from 0: one of `KINDS`, or an act of others before it.

    `only`: the requests that are counted; all by default.
    """

    kind: str
    at: int
    act: Callable[[], None] | None = None
    only: str = ""


class Disk:
    """All requests of all stores pass through it; `struck`: whether the fault came to pass."""

    def __init__(self) -> None:
        self._fault: Fault | None = None
        self._made, self._inside, self._lock = 0, threading.local(), threading.RLock()
        self.struck = False

    @contextmanager
    def with_fault(self, fault: Fault | None) -> Iterator[None]:
        """A block in which a fault strikes."""
        self._fault, self._made, self.struck = fault, 0, False
        try:
            yield
        finally:
            self._fault = None

    def around(self, name: str, request: Callable[..., Any]) -> Callable[..., Any]:
        """A request that may be struck; what it asks for in turn is part of it."""

        def made(*args: Any, **options: Any) -> Any:
            if self._fault is None or self._fault.only not in ("", name) or getattr(self._inside, "now", False):
                return request(*args, **options)
            with self._lock:
                self._inside.now = True
                try:
                    return self._struck(name, request, args, options)
                finally:
                    self._inside.now = False

        return made

    def _struck(self, name: str, request: Callable[..., Any], args: Any, options: Any) -> Any:
        fault, number = self._fault, self._made
        assert fault
        self._made += 1
        if number < fault.at:
            return request(*args, **options)
        self.struck = True
        if fault.kind.startswith("die"):
            if number == fault.at and fault.kind == "die after":
                request(*args, **options)
            if number == fault.at and fault.kind == "die half way" and name == WRITES:
                half = args[0].with_name(f".{args[0].name}.half.tmp")
                half.parent.mkdir(parents=True, exist_ok=True)
                half.write_bytes(b"half")
            raise Killed
        if fault.kind == "fail from there" or (fault.kind == "fail once" and number == fault.at):
            raise OSError(errno.EIO, "Input/output error")
        if fault.kind == "full from there" and name in (WRITES, SWAP):
            raise NoSpaceError(errno.ENOSPC, "No space left on device")
        if fault.act and number == fault.at:
            self._fault, self._inside.now = None, False
            fault.act()
            self._fault, self._inside.now = fault, True
        return request(*args, **options)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put it under all stores on local disks."""
        local = fsspec.filesystem("file")
        for owner, name in (
            *((local, each) for each in ("info", "cat_file", "rm_file")),
            *((ad_assets.store.files, each) for each in ("read_whole", "walk_files")),
            *((ad_assets.store.store, each) for each in (WRITES, "map_tensors", "verify", "checksum_of")),
            # One request, for others wait for its lock: they act before it, after what it compares was read.
            (ad_assets.store.compare_and_swap.SwapFile, SWAP),
        ):
            request = getattr(owner, name)
            whole = (lambda start, walk=request: list(walk(start))) if name == "walk_files" else request
            patch.setattr(owner, name, self.around(name, whole))
        patch.setattr(ad_assets.store.retry, "FIRST_PAUSE", 0.0)
        # One thread, so that the same schedule makes the same requests in the same order.
        files = ad_assets.store.files.FileStore
        patch.setattr(files, "requests_at_once", property(lambda _: 1))
        patch.setattr(files, "each", lambda _, act, items, **_threads: [act(item) for item in items])
        for stage in (ad_assets.graph.stages.extraction, ad_assets.graph.stages.score_maps):
            patch.setattr(stage, "BackgroundWrites", WritesAtOnce)


class WritesAtOnce:
    """Stands for `BackgroundWrites`: nothing is left for later."""

    def __init__(self, *_: Any) -> None: ...

    def submit(self, _: int, write: Callable[[], None]) -> None:
        """Write now."""
        write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None): ...
