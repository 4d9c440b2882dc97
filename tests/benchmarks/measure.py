"""Interleaved timings on a machine that others use too, and peak memory of a call."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple


class Timing(NamedTuple):
    """Median seconds of both sides, and reference / ours from the medians and from the best of each.

    Load of others only ever adds time, and adds most where threads wait for each other, so targets are held against
    the best runs; both ratios are reported.
    """

    ours: float
    reference: float
    ratio: float
    best_ratio: float


def interleaved(
    ours: Callable[[], object], reference: Callable[[], object], repeats: int, *, scale: float = 1.0
) -> Timing:
    """Time both, turn about; `scale` multiplies the seconds of the reference."""
    mine, theirs = [], []
    for _ in range(repeats):
        mine.append(_seconds(ours))
        theirs.append(_seconds(reference) * scale)
    median, reference_median = statistics.median(mine), statistics.median(theirs)
    return Timing(median, reference_median, reference_median / median, min(theirs) / min(mine))


def report(name: str, timing: Timing, error: str) -> None:
    """The one line of a comparison."""
    print(
        f"{name}: ours {timing.ours:.3f} s, reference {timing.reference:.3f} s, "
        f"ratio {timing.ratio:.2f} (best runs {timing.best_ratio:.2f}), {error}",
        flush=True,
    )


def peak_extra_megabytes(call: Callable[[], object]) -> float:
    """Peak resident memory of this process during a call above what it held before (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status_kilobytes("VmRSS")
    call()
    return (_status_kilobytes("VmHWM") - before) / 1024


def peak_anonymous_megabytes(call: Callable[[], object]) -> float:
    """As `peak_extra_megabytes`, without pages of mapped files, which the system drops where memory runs short.

    Looked at every few milliseconds: what lives for less is missed.
    """
    gc.collect()
    before = peak = _status_kilobytes("RssAnon")
    ended = Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.003):
            peak = max(peak, _status_kilobytes("RssAnon"))

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        ended.set()
        watcher.join()
    return (peak - before) / 1024


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _status_kilobytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise KeyError(key)
