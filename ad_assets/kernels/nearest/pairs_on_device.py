"""All pairs on a device: the search of `search`, with each tile of products offered to its rows and to its columns.

Tiles are as large as the budget allows: a device is asked for few large products, and never waited for in between.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import torch

from ad_assets.kernels.nearest.bounds import full_precision, products, squared_norms
from ad_assets.kernels.nearest.search import SPARE_CANDIDATES, Search
from ad_assets.kernels.parallel import spans

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LARGEST_TILE = 8192  # rows
SMALLEST_TILE = 256


def fits_budget(rows: int, k: int, memory_gb: float) -> bool:
    """Whether the lists of candidates of all rows take less than half the budget."""
    return 12 * rows * (k + SPARE_CANDIDATES) <= memory_gb * 1e9 / 2


def pairs_on_device(
    rows: Tensor, k: int, memory_gb: float, report: Callable[[int, int], None] | None
) -> tuple[Tensor, Tensor]:
    """The k nearest rows of every row; see `all_pairs`.

    Args:
        rows: (n, D), which `fits_budget`.
        k: number of neighbours, 1..n.
        memory_gb: budget in GB of temporary tensors.
        report: called with the pairs of blocks compared and their number.
    """
    distances = torch.empty(len(rows), k, device=rows.device)
    indices = torch.empty(len(rows), k, dtype=torch.int64, device=rows.device)
    with full_precision(), torch.no_grad():
        search = _PairSearch(rows, k, int(memory_gb * 1e9 / 4))
        bounds, candidates = search.screen_pairs(report)
        for part in spans(len(rows), max(1, search.budget // (32 * (k + SPARE_CANDIDATES)))):
            distances[part], indices[part] = search.decide(rows[part], bounds[part], candidates[part])
    return distances, indices


class _PairSearch(Search):
    """The search of a bank for its own rows."""

    def screen_pairs(self, report: Callable[[int, int], None] | None) -> tuple[Tensor, Tensor]:
        """(n, kept) smallest products of every row, less its squared norm, and their indices."""
        bounds = torch.full((len(self.bank), self.kept), torch.inf, device=self.bank.device)
        indices = torch.zeros(bounds.shape, dtype=torch.int64, device=self.bank.device)
        blocks = spans(len(self.bank), self._tile())
        pairs = list(combinations_with_replacement(blocks, 2))
        before: slice | None = None
        for done, (one, other) in enumerate(pairs, start=1):
            if one != before:
                centred, before = (self.bank[one] - self.centre).float(), one
                doubled, norms = centred * -2, squared_norms(centred) * self.shrink
            others = (self.bank[other] - self.centre).float()
            tile = products(doubled, others)
            self.offer(bounds, indices, one, tile + squared_norms(others) * self.shrink, other.start)
            if one != other:
                self.offer(bounds, indices, other, tile.T + norms, one.start)
            if report is not None:
                report(done, len(pairs))
        return bounds, indices

    def _tile(self) -> int:
        """Rows of a block: three matrices of products, and the rows of both sides, fit the budget."""
        tile = LARGEST_TILE
        while tile > SMALLEST_TILE and 12 * tile * (tile + self.bank.shape[1]) > 2 * self.budget:
            tile //= 2
        return tile
