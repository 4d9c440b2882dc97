"""Work in parallel on threads each of which computes alone.

Threads that share an operation wait for the slowest, which is the one whose core others use too, and go on spinning for
the next operation while other code could use their cores. Threads with tasks of their own delay only these. Where an
operation is split among threads its rounding depends on their number; that of a task does not.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    Task = TypeVar("Task")
    Result = TypeVar("Result")


def on_lone_threads(work: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
    """Yield the results of the tasks in order, computed by as many threads as torch has.

    The first error, or closing the iterator, cancels the tasks that have not begun. A task may call this too; its tasks
    are then its own thread's.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield from map(work, tasks)
        return
    pool = _pool(threads, os.getpid())
    try:
        # MKL has one number of threads for all; torch sets it with that of the calling thread, here one of the pool's.
        pool.submit(torch.set_num_threads, 1).result()
        yield from pool.map(work, tasks)
    finally:
        torch.set_num_threads(threads)  # MKL's, and what new threads start with


def each(work: Callable[[Task], Result], tasks: Iterable[Task], device: str) -> Iterable[Result]:
    """Results in order, without gradients: on lone threads of the CPU, one after another on other devices."""

    def quietly(task: Task) -> Result:
        with torch.no_grad():  # which every thread has to say for itself
            return work(task)

    return on_lone_threads(quietly, tasks) if device == "cpu" else map(quietly, tasks)


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that outlive a call: starting them takes milliseconds, and training has many calls.

    They do not outlive a fork, hence the process in the key.
    """
    del process
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
