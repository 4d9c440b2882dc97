"""A thread pool whose workers use one BLAS thread each, so that results do not depend on the number of threads.

Threads that share an operation wait for the slowest, which is the one whose core others use too, and go on spinning for
the next operation while other code could use their cores. Threads with tasks of their own delay only these. Where an
operation is split among threads its rounding depends on their number; that of a task does not.

So no library gets threads of its own here: torch (OpenMP, MKL, oneDNN), the BLAS of NumPy and SciPy, and faiss compute
with one inside each task. Numba's code is compiled without parallelism.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import local
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    Task = TypeVar("Task")
    Result = TypeVar("Result")

_chosen = 1
# quiet: this thread's libraries compute with one thread; modules: as many there were then; lone: one of the pool's
_here = local()


def use_threads(count: int) -> None:
    """Compute on so many threads from now on in this process; no result depends on it.

    Raises:
        ValueError: count is below 1.
    """
    global _chosen
    if count < 1:
        raise ValueError(f"there must be at least 1 thread, got {count}")
    _chosen = count
    _compute_alone()


def threads() -> int:
    """On how many threads `map_single_threaded` computes: what `use_threads` said, or else one."""
    return 1 if getattr(_here, "lone", False) else _chosen


def helper_threads() -> int:
    """How many threads decode images for those of `map_single_threaded`: one may wait for a file meanwhile."""
    return max(2, _chosen)


def map_single_threaded(work: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
    """Yield the results of the tasks in order, computed by `threads` threads.

    The first error, or closing the iterator, cancels the tasks that have not begun. A task may call this too; its tasks
    are then its own thread's.
    """
    count = threads()
    if not getattr(_here, "quiet", False):
        _compute_alone()
    if count == 1:
        yield from map(work, tasks)
    else:
        yield from _pool(count, os.getpid()).map(work, tasks)


def each(work: Callable[[Task], Result], tasks: Iterable[Task], device: str) -> Iterable[Result]:
    """Results in order, without gradients: on lone threads of the CPU, one after another on other devices."""

    def quietly(task: Task) -> Result:
        with torch.no_grad():  # which every thread has to say for itself
            return work(task)

    return map_single_threaded(quietly, tasks) if device == "cpu" else map(quietly, tasks)


def spans(count: int, size: int) -> list[slice]:
    """Slices of so many things each, the last one perhaps of fewer: a task each."""
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def _compute_alone() -> None:
    """Let the libraries compute with one thread. OpenMP keeps the number for each thread that calls it."""
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    if getattr(_here, "modules", 0) != len(sys.modules):  # looking for the libraries that imports bring takes a while
        threadpool_limits(1)
        _here.modules = len(sys.modules)
    _here.quiet = True


def _join_pool() -> None:
    torch.set_num_threads(1)
    _here.quiet = _here.lone = True


@lru_cache(maxsize=4)
def _pool(count: int, process: int) -> ThreadPoolExecutor:
    """Threads that outlive a call: starting them takes milliseconds, and training has many calls.

    They do not outlive a fork, hence the process in the key.
    """
    del process
    return ThreadPoolExecutor(count, thread_name_prefix="lone", initializer=_join_pool)
