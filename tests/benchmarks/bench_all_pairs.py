"""All pairs, 90,000 x 90,000 x 1,024, k = 101, against an exact flat index of faiss on as many threads.

Run: ``python -m tests.benchmarks.bench_all_pairs [--rows 20000] [--data gaussian]``. Each data set has a process of its
own, whose peak memory is read before faiss searches. One run of each: they take minutes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import faiss
import numpy as np
import torch

from ad_assets.kernels.nearest.all_pairs import all_pairs
from tests.benchmarks.measure import Timing, report

ROWS, DIMENSIONS, K, MEMORY_GB = 90_000, 1024, 101, 1.0
PEAK_GB = 3.0
CLUSTERS, INTRINSIC = 50, 12


def gaussian(rows: int) -> torch.Tensor:
    """No structure at all: hardly a distance differs from the others."""
    return torch.randn(rows, DIMENSIONS, generator=torch.Generator().manual_seed(0))


def patches(rows: int) -> torch.Tensor:
    """Like patches of images: not negative, few intrinsic dimensions, sorted by cluster."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(CLUSTERS, DIMENSIONS, generator=generator)
    axes = torch.randn(INTRINSIC, DIMENSIONS, generator=generator) * 0.3
    values = torch.randn(rows, DIMENSIONS, generator=generator).mul_(0.1)
    step = 4096
    for first in range(0, rows, step):
        part = values[first : first + step]
        cluster = torch.arange(first, first + len(part)) * CLUSTERS // rows
        part += centres[cluster] + torch.randn(len(part), INTRINSIC, generator=generator) @ axes
    return values.relu_()


DATA = {"gaussian": gaussian, "patches": patches}


def compare(name: str, count: int) -> None:
    """Measure, print, and fail where a target is missed."""
    rows = DATA[name](count)
    all_pairs(rows[:1000], K)  # compiles
    start = time.perf_counter()
    distances, indices = all_pairs(rows, K, memory_gb=MEMORY_GB)
    ours = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    index = faiss.IndexFlatL2(DIMENSIONS)
    faiss.omp_set_num_threads(torch.get_num_threads())
    index.add(rows.numpy())
    start = time.perf_counter()
    squared, found = index.search(rows.numpy(), K)
    reference = time.perf_counter() - start
    # The first is the row itself, 0 apart; the distances of faiss are as good as float32 products are.
    theirs = np.sqrt(squared[:, 1:].clip(min=0))
    error = float(np.abs(distances[:, 1:].numpy() / theirs - 1).max())
    same = float((indices.numpy() == found).mean())
    ratio = reference / ours
    timing = Timing(ours, reference, ratio, ratio)
    report(f"all_pairs {name} {count}", timing, f"error {error:.1e}, same index {same:.5f}, peak {peak:.2f} GB")
    assert error < 1e-5
    assert same > 0.999
    assert peak < PEAK_GB
    assert ratio >= 1


def main() -> None:
    """Both data sets, or the one that is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--data", choices=DATA)
    options = parser.parse_args()
    for name in [options.data] if options.data else DATA:
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            alone.apply(compare, (name, options.rows))


if __name__ == "__main__":
    main()
