"""The search in a memory bank: exactly, by symmetry where the bank meets itself, or among product codes.

Matches are ``distances`` (B, P, depth) float32 and ``rows`` (B, P, depth) int32 on the CPU, nearest first. Where the
bank has fewer rows than `depth`, the rest is infinitely far, row -1.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal

from ad_assets.methods.data import by_image
from ad_assets.methods.memory_bank.bank import Blocks, MemoryBank

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.kernels.nearest.ivfpq import QuantisedIndex
    from ad_assets.methods.data import Matches
    from ad_assets.methods.runtime import Runtime

Skip = Literal["first", "self"]  # what patches of images in the bank skip: their nearest row, or the row that they are


def match_patches(
    bank: MemoryBank,
    patches: Tensor,
    excluded: Sequence[str] | None,
    depth: int,
    runtime: Runtime,
    codes: QuantisedIndex | None = None,
    probes: int = 1,
) -> Matches:
    """The nearest rows of a bank for the patches (B, P, D) of images.

    Args:
        bank: on the device.
        patches: on the device.
        excluded: ids of the B images, which are not compared with their own rows; None: all are with all rows.
        depth: how many rows are sought for each patch.
        runtime: device and memory budget.
        codes: product codes of the rows, for approximate search; None: exact.
        probes: lists of codes that are searched.

    Raises:
        ValueError: patches of another dimension than the bank's, or every row comes from an excluded image.
    """
    import torch

    if patches.shape[2] != bank.rows.shape[1]:
        raise ValueError(
            f"patches have {patches.shape[2]} values, the rows of the bank {bank.rows.shape[1]}: "
            "score with the extractor and the embedding that the bank was fitted with"
        )

    def find(queries: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
        if codes is None:
            return nearest_rows(queries, blocks, depth, runtime)
        allowed = None
        if sum(len(rows) for _, rows, _ in blocks) < len(bank.rows) or blocks[0][2] is not None:
            allowed = torch.zeros(len(bank.rows), dtype=torch.bool)
            for first, rows, some in blocks:
                allowed[first : first + len(rows)] = True if some is None else some.cpu()
        most = len(bank.rows) if allowed is None else int(allowed.sum())
        return _padded(*codes.search(queries, min(depth, most), probes=probes, allowed=allowed), depth)

    if excluded is None:
        found = [find(patches.flatten(0, 1), bank.blocks())]
    else:
        found = [find(image, bank.blocks(each)) for image, each in zip(patches, excluded, strict=True)]
    distances, rows = (torch.cat(part).unflatten(0, patches.shape[:2]) for part in zip(*found, strict=True))
    return {"distances": distances.cpu(), "rows": rows.int().cpu()}


def match_bank_with_itself(bank: MemoryBank, depth: int, runtime: Runtime) -> dict[str, Matches]:
    """The nearest rows of all rows of a bank that holds every patch of its images, by image; views of one table."""
    from ad_assets.kernels.nearest.all_pairs import all_pairs

    distances, rows = all_pairs(
        bank.rows,
        min(depth, len(bank.rows)),
        memory_gb=runtime.budget_gb(bank.rows.device),
        report=lambda done, total: runtime.report("pairs of patches compared", done, total),
    )
    padded = _padded(distances.cpu(), rows.cpu(), depth)
    distances, rows = (part.unflatten(0, (len(bank.image_ids), -1)) for part in padded)
    return by_image(bank.image_ids, {"distances": distances, "rows": rows})


def pairs_needs(rows: int, depth: int) -> dict[str, int]:
    """Bytes that `match_bank_with_itself` holds of a bank of so many rows, or keeps in temporary files; on a CPU."""
    from ad_assets.kernels.nearest.all_pairs import least_bytes

    return {"the lists of candidates": least_bytes(rows, depth), "the neighbours of all patches": 12 * rows * depth}


def with_narrow_rows(matches: Matches) -> Matches:
    """The matches of an image of `match_bank_with_itself`, with row numbers as `match_patches` has them: int32."""
    return {**matches, "rows": matches["rows"].int()}


def nearest_rows(queries: Tensor, blocks: Blocks, depth: int, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """Distances (Q, depth) float32 and numbers of the nearest rows, nearest first; infinity and -1 beyond the last."""
    import torch

    from ad_assets.kernels.nearest.search import nearest

    found = []
    budget = runtime.budget_gb(queries.device)
    for first, rows, allowed in blocks:
        most = len(rows) if allowed is None else int(allowed.sum())
        distances, indices = nearest(queries, rows, min(depth, most), memory_gb=budget, allowed=allowed)
        found.append((distances, indices + first))
    distances, rows = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
    if len(blocks) > 1:
        order = distances.argsort(dim=1, stable=True)[:, :depth]
        distances, rows = distances.gather(1, order), rows.gather(1, order)
    return _padded(distances, rows, depth)


def neighbours(
    bank: MemoryBank,
    matches: Matches,
    image_ids: Sequence[str] | None,
    excluded: Sequence[str] | None,
    count: int,
    skip: Skip,
) -> tuple[Tensor, Tensor]:
    """Distances and rows (B, P, count) of the neighbours that a score reads, nearest first, on the CPU.

    Args:
        bank: that the images were matched with.
        matches: of B images.
        image_ids: the images; None: none was trained on.
        excluded: as it was when they were matched; what is excluded is not skipped as well.
        count: neighbours to read.
        skip: what patches of images in the bank skip.

    Raises:
        ValueError: the bank has fewer rows.
    """
    import torch

    distances, rows = matches["distances"], matches["rows"].long()
    if skip == "first":
        known = set() if image_ids is None or excluded is not None else set(bank.image_ids)
        first = torch.tensor([int(image_id in known) for image_id in image_ids or [""] * len(rows)])
        places = (first[:, None] + torch.arange(count))[:, None].expand(-1, rows.shape[1], -1)
        enough = int(places.max()) < rows.shape[2]
    else:
        itself = (rows == bank.own_rows(image_ids or [""] * len(rows), rows.shape[1])[:, :, None]).byte()
        places = itself.argsort(dim=2, stable=True)[:, :, :count]
        enough = places.shape[2] == count
    if enough:
        distances, rows = distances.gather(2, places), rows.gather(2, places)
    if not (enough and distances.isfinite().all()):
        raise ValueError(
            f"a score reads {count} neighbours, and the bank of {len(bank.rows)} row(s) has fewer for some "
            "patch: fit more images, raise coreset_ratio or lower neighbours"
        )
    return distances, rows


@cache
def _kept_codes() -> MutableMapping[Tensor, dict[tuple[int | None, ...], QuantisedIndex]]:
    """Codes by the identity of the rows that they code; they go when the rows go."""
    from torch.utils.weak import WeakIdKeyDictionary

    return WeakIdKeyDictionary()


def codes_of(
    rows: Tensor, lists: int | None, subquantisers: int, bits: int, seed: int, memory_gb: float
) -> QuantisedIndex:
    """The product codes of a bank, made once for all batches that are sought in it; see `ivfpq.build`."""
    from ad_assets.kernels.nearest.ivfpq import build

    kept = _kept_codes().setdefault(rows, {})
    settings = (lists, subquantisers, bits, seed)
    if settings not in kept:
        kept[settings] = build(
            rows, lists=lists, subquantisers=subquantisers, bits=bits, seed=seed, memory_gb=memory_gb
        )
    return kept[settings]


def _padded(distances: Tensor, rows: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    from torch.nn.functional import pad

    missing = (0, depth - distances.shape[1])
    if not any(missing):
        return distances, rows  # which may be more than main memory holds twice
    return pad(distances, missing, value=float("inf")), pad(rows, missing, value=-1)
