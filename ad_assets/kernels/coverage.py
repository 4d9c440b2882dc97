"""How well some rows cover all rows, and the projection in which they are chosen.

All rows of a bank may be more than a device holds, or main memory. They are read in blocks and go there in blocks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ad_assets.kernels.nearest.bounds import full_precision
from ad_assets.kernels.nearest.search import nearest
from ad_assets.kernels.parallel import each, spans

if TYPE_CHECKING:
    from collections.abc import Callable

    from ad_assets.kernels.rows import Rows

RADIUS_ROWS = 4096
PROJECTED_ROWS = 4096  # a task of a thread; fixed, so that no rounding depends on the number of threads
MOST_BLOCKS = 16  # of `PROJECTED_ROWS`, that are read at once of rows that are not held
BLOCK_SHARE = 1 / 16  # of the budget, for them: two blocks and what they are made of are in memory


def covering_radius(rows: Tensor, bank: Tensor, memory_gb: float = 1.0) -> float:
    """Largest plain L2 distance of any row to the bank's row nearest to it.

    Args:
        rows: (N, D), in main memory or on the device of the bank.
        bank: (M, D), on the device that computes.
        memory_gb: budget in GB of temporary tensors.

    Raises:
        ValueError: as `nearest`.
    """
    if rows.device == bank.device:
        return float(nearest(rows, bank, 1, memory_gb=memory_gb)[0].max())
    step = max(1, int(memory_gb * 1e9 / 8) // (4 * rows.shape[1]))
    radii = [covering_radius(block.to(bank.device), bank, memory_gb) for block in rows.split(step)]
    return max(radii)


def block_rows(dimensions: int, memory_gb: float) -> int:
    """How many rows are read at once of those that are not held; no result depends on it."""
    most = int(1e9 * memory_gb * BLOCK_SHARE) // (4 * dimensions * PROJECTED_ROWS)
    return PROJECTED_ROWS * min(max(most, 1), MOST_BLOCKS)


def radius_of_picks(
    rows: Rows,
    bank: Tensor,
    projected_bank: Tensor,
    project: Callable[[int, Tensor], Tensor],
    memory_gb: float = 1.0,
) -> float:
    """The covering radius of rows that were picked, mostly without comparing rows in all dimensions.

    The pick that is nearest in the projection bounds a row's distance from above. Rows are compared exactly from the
    largest bounds on, until none of the rest can exceed the radius found.

    Args:
        rows: (N, D), read twice or more often if they are not held.
        bank: (M, D) the picks, at least one, on the device that computes.
        projected_bank: (M, d) the picks as they were made, on that device.
        project: called with the number of a row and a block of rows from there on; their projections, on the device.
        memory_gb: budget in GB of temporary tensors.

    Raises:
        ValueError: no picks, or rows not 2-D.
    """
    device = bank.device
    bounds = torch.empty(len(rows))
    first = 0
    for block in rows.blocks(block_rows(rows.shape[1], memory_gb)):
        near = nearest(project(first, block), projected_bank, 1, memory_gb=memory_gb)[1][:, 0]
        own = bounds[first : first + len(block)]

        def bound(part: slice, block: Tensor = block, near: Tensor = near, own: Tensor = own) -> None:
            own[part] = (block[part].to(device) - bank[near[part]]).norm(dim=1).cpu()

        list(each(bound, spans(len(block), RADIUS_ROWS), device.type))
        first += len(block)

    def radius_of(numbers: Tensor) -> float:
        return covering_radius(rows.gather(numbers).to(device), bank, memory_gb)

    largest = bounds.topk(min(RADIUS_ROWS, len(rows))).indices.sort().values
    radius = radius_of(largest)
    bounds[largest] = 0
    # In their order, in which rows that are not held are read once.
    for some in (bounds > radius).nonzero().flatten().split(RADIUS_ROWS):
        left = some[bounds[some] > radius]
        radius = max(radius, radius_of(left)) if len(left) else radius
    return radius


def random_projection(rows: Tensor, dimensions: int, *, seed: int, device: torch.device | str | None = None) -> Tensor:
    """Rows times a Gaussian matrix, (N, D) -> (N, dimensions) float32, expected squared lengths kept.

    The matrix is drawn on the CPU, so a seed means the same matrix on every device. Distances between projected rows
    are what the coreset sees (Johnson and Lindenstrauss); the authors' uniform matrix differs by its scale only in law.

    Args:
        rows: (N, D) floating point.
        dimensions: at least 1.
        seed: of the matrix.
        device: that computes and holds the result; None: that of the rows.

    Raises:
        ValueError: rows not 2-D or dimensions < 1.
    """
    if rows.ndim != 2:
        raise ValueError(f"rows must be (N, D), got shape {tuple(rows.shape)}")
    if dimensions < 1:
        raise ValueError(f"dimensions must be at least 1, got {dimensions}")
    where = torch.device(device or rows.device)
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows.shape[1], dimensions, generator=generator) / math.sqrt(dimensions)
    matrix = matrix.to(where)
    with full_precision():
        blocks = each(lambda block: block.to(where).float() @ matrix, rows.split(PROJECTED_ROWS), where.type)
        return torch.cat(list(blocks))
