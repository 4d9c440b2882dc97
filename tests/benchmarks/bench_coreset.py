"""Greedy k-centre selection, 1,000 of 100,000 rows of 128 numbers, against the recipe of PatchCore's authors.

Run: ``python -m tests.benchmarks.bench_coreset``. The recipe recomputes all squared norms at every step through batched
products, appends the new distances to the running minimum and takes the minimum again; it is timed on a few steps and
scaled to all picks. Clustered rows are what a lazy method likes, isotropic Gaussian ones the worst case.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ad_assets.kernels.coreset import greedy_coreset
from ad_assets.kernels.coverage import covering_radius
from tests.benchmarks.measure import interleaved, report

ROWS, DIMENSIONS, PICKS, TIMED_STEPS, REPEATS = 100_000, 128, 1_000, 30, 7


def gaussian_rows(generator: torch.Generator) -> Tensor:
    """Isotropic: no structure to use."""
    return torch.randn(ROWS, DIMENSIONS, generator=generator)


def patch_like_rows(generator: torch.Generator) -> Tensor:
    """100 clusters of 12 dimensions each, with noise in all of them."""
    centres = 2 * torch.randn(100, DIMENSIONS, generator=generator)
    bases = 0.3 * torch.randn(100, 12, DIMENSIONS, generator=generator)
    member = torch.randint(100, (ROWS,), generator=generator)
    inside = torch.randn(ROWS, 12, generator=generator)
    rows = centres[member] + 0.05 * torch.randn(ROWS, DIMENSIONS, generator=generator)
    for cluster, basis in enumerate(bases):
        rows[member == cluster] += inside[member == cluster] @ basis
    return rows


def recipe_distances(rows: Tensor, others: Tensor) -> Tensor:
    """(n, m) distances with both sides' squared norms made anew by batched products."""
    row_norms = rows.unsqueeze(1).bmm(rows.unsqueeze(2)).reshape(-1, 1)
    other_norms = others.unsqueeze(1).bmm(others.unsqueeze(2)).reshape(1, -1)
    return (row_norms + other_norms - 2 * rows.mm(others.T)).clamp(min=0).sqrt()


def recipe(rows: Tensor, initial: Tensor, steps: int) -> list[int]:
    """The first picks of the authors' approximate sampler."""
    score, picks = initial.reshape(-1, 1), []
    for _ in range(steps):
        picks.append(int(score.argmax()))
        column = recipe_distances(rows, rows[picks[-1] : picks[-1] + 1])
        score = torch.cat([score, column], dim=1).min(dim=1).values.reshape(-1, 1)
    return picks


def plain_loop(rows: Tensor, initial: Tensor | None, picks: int) -> Tensor:
    """Clean greedy by one pass over all rows for every pick; with `initial` the selection of the recipe."""
    nearest = torch.full((len(rows),), torch.inf) if initial is None else initial.clone()
    chosen = [0] if initial is None else [int(initial.argmax())]
    for _ in range(picks):
        new = torch.cdist(rows[chosen[-1:]], rows, compute_mode="donot_use_mm_for_euclid_dist")[0]
        nearest = torch.minimum(nearest, new)
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen[:picks])


def main() -> None:
    """Measure, print, and fail where a target is missed."""
    greedy_coreset(torch.rand(5000, 16), 50)  # loads libraries
    ratios = []
    for name, make in (("gaussian", gaussian_rows), ("patch-like", patch_like_rows)):
        generator = torch.Generator().manual_seed(0)
        rows = make(generator)
        start_points = rows[torch.randperm(ROWS, generator=generator)[:10]]
        initial = recipe_distances(rows, start_points).mean(dim=1)
        ours = greedy_coreset(rows, PICKS)
        clean, official = plain_loop(rows, None, PICKS), plain_loop(rows, initial, PICKS)
        radii = [covering_radius(rows, rows[picks]) for picks in (ours, clean, official)]
        anchored = covering_radius(rows, rows[greedy_coreset(rows, PICKS, initial=initial)])
        same = float((ours == clean).float().mean())
        timing = interleaved(
            lambda rows=rows: greedy_coreset(rows, PICKS),
            lambda rows=rows, initial=initial: recipe(rows, initial, TIMED_STEPS),
            REPEATS,
            scale=PICKS / TIMED_STEPS,
        )
        ratios.append(timing.ratio)
        text = f"radius {radii[0]:.6f}, clean loop {radii[1]:.6f}, recipe {radii[2]:.6f}, ours anchored {anchored:.6f}"
        text += f", same picks {same:.3f}; recipe timed on {TIMED_STEPS} steps and scaled"
        report(f"coreset {name}", timing, text)
        assert abs(radii[0] / radii[1] - 1) < 1e-4
        assert abs(anchored / radii[2] - 1) < 1e-4
        assert abs(radii[0] / radii[2] - 1) < 0.01
    assert min(ratios) >= 20


if __name__ == "__main__":
    main()
