"""The search of product codes on a GPU, by faiss-gpu where it is installed: the codes of `ivfpq`, copied there.

Distances equal the CPU's to the rounding of their tables: with more than `FLOAT32_TABLES` sub-quantisers a table of
float32 does not fit the memory that a block of threads shares, and faiss holds it in float16 (2^-11 of each term). The
comparison with centroids is a matrix product there, so two centroids that are equally near to its rounding may change
places. What faiss has no code for on a GPU is searched on the CPU: other than 8 bits, numbers of sub-quantisers that
are not `CODE_LENGTHS`, and more than `MOST` neighbours or lists.

No selection of rows is known there. Rows that are not allowed are sought as well and left out of the answer.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

BITS = 8
CODE_LENGTHS = frozenset({1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96})
FLOAT32_TABLES = 48
MOST = 2048
TEMPORARY_BYTES = 256 << 20  # faiss takes 1.5 GB unless it is told
MISSING = -1  # what faiss answers for want of rows


def gpu_copy(index: Any, device: torch.device) -> Any | None:
    """A faiss `IndexIVFPQ` on a device; None for a CPU, without faiss-gpu, and for codes that it does not search."""
    faiss: Any = import_module("faiss")
    number = device.index or 0
    if device.type != "cuda" or faiss.get_num_gpus() <= number:
        return None
    if index.pq.nbits != BITS or index.pq.M not in CODE_LENGTHS:
        return None
    options = faiss.GpuClonerOptions()
    options.useFloat16 = index.pq.M > FLOAT32_TABLES
    options.use_cuvs = False  # other limits, and other codes
    return faiss.index_cpu_to_gpu(_resources(), number, index, options)


def search_on_gpu(
    index: Any, points: NDArray[np.float32], k: int, probes: int, allowed: Tensor | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """(Q, k) squared distances and indices, MISSING where the lists hold too few rows; None: too much is asked for."""
    faiss: Any = import_module("faiss")
    left_out = 0 if allowed is None else int((~allowed).sum())
    wanted = min(k + left_out, index.ntotal)
    if max(wanted, probes) > MOST:
        return None
    squared, indices = index.search(points, wanted, params=faiss.SearchParametersIVF(nprobe=probes))
    if allowed is None:
        return squared, indices
    kept = (indices != MISSING) & allowed.cpu().numpy()[indices]
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    found = np.where(kept, indices, MISSING), np.where(kept, squared, np.float32(np.inf))
    return np.take_along_axis(found[1], order, axis=1), np.take_along_axis(found[0], order, axis=1)


@cache
def _resources() -> Any:
    """What faiss computes with on its devices, once a process."""
    faiss: Any = import_module("faiss")
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(TEMPORARY_BYTES)
    return resources
