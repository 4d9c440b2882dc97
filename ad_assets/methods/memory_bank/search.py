"""Ways of searching a memory bank: exactly, by symmetry where the bank meets itself, or among product codes."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.kernels.nearest.ivfpq import QuantisedIndex
    from ad_assets.methods.base import Runtime
    from ad_assets.methods.matching import Found
    from ad_assets.methods.memory_bank.bank import MemoryBank

Rows = list[tuple["Tensor", "Tensor"]]  # blocks of a bank, ascending: the numbers of rows (m,), and the rows (m, D)


class BankSearch:
    """The nearest rows of a bank for the patches of images.

    Args:
        state: the bank.
        depth: neighbours sought; where the bank has fewer, the rest is infinitely far, row -1.
        runtime: device and memory budget.
        codes: product codes of the rows, for approximate search; None: exact.
        probes: lists of codes that are searched.
    """

    def __init__(
        self, state: MemoryBank, depth: int, runtime: Runtime, codes: QuantisedIndex | None = None, probes: int = 1
    ) -> None:
        self._state, self._depth, self._runtime = state, depth, runtime
        self._codes, self._probes = codes, probes
        self._bank = state.rows.to(runtime.device)

    def __call__(self, patches: Tensor, hidden: Sequence[str] | None) -> Found:
        """``distances`` (B, P, depth) float32 and ``rows`` int32 for patches (B, P, D), on the CPU, nearest first.

        Args:
            patches: on the device.
            hidden: ids of the B images, which do not meet their own rows; None: all meet all rows.

        Raises:
            ValueError: patches of another dimension than the bank's, or every row comes from a hidden image.
        """
        import torch

        if patches.shape[2] != self._bank.shape[1]:
            raise ValueError(
                f"patches have {patches.shape[2]} values, the rows of the bank {self._bank.shape[1]}: "
                "score with the extractor and the embedding that the bank was fitted with"
            )
        if hidden is None:
            found = [self._find(patches.flatten(0, 1), all_rows(self._bank))]
        else:
            found = [
                self._find(image, other_rows(self._state, self._bank, image_id))
                for image, image_id in zip(patches, hidden, strict=True)
            ]
        distances, rows = (torch.cat(part).unflatten(0, patches.shape[:2]) for part in zip(*found, strict=True))
        return {"distances": distances.cpu(), "rows": rows.int().cpu()}

    def _find(self, queries: Tensor, blocks: Rows) -> tuple[Tensor, Tensor]:
        import torch

        if self._codes is None:
            return nearest_rows(queries, blocks, self._depth, self._runtime)
        allowed = torch.zeros(len(self._bank), dtype=torch.bool)
        for numbers, _ in blocks:
            allowed[numbers.cpu()] = True
        most = int(allowed.sum())
        found = self._codes.search(
            queries,
            min(self._depth, most),
            probes=self._probes,
            allowed=None if most == len(allowed) else allowed,
            memory_gb=self._runtime.memory_gb,
        )
        return _padded(*found, self._depth)


class AllPairs:
    """The nearest rows of all rows of a whole bank, by image."""

    def __init__(self, state: MemoryBank, depth: int, runtime: Runtime) -> None:
        from ad_assets.kernels.nearest.all_pairs import all_pairs

        self.position = {image_id: number for number, image_id in enumerate(state.image_ids)}
        distances, rows = all_pairs(
            state.rows.to(runtime.device),
            min(depth, len(state.rows)),
            memory_gb=runtime.memory_gb,
            report=lambda done, total: runtime.report("pairs of patches compared", done, total),
        )
        padded = _padded(distances.cpu(), rows.int().cpu(), depth)
        self._distances, self._rows = (part.unflatten(0, (len(self.position), -1)) for part in padded)

    def of(self, ids: Sequence[str]) -> tuple[list[str], Found]:
        """Those of the images that are in the bank, and what they found."""
        known = [image_id for image_id in ids if image_id in self.position]
        numbers = [self.position[image_id] for image_id in known]
        return known, {"distances": self._distances[numbers], "rows": self._rows[numbers]}


@cache
def _kept_codes() -> MutableMapping[Tensor, dict[tuple[int, ...], QuantisedIndex]]:
    """Codes by the bank that they are of, by identity; they go when it goes."""
    from torch.utils.weak import WeakIdKeyDictionary

    return WeakIdKeyDictionary()


def codes_of(rows: Tensor, lists: int, subquantisers: int, bits: int, seed: int) -> QuantisedIndex:
    """The product codes of a bank, made once for all batches that are sought in it."""
    from ad_assets.kernels.nearest.ivfpq import build

    kept = _kept_codes().setdefault(rows, {})
    settings = (lists, subquantisers, bits, seed)
    if settings not in kept:
        kept[settings] = build(rows, lists=lists, subquantisers=subquantisers, bits=bits, seed=seed)
    return kept[settings]


def by_image(ids: Sequence[str], found: Found) -> dict[str, Found]:
    """What was found for a batch (B, ...), by image; `together` is the inverse."""
    return {image_id: {name: part[number] for name, part in found.items()} for number, image_id in enumerate(ids)}


def together(ids: Sequence[str], parts: Mapping[str, Found]) -> Found:
    """What some of the images found, as a batch (B, ...)."""
    import torch

    return {name: torch.stack([parts[image_id][name] for image_id in ids]) for name in parts[ids[0]]}


def all_rows(bank: Tensor) -> Rows:
    """A bank (M, D) as one block."""
    import torch

    return [(torch.arange(len(bank), device=bank.device), bank)]


def other_rows(state: MemoryBank, bank: Tensor, image_id: str) -> Rows:
    """The rows of a bank that come from other images; `bank` is that of the state, on the device that searches.

    Raises:
        ValueError: there are none.
    """
    import torch

    if image_id not in state.image_ids:
        return all_rows(bank)
    own = (state.source == state.image_ids.index(image_id)).nonzero().flatten()
    if len(own) == len(bank):
        raise ValueError(
            f"every row of the bank comes from image {image_id}, so nothing is left to score it against: "
            "fit at least two images, or a larger coreset_ratio"
        )
    if not len(own):
        return all_rows(bank)
    first, last = int(own[0]), int(own[-1])
    numbers = torch.arange(len(bank), device=bank.device)
    if last - first + 1 == len(own):  # a whole bank: two views, no copy
        parts = [(numbers[:first], bank[:first]), (numbers[last + 1 :], bank[last + 1 :])]
        return [part for part in parts if len(part[0])]
    kept = torch.ones(len(bank), dtype=torch.bool, device=bank.device)
    kept[own.to(bank.device)] = False
    return [(numbers[kept], bank[kept])]


def nearest_rows(queries: Tensor, blocks: Rows, depth: int, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """Distances (Q, depth) float32 and numbers of the nearest rows, nearest first; infinity and -1 beyond the last."""
    import torch

    from ad_assets.kernels.nearest.search import nearest

    found = []
    for numbers, rows in blocks:
        distances, indices = nearest(queries, rows, min(depth, len(rows)), memory_gb=runtime.memory_gb)
        found.append((distances, numbers[indices]))
    distances, rows = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
    if len(blocks) > 1:
        order = distances.argsort(dim=1, stable=True)[:, :depth]
        distances, rows = distances.gather(1, order), rows.gather(1, order)
    return _padded(distances, rows, depth)


def _padded(distances: Tensor, rows: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    from torch.nn.functional import pad

    missing = (0, depth - distances.shape[1])
    return pad(distances, missing, value=float("inf")), pad(rows, missing, value=-1)
