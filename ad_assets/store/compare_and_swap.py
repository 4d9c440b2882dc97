"""Compare and swap of one stored file: it is replaced only if it is still what was read, whoever writes beside.

On a local folder or share the comparison and the write happen under a lock file, which the system releases when its
holder dies. On S3 they are one request (``If-Match``, ``If-None-Match``), which servers must honour: AWS does, MinIO
and Ceph do in their current releases; `ad-assets doctor` tries it.
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
from fsspec.asyn import sync

from ad_assets.store.local import write_whole
from ad_assets.store.retry import StorageError, retried

LOCK = ".lock"  # one for a whole store: it is held for a read and a write, and work on what is read goes on outside
LOCK_SECONDS = 30.0
UPDATE_SECONDS = 60.0
Change = Callable[[bytes | None], bytes]  # from a content, None where there is no file, to the new one
_PRECONDITION_FAILED, _CONFLICT = 412, 409
_IN_MEMORY = threading.Lock()


class SwapFile:
    """One file that several processes change.

    Args:
        fs: an open fsspec file system: local, S3, or in memory.
        base: root of the store on it.
        path: of the file, below the root.
        place: the same for people.

    Raises:
        StorageError: the file system has no way to compare and swap, or its lock is not to be had.
    """

    def __init__(self, fs: Any, base: str, path: str, place: str) -> None:
        self._fs, self._base, self._file, self._place = fs, base, f"{base}/{path}", place
        protocol = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        self._kind = next((kind for kind in ("file", "s3", "memory") if kind in protocol), None)
        if self._kind is None:
            raise StorageError(
                f"{place}: {protocol[0]} offers no write on a condition, without which entries of two people at once "
                "would be lost: set store.root to a local folder, a share, or s3://bucket/prefix"
            )

    def update(self, change: Change) -> None:
        """Replace the file by what `change` makes of its content, again and again until nobody came between."""
        started = time.monotonic()
        for number in itertools.count():
            before, tag = self.read()
            after = change(before)
            if after == before or self.swap(before, tag, after):
                return
            if time.monotonic() - started > UPDATE_SECONDS:
                break
            # Jittered and growing: the fewer come back at once, the fewer are refused again.
            time.sleep(random.uniform(0.0, 0.002 * 2 ** min(number, 8)))  # noqa: S311 - not secret
        raise StorageError(
            f"{self._place}: other processes have kept changing it for {UPDATE_SECONDS:.0f} s: run again when they rest"
        )

    def read(self) -> tuple[bytes | None, str | None]:
        """The content, None where there is no file, and what `swap` takes to know it again."""
        try:
            if self._kind == "s3":
                return retried(lambda: sync(self._fs.loop, self._read_object), self._place)
            return retried(lambda: self._fs.cat_file(self._file), self._place), None
        except FileNotFoundError:
            return None, None

    async def _read_object(self) -> tuple[bytes, str]:
        # Content and tag in one answer: between two requests the object may change, and change back.
        bucket, key, _ = self._fs.split_path(self._file)
        answer = await self._fs._call_s3("get_object", Bucket=bucket, Key=key)
        async with answer["Body"] as body:
            return await body.read(), answer["ETag"]

    def swap(self, before: bytes | None, tag: str | None, data: bytes) -> bool:
        """Replace the file if it still is `before`; whether it was."""
        if self._kind == "s3":
            return self._swap_object(tag, data)
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
                    return False
                retried(write, self._place, also=(FileNotFoundError, FileExistsError))
        except filelock.Timeout as error:
            raise StorageError(
                f"{self._place}: another process has held {error.lock_file} for {LOCK_SECONDS:.0f} s: see which "
                "(fuser, lsof), end it if it hangs, and run again"
            ) from error
        return True

    def _swap_object(self, tag: str | None, data: bytes) -> bool:
        condition = {"mode": "create"} if tag is None else {"IfMatch": tag}
        try:
            retried(lambda: self._fs.pipe_file(self._file, data, **condition), self._place)
        except FileNotFoundError:  # deleted since it was read
            return False
        except FileExistsError:
            pass
        except OSError as error:
            answer = getattr(error.__cause__, "response", None) or {}
            if answer.get("ResponseMetadata", {}).get("HTTPStatusCode") not in (_PRECONDITION_FAILED, _CONFLICT):
                raise
        else:
            return True
        # A request that was made again because its answer was lost is refused for its own effect.
        return self.read()[0] == data

    def try_conditions(self) -> bool:
        """Whether a write on a condition that does not hold is refused; leaves the file there."""
        self.update(lambda _: b"tried by ad-assets doctor")
        return not self.swap(None, None, b"overwritten") and not self.swap(b"", '"another"', b"overwritten")
