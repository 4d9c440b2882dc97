"""Writes that threads make while their caller computes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Condition
from types import TracebackType
from typing import Self


class BackgroundWrites:
    """Calls `write` functions in threads, in any order; all are done when the block is left without an error.

    The first error of one ends the others: those that have not begun are left out, and the caller gets it from the next
    `submit`, or at the end of the block. An error of the caller's own leaves out what has not begun too.

    Args:
        threads: how many write at once.
        most_bytes: that may wait to be written; what alone is larger waits alone.
    """

    def __init__(self, threads: int, most_bytes: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="writing")
        self._most = most_bytes
        self._waiting = 0
        self._changed = Condition()
        self._error: BaseException | None = None

    def submit(self, size: int, write: Callable[[], None]) -> None:
        """Let a thread call `write`, which holds `size` bytes, once there is room for them.

        Raises:
            BaseException: the first error of a write.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._waiting or self._waiting + size <= self._most)
            if self._error:
                raise self._error
            self._waiting += size
        self._pool.submit(self._call, size, write)

    def _call(self, size: int, write: Callable[[], None]) -> None:
        try:
            if not self._error:
                write()
        except BaseException as error:  # noqa: BLE001 - raised where the caller is
            self._error = self._error or error
        finally:
            with self._changed:
                self._waiting -= size
                self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None and self._error:
            raise self._error
