"""Progress of long work, in the terminal and in the Dagster run log, with a rate and the time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

EVERY_SECONDS = 5.0


class Watcher(Protocol):
    """Shows the progress of this process as it comes, such as bars on a terminal; called by any thread."""

    def step(self, title: str, what: str, done: int, total: int) -> None:
        """`done` of `total` steps of `what` are finished."""

    def told(self, title: str, message: str, *, ended: bool) -> None:
        """Something happened on the way, or that is how it ended."""


_watchers: list[Watcher] = []


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Let a watcher show all progress of this process during the block."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def is_watched() -> bool:
    """Whether a watcher shows the progress, so that the terminal needs no lines of it."""
    return bool(_watchers)


class Progress:
    """Called as ``progress(what, done, total)``; logs at most every few seconds.

    Args:
        log: anything with ``info``, such as a Dagster context's log.
        title: what is being made; starts each line.
    """

    def __init__(self, log: Any, title: str) -> None:
        self._log = log
        self.title = title
        self._what = ""
        self._first = (0.0, 0)
        self._last = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report that `done` of `total` steps of `what` are finished."""
        for watcher in _watchers:
            watcher.step(self.title, what, done, total)
        now = time.monotonic()
        if what != self._what or done < self._first[1]:
            self._what, self._first, self._last = what, (now, done), now
            return
        if now - self._last < EVERY_SECONDS:
            return
        self._last = now
        rate = (done - self._first[1]) / max(now - self._first[0], 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
        self._log.info(f"{self.title}: {what} {done}/{total}, {rate:.1f}/s{left}")

    def note(self, message: str) -> None:
        """Log what happened on the way."""
        self._tell(message, ended=False)

    def done(self, outcome: str) -> None:
        """Log how it ended."""
        self._tell(outcome, ended=True)

    def _tell(self, message: str, *, ended: bool) -> None:
        for watcher in _watchers:
            watcher.told(self.title, message, ended=ended)
        self._log.info(f"{self.title}: {message}")
