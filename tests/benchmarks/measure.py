"""Interleaved timings on a machine that others use too, and peak memory of a call."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def interleaved(
    ours: Callable[[], object], reference: Callable[[], object], repeats: int
) -> tuple[float, float, float]:
    """Median seconds of both, taken turn about, and the median of the ratios reference / ours of each turn."""
    pairs = [(_seconds(ours), _seconds(reference)) for _ in range(repeats)]
    ratios = [theirs / mine for mine, theirs in pairs]
    mine, theirs = zip(*pairs, strict=True)
    return statistics.median(mine), statistics.median(theirs), statistics.median(ratios)


def report(name: str, ours: float, reference: float, ratio: float, error: str) -> None:
    """The one line of a comparison."""
    print(f"{name}: ours {ours:.3f} s, reference {reference:.3f} s, ratio {ratio:.2f}, {error}", flush=True)


def peak_extra_megabytes(call: Callable[[], object]) -> float:
    """Peak resident memory of this process during a call above what it held before (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status_kilobytes("VmRSS")
    call()
    return (_status_kilobytes("VmHWM") - before) / 1024


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _status_kilobytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise KeyError(key)
