"""Greedy k-centre selection (Gonzalez 1985), the coreset of PatchCore (Roth et al., CVPR 2022, Algorithm 1).

Every pick is the row farthest from all picks so far. A plain loop reads all N rows for every pick; this one is lazy
and works in blocks. Distances to the nearest pick can only shrink, so an old value stays an upper bound:

1. take the rows with the largest bounds and bring those up to date (one matrix product with the picks not yet seen);
2. `tau` is the largest bound of all other rows: as long as the farthest of the taken rows lies above it, the farthest
   of all rows is among them;
3. pick among them alone, from one matrix of their mutual distances.

On a GPU, products cost less than launches and waiting: every round brings all rows up to date, and the matrix of
distances goes to the CPU, which picks from it; so a launch or a wait serves dozens of picks.

Products in float32 screen: they find the nearest pick of a row and bound its distance. Decisions use differences in
float64 to that pick, equal rows tie and ties go to the lowest index; rows within rounding error of `tau` wait for the
next round. Where float32 could not tell rows apart at all, float64 screens. A pick can differ from that of an exact
loop only where two picks are equally near a row to the precision of the screening.

The authors' sampler is the case `initial` = mean distance to ten random rows: it stays in the minimum as a virtual
centre.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ad_assets.kernels.nearest.bounds import (
    centre_of,
    checked_rows,
    full_precision,
    relative_error,
    row_tiles,
    screened_distances,
    squared_norms,
)
from ad_assets.kernels.parallel import each, spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Rows brought up to date in a round, and how many of them are picked from. Their mutual distances stay in cache.
FEWEST_REFRESHED = 4096
POOL = 1024
FINER_BELOW = 100  # margins
# Tasks of threads; fixed, so that no rounding depends on the number of threads.
MUTUAL_ROWS = 256
TASK_BYTES = 4 << 20
VIRTUAL_CENTRE = -1
PICKED = -1.0  # in place of a squared distance


def greedy_coreset(
    features: Tensor,
    k: int,
    *,
    start: int = 0,
    initial: Tensor | None = None,
    memory_gb: float = 1.0,
    report: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Indices of k rows in order of choice, each the farthest (L2) from those before it; ties go to the lowest index.

    Args:
        features: (N, D) floating point.
        k: number of picks, 1..N; no row is picked twice.
        start: first pick; ignored with `initial`.
        initial: (N,) plain distances to a virtual centre that stays in the minimum; the first pick is its arg max.
        memory_gb: budget in GB of temporary tensors.
        report: called as ``report(done, k)``, about once a second and at the end.

    Returns:
        (k,) int64 on the device of `features`.

    Raises:
        ValueError: features not 2-D, empty or not finite; k, start or initial out of range.
    """
    _check(features, k, start, initial)
    with full_precision(), torch.no_grad():
        greedy = _Greedy(features, k, initial, memory_gb)
        if initial is None:
            greedy.pick(torch.tensor([start], device=features.device))
        last_report = time.monotonic()
        while greedy.made < k:
            greedy.round()
            if report is not None and time.monotonic() - last_report >= 1.0:
                report(greedy.made, k)
                last_report = time.monotonic()
        if report is not None:
            report(k, k)
        return greedy.picks


def _check(features: Tensor, k: int, start: int, initial: Tensor | None) -> None:
    checked_rows("features", features)
    n = len(features)
    if not 1 <= k <= n:
        raise ValueError(f"k must be 1..{n}, the number of rows, got {k}")
    if initial is not None:
        if initial.shape != (n,):
            raise ValueError(f"initial must be ({n},), one distance a row, got shape {tuple(initial.shape)}")
        if not bool((torch.isfinite(initial) & (initial >= 0)).all()):
            raise ValueError("initial must hold finite distances >= 0")
    elif not 0 <= start < n:
        raise ValueError(f"start must be a row, 0..{n - 1}, got {start}")


class _Greedy:
    """State of one run.

    Attributes:
        bound: (N,) float32 or float64, screened squared distance to the nearest pick seen; PICKED once picked.
        nearest: (N,) int64, the row whose distance the bound is, or VIRTUAL_CENTRE.
        seen: (N,) int64, how many picks the bound accounts for.
        seen_by_all: how many all bounds account for; only on a GPU.
        margin: how far a bound may lie from the true squared distance.
    """

    def __init__(self, features: Tensor, k: int, initial: Tensor | None, memory_gb: float) -> None:
        self.features, self.initial = features, initial
        self.budget = int(memory_gb * 1e9 / 4)
        self.picks = torch.empty(k, dtype=torch.int64, device=features.device)
        self.made = 0
        self.on_cpu = features.device.type == "cpu"
        self.refreshed = min(len(features), FEWEST_REFRESHED) if self.on_cpu else len(features)
        self._screen_in(torch.float32)

    def _screen_in(self, dtype: torch.dtype) -> None:
        """Forget all bounds and screen in this arithmetic from now on."""
        n, dimensions = self.features.shape
        device = self.features.device
        self.centre = centre_of(self.features).to(dtype)
        norms = each(lambda tile: squared_norms(self._centred(tile)), self._tiles(n, 16 * dimensions), device.type)
        self.norms = torch.cat(list(norms))
        self.margin = 2 * relative_error(dimensions) * float(self.norms.max())
        if dtype == torch.float64:
            self.margin *= 2.0**-29
        self.centred_picks = torch.empty(len(self.picks), dimensions, dtype=dtype, device=device)
        self.nearest = torch.full((n,), VIRTUAL_CENTRE, dtype=torch.int64, device=device)
        self.seen = torch.zeros(n, dtype=torch.int64, device=device)
        self.seen_by_all = 0
        self.bound = torch.full((n,), torch.inf, dtype=dtype, device=device)
        if self.initial is not None:
            self.bound = self.initial.to(dtype).square()
        picked = self.picks[: self.made]
        self.centred_picks[: self.made] = self._centred(picked)
        self.bound[picked] = PICKED

    def _tiles(self, rows: int, bytes_per_row: int) -> Iterator[slice]:
        budget = min(self.budget, TASK_BYTES) if self.on_cpu else self.budget
        return row_tiles(rows, bytes_per_row, budget, self.features.device)

    def _centred(self, rows: Tensor | slice) -> Tensor:
        return self.features[rows].to(self.centre.dtype) - self.centre

    def pick(self, rows: Tensor) -> None:
        """Add rows to the picks, in order."""
        added = slice(self.made, self.made + len(rows))
        self.picks[added] = rows
        self.centred_picks[added] = self._centred(rows)
        self.bound[rows] = PICKED
        self.made += len(rows)

    def round(self) -> None:
        """Bring the rows with the largest bounds up to date and pick among them."""
        rows, tau = self._largest(self.bound, self.refreshed)
        self._refresh(rows)
        if self.bound.dtype == torch.float32 and float(self.bound.max()) < FINER_BELOW * self.margin:
            # Far from their centre the rows differ by little more than rounding: float32 cannot tell them apart.
            self._screen_in(torch.float64)
            return
        chosen, rest = self._largest(self.bound[rows], POOL)
        rows, tau = rows[chosen], max(tau, rest)
        rows = rows[self.bound[rows] > tau].sort().values  # ascending: the first arg max is the lowest index
        squared = self._squared(rows)
        picked = self._pick_among(rows, squared, tau)
        if picked == 0 and self.refreshed == len(self.bound):
            self._pick_tied()
        elif not self.on_cpu:
            return
        elif picked < POOL // 16:
            self.refreshed = min(len(self.bound), 2 * self.refreshed)
        elif picked > POOL // 4:
            self.refreshed = max(min(len(self.bound), FEWEST_REFRESHED), self.refreshed // 2)

    def _pick_among(self, rows: Tensor, squared: Tensor, tau: float) -> int:
        """Pick from the pool while its farthest row is beyond doubt farther than all others."""
        largest = squared.cpu().numpy()
        mutual, rounding = self._mutual(rows, largest)
        limit = tau + self.margin if tau >= 0 else 0.0
        order = _farthest_first(mutual, largest, rounding, limit, min(len(rows), len(self.picks) - self.made))
        if order:
            self.pick(rows[torch.tensor(order, device=rows.device)])
        return len(order)

    def _mutual(self, rows: Tensor, squared: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """(n, n) squared distances among rows, and how far equal ones may lie apart."""
        points = self.features[rows].double() - self.centre.double()
        norms = squared_norms(points)
        rounding = 1e-13 * float(norms.max()) if len(rows) else 0.0
        if len(rows) and rounding > 1e-6 * float(squared.max()):
            exact = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square()
            return exact.cpu().numpy(), 0.0
        product = torch.empty(len(rows), len(rows), dtype=torch.float64, device=rows.device)

        def fill(block: slice) -> None:
            part = torch.addmm(norms[None, :] + norms[block, None], points[block], points.T, alpha=-2).clamp_(min=0)
            # Equal rows tie, although the product rounds their distances differently.
            product[block] = part.masked_fill_(part <= rounding, 0)

        blocks = spans(len(rows), MUTUAL_ROWS) if self.on_cpu else [slice(None)]
        list(each(fill, blocks, rows.device.type))
        return product.cpu().numpy(), rounding

    def _pick_tied(self) -> None:
        """Pick among all rows that may be the farthest, when more of them tie (to rounding) than a pool holds."""
        highest = float(self.bound.max())
        rows = (self.bound >= max(highest - 2 * self.margin, 0)).nonzero().flatten()
        squared = self._squared(rows)
        while self.made < len(self.picks) and float(squared.max()) > max(highest - self.margin, 0):
            row = rows[squared.argmax()]
            self.pick(row[None])

            def approach(tile: slice, row: Tensor = row) -> None:
                difference = self.features[rows[tile]].double() - self.features[row].double()
                squared[tile] = torch.minimum(squared[tile], squared_norms(difference))

            list(each(approach, self._tiles(len(rows), 24 * self.features.shape[1]), rows.device.type))
            squared[rows == row] = PICKED
        if float(squared.max()) <= 0 and highest <= 2 * self.margin:  # only duplicates of picks are left
            self.pick((self.bound >= 0).nonzero().flatten()[: len(self.picks) - self.made])

    @staticmethod
    def _largest(values: Tensor, count: int) -> tuple[Tensor, float]:
        """Positions of the `count` largest values, in no order, and the largest of the others (PICKED if none)."""
        if count >= len(values):
            return torch.arange(len(values), device=values.device), PICKED
        largest, positions = values.topk(count + 1, sorted=False)
        last = int(largest.argmin())
        keep = torch.ones_like(positions, dtype=torch.bool)
        keep[last] = False
        return positions[keep], float(largest[last])

    def _refresh(self, rows: Tensor) -> None:
        """Let the bounds of rows account for every pick made so far."""
        if not self.on_cpu:
            self._refresh_all()
            return
        seen, order = self.seen[rows].sort()
        rows = rows[order][seen < self.made]
        seen = seen[seen < self.made]
        if len(rows) == 0:
            return
        bytes_per_row = 4 * (self.features.shape[1] + self.made - int(seen[0]))

        def refresh(tile: slice) -> None:
            chosen = rows[tile]
            unseen = slice(int(seen[tile.start]), self.made)
            centred = self._centred(chosen)
            picks = self.centred_picks[unseen]
            smallest, position = screened_distances(centred, picks, squared_norms(picks)).min(dim=1)
            smallest = (smallest + self.norms[chosen]).clamp_(min=0)
            closer = (smallest < self.bound[chosen]) & (self.bound[chosen] >= 0)
            self.bound[chosen[closer]] = smallest[closer]
            self.nearest[chosen[closer]] = self.picks[unseen][position[closer]]
            self.seen[chosen] = self.made

        list(each(refresh, self._tiles(len(rows), bytes_per_row), rows.device.type))

    def _refresh_all(self) -> None:
        """The same for all rows at once, without asking the device which of them need it."""
        unseen = slice(self.seen_by_all, self.made)
        picks, numbers = self.centred_picks[unseen], self.picks[unseen]
        norms = squared_norms(picks)
        for tile in self._tiles(len(self.bound), 4 * (self.features.shape[1] + len(picks))) if len(picks) else ():
            smallest, position = screened_distances(self._centred(tile), picks, norms).min(dim=1)
            smallest = (smallest + self.norms[tile]).clamp_(min=0)  # so no row that is picked comes closer
            self.nearest[tile] = torch.where(smallest < self.bound[tile], numbers[position], self.nearest[tile])
            torch.minimum(self.bound[tile], smallest, out=self.bound[tile])
        self.seen_by_all = self.made

    def _squared(self, rows: Tensor) -> Tensor:
        """(n,) float64 squared distances of rows to their nearest pick or virtual centre, by differences."""
        near = self.nearest[rows]
        squared = torch.empty(len(rows), dtype=torch.float64, device=rows.device)

        def measure(tile: slice) -> None:
            difference = self.features[rows[tile]].double() - self.features[near[tile].clamp(min=0)].double()
            squared[tile] = squared_norms(difference)

        list(each(measure, self._tiles(len(rows), 24 * self.features.shape[1]), rows.device.type))
        if self.initial is not None:
            squared = torch.where(near == VIRTUAL_CENTRE, self.initial[rows].double().square(), squared)
        elif self.made == 0:
            squared.fill_(torch.inf)
        return torch.where(self.bound[rows] < 0, PICKED, squared)


def _farthest_first(
    mutual: NDArray[np.float64], squared: NDArray[np.float64], rounding: float, limit: float, most: int
) -> list[int]:
    """Places of a pool, each the farthest of those left, as long as one lies beyond the limit; changes `squared`.

    Args:
        mutual: (n, n) squared distances within the pool.
        squared: (n,) to the nearest pick.
        rounding: how far equal ones may lie apart; the lowest place goes first.
        limit: what the farthest must exceed.
        most: how many to pick at most.
    """
    order: list[int] = []
    while len(order) < most:
        farthest = float(squared.max())
        if farthest <= limit:
            break
        place = int((squared >= farthest - rounding).argmax())
        order.append(place)
        np.minimum(squared, mutual[place], out=squared)
        squared[place] = PICKED
    return order
