"""A memory bank that grew: patches keep the neighbours that they had, and the rows that came are searched alone.

The result is that of a search of all rows, to the last bit. A row that was no neighbour has as many rows before it as
are kept, and more rows put none behind it. What is kept is float32, so whoever meets a new row within the distance of
its last neighbour has all its neighbours ranked again, by distances in float64 and then by the number of the row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ad_assets.methods.data import Batch, Matches
from ad_assets.methods.growth import Growth, added_images, same_rows
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

RANKED = 1024  # patches at once
ROUNDING = 2.0**-23  # of float32, twice: a kept distance was no larger than this much more of itself
Embed = Callable[["list[Tensor]", str], "Tensor"]  # as `PatchBank.embed`


@dataclass(frozen=True)
class GrownRows:
    """Which rows of a bank an earlier one had.

    Args:
        rows: (M, D) float32, those of the bank, on the device.
        numbers: (m,) int64, the number of each row of the earlier bank, ascending.
        came: (n,) int64, the numbers of the others, ascending.
        runtime: device and memory budget.
    """

    rows: Tensor
    numbers: Tensor
    came: Tensor
    runtime: Runtime

    @classmethod
    def of(cls, bank: MemoryBank, earlier: MemoryBank, runtime: Runtime) -> GrownRows | None:
        """None where the bank is not the earlier one with rows of new images."""
        import torch

        added = added_images(earlier.image_ids, bank.image_ids)
        if added is None or bank.grid != earlier.grid or bank.rows.shape[1] != earlier.rows.shape[1]:
            return None
        here = {image_id: number for number, image_id in enumerate(bank.image_ids)}
        new, source, place = torch.tensor([here[image_id] for image_id in added]), bank.source.cpu(), bank.place.cpu()
        came = torch.isin(source, new)
        numbers = (~came).nonzero().flatten()
        # The last place is for rows from no image in particular, whose source is -1.
        renumbered = torch.tensor([*(here[image_id] for image_id in earlier.image_ids), -1])
        same = len(numbers) == len(earlier.rows) and (
            torch.equal(source[numbers], renumbered[earlier.source.cpu()])
            and torch.equal(place[numbers], earlier.place.cpu())
            and same_rows(earlier.rows, bank.rows, numbers)
        )
        if not same:
            return None
        return cls(bank.rows.to(runtime.device), numbers, came.nonzero().flatten(), runtime)

    def merged(self, patches: Tensor, distances: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest rows of some patches.

        Args:
            patches: (Q, D), on the device.
            distances: (Q, depth) float32, to the nearest rows of the earlier bank, infinite beyond the last.
            rows: (Q, depth), their numbers there; -1 beyond the last.

        Returns:
            The same of the bank, (Q, depth) float32 and int64, on the CPU.
        """
        import torch

        from ad_assets.kernels.nearest.bounds import exact_distances
        from ad_assets.kernels.nearest.search import pairs_within

        distances, rows = distances.clone(), torch.where(rows < 0, -1, self.numbers[rows.long()])
        if not len(self.came):
            return distances, rows
        radius = distances[:, -1].double() * (1 + ROUNDING)
        new = self.rows[self.came.to(self.rows.device)]
        budget = self.runtime.budget_gb(patches.device)
        query, row, _ = (part.cpu() for part in pairs_within(patches, new, radius.to(patches.device), memory_gb=budget))
        if not len(query):
            return distances, rows
        touched, own, counts = query.unique_consecutive(return_inverse=True, return_counts=True)
        depth, first = distances.shape[1], counts.cumsum(0) - counts
        widest = depth + int(counts.max())
        at_once = max(1, int(budget * 1e9 / 4 / (16 * (widest + 1) * patches.shape[1])))
        # By how many new rows they meet, so that one that meets all does not widen the table of the others.
        for some in counts.argsort(stable=True).split(min(at_once, RANKED)):
            widest = int(counts[some].max())
            candidates = torch.full((len(some), depth + widest), -1)
            candidates[:, :depth] = rows[touched[some]]
            place = torch.full((len(touched),), -1)
            place[some] = torch.arange(len(some))
            pairs = (place[own] >= 0).nonzero().flatten()
            candidates[place[own[pairs]], depth + pairs - first[own[pairs]]] = self.came[row[pairs]]
            candidates = candidates.sort(dim=1).values  # so that a stable sort leaves the lowest number first
            found = self.rows[candidates.clamp(min=0).to(self.rows.device)]
            exact = exact_distances(patches[touched[some].to(patches.device)].unsqueeze(1), found).squeeze(1).cpu()
            exact, order = exact.masked_fill(candidates < 0, torch.inf).sort(dim=1, stable=True)
            distances[touched[some]] = exact[:, :depth].float()
            rows[touched[some]] = candidates.gather(1, order)[:, :depth]
        return distances, rows

    def nearer(self, tokens: Tensor, distances: Tensor) -> Tensor:
        """Distances (Q,) float32 of tokens (Q, D) to the nearest row, of those to the nearest of the earlier bank."""
        from ad_assets.kernels.nearest.search import pairs_within

        if not len(self.came):
            return distances
        new, radius = self.rows[self.came.to(self.rows.device)], distances.double() * (1 + ROUNDING)
        budget = self.runtime.budget_gb(tokens.device)
        token, _, found = pairs_within(tokens, new, radius.to(tokens.device), memory_gb=budget)
        return distances.scatter_reduce(0, token.cpu(), found.float().cpu(), "amin")


class LayerGrowth(Growth):
    """That of the banks of several layers, of which the nearest distances alone are kept."""

    def __init__(self, added: Collection[str], grown: Sequence[GrownRows]) -> None:
        super().__init__(added)
        self._grown = grown

    def renew(self, batch: Batch) -> Matches:
        """As `Growth.renew`; an image meets none of its own rows among those that came."""
        found = {}
        for layer, (tap, grown) in enumerate(zip(batch.taps, self._grown, strict=True)):
            before = batch.matches[f"layer{layer}"]
            tokens = tap.to(grown.runtime.device).flatten(2).transpose(1, 2).flatten(0, 1)
            found[f"layer{layer}"] = grown.nearer(tokens, before.flatten()).view(before.shape)
        return found


class BankGrowth(Growth):
    """That of the bank of a `PatchBank`."""

    def __init__(self, embed: Embed, bank: MemoryBank, earlier: MemoryBank, grown: GrownRows) -> None:
        super().__init__(set(bank.image_ids) - set(earlier.image_ids))
        self._embed, self._grown = embed, grown

    def renew(self, batch: Batch) -> Matches:
        """As `Growth.renew`; an image meets none of its own rows among those that came."""
        patches = self._embed(batch.taps, self._grown.runtime.device).flatten(0, 1)
        shape = batch.matches["distances"].shape
        distances, rows = (batch.matches[name].flatten(0, 1) for name in ("distances", "rows"))
        distances, rows = (part.view(shape) for part in self._grown.merged(patches, distances, rows))
        return {"distances": distances, "rows": rows.int()}
