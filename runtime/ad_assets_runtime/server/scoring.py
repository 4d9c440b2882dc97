"""Scores images in a few threads behind a bounded queue: beyond it a client is told when to come again.

Waiting longer than the next image takes to come helps no line, so back-pressure beats latency. Images are not put into
batches: on a CPU a batch takes as long as its images one after the other.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class BusyError(Exception):
    """The queue is full; `after` is in how many seconds there may be room again."""

    def __init__(self, after: int) -> None:
        super().__init__(f"the queue is full: come again in {after} s")
        self.after = after


class Scoring:
    """Runs calls in threads; used by one event loop.

    Args:
        workers: calls at once.
        most_waiting: calls under way or waiting.

    Attributes:
        waiting: calls under way or waiting now.
    """

    def __init__(self, workers: int, most_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="scoring")
        self._workers, self._most, self._seconds = workers, most_waiting, 0.05
        self.waiting = 0

    async def run(self, call: Callable[[], T]) -> T:
        """The result of a call.

        Raises:
            BusyError: too many wait.
        """
        if self.waiting >= self._most:
            raise BusyError(max(1, math.ceil(self.waiting * self._seconds / self._workers)))
        self.waiting += 1
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            # Shielded: a client that hangs up must not free its place while its image is still being scored.
            return await asyncio.shield(self._counted(loop, call))
        finally:
            self._seconds += 0.1 * ((loop.time() - started) * self._workers / max(1, self.waiting + 1) - self._seconds)

    async def _counted(self, loop: asyncio.AbstractEventLoop, call: Callable[[], T]) -> T:
        try:
            return await loop.run_in_executor(self._pool, call)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown(wait=True)
