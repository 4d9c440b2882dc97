"""Ctrl-C and SIGTERM: the process tidies up and ends within two seconds, whatever it computes.

A command works in a thread of its own, for the main thread alone hears of signals, and it hears of them only between
two lines of Python: a kernel, or the wait for a pool of threads, would keep it for as long as they last. Nothing is
unwound. To end at any line is safe anyway, as it is for a run that is killed; what a kill would leave behind (temporary
files, runs that look as if they went on, attempts that look as if they had failed) is put right by whoever makes it,
with `when_interrupted`.
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
INTERRUPTED = "ad-assets: interrupted; what is finished is kept, run the command again to go on"
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_LOG = logging.getLogger(__name__)

_tidying: list[Callable[[], None]] = []
# Held for ever by the thread that ends the process: others can neither begin nor finish what has to be tidied.
_lock = threading.RLock()


@contextmanager
def when_interrupted(tidy: Callable[[], None]) -> Iterator[None]:
    """What to do if the process is interrupted while the block goes on; it has parts of a second for it."""
    with _lock:
        _tidying.append(tidy)
    try:
        yield
    finally:
        with _lock:
            _tidying.remove(tidy)


def run_interruptibly(work: Callable[[], int]) -> int:
    """Do the work of this process, which ends with exit status 128 + signal when it is interrupted.

    Args:
        work: done in another thread.

    Returns:
        What `work` returns.

    Raises:
        BaseException: what `work` raises.
    """
    status: list[int] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            status.append(work())
        except BaseException as error:  # noqa: BLE001 - raised below, in the main thread
            raised.append(error)

    thread = threading.Thread(target=run, name="command", daemon=True)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and background jobs of a shell want it
            signal.signal(number, _end)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)  # not for ever: a system may tell another thread of the signal, which wakes nobody
    if raised:
        raise raised[0]
    return status[0]


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler
    """End this process, tidied as far as a short time allows."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # it ends soon; some terminals and wrappers say it twice
    limit = threading.Timer(TIDY_SECONDS, lambda: os._exit(128 + number))
    limit.daemon = True
    limit.start()
    _lock.acquire()
    for tidy in reversed(_tidying):
        try:
            tidy()
        except Exception:  # noqa: BLE001 - whatever it is, the others are tidied too
            _LOG.warning("while ending", exc_info=True)
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{INTERRUPTED}\n")
        sys.stderr.flush()
        sys.stdout.flush()
    os._exit(128 + number)
