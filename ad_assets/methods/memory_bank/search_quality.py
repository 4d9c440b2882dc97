"""What the search among product codes loses, by nominal patches that are not in the bank.

Some training images are left out of both searches together, so that each is one pass over the rows, and some of their
patches are sought exactly and among the codes. Codes were learnt from these images too, which is some of many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ad_assets.methods.data import Features
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.kernels.nearest.ivfpq import QuantisedIndex

RECALL, DISTANCE = "search_recall_at_1", "search_distance_ratio"
IMAGES, PATCHES = 16, 1024  # that are left out, and sought
ROUNDING = 2.0**-22  # relative, of a distance in float32: rows as far as the nearest are nearest too


def quality_of_codes(
    bank: MemoryBank,
    nominal: Features,
    embed: Callable[[list[Tensor]], Tensor],
    codes: QuantisedIndex,
    probes: int,
    seed: int,
    runtime: Runtime,
) -> dict[str, float]:
    """Recall@1, and the distance to what is found among codes in that to the nearest row, sums of all patches.

    Args:
        bank: on the device.
        nominal: images that it was fitted on; at most half of them are left out.
        embed: taps (B, C, h, w) to patches (B, P, D) on the device.
        codes: of the rows.
        probes: lists of them that are searched.
        seed: of the choice of images and patches.
        runtime: device and memory budget.

    Returns:
        `RECALL` and `DISTANCE`; empty: there are no two images, or no row is of another one.
    """
    import torch

    from ad_assets.kernels.nearest.search import nearest

    learnt = set(bank.image_ids)
    known = [image_id for image_id in nominal.image_ids if image_id in learnt]
    count = min(IMAGES, len(bank.image_ids) // 2, len(known))
    if not count:
        return {}
    generator = torch.Generator().manual_seed(seed)
    left_out = sorted(known[number] for number in torch.randperm(len(known), generator=generator)[:count].tolist())
    numbers = torch.tensor([bank.image_ids.index(image_id) for image_id in left_out])
    allowed = ~torch.isin(bank.source.cpu(), numbers)
    if not allowed.any():
        return {}
    patches = torch.cat([embed(nominal.load([image_id], nominal.layers))[0] for image_id in left_out])
    chosen = torch.randperm(len(patches), generator=generator)[:PATCHES]
    queries = patches[chosen.to(patches.device)]
    budget = runtime.budget_gb(queries.device)
    exact = nearest(queries, bank.rows, 1, memory_gb=budget, allowed=allowed.to(queries.device))[0][:, 0].cpu()
    told, rows = (found[:, 0].cpu() for found in codes.search(queries, 1, probes=probes, allowed=allowed))
    true = (queries.cpu().double() - bank.rows[rows.to(bank.rows.device)].cpu().double()).norm(dim=1)
    total = float(exact.double().sum())
    ratio = {DISTANCE: float(told.double().sum()) / total} if total else {}
    return {RECALL: float((true <= exact.double() * (1 + ROUNDING)).double().mean()), **ratio}
