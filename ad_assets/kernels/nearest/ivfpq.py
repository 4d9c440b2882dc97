"""Approximate nearest rows from product codes: faiss `IndexIVFPQ`, the search of "PatchCore-100% + IVFPQ".

Roth et al. (CVPR 2022, Table 5) search the whole bank this way and report 0.2 s an image instead of 0.6 s, for an image
AUROC of 98.0 instead of 99.1. Their public code makes 512 lists and 64 sub-quantisers of 8 bits and leaves the number
of probed lists at faiss's 1. Here the lists follow the number of rows (`ivfpq_build.suitable_lists`).

K-means groups the rows into lists. What a row differs from the centroid of its list is cut into sub-vectors and each
becomes the number of one of 2^bits centroids (Jegou et al., TPAMI 2011). A query is compared, unquantised, with the
coded rows of the lists whose centroids are nearest to it. So distances are those to the coded rows: a row is not 0 from
itself, and nothing is ranked again by true distances.

What a bank cannot fill is reduced:

- fewer lists, so that `ROWS_A_LIST` rows train each (faiss warns below that), and at least one;
- fewer bits, so that no sub-quantiser has more centroids than rows. A bank of up to 2^bits rows loses little: each row
  can have centroids of its own;
- at most one sub-quantiser a dimension. They need not divide the dimensions: zeros, spread over the sub-vectors, fill
  them up and leave distances as they are.

A query whose lists hold too few rows searches all lists. On a GPU, faiss-gpu searches the same codes (`ivfpq_gpu`);
they are made on the CPU, so that they are the same everywhere. On the CPU each result depends on its own query alone,
so faiss may not hand the comparison with centroids to a BLAS, whose rounding follows the number of queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ad_assets.kernels.nearest.bounds import checked_rows
from ad_assets.kernels.nearest.ivfpq_build import CodeShape, add_rows, library, padded, trained_index
from ad_assets.kernels.nearest.ivfpq_gpu import MISSING, gpu_copy, search_on_gpu
from ad_assets.kernels.parallel import map_single_threaded, spans

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

TASK_QUERIES = 256  # of one task of a thread


@dataclass(frozen=True)
class QuantisedIndex:
    """The coded rows of a bank; `build` makes one.

    Args:
        index: faiss `IndexIVFPQ` of the centred rows.
        centre: (D,) float32, subtracted from rows and queries.
        on_gpu: a copy of the index on a GPU, which searches in its place; None: there is none.
    """

    index: Any
    centre: Tensor
    on_gpu: Any | None = None

    def search(
        self, queries: Tensor, k: int, *, probes: int = 1, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The k coded rows nearest to every query among those in its nearest lists, nearest first.

        On a CPU, a query's result depends neither on the other queries nor on the number of threads.

        Args:
            queries: (Q, D) floating point, finite.
            k: number of neighbours, at least 1 and at most the rows (allowed).
            probes: lists searched, nearest centroids first; more than there are: all.
            allowed: (rows,) bool, the rows that may be found; None: all.

        Returns:
            Plain L2 distances (Q, k) float32 to coded rows and their indices (Q, k) int64, on the device of `queries`.

        Raises:
            ValueError: empty or mismatched inputs, NaN or infinity, or k or probes out of range.
        """
        checked_rows("queries", queries)
        if queries.shape[1] != len(self.centre):
            raise ValueError(f"queries have {queries.shape[1]} dimensions, the bank has {len(self.centre)}")
        rows = self.index.ntotal
        if allowed is not None:
            if allowed.shape != (rows,) or allowed.dtype != torch.bool:
                raise ValueError(f"allowed must be ({rows},) bool, got {allowed.dtype} {tuple(allowed.shape)}")
            rows = int(allowed.sum())
        if not 1 <= k <= rows:
            raise ValueError(f"k must be 1..{rows}, the number of bank rows, got {k}")
        if probes < 1:
            raise ValueError(f"probes must be at least 1, got {probes}")
        points = padded(queries, self.centre, self.index.pq.M)
        squared, indices = self._search(points, k, min(probes, self.index.nlist), allowed)
        short = (indices == MISSING).any(axis=1)
        if short.any():
            squared[short], indices[short] = self._search(points[short], k, self.index.nlist, allowed)
        # Sums of tabled terms can round to less than nothing.
        distances = torch.from_numpy(squared).clamp_(min=0).sqrt_()
        return distances.to(queries.device), torch.from_numpy(indices).to(queries.device)

    def _search(
        self, points: NDArray[np.float32], k: int, probes: int, allowed: Tensor | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(Q, k) squared distances and indices, MISSING where the lists hold too few rows."""
        found = search_on_gpu(self.on_gpu, points, k, probes, allowed) if self.on_gpu is not None else None
        if found is not None:
            return found
        bitmap = None if allowed is None else np.packbits(allowed.cpu().numpy(), bitorder="little")

        def search_part(part: slice) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            faiss = library()
            selector = None if bitmap is None else faiss.IDSelectorBitmap(bitmap)
            parameters = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
            found: tuple[NDArray[np.float32], NDArray[np.int64]] = self.index.search(points[part], k, params=parameters)
            return found

        parts = list(map_single_threaded(search_part, spans(len(points), TASK_QUERIES)))
        return np.concatenate([each[0] for each in parts]), np.concatenate([each[1] for each in parts])


def build(
    rows: Tensor,
    *,
    lists: int | None = None,
    subquantisers: int = 64,
    bits: int = 8,
    seed: int = 0,
    memory_gb: float = 1.0,
) -> QuantisedIndex:
    """Code the rows of a bank; a seed always gives the same codes, whatever the budget.

    Args:
        rows: (M, D) floating point, finite, float16 among them; they may lie in a mapped file, and are read block by
            block. On a GPU, it searches the codes where it can.
        lists: groups of rows, reduced to M // 39; None: `suitable_lists`.
        subquantisers: sub-vectors a row is cut into, reduced to D.
        bits: of each sub-vector's code, 1..16, reduced until 2^bits <= M (but not below 1).
        seed: of both k-means.
        memory_gb: budget in GB of the codes and of what they are learnt from; see `CodeShape.peak_bytes`.

    Raises:
        ValueError: rows not 2-D, empty or not finite; lists, subquantisers or bits out of range.
        BudgetError: they need more than the budget.
    """
    checked_rows("rows", rows)
    shape = CodeShape.of(rows.shape[0], rows.shape[1], lists, subquantisers, bits)
    shape.check(memory_gb)
    index, centre = trained_index(rows, shape, seed)
    add_rows(index, rows, centre, shape)
    return QuantisedIndex(index, centre, gpu_copy(index, rows.device))
