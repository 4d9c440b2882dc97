"""Which patches a memory bank keeps, and what else can stand for them (Roth et al., PatchCore, CVPR 2022).

A coreset by greedy k-centre selection on a random projection (Algorithm 1); in its place the paper's figure 5 has a
random choice, and proxies that are learned to reconstruct the patches (equation 8).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.runtime import Runtime

OFFICIAL_ANCHORS = 10


@dataclass(frozen=True)
class Selection:
    """How rows are made; see the parameters of `PatchBank`."""

    way: Literal["all", "greedy", "random", "proxies"]
    projection: int | None
    anchors: Literal["clean", "official"]
    seed: int


@dataclass(frozen=True)
class Kept:
    """The rows of a bank.

    Args:
        rows: (M, D) float32 on the CPU.
        picks: (M,) int64, which patches they are; -1: none.
        covering_radius: largest L2 distance of any patch to a row, feature units.
    """

    rows: Tensor
    picks: Tensor
    covering_radius: float


def select(patches: Tensor, count: int, selection: Selection, runtime: Runtime, *, known: Tensor | None = None) -> Kept:
    """Rows for a bank from patches (N, D) on the CPU.

    Args:
        patches: all patches.
        count: rows to make, 1..N; all patches are kept whatever it is.
        selection: how.
        runtime: device and memory budget.
        known: (M, D) rows selected before, which a greedy selection goes on from; None: it starts.
    """
    import torch

    if selection.way == "all":
        return Kept(patches, torch.arange(len(patches)), 0.0)
    if selection.way == "proxies":
        return _proxies(patches, count, selection.seed, runtime)
    if selection.way == "random":
        from ad_assets.kernels.coverage import covering_radius

        generator = torch.Generator().manual_seed(selection.seed)
        picks = torch.randperm(len(patches), generator=generator)[:count].sort().values
        rows = patches[picks]
        radius = covering_radius(patches, rows.to(runtime.device), runtime.budget_gb(runtime.device))
        return Kept(rows, picks, radius)
    return _greedy(patches, count, selection, runtime, known)


def drawn_places(image_id: str, patches: int, count: int, seed: int) -> Tensor:
    """(count,) int64, ascending: patches of an image drawn at random, the same whatever other images there are.

    Args:
        image_id: which image.
        patches: its patches.
        count: how many of them.
        seed: of the draw.
    """
    import torch

    if count == patches:
        return torch.arange(patches)
    own = int.from_bytes(hashlib.sha256(f"{seed} {image_id}".encode()).digest()[:7], "big")
    return torch.randperm(patches, generator=torch.Generator().manual_seed(own))[:count].sort().values


def _greedy(patches: Tensor, count: int, selection: Selection, runtime: Runtime, known: Tensor | None) -> Kept:
    import torch

    from ad_assets.kernels.coreset import greedy_coreset
    from ad_assets.kernels.coverage import radius_of_picks, random_projection
    from ad_assets.kernels.nearest.search import nearest

    values = min(selection.projection or patches.shape[1], patches.shape[1])
    parts = f"{len(patches)} patches, {values} float32"
    remedy = "choose a smaller preselect, or a narrower projection"
    runtime.check_device("the patches to select from", 4e-9 * len(patches) * values, parts, remedy)
    budget = runtime.budget_gb(runtime.device)

    def project(rows: Tensor) -> Tensor:
        if selection.projection is not None and selection.projection < rows.shape[1]:
            return random_projection(rows, selection.projection, seed=selection.seed, device=runtime.device)
        return rows.to(runtime.device)

    seen = project(patches)
    generator = torch.Generator().manual_seed(selection.seed)
    start, initial = 0, None
    if known is not None:
        initial = nearest(seen, project(known), 1, memory_gb=budget)[0][:, 0]
    elif selection.anchors == "official":
        anchors = torch.randint(len(seen), (OFFICIAL_ANCHORS,), generator=generator).to(seen.device)
        initial = torch.cdist(seen, seen[anchors], compute_mode="donot_use_mm_for_euclid_dist").mean(dim=1)
    else:
        start = int(torch.randint(len(seen), (1,), generator=generator))
    picks = greedy_coreset(
        seen,
        count,
        start=start,
        initial=initial,
        memory_gb=budget,
        report=lambda done, total: runtime.report("coreset rows chosen", done, total),
    ).cpu()
    if len(picks) != count:
        raise AssertionError(f"the coreset has {len(picks)} rows instead of {count}")
    return Kept(patches[picks], picks, radius_of_picks(patches, picks, seen, budget))


def _proxies(patches: Tensor, count: int, seed: int, runtime: Runtime) -> Kept:
    import torch

    from ad_assets.kernels.coverage import covering_radius
    from ad_assets.kernels.proxies import learned_proxies

    budget = runtime.budget_gb(runtime.device)
    rows = learned_proxies(
        patches,
        count,
        seed=seed,
        device=runtime.device,
        memory_gb=budget,
        report=lambda done, total: runtime.report("steps of learning proxies", done, total),
    )
    radius = covering_radius(patches, rows, budget)
    return Kept(rows.cpu(), torch.full((count,), -1), radius)
