"""Product codes of many rows in a file that is mapped into memory, against exact search in blocks.

Run: ``python -m tests.benchmarks.bench_ivfpq [ROWS ...]``. Rows of 64 values (clusters, as patches of a product) are
made block by block into a temporary file; codes are made and searched as `search: ivfpq` does by default, on one
thread. Sought are 1,000 patches, as of 10 images of 100, that are not in the bank, and 1,000 that are a little off.
Each number of rows has a process of its own, in which its memory is measured: what is not mapped from a file.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch import Tensor

from ad_assets.kernels.nearest.ivfpq import QuantisedIndex, build
from ad_assets.kernels.nearest.ivfpq_build import CodeShape
from ad_assets.kernels.nearest.search import nearest
from ad_assets.kernels.parallel import use_threads
from ad_assets.kernels.scratch import mapped
from ad_assets.methods.memory_bank.patchcore import PatchCore
from ad_assets.metrics.ranking import auroc
from tests.benchmarks.measure import peak_anonymous_megabytes
from tests.support.made_features import INNER, KINDS, MadeFeatures

ROWS = (200_000, 2_000_000, 10_000_000)
CHANNELS, SOUGHT, ODD = 64, 1_000, 0.15
BLOCK = 100_000  # rows that are made at once


def made_rows(number: int, count: int, odd: float = 0.0) -> Tensor:
    """(count, CHANNELS) of a numbered block; `odd`: how far they lie off, in every dimension."""
    made, generator = MadeFeatures(CHANNELS, 1), torch.Generator().manual_seed(number)
    rows = 0.05 * torch.randn(count, CHANNELS, generator=generator)
    kinds = torch.randint(KINDS, (count,), generator=generator)
    inside = torch.randn(count, INNER, generator=generator)
    for kind in range(KINDS):
        own = (kinds == kind).nonzero().flatten()
        rows[own] += made.centres[kind] + inside[own] @ made.bases[kind]
    return rows + odd * torch.randn(count, CHANNELS, generator=generator) if odd else rows


def measured(count: int) -> dict[str, float]:
    """Seconds and MB of a bank of so many rows, and what codes lose."""
    use_threads(1)
    method = PatchCore(search="ivfpq", coreset_ratio=1)
    bank = mapped((count, CHANNELS), torch.float32, "the rows")
    for number, some in enumerate(bank.split(BLOCK)):
        some.copy_(made_rows(number, len(some)))
    queries = torch.cat([made_rows(10**6, SOUGHT), made_rows(10**6 + 1, SOUGHT, ODD)])
    shape = CodeShape.of(count, CHANNELS, method.lists, method.subquantisers, method.bits)
    build(bank[:BLOCK], lists=1, subquantisers=1, bits=1)  # loads libraries
    codes: list[QuantisedIndex] = []
    clock, processor = time.perf_counter(), time.process_time()
    extra = peak_anonymous_megabytes(lambda: codes.append(build(bank, memory_gb=1.1 * shape.peak_bytes / 1e9)))
    results = {
        "rows": count,
        "lists": shape.lists,
        "build_s": time.perf_counter() - clock,
        "build_cpu_s": time.process_time() - processor,
        "file_mb": bank.numel() * 4 / 1e6,
        "codes_mb": shape.held_bytes / 1e6,
        "extra_mb": extra * 1.048576,
        "told_mb": shape.peak_bytes / 1e6,
    }
    labels = torch.arange(2 * SOUGHT) >= SOUGHT
    nearest(queries[:1], bank[:BLOCK], 1)
    started = time.process_time()
    exact, rows = nearest(queries[:SOUGHT], bank, 1)
    results["exact_cpu_s"] = time.process_time() - started
    every = torch.cat([exact, nearest(queries[SOUGHT:], bank, 1)[0]])
    results["exact_auroc"] = float(auroc(every[:, 0].numpy(), labels.numpy()))
    for probes in (1, method.probes, 4 * method.probes):
        started = time.process_time()
        _, found = codes[0].search(queries[:SOUGHT], 1, probes=probes)
        results[f"search_cpu_s_{probes}"] = time.process_time() - started
        told = codes[0].search(queries, 1, probes=probes)[0][:, 0]
        results[f"recall_{probes}"] = float((found == rows).double().mean())
        results[f"ratio_{probes}"] = float(told[:SOUGHT].sum() / exact.sum())
        results[f"auroc_{probes}"] = float(auroc(told.numpy(), labels.numpy()))
    return results


def main() -> None:
    """Measure, print, and fail where more memory was taken than was told."""
    for count in map(int, sys.argv[1:] or ROWS):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own:
            results = own.submit(measured, count).result()
        print(", ".join(f"{key} {value:.6g}" for key, value in results.items()), flush=True)
        assert results["extra_mb"] < results["told_mb"] + 50


if __name__ == "__main__":
    main()
