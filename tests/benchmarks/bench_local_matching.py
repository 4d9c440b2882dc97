"""HETMM's matching at the paper's setting, against a loop over shifts in both directions; speed of the whole detector.

Run: ``python -m tests.benchmarks.bench_local_matching``. Shapes are those of Wide ResNet-101, layers 1 to 3, at 256
pixels, windows 9, 7, 5; one query image against 60 sheets. The detector is timed on features, in batches of 16 images.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ad_assets.kernels.local_matching import match
from ad_assets.methods import Batch, Runtime
from ad_assets.methods.hetmm.hetmm import Hetmm
from ad_assets.methods.hetmm.templates import TemplateSet
from tests.benchmarks.measure import interleaved, peak_extra_megabytes, report

LAYERS = ((256, 64, 9), (512, 32, 7), (1024, 16, 5))  # channels, side, window
SHEETS, ALL, BATCH, REPEATS, MEMORY_GB, TARGET = 60, 240, 16, 5, 1.0, 8


def unit_vectors(seed: int, images: int, channels: int, side: int) -> Tensor:
    """(N, C, side, side) as a view of (side, side, N, C), the layout in which template sets are stored."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(side, side, images, channels, generator=generator).add_(0.5)
    return normalize(vectors, dim=3).permute(2, 3, 0, 1)


def loop_over_shifts(query: Tensor, templates: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Both directions for one query (C, H, W), shift by shift."""
    _, height, width = query.shape
    forward, backward = (torch.full((height, width), -1.0) for _ in range(2))
    radius = window // 2
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            here = slice(max(0, -dy), height + min(0, -dy)), slice(max(0, -dx), width + min(0, -dx))
            there = slice(max(0, dy), height + min(0, dy)), slice(max(0, dx), width + min(0, dx))
            cosines = (query[:, *here] * templates[:, :, *there]).sum(dim=1).amax(dim=0)
            forward[here] = torch.maximum(forward[here], cosines)
            cosines = (templates[:, :, *here] * query[:, *there]).sum(dim=1).amax(dim=0)
            backward[here] = torch.maximum(backward[here], cosines)
    return 1 - forward, 1 - backward


def main() -> None:
    """Measure, print, and fail where a target is missed."""
    queries = [unit_vectors(level, 1, c, side).contiguous() for level, (c, side, _) in enumerate(LAYERS)]
    templates = [unit_vectors(9 + level, SHEETS, c, side) for level, (c, side, _) in enumerate(LAYERS)]
    plain = [layer.contiguous() for layer in templates]
    windows = [window for _, _, window in LAYERS]

    def ours() -> list[tuple[Tensor, Tensor]]:
        return [match(q, t, w, w, memory_gb=MEMORY_GB) for q, t, w in zip(queries, templates, windows, strict=True)]

    def reference() -> list[tuple[Tensor, Tensor]]:
        return [loop_over_shifts(q[0], t, w) for q, t, w in zip(queries, plain, windows, strict=True)]

    error = max(
        float((a[0] - b).abs().max())
        for mine, theirs in zip(ours(), reference(), strict=True)
        for a, b in zip(mine, theirs, strict=True)
    )
    extra = peak_extra_megabytes(ours)
    timing = interleaved(ours, reference, 3)
    report(f"match, {SHEETS} sheets, 9/7/5", timing, f"difference {error:.1e}, extra {extra:.0f} MB")
    assert error < 1e-5
    assert extra < MEMORY_GB * 1000
    assert timing.ratio >= TARGET
    _detector_speed()


def _detector_speed() -> None:
    taps = [unit_vectors(20 + level, BATCH, c, side).contiguous() for level, (c, side, _) in enumerate(LAYERS)]
    shapes = [list(tap.shape[1:]) for tap in taps]
    everything = [unit_vectors(30 + level, ALL, c, side) for level, (c, side, _) in enumerate(LAYERS)]
    runtime = Runtime(memory_gb=MEMORY_GB)
    for sheets in (10, 20, 30, 40, 50, 60, ALL):
        layers = [layer[:sheets].permute(2, 3, 0, 1).contiguous() for layer in everything]
        state = TemplateSet(layers, [], [], shapes, [str(number) for number in range(sheets)])
        speeds = []
        for screening in ("float32", "bfloat16"):
            method = Hetmm(screening=screening)
            spent = []
            for _ in range(REPEATS + 1):
                started = time.perf_counter()
                method.score(state, Batch(taps, (256, 256)), runtime)
                spent.append(time.perf_counter() - started)
            speeds.append(BATCH / statistics.median(spent[1:]))
        name = f"{sheets} sheets" if sheets < ALL else f"ALL ({ALL})"
        print(f"hetmm, {name}: {speeds[0]:.1f} images/s, screened in bfloat16 {speeds[1]:.1f}", flush=True)


if __name__ == "__main__":
    main()
