"""Fits whose patches are many times what main memory may hold: they keep to it, by the system's own count."""

from __future__ import annotations

import math
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from ad_assets.kernels.parallel import spans
from ad_assets.methods import Runtime
from ad_assets.methods.memory_bank.patchcore import PatchCore
from tests.benchmarks.measure import peak_anonymous_megabytes
from tests.support.made_features import MadeFeatures

BARE = {"patch_size": 1, "pooling": "concat"}
CHANNELS, SIDE, IMAGES, BUDGET_GB, WALL_MB = 256, 14, 1000, 0.06, 330


def fitted(options: dict[str, Any]) -> tuple[float, float, float]:
    """In a process of its own, which gets no more memory than a wall: extra MB, MB told, and the covering radius."""
    made = MadeFeatures(CHANNELS, SIDE)
    method = PatchCore(**BARE, **options)
    runtime = Runtime(memory_gb=BUDGET_GB)
    method.fit(made.features(0, 40), runtime)  # loads libraries, compiles
    status = Path("/proc/self/status").read_text().splitlines()
    used = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + (WALL_MB << 20),) * 2)
    features, radii = made.features(0, IMAGES, batch_size=8), []
    extra = peak_anonymous_megabytes(lambda: radii.append(method.fit(features, runtime).covering_radius))
    return extra, method.needs(features.sample(), IMAGES).memory(BUDGET_GB) / 1e6, radii[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"coreset_ratio": 0.002, "projection": 16},
        {"coreset_ratio": 0.002, "projection": 16, "parts": 4},
        {"coreset_ratio": 0.002, "subsampling": "random"},
        {"coreset_ratio": 1.0},
    ],
    ids=str,
)
def test_a_fit_keeps_to_the_budget_and_to_what_was_told(options: dict[str, Any]) -> None:
    patches_mb = 4e-6 * IMAGES * SIDE**2 * CHANNELS
    assert patches_mb > 200
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own:
        extra, told, radius = own.submit(fitted, options).result()
    # Beside what was told are blocks of rows, and kernels' temporary tensors, which keep to the budget.
    assert extra < told + 1000 * BUDGET_GB + 40
    assert extra < patches_mb
    whole = {key: value for key, value in options.items() if key != "parts"}
    expected = PatchCore(**BARE, **whole).fit(MadeFeatures(CHANNELS, SIDE).features(0, IMAGES), Runtime(memory_gb=1))
    if "parts" in options:
        assert radius < 1.3 * expected.covering_radius
    else:
        assert radius == expected.covering_radius


def greedy(rows: torch.Tensor, count: int, start: int) -> list[int]:
    """Farthest first, by all distances in float64."""
    distances = torch.cdist(rows.double(), rows.double())
    chosen = [start]
    while len(chosen) < count:
        chosen.append(int(distances[chosen].amin(dim=0).argmax()))
    return chosen


@pytest.mark.parametrize("parts", [1, 2, 5, 1000])
def test_parts_are_selected_from_and_then_their_selections(parts: int) -> None:
    features = MadeFeatures(9, 4).features(0, 13, batch_size=5)
    options: dict[str, Any] = {"coreset_ratio": 0.1, "projection": None, "seed": 3}
    state = PatchCore(**BARE, **options, **({"parts": parts} if parts > 1 else {})).fit(features, Runtime())
    rows = torch.cat([taps[0].flatten(2).transpose(1, 2).flatten(0, 1) for _, taps in features.batches()])
    count, generator = int(0.1 * len(rows)), torch.Generator().manual_seed(3)

    def chosen(among: torch.Tensor, wanted: int) -> list[int]:
        return greedy(among, wanted, int(torch.randint(len(among), (1,), generator=generator)))

    numbers = list(range(len(rows)))
    if parts > 1:
        numbers = []
        for part in spans(len(rows), -(-len(rows) // parts)):
            own = part.stop - part.start
            share = math.ceil(count * own / len(rows))
            wanted = max(share, min(8 * share, math.floor(0.4 * own)))
            numbers += [part.start + number for number in chosen(rows[part], wanted)]
    picks = [numbers[number] for number in chosen(rows[numbers], count)]
    assert torch.equal(state.rows, rows[picks])
    assert (16 * state.source + state.place).tolist() == picks
    radius = float(torch.cdist(rows.double(), rows[picks].double()).amin(dim=1).max())
    assert state.covering_radius == pytest.approx(radius, rel=1e-6)
    again = PatchCore(**BARE, **options, **({"parts": parts} if parts > 1 else {}))
    assert torch.equal(again.fit(MadeFeatures(9, 4).features(0, 13, batch_size=4), Runtime()).rows, state.rows)


def test_an_address_without_parts_stays() -> None:
    assert "parts" not in PatchCore().stage_config("fit")
    assert PatchCore(parts=1).stage_config("fit") == PatchCore().stage_config("fit")
    assert PatchCore(parts=4).stage_config("fit")["parts"] == 4
    with pytest.raises(ValueError, match="parts: only the greedy subsampling reads it; remove the key"):
        PatchCore(subsampling="random", parts=2)
