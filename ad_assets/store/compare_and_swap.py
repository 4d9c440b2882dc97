"""Compare and swap of one stored file: it is replaced only if its content is still what was read.

On a local folder or share, comparison and write happen under a lock file, which the system releases when its holder
dies. On S3 they are one conditional request (``If-Match``, ``If-None-Match``), which the server must honour: AWS, MinIO
and Ceph do in their current releases; `ad-assets doctor` tests it.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import filelock

from ad_assets.store.local import write_whole
from ad_assets.store.retry import StorageError, retried
from ad_assets.store.s3_objects import read_object

LOCK = ".lock"  # one per store, held only for one read and write
LOCK_SECONDS = 30.0
UPDATE_SECONDS = 60.0
Change = Callable[[bytes | None], bytes]  # old content, None where there is no file -> new content
Seen = tuple[bytes | None, str | None]  # content, None where there is no file, and its ETag on S3
ABSENT: Seen = (None, None)
_PRECONDITION_FAILED, _CONFLICT = 412, 409
_IN_MEMORY = threading.Lock()


class SwapFile:
    """One file that several processes change.

    Args:
        fs: an open fsspec file system: local, S3, or in memory.
        base: root of the store on it.
        path: of the file, below the root.
        location: full path or URL for messages.

    Raises:
        StorageError: the file system has no compare and swap, or the lock cannot be taken.
    """

    def __init__(self, fs: Any, base: str, path: str, location: str) -> None:
        self._fs, self._base, self._file, self._location = fs, base, f"{base}/{path}", location
        protocol = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        self._kind = next((kind for kind in ("file", "s3", "memory") if kind in protocol), None)
        if self._kind is None:
            raise StorageError(
                f"{location}: {protocol[0]} has no conditional writes, without which one of two simultaneous changes "
                "would be lost: set store.root to a local folder, a share, or s3://bucket/prefix"
            )

    def update(self, change: Change, *, seen: Seen | None = None) -> str:
        """Replace the content by `change` of it, repeated until no other process wrote in between.

        Args:
            change: see `Change`.
            seen: what is there as far as is known, so that writing is tried before it is read.

        Returns:
            The ETag of what lies there now; empty where there is none.
        """
        started = time.monotonic()
        for number in itertools.count():
            known = seen if number == 0 else None
            before, tag = known or self.read()
            after = change(before)
            if known is None and after == before:
                return tag or ""
            if (written := self.swap(before, tag, after)) is not None:
                return written
            if self._kind == "s3" and known != ABSENT:
                # A request repeated because its answer was lost is refused although the first one succeeded.
                content, tag = self.read()
                if content == after:
                    return tag or ""
            if time.monotonic() - started > UPDATE_SECONDS:
                break
            if known is None:
                # Growing random pauses spread the processes that were refused.
                time.sleep(random.uniform(0.0, 0.002 * 2 ** min(number, 8)))  # noqa: S311 - not secret
        raise StorageError(
            f"{self._location}: other processes kept changing it for {UPDATE_SECONDS:.0f} s: run again later"
        )

    def read(self) -> Seen:
        """What is there, as `swap` takes it."""
        try:
            if self._kind == "s3":
                return retried(lambda: read_object(self._fs, self._file), self._location)
            return retried(lambda: self._fs.cat_file(self._file), self._location), None
        except FileNotFoundError:
            return None, None

    def swap(self, before: bytes | None, tag: str | None, data: bytes) -> str | None:
        """Replace the file if its content is still `before`, on S3 if its ETag is.

        Returns:
            None if it was not replaced; else its ETag, empty where there is none.
        """
        if self._kind == "s3":
            return self._put_if(tag, data)
        write = partial(self._fs.pipe_file, self._file, data)
        lock: Any = _IN_MEMORY
        if self._kind == "file":
            target = Path(self._file)
            write = partial(write_whole, target, data)
            lock_file = Path(self._base, LOCK)
            lock_file.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(lock_file, timeout=LOCK_SECONDS, poll_interval=0.005)
        try:
            with lock:
                if self.read()[0] != before:
                    return None
                retried(write, self._location, also=(FileNotFoundError, FileExistsError))
        except filelock.Timeout as error:
            raise StorageError(
                f"{self._location}: another process has held {error.lock_file} for {LOCK_SECONDS:.0f} s: find it "
                "(fuser, lsof), end it if it hangs, and run again"
            ) from error
        return ""

    def _put_if(self, tag: str | None, data: bytes) -> str | None:
        """Write an object if its ETag is still this one, None: if there is none; returns the new one if written."""
        condition = {"mode": "create"} if tag is None else {"IfMatch": tag}
        try:
            answer = retried(lambda: self._fs.pipe_file(self._file, data, **condition), self._location)
        except FileNotFoundError:  # deleted since it was read
            return None
        except FileExistsError:
            return None
        except OSError as error:
            said = getattr(error.__cause__, "response", None) or {}
            if said.get("ResponseMetadata", {}).get("HTTPStatusCode") not in (_PRECONDITION_FAILED, _CONFLICT):
                raise
            return None
        return str(answer["ETag"])

    def try_conditions(self) -> bool:
        """Whether the server refuses a conditional write whose condition is false; leaves the file there."""
        self.update(lambda _: b"tried by ad-assets doctor")
        return self.swap(None, None, b"overwritten") is None and self.swap(b"", '"another"', b"overwritten") is None
