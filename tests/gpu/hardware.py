"""The device that is verified, what is measured on it, and the page of the figures."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.support.method_lanes import tensors

PAGE = "AD_ASSETS_GPU_PAGE"  # where the page goes; unset: the emulated device is verified in small
ON_GPU = PAGE in os.environ
TOLERANCE = 1e-3  # of the range of what the CPU computes


class Measured(NamedTuple):
    """A result, how long it took, and the most memory of the device that was taken meanwhile."""

    result: Any
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Hardware:
    """A device, real or emulated."""

    device: str
    real: bool

    def measured(self, call: Callable[[], Any]) -> Measured:
        """Call something that computes on the device."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, started = torch.cuda.memory_allocated(), time.perf_counter()
        result = call()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        return Measured(result, seconds, torch.cuda.max_memory_allocated() - before)


@dataclass
class Page:
    """Tables under headings, in the order in which they were begun."""

    hardware: str
    sections: dict[str, list[str]] = field(default_factory=dict)

    def row(self, section: str, heading: tuple[str, ...], *cells: object) -> None:
        """A row of the table of a section."""
        lines = self.sections.setdefault(section, [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"])
        lines.append(f"| {' | '.join(_shown(cell) for cell in cells)} |")

    def text(self, section: str, text: str) -> None:
        """A section of plain text."""
        self.sections[section] = ["```", *text.rstrip().splitlines(), "```"]

    def write(self, path: Path) -> None:
        """Write the page."""
        about = (
            f"{datetime.now(UTC):%Y-%m-%d}, {self.hardware}, torch {torch.__version__} (CUDA {torch.version.cuda}), "
            f"{platform.machine()}; `make verify-gpu`. CPU and GPU of one run. Comparisons hold within {TOLERANCE:g} "
            "of the range of what the CPU computes, unless the table says otherwise."
        )
        parts = ["# Verified on a GPU", about]
        parts += [f"## {name}\n\n" + "\n".join(lines) for name, lines in self.sections.items()]
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def apart(found: Any, expected: Any) -> float:
    """The largest difference of two results' tensors, as a part of the range of what was expected."""
    worst = 0.0
    for own, other in zip(tensors(found), tensors(expected), strict=True):
        assert own.shape == other.shape
        own, other = own.cpu().double(), other.double()
        if other.numel():
            infinite = ~other.isfinite()
            assert bool((own.isfinite() == ~infinite).all())
            own, other = own.masked_fill(infinite, 0.0), other.masked_fill(infinite, 0.0)
            worst = max(worst, float((own - other).abs().max() / other.abs().max().clamp(min=1e-12)))
    return worst


def equal(one: Any, other: Any) -> bool:
    """Whether two results are the same bit for bit."""
    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(torch.equal(own.cpu(), their.cpu()) for own, their in pairs)


def _shown(cell: object) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
