"""The memory bank: patch features of the training images, and where each row comes from."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ad_assets.methods.state import State

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.runtime import Runtime

# Parts of a bank, ascending: the number of the first row, the rows (m, D), and which are compared (m,); None: all.
Blocks = list[tuple[int, "Tensor", "Tensor | None"]]


@dataclass(frozen=True)
class MemoryBank(State):
    """Patches of the training images.

    Args:
        rows: (M, D) float32, in the order of selection; all patches in the order of images and places.
        source: (M,) int64, which of `image_ids` a row comes from; -1: from none in particular.
        place: (M,) int64, which patch of that image, from 0; those of the image turned are numbered behind those of it
            as it is, turn by turn.
        image_ids: the training images, sorted.
        grid: rows and columns of the patch grid.
        covering_radius: largest L2 distance of any training patch to the bank, feature units; after an update a bound.
        appended: how many rows updates have added.
        densities: empty until `PatchCoreLof.prepare`: k-distances and densities of the rows, (M,) float64.
    """

    rows: Tensor
    source: Tensor
    place: Tensor
    image_ids: list[str]
    grid: list[int]
    covering_radius: float
    appended: int = 0
    densities: list[Tensor] = field(default_factory=list)

    @classmethod
    def joined(cls, banks: Sequence[MemoryBank]) -> MemoryBank:
        """One bank with the rows of several, by image and place; the bank of all patches of all images, if each is so.

        A patch that several hold, because they learnt the same image, is one row. What comes from no image in
        particular stands first. The covering radius is a bound.

        Raises:
            ValueError: no banks, or banks of other grids or dimensions.
        """
        import torch

        shapes = {(*bank.grid, bank.rows.shape[1]) for bank in banks}
        if len(shapes) != 1:
            raise ValueError(
                f"banks with grids and dimensions {sorted(shapes)} cannot be joined: one extractor and one embedding "
                "make those of all categories"
            )
        ids = sorted({image_id for bank in banks for image_id in bank.image_ids})
        number = {image_id: position for position, image_id in enumerate(ids)}
        # The last place is for rows from no image in particular, whose source is -1.
        after = [torch.tensor([*(number[image_id] for image_id in bank.image_ids), -1]) for bank in banks]
        source = torch.cat([numbers[bank.source] for numbers, bank in zip(after, banks, strict=True)])
        place = torch.cat([bank.place for bank in banks])
        places = 1 + int(place.max())  # more than cells, where images were learnt in several directions
        patch = torch.where(source < 0, -1, source * places + place)
        order = patch.argsort(stable=True)
        repeated = (patch[order].diff(prepend=torch.tensor([-1])) == 0) & (patch[order] >= 0)
        order = order[~repeated]
        rows = torch.empty(len(order), banks[0].rows.shape[1])
        first = 0
        for bank in banks:  # one after the other: all together would take their room twice
            own = (order >= first) & (order < first + len(bank.rows))
            rows[own] = bank.rows[order[own] - first]
            first += len(bank.rows)
        radius = max(bank.covering_radius for bank in banks)
        appended = sum(bank.appended for bank in banks)
        return cls(rows, source[order], place[order], ids, banks[0].grid, radius, appended)

    def blocks(self, excluded_id: str | None = None) -> Blocks:
        """All rows, or those that do not come from one image; none of them is copied.

        Raises:
            ValueError: all rows come from that image.
        """
        import torch

        if excluded_id not in self.image_ids:
            return [(0, self.rows, None)]
        own = (self.source == self.image_ids.index(excluded_id)).nonzero().flatten()
        if len(own) == len(self.rows):
            raise ValueError(
                f"every row of the bank comes from image {excluded_id}, so nothing is left to score it against: "
                "fit at least two images, or a larger coreset_ratio"
            )
        if not len(own):
            return [(0, self.rows, None)]
        first, last = int(own[0]), int(own[-1])
        if last - first + 1 == len(own):  # a whole bank
            parts = [(0, self.rows[:first], None), (last + 1, self.rows[last + 1 :], None)]
            return [part for part in parts if len(part[1])]
        kept = torch.ones(len(self.rows), dtype=torch.bool, device=self.rows.device)
        kept[own] = False
        return [(0, self.rows, kept)]

    def without(self, image_ids: Collection[str], runtime: Runtime) -> MemoryBank:
        """The rows that do not come from some images; beyond the memory budget in a temporary file.

        Raises:
            ValueError: none is left.
        """
        import torch

        kept = [number for number, image_id in enumerate(self.image_ids) if image_id not in image_ids]
        # The last place is for rows from no image in particular, whose source is -1.
        position = torch.full((len(self.image_ids) + 1,), -2)
        position[torch.tensor([*kept, len(self.image_ids)])] = torch.tensor([*range(len(kept)), -1])
        source = position.to(self.source.device)[self.source]
        left = source != -2
        if not left.any():
            raise ValueError(
                f"every row of the bank comes from {len(image_ids)} near-copies, so nothing is left to score them "
                "against: fit other images too, or a larger coreset_ratio"
            )
        ids = [self.image_ids[number] for number in kept]
        rows = runtime.taken("the rows of the bank", self.rows, left.nonzero().flatten())
        return replace(self, rows=rows, source=source[left], place=self.place[left], image_ids=ids)

    def own_rows(self, image_ids: Sequence[str], patches: int) -> Tensor:
        """(B, patches) int64 on the CPU: which row of the bank each patch of these images is; -2 where it is none."""
        import torch

        own = torch.full((len(image_ids), patches), -2)
        known = {image_id: number for number, image_id in enumerate(self.image_ids)}
        source, place = self.source.cpu(), self.place.cpu()
        for image, image_id in enumerate(image_ids):
            rows = ((source == known.get(image_id, -2)) & (place < patches)).nonzero().flatten()
            own[image, place[rows]] = rows
        return own


def unturned_cell(place: int, grid: Sequence[int], turns: int) -> tuple[int, int]:
    """Row and column, from 0, of the cell of an image as it is that a place of a bank shows, to a cell.

    Args:
        place: as `MemoryBank.place` has it; the image was turned counterclockwise about its middle.
        grid: rows and columns of the bank, in the shape of the image.
        turns: in how many directions the image was learnt.
    """
    turn, cell = divmod(place, grid[0] * grid[1])
    row, column = divmod(cell, grid[1])
    angle = 2 * math.pi * turn / turns
    down, right = row - (grid[0] - 1) / 2, column - (grid[1] - 1) / 2
    rows = (grid[0] - 1) / 2 + right * math.sin(angle) + down * math.cos(angle)
    columns = (grid[1] - 1) / 2 + right * math.cos(angle) - down * math.sin(angle)
    # What lies in a corner of a turned frame was beyond the border, where the image was mirrored.
    return min(max(round(rows), 0), grid[0] - 1), min(max(round(columns), 0), grid[1] - 1)
