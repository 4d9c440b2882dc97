"""Exact k nearest rows of a memory bank in L2, the search of PatchCore, PatchCluster, SPADE and local outlier factors.

Matrix products of tiles screen, at nearly the speed of the product itself and without a Q x M matrix: every tile is
reduced to the minima of groups of columns, the groups with the smallest minima hold the candidates, and a few more
than k of them survive from tile to tile. Direct differences in float64 rank the survivors. What is screened is a lower
bound of the squared distance, so a query whose k-th neighbour is not nearer than everything left out (near ties, or
more duplicates than survivors) is recognised and compared with every row that may be near enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ad_assets.kernels.nearest.bounds import (
    DEVICE_TILE_BYTES,
    centre_of,
    checked_rows,
    exact_distances,
    full_precision,
    relative_error,
    row_tiles,
    screened_distances,
    squared_norms,
)
from ad_assets.kernels.parallel import each, spans, threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

SPARE_CANDIDATES = 3  # survivors beyond k: room for near ties
GROUP = 16  # columns whose minimum stands for them
BANK_TILE = 4096
# Queries of one task of a thread; no result depends on them.
TASK_QUERIES = 1024
FEWEST_TASK_QUERIES = 128


def nearest(
    queries: Tensor, bank: Tensor, k: int, *, memory_gb: float = 1.0, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k nearest bank rows of every query, nearest first; equal distances go to the lowest index.

    A query's result does not depend on the other queries. Equal rows are exactly 0 apart.

    Args:
        queries: (Q, D) floating point, finite.
        bank: (M, D) floating point, finite, on the same device.
        k: number of neighbours, 1..M.
        memory_gb: budget in GB of temporary tensors of all threads.
        allowed: (M,) bool, the rows that are compared, at least k; no copy of them is made. None: all.

    Returns:
        Plain L2 distances (Q, k) float32 and bank indices (Q, k) int64.

    Raises:
        ValueError: empty or mismatched inputs, NaN or infinity, or k out of range.
    """
    most = len(bank) if allowed is None else int(allowed.sum())
    _check(queries, bank, k, most)
    distances = torch.empty(len(queries), k, device=queries.device)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    device, lone = queries.device.type, threads() if queries.device.type == "cpu" else 1
    search = Search(bank, k, int(memory_gb * 1e9 / 4 / lone), most, allowed)
    step = max(1, search.budget // (32 * (k + SPARE_CANDIDATES)))
    if device == "cpu":
        step = min(step, TASK_QUERIES, max(FEWEST_TASK_QUERIES, -(-len(queries) // lone)))

    def seek(part: slice) -> None:
        distances[part], indices[part] = search(queries[part])

    with full_precision(), torch.no_grad():
        list(each(seek, spans(len(queries), step), device))
    return distances, indices


def pairs_within(
    queries: Tensor, bank: Tensor, radius: Tensor, *, memory_gb: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of a query and a bank row that are at most a radius apart.

    Args:
        queries: (Q, D) floating point, finite.
        bank: (M, D) floating point, finite, on the same device.
        radius: (Q,) float64, of each query.
        memory_gb: budget in GB of temporary tensors of all threads.

    Returns:
        Queries (n,) int64 ascending, rows (n,) int64 ascending for each, and plain L2 distances (n,) float64. A pair
        that float32 cannot tell from one at the radius may be among them.

    Raises:
        ValueError: empty or mismatched inputs, NaN or infinity.
    """
    _check(queries, bank, 1, len(bank))
    device, lone = queries.device.type, threads() if queries.device.type == "cpu" else 1
    search = Search(bank, 1, int(memory_gb * 1e9 / 4 / lone))
    step = max(FEWEST_TASK_QUERIES, search.budget // (32 * min(len(bank), BANK_TILE)))
    if device == "cpu":
        step = min(step, TASK_QUERIES)
    parts = spans(len(queries), step)
    with full_precision(), torch.no_grad():
        found = list(each(lambda part: search.pairs_within(queries[part], radius[part]), parts, device))
    query = torch.cat([own + part.start for part, (own, _, _) in zip(parts, found, strict=True)])
    row, distances = (torch.cat([pair[number] for pair in found]) for number in (1, 2))
    order = query.argsort(stable=True)
    return query[order], row[order], distances[order]


def _check(queries: Tensor, bank: Tensor, k: int, most: int) -> None:
    checked_rows("queries", queries)
    checked_rows("bank", bank)
    if queries.shape[1] != bank.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} dimensions, the bank has {bank.shape[1]}")
    if not 1 <= k <= most:
        raise ValueError(f"k must be 1..{most}, the number of bank rows, got {k}")


class Search:
    """The search of one bank: reduced to survivors, ranked, and repeated where survivors do not suffice."""

    def __init__(
        self, bank: Tensor, k: int, budget: int, most: int | None = None, allowed: Tensor | None = None
    ) -> None:
        self.bank, self.k, self.budget, self.allowed = bank, k, budget, allowed
        self.kept = min(len(bank) if most is None else most, k + SPARE_CANDIDATES)
        self.centre = centre_of(bank)
        self.shrink = 1 - relative_error(bank.shape[1])  # of norms, which makes the screened values lower bounds

    def __call__(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        return self.decide(queries, *self._screen(queries))

    def decide(self, queries: Tensor, bounds: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The k nearest of the survivors (Q, kept), or of all rows where survivors do not suffice."""
        distances, indices = self._rank(queries, indices)
        if self.kept < len(self.bank):
            limits = self._limits(queries, distances[:, -1])
            doubtful = (limits >= bounds.amax(dim=1)).nonzero().flatten()
            if len(doubtful):
                distances[doubtful], indices[doubtful] = self.within(queries[doubtful], distances[doubtful, -1])
        return distances.float(), indices

    def within(self, queries: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """The k nearest, (Q, k) float64 and int64, of queries with at least k rows within a radius (Q,) float64."""
        distances = torch.empty(len(queries), self.k, dtype=torch.float64, device=queries.device)
        indices = torch.empty(distances.shape, dtype=torch.int64, device=queries.device)
        limits = self._limits(queries, radius)
        for rows in row_tiles(len(queries), 24 * len(self.bank), self.budget, queries.device):
            distances[rows], indices[rows] = self._search_within(queries[rows], limits[rows])
        return distances, indices

    def _products(self, queries: Tensor) -> Iterator[tuple[slice, int, Tensor]]:
        """Yield (query rows, first bank row, lower bounds of squared distances less |query|^2), bank rows ascending."""
        tile = BANK_TILE
        if queries.device.type != "cpu":  # so that as few products as the budget allows cover all pairs
            tile = max(tile, min(len(self.bank), min(self.budget, DEVICE_TILE_BYTES) // (8 * len(queries))))
        for first in range(0, len(self.bank), tile):
            others = (self.bank[first : first + tile] - self.centre).float()
            norms = squared_norms(others) * self.shrink
            if self.allowed is not None:  # infinitely far, the others survive nowhere
                norms.masked_fill_(~self.allowed[first : first + tile], torch.inf)
            for rows in row_tiles(len(queries), 4 * (tile + others.shape[1]), self.budget, queries.device):
                centred = (queries[rows] - self.centre).float()
                yield rows, first, screened_distances(centred, others, norms)

    def _limits(self, queries: Tensor, radius: Tensor) -> Tensor:
        """(Q,) float64: what the products of bank rows no farther than the radius cannot exceed."""
        limits = radius.square()
        for rows in row_tiles(len(queries), 4 * queries.shape[1], self.budget, queries.device):
            limits[rows] -= squared_norms((queries[rows] - self.centre).float()).double() * self.shrink
        return limits

    def _screen(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """(Q, kept) smallest products and their indices."""
        bounds = torch.full((len(queries), self.kept), torch.inf, device=queries.device)
        indices = torch.zeros(bounds.shape, dtype=torch.int64, device=queries.device)
        for rows, first, tile in self._products(queries):
            self.offer(bounds, indices, rows, tile, first)
        return bounds, indices

    def offer(self, bounds: Tensor, indices: Tensor, rows: slice, tile: Tensor, first: int) -> None:
        """Let a tile (q, m), its columns bank rows from `first` on, change the survivors (Q, kept) of its rows."""
        columns = _smallest_columns(tile, self.kept)
        values = torch.cat([bounds[rows], tile.gather(1, columns)], dim=1)
        positions = torch.cat([indices[rows], columns + first], dim=1)
        bounds[rows], chosen = values.topk(self.kept, dim=1, largest=False, sorted=False)
        indices[rows] = positions.gather(1, chosen)

    def _rank(self, queries: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The k nearest of the survivors, (Q, k) float64 and int64."""
        indices = indices.sort(dim=1).values  # so that a stable sort leaves the lowest index first
        distances = torch.empty(indices.shape, dtype=torch.float64, device=indices.device)
        for tile in row_tiles(len(queries), 12 * queries.shape[1] * self.kept, self.budget, queries.device):
            distances[tile] = exact_distances(queries[tile].unsqueeze(1), self.bank[indices[tile]]).squeeze(1)
        distances, order = distances.sort(dim=1, stable=True)
        return distances[:, : self.k], indices.gather(1, order)[:, : self.k]

    def pairs_within(self, queries: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `pairs_within`, tile by tile: rows ascend for each query, not the queries."""
        return self._pairs(queries, self._limits(queries, radius))

    def _pairs(self, queries: Tensor, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (n,), rows (n,) and float64 distances (n,) of the pairs whose products do not exceed limits (Q,)."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for rows, first, tile in self._products(queries):
            query, column = (tile <= limits[rows].unsqueeze(1)).nonzero(as_tuple=True)
            query, column = query + rows.start, column + first
            distances = torch.empty(len(query), dtype=torch.float64, device=query.device)
            for part in row_tiles(len(query), 24 * queries.shape[1], self.budget, query.device):
                one, other = queries[query[part]].unsqueeze(1), self.bank[column[part]].unsqueeze(1)
                distances[part] = exact_distances(one, other).flatten()
            found.append((query, column, distances))
        query, column, distances = (torch.cat(parts) for parts in zip(*found, strict=True))
        return query, column, distances

    def _search_within(self, queries: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
        """The k nearest among all rows whose products do not exceed the limits (Q,)."""
        query, column, distances = self._pairs(queries, limits)
        # Columns ascend already for each query; the last of the stable sorts decides first.
        order = distances.sort(stable=True).indices
        order = order[query[order].sort(stable=True).indices]
        query, column, distances = query[order], column[order], distances[order]
        first_of = torch.searchsorted(query, torch.arange(len(queries), device=query.device))
        best = first_of.unsqueeze(1) + torch.arange(self.k, device=query.device)
        return distances[best], column[best]


def _smallest_columns(values: Tensor, count: int) -> Tensor:
    """Columns of the `count` smallest values of every row, all columns if there are fewer.

    The smallest values lie in the groups with the smallest minima, which are vectorised minima of strided columns;
    columns that fill no group are candidates themselves.
    """
    rows, width = values.shape
    groups = width // GROUP
    if groups <= count:
        return values.topk(min(count, width), dim=1, largest=False, sorted=False).indices
    minima = values[:, : groups * GROUP].unflatten(1, (GROUP, groups)).amin(dim=1)
    chosen = minima.topk(count, dim=1, largest=False, sorted=False).indices
    members = torch.arange(0, groups * GROUP, groups, device=values.device)
    columns = (chosen.unsqueeze(2) + members).flatten(1)
    rest = torch.arange(groups * GROUP, width, device=values.device).expand(rows, -1)
    columns = torch.cat([columns, rest], dim=1)
    best = values.gather(1, columns).topk(count, dim=1, largest=False, sorted=False).indices
    return columns.gather(1, best)
