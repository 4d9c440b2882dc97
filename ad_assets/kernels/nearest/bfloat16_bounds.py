"""Lower bounds of squared distances, a tile at a time: from float32 products, or from bfloat16 ones at twice the speed.

A bound is |x|^2 - 2 x.c + |c|^2 less an error of known size, relative to |x|^2 + |c|^2 and, since products come back in
bfloat16 too, to x.c. Rounding rows to bfloat16 moves them by a distance that is measured, so the coarse bounds are as
certain as the fine ones. They only let more candidates through; how many more depends on the data, and is measured on a
sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ad_assets.kernels.nearest.bounds import FLOAT32_ROUNDOFF, relative_error, squared_norms, tile_of_products
from ad_assets.kernels.nearest.candidate_lists import TINY, vectorised
from ad_assets.kernels.parallel import map_single_threaded

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float32]

BFLOAT16_ROUNDOFF = 2.0**-8
SAMPLE = 64  # rows that decide
LARGEST_SHARE = 0.8  # of the room in their lists that may be taken
FEWEST_COARSE = 12_000  # rows below which deciding costs more than coarse products gain


class Screen(NamedTuple):
    """How tiles are computed, and what their bounds are short of."""

    coarse: bool
    centre: Tensor  # (D,)
    norms: Tensor  # (n,) float32 squared norms of the centred rows, less the error
    of_norms: float  # a bound falls short by at most this times |x|^2 + |c|^2,
    of_products: float  # and this times 2 |x.c|

    def rows(self, rows: Tensor) -> Tensor:
        """(r, D) as the products take them."""
        centred = (rows - self.centre).float()
        return centred.bfloat16() if self.coarse else centred

    def tile(self, rows: Tensor, others: Tensor, columns: slice) -> Floats:
        """(r, c) bounds, less the norms of the rows, from -2 times the rows and the others, the norms at `columns`."""
        if not self.coarse:
            return tile_of_products(rows, others, self.norms[columns]).numpy()
        products = rows @ others.T
        values = np.empty(products.shape, dtype=np.float32)
        _decode(products.view(torch.int16).numpy(), self.norms[columns].numpy(), values)
        return values


def screens(rows: Tensor, centre: Tensor, blocks: list[slice]) -> tuple[Screen, Screen]:
    """A float32 screen and a bfloat16 screen of the rows (n, D), which are read in blocks."""
    norms = torch.empty(len(rows))

    def measure(block: slice) -> float:
        centred = (rows[block] - centre).float()
        norms[block] = squared_norms(centred)
        centred -= centred.bfloat16()
        return float((squared_norms(centred) / norms[block].clamp(min=TINY)).amax())

    moved = max(map_single_threaded(measure, blocks)) ** 0.5
    # The sum with the norms of the rows is rounded once more than in `neighbours`.
    error = relative_error(rows.shape[1]) + 4 * FLOAT32_ROUNDOFF
    # |x.c - x'.c'| where |x - x'| <= m |x| and |c - c'| <= m |c|: at most m (2 + m) |x| |c|.
    rough = 1.01 * moved * (2 + moved)
    fine = Screen(False, centre, norms * (1 - error) - TINY, 2.5 * error, 0.0)
    coarse = Screen(True, centre, norms * (1 - error - rough) - TINY, 2.5 * error + 2 * rough, 2.1 * BFLOAT16_ROUNDOFF)
    return fine, coarse


def coarse_suffices(rows: Tensor, k: int, room: int, screen: Screen, blocks: list[slice]) -> bool:
    """Whether lists with `room` entries probably hold all that the coarse screen cannot rule out."""
    if len(rows) < FEWEST_COARSE or not _has_fast_bfloat16():
        return False
    sample = torch.linspace(0, len(rows) - 1, min(SAMPLE, 2 * room)).long()  # no more memory than the lists will take
    queries, norms = screen.rows(rows[sample]) * -2, screen.norms.numpy()
    values = np.empty((len(sample), len(rows)), dtype=np.float32)

    def fill(block: slice) -> None:
        values[:, block] = screen.tile(queries, screen.rows(rows[block]), block)

    def listed(one: int) -> int:
        norm, bounds = norms[sample[one]], values[one]
        bounds += norm
        first_k = np.argpartition(bounds, k - 1)[:k]
        sums = norm + norms[first_k]
        short = screen.of_norms * sums + screen.of_products * np.abs(sums - bounds[first_k])
        return int(np.count_nonzero(bounds < (bounds[first_k] + short).max()))

    list(map_single_threaded(fill, blocks))
    return max(map_single_threaded(listed, range(len(sample)))) <= LARGEST_SHARE * room


def _has_fast_bfloat16() -> bool:
    # Not public, and not in every release: without an answer products stay in float32.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.backends.mkldnn.is_available() and bool(supported())


@vectorised
def _decode(products: NDArray[np.int16], norms: Floats, values: Floats) -> None:
    """Bounds from the bits of bfloat16 products: the norms of the columns plus the least that was rounded to them."""
    for r in range(len(products)):
        for c in range(products.shape[1]):
            product = np.int32(np.int32(products[r, c]) << 16).view(np.float32)
            values[r, c] = norms[c] + product - abs(product) * np.float32(BFLOAT16_ROUNDOFF)
