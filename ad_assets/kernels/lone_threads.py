"""Work in parallel on threads each of which computes alone.

Threads that share an operation wait for the slowest, which is the one whose core others use too, and go on spinning for
the next operation while other code could use their cores. Threads with tasks of their own delay only these.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    Task = TypeVar("Task")
    Result = TypeVar("Result")


def on_lone_threads(work: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
    """Yield the results of the tasks in order, computed by as many threads as torch has.

    The first error, or closing the iterator, cancels the tasks that have not begun.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(work, tasks)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what new threads start with, which those above set too
