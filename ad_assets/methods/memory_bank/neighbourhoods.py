"""What patches found in a memory bank: which neighbours count, and what lies around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ad_assets.methods.memory_bank.search import all_rows, nearest_rows, other_rows

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.base import Runtime
    from ad_assets.methods.matching import Found
    from ad_assets.methods.memory_bank.bank import MemoryBank, PatchBank, Skip


@dataclass(frozen=True)
class Neighbourhoods:
    """What a batch of images found in a bank, and how to look further from there.

    Args:
        method: whose parameters count.
        state: the bank.
        taps: features of the images.
        found: as `PatchBank.match` yields it.
        image_ids: the images; None: none was trained on.
        hidden: ids of the images that do not meet their own rows; None: all meet all rows.
        runtime: device and memory budget.
    """

    method: PatchBank
    state: MemoryBank
    taps: list[Tensor]
    found: Found
    image_ids: Sequence[str] | None
    hidden: Sequence[str] | None
    runtime: Runtime

    def counted(self, count: int, skip: Skip) -> tuple[Tensor, Tensor]:
        """Distances and rows (B, P, count) of the neighbours that count, nearest first.

        Raises:
            ValueError: the bank has fewer rows.
        """
        import torch

        distances, rows = self.found["distances"], self.found["rows"].long()
        if skip == "first":
            places = torch.arange(count) + self._members(len(distances)).long().unsqueeze(1)
            places = places.unsqueeze(1).expand(-1, distances.shape[1], -1)
            short = int(places.max()) >= distances.shape[2]
        else:
            itself = (rows == self.own_rows().unsqueeze(2)).byte()
            places = itself.argsort(dim=2, stable=True)[:, :, :count]
            short = places.shape[2] < count
        if not short:
            distances, rows = distances.gather(2, places), rows.gather(2, places)
        if short or not distances.isfinite().all():
            raise ValueError(
                f"a score reads {count} neighbours, and the bank of {len(self.state.rows)} row(s) has fewer for some "
                "patch: fit more images, raise coreset_ratio or lower neighbours"
            )
        return distances.to(self.runtime.device), rows.to(self.runtime.device)

    def patch(self, image: int, place: int) -> Tensor:
        """The features (D,) of one patch."""
        taps = [tap[image, None] for tap in self.taps]
        return self.method.embed(taps, self.runtime.device)[0, place]

    def around(self, image: int, row: int, count: int) -> Tensor:
        """(count, D), the rows nearest to a row of the bank, itself included; fewer in a bank of fewer."""
        import torch

        bank = self.state.rows.to(self.runtime.device)
        parts = all_rows(bank) if self.hidden is None else other_rows(self.state, bank, self.hidden[image])
        distances, rows = nearest_rows(bank[row, None], parts, count, self.runtime)
        return bank[rows[torch.isfinite(distances)]]

    def own_rows(self) -> Tensor:
        """(B, P) int64 on the CPU: the row of the bank that each patch is; -2 where it is none."""
        import torch

        own = torch.full(self.found["rows"].shape[:2], -2)
        known = {image_id: number for number, image_id in enumerate(self.state.image_ids)}
        source, place = self.state.source.cpu(), self.state.place.cpu()
        for image, image_id in enumerate(self.image_ids or ()):
            rows = (source == known.get(image_id, -2)).nonzero().flatten()
            own[image, place[rows]] = rows
        return own

    def _members(self, images: int) -> Tensor:
        """(B,) bool: whether each image meets rows that it gave to the bank."""
        import torch

        if self.image_ids is None or self.hidden is not None:
            return torch.zeros(images, dtype=torch.bool)
        known = set(self.state.image_ids)
        return torch.tensor([image_id in known for image_id in self.image_ids])
