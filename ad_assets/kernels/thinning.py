"""Random thinning of rows by how dense they lie: of many alike few are kept, of odd ones most.

Roming et al., SuperADD, 2026, as their public code thins a bank. Rows are drawn into subsets, one after another. Within
a subset a row is kept with probability 1 / (1 + n), where n of the subset's rows are nearer than a radius, itself
included. The radius grows until few enough are kept; the random number of a row stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ad_assets.kernels.nearest.search import nearest

if TYPE_CHECKING:
    from torch import Tensor

COUNTED = 100  # nearest rows of a subset among which those within the radius are counted, the row itself included
FIRST_RADIUS = 0.1  # of the mean distance to them
GROWTH = 1.1


def density_thinning(
    rows: Tensor,
    count: int,
    *,
    subsets: int,
    generator: torch.Generator,
    device: str = "cpu",
    memory_gb: float = 1.0,
    report: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Which rows are kept.

    Args:
        rows: (N, D) floating point, finite, in main memory.
        count: how many, 1..N.
        subsets: in how many draws.
        generator: of every random number, on the CPU.
        device: where distances are computed.
        memory_gb: budget in GB of temporary tensors there.
        report: called with subsets done, and all; None: nobody asks.

    Returns:
        (count,) int64, ascending. What the subsets leave free is filled at random from what they did not keep.

    Raises:
        ValueError: `count` or `subsets` out of range.
    """
    if not 1 <= count <= len(rows) or subsets < 1:
        raise ValueError(f"expected 1..{len(rows)} rows to keep and a subset or more, got {count} and {subsets}")
    if count == len(rows):
        return torch.arange(count)
    kept = torch.zeros(len(rows), dtype=torch.bool)
    size, most = len(rows) // subsets, count // subsets
    for done in range(subsets if most else 0):
        left = (~kept).nonzero().flatten()
        drawn = left[torch.randperm(len(left), generator=generator)[:size]]
        kept[drawn] = _thinned(rows[drawn].to(device), most, generator, memory_gb)
        if report:
            report(done + 1, subsets)
    left = (~kept).nonzero().flatten()
    kept[left[torch.randperm(len(left), generator=generator)[: count - int(kept.sum())]]] = True
    return kept.nonzero().flatten()


def _thinned(rows: Tensor, most: int, generator: torch.Generator, memory_gb: float) -> Tensor:
    """(n,) bool on the CPU: which rows (n, D) of a subset are kept."""
    distances = nearest(rows, rows, min(COUNTED, len(rows)), memory_gb=memory_gb)[0].cpu().double()
    radius = FIRST_RADIUS * float(distances.mean())
    numbers = torch.rand(len(rows), generator=generator, dtype=torch.float64)
    kept = torch.ones(len(rows), dtype=torch.bool)
    while int(kept.sum()) > most:
        counts = (distances < radius).sum(dim=1)
        if int(counts.min()) == distances.shape[1]:  # no larger radius keeps fewer
            return numbers.argsort().argsort() < most
        kept = numbers < 1 / (counts + 1).double()
        radius = GROWTH * radius or torch.finfo(torch.float64).tiny  # where all rows are equal
    return kept
