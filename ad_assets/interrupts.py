"""Ctrl-C and SIGTERM: the process cleans up and ends within two seconds, whatever it computes.

A command runs in a thread of its own. Only the main thread receives signals, and only between two bytecodes: a kernel,
or a wait for a thread pool, would delay it. The stack is not unwound: ending at any line is safe, as for a killed run.
Code that would leave something behind (temporary files, runs that look alive, attempts that look failed) registers its
cleanup with `when_interrupted`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

TIDY_SECONDS = 1.5
INTERRUPTED = "ad-assets: interrupted; finished work is kept, run the command again to continue"
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_LOG = logging.getLogger(__name__)

_tidying: list[Callable[[], None]] = []
# Never released by the thread that ends the process, so that no other one changes the list of cleanups.
_lock = threading.RLock()


@contextmanager
def when_interrupted(tidy: Callable[[], None]) -> Iterator[None]:
    """Register a cleanup to call if the process is interrupted during the block; it must be short."""
    with _lock:
        _tidying.append(tidy)
    try:
        yield
    finally:
        with _lock:
            _tidying.remove(tidy)


def run_interruptibly(work: Callable[[], int]) -> int:
    """Run `work`; on a signal the process ends with exit status 128 + signal.

    Args:
        work: called in another thread.

    Returns:
        What `work` returns.

    Raises:
        BaseException: what `work` raises.
    """
    status: list[int] = []
    raised: list[BaseException] = []

    def run() -> None:
        # Ctrl-C reaches all processes of a terminal. What this thread starts leaves it to this process: Dagster's
        # watchers of a step's output would each print a trace; they end with this process by themselves.
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            status.append(work())
        except BaseException as error:  # noqa: BLE001 - raised below, in the main thread
            raised.append(error)

    thread = threading.Thread(target=run, name="command", daemon=True)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and shells' background jobs ignore signals
            signal.signal(number, _end)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)  # with a limit, since a signal delivered to another thread does not wake this one
    if raised:
        raise raised[0]
    return status[0]


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler
    """Clean up as far as a short time allows, and end this process."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # some terminals and wrappers send it twice
    limit = threading.Timer(TIDY_SECONDS, lambda: os._exit(128 + number))
    limit.daemon = True
    limit.start()
    _lock.acquire()
    for tidy in reversed(_tidying):
        try:
            tidy()
        except Exception:  # noqa: BLE001 - the other cleanups must run
            _LOG.warning("while ending", exc_info=True)
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{INTERRUPTED}\n")
        sys.stderr.flush()
        sys.stdout.flush()
    os._exit(128 + number)
