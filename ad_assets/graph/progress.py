"""Progress of long work, in the terminal and in the Dagster run log, with a rate and the time left."""

from __future__ import annotations

import time
from typing import Any

EVERY_SECONDS = 5.0


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

    def done(self, outcome: str) -> None:
        """Log how it ended, or what happened on the way."""
        self._log.info(f"{self.title}: {outcome}")
