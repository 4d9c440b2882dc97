"""Greedy k-centre selection (Gonzalez 1985), the coreset of PatchCore (Roth et al., CVPR 2022, Algorithm 1).

Every pick is the row farthest from all picks so far. A plain loop reads all N rows for every pick; this one is lazy.
Distances to the nearest pick can only shrink, so an old value stays an upper bound:

1. take the rows with the largest upper bounds, compare them with the picks they have not seen (one matrix product),
2. call `tau` the largest upper bound of every other row,
3. pick among the few rows above `tau` for as long as the farthest of them stays above `tau`.

Matrix products only screen: their rounding error is added to the upper bounds. Each decision rests on direct differences
in float64, so the picks are those of the plain loop, ties to the lowest index included.

The authors' sampler is the case `initial` = mean distance to ten random rows: it stays in the minimum as a virtual
centre. Departures from it: no square root of a rounded product decides, and a row is never picked twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ad_assets.kernels.neighbours import nearest
from ad_assets.kernels.screening import full_precision, relative_error, row_tiles

if TYPE_CHECKING:
    from torch import Tensor

# Picks made per round: fewer waste a refresh on little progress, more drag useless candidates along.
FEWEST_PICKS, MOST_PICKS = 48, 320
SMALLEST_POOL = 1024
PICKS_PER_COMPACTION = 16
# Rows refreshed per candidate kept: most stale bounds collapse once they are refreshed.
REFRESHED_PER_CANDIDATE = 4
VIRTUAL_CENTRE = -1


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
        k: number of picks, 1..N.
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
        return _Greedy(features, k, initial, memory_gb).run(start, report)


def covering_radius(features: Tensor, picks: Tensor, memory_gb: float = 1.0) -> float:
    """Largest plain distance of any of the (N, D) rows to its nearest pick.

    Raises:
        ValueError: no picks, or features not 2-D.
    """
    distances, _ = nearest(features, features[picks], 1, memory_gb=memory_gb)
    return float(distances.max())


def random_projection(features: Tensor, dimensions: int, *, seed: int) -> Tensor:
    """Rows times a Gaussian matrix, (N, D) -> (N, dimensions) float32, expected squared lengths kept.

    The matrix is drawn on the CPU, so a seed means the same matrix on every device. Distances between projected rows
    are what the coreset sees (Johnson and Lindenstrauss); the authors' uniform matrix differs by its scale only in law.

    Raises:
        ValueError: features not 2-D or dimensions < 1.
    """
    if features.ndim != 2:
        raise ValueError(f"features must be (N, D), got shape {tuple(features.shape)}")
    if dimensions < 1:
        raise ValueError(f"dimensions must be at least 1, got {dimensions}")
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(features.shape[1], dimensions, generator=generator) / math.sqrt(dimensions)
    with full_precision():
        return features.float() @ matrix.to(features.device)


def _check(features: Tensor, k: int, start: int, initial: Tensor | None) -> None:
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"features must be (N, D) with D >= 1, got shape {tuple(features.shape)}")
    n = features.shape[0]
    if not 1 <= k <= n:
        raise ValueError(f"k must be 1..{n}, the number of rows, got {k}")
    if not bool(torch.isfinite(features.sum(dim=0)).all()) and not bool(torch.isfinite(features).all()):
        row = int((~torch.isfinite(features).all(dim=1)).nonzero()[0])
        raise ValueError(f"features hold NaN or infinity, first in row {row}")
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
        bound: (N,) float32, upper bound of the squared distance to the nearest pick, rounding included; -1 once picked.
        nearest: (N,) int64, the row whose distance the bound is, or VIRTUAL_CENTRE.
        seen: (N,) int64, how many picks the bound accounts for.
    """

    def __init__(self, features: Tensor, k: int, initial: Tensor | None, memory_gb: float) -> None:
        n, dimensions = features.shape
        device = features.device
        self.features, self.k, self.initial = features, k, initial
        self.budget = int(memory_gb * 1e9 / 4)
        self.error = relative_error(dimensions)
        self.mean = features.mean(dim=0, dtype=torch.float32)
        self.picks = torch.empty(k, dtype=torch.int64, device=device)
        self.centred_picks = torch.empty(k, dimensions, device=device)
        self.pick_norms = torch.empty(k, device=device)
        self.made = 0
        self.nearest = torch.full((n,), VIRTUAL_CENTRE, dtype=torch.int64, device=device)
        self.seen = torch.zeros(n, dtype=torch.int64, device=device)
        if initial is None:
            self.bound = torch.full((n,), torch.inf, device=device)
        else:
            self.bound = (initial.double().square() * (1 + self.error)).float()
        self.pool = SMALLEST_POOL
        self.largest_pool = max(SMALLEST_POOL, n // 8)

    def run(self, start: int, report: Callable[[int, int], None] | None) -> Tensor:
        if self.initial is None:
            self._pick(start)
            self._refresh(torch.arange(len(self.bound), device=self.bound.device))
        told = time.monotonic()
        while self.made < self.k:
            self._round()
            if report is not None and time.monotonic() - told >= 1.0:
                report(self.made, self.k)
                told = time.monotonic()
        if report is not None:
            report(self.k, self.k)
        return self.picks

    def _round(self) -> None:
        """Refresh the rows with the largest bounds and pick among them."""
        n, before = len(self.bound), self.made
        width = min(n, REFRESHED_PER_CANDIDATE * self.pool)
        rows, others = self._largest(self.bound, width)
        self._refresh(rows)
        rows = rows[self.bound[rows] > others]
        if len(rows) > self.pool:
            chosen, others = self._largest(self.bound[rows], self.pool)
            rows = rows[chosen]
            rows = rows[self.bound[rows] > others]
        rows = rows.sort().values  # ascending, so that the first arg max is the lowest index
        if len(rows):
            distances = self._direct(rows)
            if others < 0 and not bool((distances > 0).any()):  # only duplicates of picks are left
                for row in rows[: self.k - self.made].tolist():
                    self._pick(row)
                return
            self._pick_among(rows, distances, math.sqrt(others) if others >= 0 else others)
        made = self.made - before
        if made == 0:
            self.pool = min(n, self.pool * 2)
        elif made < FEWEST_PICKS:
            self.pool = min(self.largest_pool, self.pool * 2)
        elif made >= MOST_PICKS:
            self.pool = max(SMALLEST_POOL, self.pool // 2)

    @staticmethod
    def _largest(values: Tensor, count: int) -> tuple[Tensor, float]:
        """Positions of the `count` largest values, in no order, and the largest of the others (-1 if none)."""
        if count >= len(values):
            return torch.arange(len(values), device=values.device), -1.0
        largest, positions = values.topk(count + 1, sorted=False)
        last = largest.argmin()
        keep = torch.ones_like(positions, dtype=torch.bool)
        keep[last] = False
        return positions[keep], float(largest[last])

    def _refresh(self, rows: Tensor) -> None:
        """Let the bounds of rows account for every pick made so far."""
        seen, order = self.seen[rows].sort()
        rows = rows[order][seen < self.made]
        if len(rows) == 0:
            return
        oldest = int(seen[0])
        bytes_per_row = 4 * (self.features.shape[1] + self.made - oldest)
        for tile in row_tiles(len(rows), bytes_per_row, self.budget, rows.device):
            chosen = rows[tile]
            unseen = slice(int(seen[tile.start]), self.made)
            centred = self.features[chosen].float() - self.mean
            norms = self._inflated_norms(centred)
            squared = torch.addmm(self.pick_norms[unseen], centred, self.centred_picks[unseen].T, alpha=-2)
            smallest, position = squared.min(dim=1)
            smallest += norms
            closer = smallest < self.bound[chosen]
            closer_rows = chosen[closer]
            self.bound[closer_rows] = smallest[closer].clamp_(min=0)
            self.nearest[closer_rows] = self.picks[unseen][position[closer]]
            self.seen[chosen] = self.made

    def _inflated_norms(self, centred: Tensor) -> Tensor:
        """Squared norms that make |x|^2 - 2 x.c + |c|^2 an upper bound of the squared distance."""
        return torch.linalg.vecdot(centred, centred) * (1 + self.error)

    def _direct(self, rows: Tensor) -> Tensor:
        """(n,) float64 distances of rows to their nearest pick as far as the screening knows it; tightens bounds."""
        distances = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
        for tile in row_tiles(len(rows), 32 * self.features.shape[1], self.budget, rows.device):
            chosen = rows[tile]
            near = self.nearest[chosen]
            one = self.features[chosen].double().unsqueeze(1)
            other = self.features[near.clamp(min=0)].double().unsqueeze(1)
            distances[tile] = _distances(one, other).flatten()
            if self.initial is not None:
                virtual = self.initial[chosen].double()
                distances[tile] = torch.where(near == VIRTUAL_CENTRE, virtual, distances[tile])
        self.bound[rows] = (distances.square() * (1 + self.error)).float()
        return distances

    def _pick_among(self, rows: Tensor, distances: Tensor, tau: float) -> None:
        """Pick from rows while the farthest lies above tau, the largest distance that any other row can have."""
        most = self._allowance(len(rows))
        points = self.features[rows].double() if most > 1 else None
        # The nearest pick was found by a rounded product: another one may be nearer by twice the rounding error.
        norms = (self.features[rows].float() - self.mean).double().square().sum(dim=1)
        lowest = distances.square()
        lowest = (lowest - 2 * self.error * (3 * norms + 2 * lowest)).clamp_(min=0).sqrt_()
        for step in range(min(most, self.k - self.made)):
            if step % PICKS_PER_COMPACTION == PICKS_PER_COMPACTION - 1:
                keep = distances > tau
                rows, points, distances, lowest = rows[keep], points[keep], distances[keep], lowest[keep]
                if len(rows) == 0: return
            while True:
                farthest = int(distances.argmax())
                first, second = distances.topk(2).values.tolist() if len(rows) > 1 else (float(distances[0]), -1.0)
                low = float(lowest[farthest])
                if first <= tau:
                    return
                if low == first or low > max(second, tau):
                    break
                exact = self._exact(int(rows[farthest]), first)
                distances[farthest] = lowest[farthest] = exact
            self._pick(int(rows[farthest]))
            if points is None:
                return
            new = _distances(points[farthest : farthest + 1], points)[0]
            torch.minimum(distances, new, out=distances)
            torch.minimum(lowest, new, out=lowest)
            distances[farthest] = lowest[farthest] = -1.0

    def _allowance(self, rows: int) -> int:
        """How many picks a round may make among so many rows: one where a copy of them would break the budget."""
        if 16 * rows * self.features.shape[1] > 4 * self.budget:
            return 1
        return MOST_PICKS if rows <= self.largest_pool else FEWEST_PICKS

    def _exact(self, row: int, distance: float) -> float:
        """The distance of one row to the nearest of all picks, at most `distance`."""
        point = self.features[row : row + 1].double()
        for tile in row_tiles(self.made, 16 * self.features.shape[1], self.budget, self.picks.device):
            picks = self.features[self.picks[: self.made][tile]].double()
            distance = min(distance, float(_distances(point, picks).min()))
        return distance

    def _pick(self, row: int) -> None:
        centred = self.features[row].float() - self.mean
        self.picks[self.made] = row
        self.centred_picks[self.made] = centred
        self.pick_norms[self.made] = self._inflated_norms(centred)
        self.bound[row] = -1.0
        self.made += 1


def _distances(one: Tensor, other: Tensor) -> Tensor:
    """(..., n, D) and (..., m, D) to (..., n, m), by differences: equal rows give exactly 0."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
