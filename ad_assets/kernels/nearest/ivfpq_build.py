"""Product codes of rows that may lie in a file that is mapped into memory: learnt from samples, coded block by block.

What comes of it is what faiss makes of all rows at once, to the last bit (for sub-vectors of fewer than 16 values;
for wider ones to the rounding of a product), whatever the budget: faiss itself learns lists and sub-quantisers from
samples that it draws, and these are drawn here in the same way. Every row is read twice: to find its list, and to be
coded. In between the lists get the room that they need, so that none of them grows and is copied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ad_assets.kernels.budget import BudgetError
from ad_assets.kernels.nearest.bounds import centre_of
from ad_assets.kernels.parallel import map_single_threaded, spans, threads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

ROWS_A_LIST = 39
MOST_LISTS = 4096  # where no number is asked for
MOST_BITS = 16
ID_BYTES = 8  # of a row in its list
TRAINED = 256  # rows that faiss learns a centroid from at most
DRAWN = 1234  # faiss's seed for the rows that sub-quantisers are learnt from
BLOCK_BYTES = 32 << 20  # of the rows that a thread codes at once
COPIES = 3  # of a sample or a block: read, centred, filled up
LARGEST_TABLE = 1 << 31  # faiss tables no more of what all queries share


@dataclass(frozen=True)
class CodeShape:
    """The codes of a bank, after what it cannot fill was reduced.

    Args:
        rows: of the bank.
        dimensions: values of a row.
        lists: groups of rows.
        subquantisers: parts of a row.
        bits: of each part's code.
    """

    rows: int
    dimensions: int
    lists: int
    subquantisers: int
    bits: int

    @classmethod
    def of(cls, rows: int, dimensions: int, lists: int | None, subquantisers: int, bits: int) -> CodeShape:
        """What a bank of so many rows can fill of what is asked for; see `build`.

        Raises:
            ValueError: lists, subquantisers or bits out of range.
        """
        asked = suitable_lists(rows) if lists is None else lists
        if asked < 1 or subquantisers < 1 or not 1 <= bits <= MOST_BITS:
            raise ValueError(
                f"lists and subquantisers must be at least 1 and bits 1..{MOST_BITS}, got {lists}, {subquantisers}, "
                f"{bits}"
            )
        return cls(
            rows,
            dimensions,
            max(1, min(asked, rows // ROWS_A_LIST)),
            min(subquantisers, dimensions),
            max(1, min(bits, rows.bit_length() - 1)),
        )

    @property
    def values(self) -> int:
        """Values of a row whose sub-vectors are filled up to one width."""
        return self.subquantisers * -(-self.dimensions // self.subquantisers)

    @property
    def held_bytes(self) -> int:
        """Bytes of the codes, as they are searched."""
        code = -(-self.subquantisers * self.bits // 8)
        table = 4 * self.lists * self.subquantisers << self.bits
        centroids = 4 * self.values * (self.lists + (1 << self.bits))
        return self.rows * (code + ID_BYTES) + centroids + (table if table <= LARGEST_TABLE else 0)

    @property
    def peak_bytes(self) -> int:
        """Bytes that are held at most while they are made, rows apart."""
        sample = min(self.rows, TRAINED * max(self.lists, 1 << self.bits))
        block = threads() * min(self.rows, self.block_rows)
        # The list of each row is known while rows are coded, and the order that samples are drawn in before.
        return self.held_bytes + 4 * self.rows + COPIES * 4 * self.values * max(sample, block)

    def check(self, memory_gb: float) -> None:
        """Refuse codes that a budget does not hold.

        Raises:
            BudgetError: they, or what they are learnt from, need more.
        """
        if self.peak_bytes > memory_gb * 1e9:
            raise BudgetError(
                f"product codes of {self.rows} rows need {self.peak_bytes / 1e9:.3g} GB ({self.lists} lists, "
                f"{self.subquantisers} subquantisers of {self.bits} bits), the budget is {memory_gb:g} GB: raise "
                "compute.memory_gb if this machine has more, or lower lists, subquantisers or coreset_ratio"
            )

    @property
    def block_rows(self) -> int:
        """Rows that a thread codes at once."""
        return max(1, BLOCK_BYTES // (4 * self.values))


def suitable_lists(rows: int) -> int:
    """The lists of so many rows where no number is asked for: the power of two nearest to the root, at most MOST_LISTS.

    Then a query meets about as many centroids as rows of a list. To learn lists takes the square of their number.

    >>> suitable_lists(10_000), suitable_lists(1_000_000), suitable_lists(50_000_000)
    (128, 1024, 4096)
    """
    return min(MOST_LISTS, 1 << round(math.log2(rows) / 2))


def trained_index(rows: Tensor, shape: CodeShape, seed: int) -> tuple[Any, Tensor]:
    """A faiss `IndexIVFPQ` that has learnt from the rows and holds none yet, and what rows are centred by, (D,)."""
    faiss = library()
    centre = centre_of(rows).cpu()
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatL2(shape.values), shape.values, shape.lists, shape.subquantisers, shape.bits
    )
    index.cp.seed = index.pq.cp.seed = seed % 2**31  # a C int
    # faiss warns of too few rows to learn from; here the very rows that are coded are all to be learned.
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    drawn = _drawn(rows, TRAINED * shape.lists, index.cp.seed)
    clusters = faiss.Clustering(shape.values, shape.lists, index.cp)
    clusters.train(_twice(padded(drawn, centre, shape.subquantisers)), index.quantizer)
    drawn = _drawn(rows, TRAINED << shape.bits, DRAWN)
    index.train(_twice(padded(drawn, centre, shape.subquantisers)))  # which leaves the lists as they are
    return index, centre


def add_rows(index: Any, rows: Tensor, centre: Tensor, shape: CodeShape) -> None:
    """Code all rows into the lists of a trained index."""
    faiss = library()
    parts = spans(len(rows), shape.block_rows)

    def points(part: slice) -> NDArray[np.float32]:
        library()  # threads of their own are to be told
        return padded(rows[part], centre, shape.subquantisers)

    def lists_of(part: slice) -> NDArray[np.int32]:
        found: NDArray[np.int32] = index.quantizer.search(points(part), 1)[1][:, 0].astype(np.int32)
        return found

    own = np.concatenate(list(map_single_threaded(lists_of, parts)))
    held = faiss.downcast_InvertedLists(index.invlists)
    for number, count in enumerate(np.bincount(own, minlength=shape.lists).tolist()):
        held.resize(number, count)
        held.resize(number, 0)  # which keeps the room
    for part in parts:
        block, lists = points(part), own[part].astype(np.int64)
        index.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(lists))


def padded(rows: Tensor, centre: Tensor, subquantisers: int) -> NDArray[np.float32]:
    """Centred rows (n, D) with every sub-vector filled up with zeros to one width, (n, subquantisers * width)."""
    centred = rows.cpu().float() - centre.cpu()
    width = -(-len(centre) // subquantisers)
    if width * subquantisers == len(centre):
        return centred.contiguous().numpy()
    sizes = [len(part) for part in torch.arange(len(centre)).tensor_split(subquantisers)]
    columns = [number * width + place for number, size in enumerate(sizes) for place in range(size)]
    filled = torch.zeros(len(rows), subquantisers * width)
    filled[:, columns] = centred
    return filled.numpy()


def library() -> Any:
    """faiss, which computes on the calling thread alone (OpenMP keeps a number for each) and without a BLAS."""
    import faiss

    faiss.omp_set_num_threads(1)
    faiss.cvar.distance_compute_blas_threshold = 2**31 - 1
    return faiss


def _drawn(rows: Tensor, most: int, seed: int) -> Tensor:
    """The rows that faiss would learn from, in its order: all, or so many drawn from all."""
    if len(rows) <= most:
        return rows
    faiss = library()
    order = np.empty(len(rows), dtype=np.int32)
    faiss.rand_perm(faiss.swig_ptr(order), len(rows), seed)
    numbers, places = torch.from_numpy(order[:most]).long().sort()  # read in the order of the file
    drawn = torch.empty(most, rows.shape[1], dtype=rows.dtype)
    drawn[places] = rows[numbers.to(rows.device)].cpu()
    return drawn


def _twice(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """One row makes two centroids, of two copies."""
    return points if len(points) > 1 else np.repeat(points, 2, axis=0)
