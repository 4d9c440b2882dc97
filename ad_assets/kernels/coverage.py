"""How well some rows cover all rows, and the projection in which they are chosen.

All rows of a bank may be more than a device holds. They stay in main memory and go there in blocks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ad_assets.kernels.nearest.bounds import full_precision
from ad_assets.kernels.nearest.search import nearest
from ad_assets.kernels.parallel import each, spans

RADIUS_ROWS = 4096
PROJECTED_ROWS = 4096  # a task of a thread; fixed, so that no rounding depends on the number of threads


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


def radius_of_picks(rows: Tensor, picks: Tensor, projected: Tensor, memory_gb: float = 1.0) -> float:
    """The covering radius of picks among rows, mostly without comparing rows in all dimensions.

    The pick that is nearest in the projection bounds a row's distance from above; rows are compared exactly in the
    order of their bounds until none of the rest can exceed the radius found.

    Args:
        rows: (N, D), in main memory or on the device that computes.
        picks: (M,) indices of rows, at least one.
        projected: (N, d) the rows as the picks were made from them, on the device that computes.
        memory_gb: budget in GB of temporary tensors.

    Raises:
        ValueError: no picks, or rows not 2-D.
    """
    device = projected.device
    near = nearest(projected, projected[picks.to(device)], 1, memory_gb=memory_gb)[1][:, 0]
    bank = rows[picks.to(rows.device)].to(device)
    bounds = rows.new_empty(len(rows), device=device)

    def bound(part: slice) -> None:
        bounds[part] = (rows[part].to(device) - bank[near[part]]).norm(dim=1)

    list(each(bound, spans(len(rows), RADIUS_ROWS), device.type))
    radius = 0.0
    for some in bounds.argsort(descending=True).split(RADIUS_ROWS):
        if float(bounds[some[0]]) <= radius:
            break
        radius = max(radius, covering_radius(rows[some.to(rows.device)].to(device), bank, memory_gb))
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
