"""Shortlists: for each of many rows, everything that may still be among its k nearest, as tiles of products pass by.

A tile holds lower bounds of squared distances, short of them by a known amount at most. The k smallest bounds that a
row has seen, each with what it may be short of added, therefore limit its true k-th distance, and bounds above that
limit are of no use. Nearly all are: a chunk of them costs one vectorised minimum. The others are appended to the list
of the row, and a full list is cut down to what the limit, which only falls, still lets in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numba import njit

from ad_assets.kernels.optics import compiled, in_threads
from ad_assets.kernels.scratch import mapped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Integers = NDArray[np.int32]
    Uncertainty = tuple[float, float]

CHUNK = 32  # values whose minimum decides whether one of them is looked at
TINY = 1e-30  # squared lengths of this size may be lost to underflow: norms are less by as much
# Without NaN, minima are vectorised. Nothing may be reassociated: which values pass must not depend on the order.
vectorised: Any = njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})


class Shortlists(NamedTuple):
    """The lists of n rows, at most `room` entries each.

    Everything a row was offered and does not list is at least `left_out` away, or certainly not among its k nearest.
    """

    values: Floats  # (n, room) lower bounds of squared distances
    indices: Integers  # (n, room)
    counts: Integers  # (n,) entries in use
    bounds: Floats  # (n,) only values below are listed
    left_out: Floats  # (n,) infinity unless there was no room for all

    @classmethod
    def empty(cls, rows: int, room: int, *, held: bool) -> Shortlists:
        """Lists without entries; those that are not held in main memory lie in temporary files."""
        values, indices = (
            np.empty((rows, room), dtype=getattr(np, kind))
            if held
            else mapped((rows, room), getattr(torch, kind), "the lists of candidates").numpy()
            for kind in ("float32", "int32")
        )
        return cls(
            values,
            indices,
            np.zeros(rows, dtype=np.int32),
            np.full(rows, np.inf, dtype=np.float32),
            np.full(rows, np.inf, dtype=np.float32),
        )

    @staticmethod
    def bytes_per_row(room: int) -> int:
        """Memory of one list."""
        return 8 * room + 12


def close(lists: Shortlists, norms: Floats, k: int, uncertainty: Uncertainty) -> None:
    """Cut all lists down to what their last bounds let in."""
    in_threads(lambda part: _close(lists, norms, part.start, part.stop, k, uncertainty), len(norms))


@vectorised
def offer_to_rows(
    lists: Shortlists, tile: Floats, norms: Floats, place: tuple[int, int], k: int, uncertainty: Uncertainty
) -> None:
    """Offer a tile to the lists of its rows.

    Args:
        lists: those of the rows of the tile are changed in place.
        tile: (r, c) lower bounds of squared distances, less the squared norms of the rows.
        norms: (n,) the norms that the tile is less of.
        place: which of the n rows the first row and the first column of the tile are.
        k: at most the room of the lists.
        uncertainty: the bounds fall short of the squared distances by at most the one times the sum of both norms plus
            the other times twice the product.
    """
    values, indices, counts, bounds, left_out = lists
    first_row, first_column = place
    width = tile.shape[1]
    passed = np.empty(CHUNK, dtype=np.int64)
    for r in range(len(tile)):
        row, offered = first_row + r, tile[r]
        norm, bound = norms[row], bounds[row]
        for begin in range(0, width, CHUNK):
            end = min(begin + CHUNK, width)
            least = np.float32(np.inf)
            for c in range(begin, end):
                least = min(least, offered[c])
            if least + norm < bound:
                passing = 0
                for c in range(begin, end):
                    passed[passing] = c
                    passing += offered[c] + norm < bound
                for c in passed[:passing]:
                    count = counts[row]
                    if count == values.shape[1]:
                        count = _cut(
                            values[row], indices[row], count, norms, row, k, uncertainty, bounds, left_out, count
                        )
                        bound = bounds[row]
                    values[row, count], indices[row, count] = offered[c] + norm, first_column + c
                    counts[row] = count + 1


@vectorised
def offer_to_columns(
    lists: Shortlists, tile: Floats, norms: Floats, place: tuple[int, int], k: int, uncertainty: Uncertainty
) -> None:
    """Offer a tile to the lists of its columns; see `offer_to_rows`."""
    values, indices, counts, all_bounds, left_out = lists
    first_row, first_column = place
    width = tile.shape[1]
    bounds = all_bounds[first_column:]
    passed = np.empty(CHUNK, dtype=np.int64)
    for r in range(len(tile)):
        row, offered = first_row + r, tile[r]
        norm = norms[row]
        for begin in range(0, width, CHUNK):
            end = min(begin + CHUNK, width)
            least = np.float32(np.inf)
            for c in range(begin, end):
                least = min(least, offered[c] + norm - bounds[c])
            if least < 0:  # the sign of a difference is exact
                passing = 0
                for c in range(begin, end):
                    passed[passing] = c
                    passing += offered[c] + norm < bounds[c]
                for c in passed[:passing]:
                    column = first_column + c
                    count = counts[column]
                    if count == values.shape[1]:
                        count = _cut(
                            values[column],
                            indices[column],
                            count,
                            norms,
                            column,
                            k,
                            uncertainty,
                            all_bounds,
                            left_out,
                            count,
                        )
                    values[column, count], indices[column, count] = offered[c] + norm, row
                    counts[column] = count + 1


@compiled
def _close(lists: Shortlists, norms: Floats, start: int, stop: int, k: int, uncertainty: Uncertainty) -> None:
    values, indices, counts, bounds, left_out = lists
    for row in range(start, min(stop, len(norms))):
        count = counts[row]
        if count > k:
            counts[row] = _cut(
                values[row], indices[row], count, norms, row, k, uncertainty, bounds, left_out, count + 1
            )


@compiled
def _cut(
    values: Floats,
    indices: Integers,
    count: int,
    norms: Floats,
    row: int,
    k: int,
    uncertainty: Uncertainty,
    bounds: Floats,
    left_out: Floats,
    full: int,
) -> int:
    """Lower the bound of a row that lists k or more, and drop what lies above; fewer than `full` entries remain.

    Where the bound lets that many in (duplicates, or distances that float32 cannot tell apart), half of those beyond
    the k-th are dropped nevertheless, and `left_out` says so.
    """
    _select(values, indices, count, k - 1)
    of_norms, of_products = uncertainty
    farthest = -np.inf
    for place in range(k):
        both = np.float64(norms[row]) + norms[indices[place]]
        farthest = max(farthest, values[place] + of_norms * both + of_products * abs(both - values[place]))
    bound = np.float32(farthest + 4 * TINY)
    bound = min(bounds[row], np.nextafter(bound, np.float32(np.inf)))
    kept = k
    for place in range(k, count):
        if values[place] < bound:
            values[place], values[kept] = values[kept], values[place]
            indices[place], indices[kept] = indices[kept], indices[place]
            kept += 1
    if kept >= full:
        half = k + (count - k) // 2
        _select(values, indices, count, half)
        bound, kept = min(bound, values[half]), half
        left_out[row] = min(left_out[row], bound)
    bounds[row] = bound
    return kept


@compiled
def _select(values: Floats, indices: Integers, count: int, place: int) -> None:
    """Reorder so that no value before `place` is larger, and none after it smaller (Hoare's quickselect)."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        one, two, three = values[low], values[middle], values[high]
        pivot = max(min(one, two), min(max(one, two), three))
        left, right = low, high
        while left <= right:
            while values[left] < pivot:
                left += 1
            while values[right] > pivot:
                right -= 1
            if left <= right:
                values[left], values[right] = values[right], values[left]
                indices[left], indices[right] = indices[right], indices[left]
                left += 1
                right -= 1
        if place <= right:
            high = right
        elif place >= left:
            low = left
        else:
            return
