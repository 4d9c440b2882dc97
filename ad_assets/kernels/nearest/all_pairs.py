"""Exact k nearest rows of every row among all rows: `nearest(rows, rows, k)` for half the products.

A tile of products of two blocks of rows serves both blocks. It is screened at once: every row keeps a short list of
what may still be among its k nearest (`shortlists`), and direct differences in float64 rank the lists at the end. A
row whose list had no room for all candidates (many duplicates, or distances that float32 cannot tell apart), and whose
k-th neighbour is not nearer than what was left out, is searched again as in `neighbours`.
"""

from __future__ import annotations

from contextlib import closing
from itertools import combinations
from threading import Lock, local
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit

from ad_assets.kernels.nearest.bfloat16_bounds import coarse_suffices, screens
from ad_assets.kernels.nearest.bounds import centre_of, checked_rows, full_precision
from ad_assets.kernels.nearest.candidate_lists import Shortlists, close, offer_to_columns, offer_to_rows
from ad_assets.kernels.nearest.pairs_on_device import fits_budget, pairs_on_device
from ad_assets.kernels.nearest.search import Search, nearest
from ad_assets.kernels.optics import compiled
from ad_assets.kernels.parallel import each, map_single_threaded, threads
from ad_assets.kernels.scratch import mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Integers = NDArray[np.int32]
    Indices = NDArray[np.int64]

TILE = 1024  # rows of a block: a tile of products, written by one step and read by the next, fits the outer cache
SMALLEST_TILE = 64
# Room of a list: 5 k and SPARE_ROOM for bfloat16, 2 k and SPARE_ROOM for float32, down to 5/4 k and LEAST_SPARE_ROOM.
MOST_ROOM, SPARE_ROOM, LEAST_SPARE_ROOM = 5, 32, 16
FIXED_BYTES = 16  # beside each list: norms twice, and a radius
RANKING_BYTES = 16 << 20
RANKED = 1024  # rows that are ranked between two reports
# Sums of squares may be reassociated, which vectorises them: equal terms stay equal sums, and zeros zero.
summing: Any = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract"})


def all_pairs(
    rows: Tensor, k: int, *, memory_gb: float = 1.0, report: Callable[[int, int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """The k nearest rows of every row among all rows, itself included, nearest first.

    Equal distances go to the lowest index, so a row with duplicates need not come first itself. Equal rows are exactly
    0 apart. Half the products of `nearest` are computed; other devices than a CPU run it nevertheless, where the lists
    of candidates of all rows, 12 (k + 3) bytes each, take more than half the budget.

    Args:
        rows: (n, D) floating point, finite, n < 2^31.
        k: number of neighbours, 1..n.
        memory_gb: budget in GB of everything beside the rows and the result. On a CPU the lists of candidates take
            n (10 k + 160) bytes of it at least, and are fastest with n (40 k + 290). With less than the least, lists
            and result lie in temporary files.
        report: called from time to time with the units of work done and their total.

    Returns:
        Plain L2 distances (n, k) float32 and indices (n, k) int64.

    Raises:
        ValueError: not a matrix, empty, NaN or infinity, or k out of range.
        BudgetError: the lists are beyond the budget, and the disk has no room for them.
    """
    checked_rows("rows", rows)
    if not 1 <= k <= len(rows):
        raise ValueError(f"k must be 1..{len(rows)}, the number of rows, got {k}")
    rows = rows.detach()
    if rows.device.type != "cpu":
        if fits_budget(len(rows), k, memory_gb):
            return pairs_on_device(rows, k, memory_gb, report)
        return nearest(rows, rows, k, memory_gb=memory_gb)
    room, tile, held = _sizes(len(rows), rows.shape[1], k, memory_gb)
    blocks = -(-len(rows) // tile)
    total = blocks * (blocks + 1) // 2 + -(-len(rows) // RANKED)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if report is not None:
            report(done, total)

    with full_precision():
        lists = _shortlists(rows, k, room, tile, held, advance)
        distances, indices, radii = _ranked(rows, lists, k, held, advance)
        doubtful = (radii.square() >= torch.from_numpy(lists.left_out)).nonzero().flatten()
        del lists
        search = Search(rows, k, int(memory_gb * 1e9 / 4 / threads()))

        def seek(some: Tensor) -> None:
            exact, indices[some] = search.within(rows[some], radii[some])
            distances[some] = exact.float()

        list(each(seek, doubtful.split(RANKED), "cpu"))  # few, unless there are many duplicates
    return distances, indices


def least_bytes(rows: int, k: int) -> int:
    """Bytes of the smallest lists of so many rows, and of their norms and radii."""
    return rows * (Shortlists.bytes_per_row(_least_room(rows, k)) + FIXED_BYTES)


def _least_room(rows: int, k: int) -> int:
    return min(rows, k + k // 4 + LEAST_SPARE_ROOM)


def _sizes(n: int, dimensions: int, k: int, memory_gb: float) -> tuple[int, int, bool]:
    """Room of a list, rows of a block, and whether the lists are held in main memory."""
    budget = int(memory_gb * 1e9)
    least, most = _least_room(n, k), min(n, MOST_ROOM * k + SPARE_ROOM)
    smallest = min(n, SMALLEST_TILE)
    held = least_bytes(n, k) + _tile_bytes(smallest, dimensions) <= budget
    left = budget - least_bytes(n, k) if held else budget
    tile = min(n, TILE)
    while tile > smallest and _tile_bytes(tile, dimensions) > left:
        tile = max(smallest, tile // 2)
    if not held:
        return min(n, 2 * k + SPARE_ROOM), tile, held
    room, beside = least, _tile_bytes(tile, dimensions)
    while room < most and n * (Shortlists.bytes_per_row(room + 1) + FIXED_BYTES) + beside <= budget:
        room += 1
    return room, tile, held


def _tile_bytes(tile: int, dimensions: int) -> int:
    """Every thread holds a tile, two blocks, one packed for the product, and what centring leaves on the way."""
    return threads() * tile * (4 * tile + 20 * dimensions)


def _shortlists(rows: Tensor, k: int, room: int, tile: int, held: bool, advance: Callable[[], None]) -> Shortlists:
    """Lists that hold the k nearest of every row, unless `left_out` says otherwise."""
    blocks = [slice(first, min(first + tile, len(rows))) for first in range(0, len(rows), tile)]
    fine, coarse = screens(rows, centre_of(rows), blocks)
    if held and coarse_suffices(rows, k, room, coarse, blocks):
        screen = coarse
    else:
        screen, room = fine, min(room, 2 * k + SPARE_ROOM)
    norms, uncertainty = screen.norms.numpy(), (screen.of_norms, screen.of_products)
    lists = Shortlists.empty(len(rows), room, held=held)
    locks = [Lock() for _ in blocks]
    of_thread = local()

    def offer(pair: tuple[int, int]) -> None:
        one, other = pair
        if getattr(of_thread, "block", None) != one:
            of_thread.block, of_thread.rows = one, screen.rows(rows[blocks[one]]) * -2
        values = screen.tile(of_thread.rows, screen.rows(rows[blocks[other]]), blocks[other])
        place = (blocks[one].start, blocks[other].start)
        with locks[one]:
            offer_to_rows(lists, values, norms, place, k, uncertainty)
        if one != other:
            with locks[other]:
                offer_to_columns(lists, values, norms, place, k, uncertainty)

    # The diagonal first: rows are often sorted by what they show, and near ones soon keep far ones off the lists.
    pairs = [(one, one) for one in range(len(blocks))] + list(combinations(range(len(blocks)), 2))
    with closing(map_single_threaded(offer, pairs)) as offered:
        for _ in offered:
            advance()
    close(lists, norms, k, uncertainty)
    return lists


def _empty(shape: tuple[int, int], dtype: torch.dtype, held: bool) -> Tensor:
    return torch.empty(shape, dtype=dtype) if held else mapped(shape, dtype, "the neighbours of all patches")


def _ranked(
    rows: Tensor, lists: Shortlists, k: int, held: bool, advance: Callable[[], None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Distances (n, k) float32, indices (n, k) int64, and the k-th distances (n,) float64."""
    distances = _empty((len(rows), k), torch.float32, held)
    indices = _empty((len(rows), k), torch.int64, held)
    radii = torch.empty(len(rows), dtype=torch.float64)

    def rank(chunk: slice) -> None:
        for part, queries, others, candidates, names in _gathered(rows, lists, chunk.start, chunk.stop):
            results = (distances[part].numpy(), indices[part].numpy(), radii[part].numpy())
            _rank(queries.numpy(), others.numpy(), candidates, lists.values[part], lists.counts[part], *results)
            if names is not None:
                indices[part] = names[indices[part]]

    chunks = [slice(first, min(first + RANKED, len(rows))) for first in range(0, len(rows), RANKED)]
    with closing(map_single_threaded(rank, chunks)) as ranked:
        for _ in ranked:
            advance()
    return distances, indices, radii


def _gathered(
    rows: Tensor, lists: Shortlists, first: int, last: int
) -> Iterator[tuple[slice, Tensor, Tensor, Integers, Tensor | None]]:
    """Yield (queries as a slice, their values, rows to compare with, places among those (q, room), their indices)."""
    if rows.element_size() >= 4:
        part = slice(first, last)
        yield part, rows[part], rows, lists.indices[part], None
        return
    # Two bytes mean nothing to compiled code: what a few queries need is copied in float32.
    step = max(1, RANKING_BYTES // (4 * rows.shape[1] * lists.indices.shape[1]))
    for begin in range(first, last, step):
        part = slice(begin, min(begin + step, last))
        used = np.arange(lists.indices.shape[1]) < lists.counts[part, np.newaxis]
        names, places = np.unique(np.where(used, lists.indices[part], lists.indices[part, :1]), return_inverse=True)
        chosen = torch.from_numpy(names).long()
        candidates = places.reshape(used.shape).astype(np.int32)
        yield part, rows[part].float(), rows[chosen].float(), candidates, chosen


@compiled
def _rank(
    queries: Floats,
    others: Floats,
    candidates: Integers,
    bounds: Floats,
    counts: Integers,
    distances: Floats,
    indices: Indices,
    radii: Doubles,
) -> None:
    """Fill distances (q, k), indices (q, k) and the k-th distances (q,) of the queries."""
    k = distances.shape[1]
    exact, compared = np.empty(candidates.shape[1]), np.empty(candidates.shape[1], dtype=np.int64)
    for row in range(len(queries)):
        query = queries[row].astype(np.float64)
        farthest, used = 0.0, 0
        order = np.argsort(bounds[row, : counts[row]])
        while used < len(order):
            if used >= k and bounds[row, order[used]] > farthest:
                break  # k rows are nearer than this and all that follow
            four = order[used : used + 4]
            one, two, three, last = (
                four[0],
                four[min(1, len(four) - 1)],
                four[min(2, len(four) - 1)],
                four[len(four) - 1],
            )
            squared = _squared_distances(
                query,
                others[candidates[row, one]],
                others[candidates[row, two]],
                others[candidates[row, three]],
                others[candidates[row, last]],
            )
            for place in range(len(four)):
                value = squared[place]
                exact[used], compared[used] = np.sqrt(value), candidates[row, four[place]]
                if used < k:
                    farthest = max(farthest, value)
                used += 1
        ascending = np.argsort(compared[:used])  # so that a stable sort leaves the lowest index first
        order = ascending[np.argsort(exact[ascending], kind="mergesort")]
        for place in range(k):
            distances[row, place] = exact[order[place]]
            indices[row, place] = compared[order[place]]
        radii[row] = exact[order[k - 1]]


@summing
def _squared_distances(
    query: Doubles, one: Floats, two: Floats, three: Floats, four: Floats
) -> tuple[float, float, float, float]:
    """Four at once: rows from all over the memory arrive several times as fast when they are awaited together."""
    to_one = to_two = to_three = to_four = 0.0
    for place in range(len(query)):
        value = query[place]
        to_one += (value - one[place]) ** 2
        to_two += (value - two[place]) ** 2
        to_three += (value - three[place]) ** 2
        to_four += (value - four[place]) ** 2
    return to_one, to_two, to_three, to_four
