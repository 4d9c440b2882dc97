"""Proxies that reconstruct a memory bank: the learned subsampler of PatchCore (Roth et al., CVPR 2022, section 4.4.2).

Figure 5 of the paper compares greedy selection with random rows and with a learned basis: proxies p_k start at random
rows and minimise, in the mean over rows m_i, equation 8

    | m_i - sum_k w_ik p_k |^2,    w_ik = softmax over k of -|m_i - p_k| / unit.

It differs from the print in two ways. Figures are for 50,000 patches of defect-free magnetic tiles (EfficientNet-lite0,
152 dimensions), 500 proxies, and patches of other images:

- the sign. As printed, weights grow with the distance, so the farthest proxies stand for a row. Proxies learned that
  way miss patches by a mean square of 662 after 300 steps and 571 after 1500, where the mean patch alone misses by 551.
  With the minus sign it is 228 after 300 steps (266 at the start);
- the unit. The print divides by nothing, which makes the weights depend on the scale of the features. Where many
  proxies share in every row, only proxies outside the data can balance them: with a unit of 3 the patches lie 31.0 from
  the nearest proxy on average, with a unit of 1 18.6, and random rows 19.9. So the unit is a part of the bank's
  own spacing; a unit of 1.0 is the print's.

The paper names no optimiser, steps or batches. Proxies are no rows of the bank: they come from no image in particular.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ad_assets.kernels.nearest.bounds import (
    centre_of,
    checked_rows,
    full_precision,
    relative_error,
    row_tiles,
    squared_norms,
)
from ad_assets.kernels.nearest.search import nearest
from ad_assets.kernels.parallel import each

UNITS_A_SPACING = 20.0  # makes the unit about 1 for the patches measured above
SPACING_ROWS = 2048
LEARNING_RATE = 0.03  # spacings, spread over the dimensions
MATRICES = 8  # of rows against proxies that a step holds at once


def learned_proxies(
    rows: Tensor,
    count: int,
    *,
    seed: int,
    steps: int = 300,
    batch: int = 1024,
    unit: float | None = None,
    device: torch.device | str | None = None,
    memory_gb: float = 1.0,
    report: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Proxies that blend into every row (equation 8), learned by Adam on random mini-batches.

    Args:
        rows: (N, D) floating point; they stay where they are, and each step reads a mini-batch.
        count: number of proxies, 1..N.
        seed: of the initial rows and the mini-batches, which are drawn on the CPU.
        steps: number of mini-batches; the learning rate falls linearly to 0.
        batch: rows of a mini-batch.
        unit: distance that counts as 1 in the exponent; None: a twentieth of the spacing, which is the mean distance
            of rows to the nearest initial proxy. Scaled rows then have scaled proxies.
        device: that computes and holds the result; None: that of the rows.
        memory_gb: budget in GB of temporary tensors; it changes the result by rounding at most.
        report: called as ``report(done, steps)``, about once a second and at the end.

    Returns:
        (count, D) float32.

    Raises:
        ValueError: rows not 2-D, empty or not finite; count, steps, batch or unit out of range.
    """
    _check(rows, count, steps, batch, unit)
    generator = torch.Generator().manual_seed(seed)
    where = torch.device(device or rows.device)

    def drawn(numbers: Tensor) -> Tensor:
        return rows[numbers.to(rows.device)].to(where).float()

    order = torch.randperm(len(rows), generator=generator)
    initial, others = drawn(order[:count]), drawn(order[count : count + SPACING_ROWS])
    spacing = float(nearest(others, initial, 1, memory_gb=memory_gb)[0].double().mean()) if len(others) else 0.0
    if spacing == 0:  # every row is a proxy
        if report is not None:
            report(steps, steps)
        return initial
    # In these units of length neither the rounding nor the optimiser depends on the scale of the features.
    centre, length = centre_of(rows).to(where), spacing / math.sqrt(rows.shape[1])
    unit = (spacing / UNITS_A_SPACING if unit is None else unit) / length
    proxies = ((initial - centre) / length).requires_grad_()

    def gradient(some: Tensor) -> Tensor:
        with torch.enable_grad():
            points = (drawn(some) - centre) / length
            (slope,) = torch.autograd.grad(_errors(points, proxies, unit).sum() / batch, proxies)
        return slope

    # A row's gradient is about 1 / count in each dimension; eps keeps proxies without any row from following noise.
    optimiser = torch.optim.Adam([proxies], eps=1e-3 / count)
    last_report = time.monotonic()
    with full_precision():
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
            numbers = torch.randint(len(rows), (batch,), generator=generator)
            tiles = row_tiles(batch, 4 * MATRICES * count, int(memory_gb * 1e9), where)
            proxies.grad = torch.stack(list(each(gradient, [numbers[tile] for tile in tiles], where.type))).sum(dim=0)
            optimiser.step()
            if report is not None and time.monotonic() - last_report >= 1.0:
                report(step + 1, steps)
                last_report = time.monotonic()
    if report is not None:
        report(steps, steps)
    return proxies.detach() * length + centre


def _errors(rows: Tensor, proxies: Tensor, unit: float) -> Tensor:
    """Equation 8 of centred rows (n, D) and proxies (m, D), differentiable."""
    sums = squared_norms(rows).unsqueeze(1) + squared_norms(proxies)
    squared = torch.addmm(sums, rows, proxies.T, alpha=-2)
    # Where rounding is all there is, as between a row and the proxy that starts there, a distance has no direction.
    none = squared <= relative_error(rows.shape[1]) * sums
    distances = squared.masked_fill(none, 1).sqrt().masked_fill(none, 0)
    return squared_norms((-distances / unit).softmax(dim=1) @ proxies - rows)


def _check(rows: Tensor, count: int, steps: int, batch: int, unit: float | None) -> None:
    checked_rows("rows", rows)
    if not 1 <= count <= len(rows):
        raise ValueError(f"count must be 1..{len(rows)}, the number of rows, got {count}")
    if steps < 1 or batch < 1:
        raise ValueError(f"steps and batch must be at least 1, got {steps} and {batch}")
    if unit is not None and not 0 < unit < math.inf:
        raise ValueError(f"unit must be a positive distance, got {unit}")
