"""Nearest neighbours, 10,000 x 50,000 x 512, against an exact flat index of faiss on as many threads.

Run: ``python -m tests.benchmarks.bench_neighbours``. One thread is timed too: where others use the cores, waiting for a
second thread is most of what is measured.
"""

from __future__ import annotations

import faiss
import numpy as np
import torch

from ad_assets.kernels.nearest.search import nearest
from tests.benchmarks.measure import interleaved, peak_extra_megabytes, report

QUERIES, BANK, DIMENSIONS, MEMORY_GB = 10_000, 50_000, 512, 0.5


def main() -> None:
    """Measure, print, and fail where a target is missed."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(QUERIES, DIMENSIONS, generator=generator)
    bank = torch.randn(BANK, DIMENSIONS, generator=generator)
    index = faiss.IndexFlatL2(DIMENSIONS)
    index.add(bank.numpy())
    nearest(queries[:100], bank[:1000], 1)  # loads libraries
    for k, threads, repeats in ((1, 1, 3), (1, torch.get_num_threads(), 7), (9, torch.get_num_threads(), 3)):
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(threads)
        distances, indices = nearest(queries, bank, k, memory_gb=MEMORY_GB)
        extra = peak_extra_megabytes(lambda k=k: nearest(queries, bank, k, memory_gb=MEMORY_GB))
        squared, found = index.search(queries.numpy(), k)
        error = float(np.abs(distances.numpy() / np.sqrt(squared) - 1).max())
        same = float((indices.numpy() == found).mean())
        timing = interleaved(
            lambda k=k: nearest(queries, bank, k, memory_gb=MEMORY_GB),
            lambda k=k: index.search(queries.numpy(), k),
            repeats,
        )
        name = f"nearest k={k}, threads {threads}"
        report(name, timing, f"error {error:.1e}, same index {same:.5f}, extra {extra:.0f} MB")
        assert error < 1e-5
        assert same > 0.9999
        assert extra < MEMORY_GB * 1000
        assert k > 1 or timing.ratio >= 1


if __name__ == "__main__":
    main()
