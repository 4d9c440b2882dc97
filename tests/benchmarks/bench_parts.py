"""A coreset of 2 million patches selected at once and in parts, by fits that may hold 0.2 GB.

Run: ``python -m tests.benchmarks.bench_parts``. 20,000 images of 100 patches of 64 values (clusters, as patches of a
product), made when they are read; 0.5 % are selected on 32 dimensions. Each fit has a process of its own, in which its
memory is measured: what is not mapped from a file. Image AUROC is that of 300 nominal images and 300 of which one patch
is a little off, none of them fitted.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from ad_assets.kernels.parallel import use_threads
from ad_assets.methods import Batch, Runtime
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.memory_bank.patchcore import PatchCore
from ad_assets.metrics.ranking import auroc
from tests.benchmarks.measure import peak_anonymous_megabytes
from tests.support.made_features import MadeFeatures

IMAGES, SIDE, CHANNELS, TESTED, ODD = 20_000, 10, 64, 300, 0.6
MEMORY_GB, RATIO, THREADS = 0.2, 0.005, 2
PARTS = (1, 4, 16, 64)


def measured(parts: int, images: int = IMAGES) -> dict[str, float]:
    """One fit: seconds, extra MB, what was told, covering radius and image AUROC."""
    use_threads(THREADS)
    made = MadeFeatures(CHANNELS, SIDE)
    method = PatchCore(
        pooling="concat",
        patch_size=1,
        coreset_ratio=RATIO,
        projection=32,
        sigma=0,
        **({"parts": parts} if parts > 1 else {}),
    )
    runtime = Runtime(memory_gb=MEMORY_GB)
    method.fit(made.features(0, 200), runtime)  # loads libraries, compiles
    states: list[MemoryBank] = []
    start = time.perf_counter()
    features = made.features(0, images)
    extra = peak_anonymous_megabytes(lambda: states.append(method.fit(features, runtime)))
    seconds = time.perf_counter() - start
    (state,) = states
    told = method.needs(features.sample(), images)
    taps = [made.image(images + n)[None] for n in range(TESTED)] + made.odd_images(images + TESTED, TESTED, ODD)
    scores = torch.cat([method.score(state, Batch([tap], (SIDE, SIDE)), runtime).image_scores for tap in taps])
    labels = torch.arange(2 * TESTED) >= TESTED
    return {
        "parts": parts,
        "rows": len(state.rows),
        "seconds": seconds,
        "extra_mb": extra,
        "told_mb": told.memory(MEMORY_GB) / 1e6,
        "told_disk_mb": told.disk(MEMORY_GB) / 1e6,
        "radius": state.covering_radius,
        "auroc": float(auroc(scores.numpy(), labels.numpy())),
    }


def main() -> None:
    """Measure, print, and fail where a target is missed."""
    results = []
    for parts in PARTS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own:
            results.append(own.submit(measured, parts).result())
        print(", ".join(f"{key} {value:.6g}" for key, value in results[-1].items()), flush=True)
    whole = results[0]
    for each in results:
        # Temporary tensors keep to the budget; beside them are blocks of patches, and taps of a batch.
        assert each["extra_mb"] < each["told_mb"] + 1300 * MEMORY_GB
        assert each["radius"] < 1.2 * whole["radius"]
        assert abs(each["auroc"] - whole["auroc"]) < 0.01


if __name__ == "__main__":
    main()
