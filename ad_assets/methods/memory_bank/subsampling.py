"""Which patches a memory bank keeps, and what else can stand for them (Roth et al., PatchCore, CVPR 2022).

A coreset by greedy k-centre selection on a random projection (Algorithm 1); in its place the paper's figure 5 has a
random choice, and proxies that are learned to reconstruct the patches (equation 8).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ad_assets.methods.memory_bank.coreset import Kept, Selection, greedy

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.memory_bank.patch_rows import PatchRows
    from ad_assets.methods.runtime import Runtime


def select(
    patches: PatchRows, count: int, selection: Selection, runtime: Runtime, *, known: Tensor | None = None
) -> Kept:
    """Rows for a bank from patches (N, D).

    Args:
        patches: all patches.
        count: rows to make, 1..N; all patches are kept whatever it is.
        selection: how.
        runtime: device and memory budget.
        known: (M, D) rows selected before, which a greedy selection goes on from; None: it starts.

    Raises:
        BudgetError: naming what does not fit, and the remedy.
    """
    import torch

    if selection.way == "all":
        return Kept(patches.hold(), torch.arange(len(patches)), 0.0)
    if selection.way == "proxies":
        return _proxies(patches, count, selection.seed, runtime)
    if selection.way == "random":
        generator = torch.Generator().manual_seed(selection.seed)
        picks = torch.randperm(len(patches), generator=generator)[:count].sort().values
        rows = patches.gather(picks)
        return Kept(rows, picks, radius_around(patches, rows, runtime))
    return greedy(patches, count, selection, runtime, known)


def radius_around(patches: PatchRows, rows: Tensor, runtime: Runtime) -> float:
    """The largest L2 distance of any of the patches to the nearest of some rows (M, D)."""
    from ad_assets.kernels.coverage import block_rows, covering_radius

    bank, budget = rows.to(runtime.device), runtime.budget_gb(runtime.device)
    size = block_rows(patches.shape[1], runtime.memory_gb)
    return max(covering_radius(block, bank, budget) for block in patches.blocks(size))


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


def _proxies(patches: PatchRows, count: int, seed: int, runtime: Runtime) -> Kept:
    import torch

    from ad_assets.kernels.proxies import learned_proxies

    rows = learned_proxies(
        patches.hold(),  # every step reads some of anywhere
        count,
        seed=seed,
        device=runtime.device,
        memory_gb=runtime.budget_gb(runtime.device),
        report=lambda done, total: runtime.report("steps of learning proxies", done, total),
    )
    return Kept(rows.cpu(), torch.full((count,), -1), radius_around(patches, rows, runtime))
