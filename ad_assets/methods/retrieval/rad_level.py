"""One layer of RAD: distances of the patches of an image to those of nominal images at about the same place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Level:
    """The patches of a batch beside those of all nominal images.

    Args:
        queries: (B, P, C) unit vectors, on the device.
        bank: (N, P, C) unit vectors, place by place in memory.
        grid: rows and columns of the P places.
        radius: a patch is compared with those at most so many cells from its place; None: with all.
        met: (P,) bool, places whose patches are compared with; None: all.
        budget_gb: for temporary tensors on the device.
    """

    queries: Tensor
    bank: Tensor
    grid: tuple[int, int]
    radius: int | None
    met: Tensor | None
    budget_gb: float

    def distances(self, row: int, images: Tensor) -> Tensor:
        """(P,): cosine distances of the patches of an image to the nearest of some nominal images.

        Args:
            row: number of the image in the batch.
            images: (k,) numbers of the nominal images, ascending.
        """
        import torch

        query, rows = self.queries[row], self.bank.transpose(0, 1)
        # All at once, if that takes no copy; else half of the budget is for copies.
        there = len(images) == len(self.bank) and self.bank.device == query.device
        step = len(self.bank) if there else max(1, int(self.budget_gb * 1e9 / (8 * self.bank[0].numel())))
        found = torch.full_like(query[:, 0], torch.inf)
        for some in images.split(step):
            near = rows if len(some) == len(self.bank) else rows.index_select(1, some.to(self.bank.device))
            found = torch.minimum(found, self._nearest(query, near.to(query.device).contiguous()))
        return found

    def distances_to_few(self, row: int, groups: Sequence[Tensor]) -> list[Tensor]:
        """(P,) of each group of a few nominal images: as `distances`, infinite for none.

        The windows of the image are copied once, and all places are one product; but for rounding it is the same.
        """
        import torch
        from torch.nn.functional import pad

        query, few = self.queries[row], torch.cat(list(groups))
        if self.radius is None:
            infinite = torch.full_like(query[:, 0], torch.inf)
            return [self.distances(row, images) if len(images) else infinite for images in groups]
        window, margin = 2 * self.radius + 1, self.radius
        near = self.bank.transpose(0, 1).index_select(1, few.to(self.bank.device)).to(query.device)
        padded = pad(query.unflatten(0, self.grid), (0, 0, margin, margin, margin, margin))
        windows = padded.unfold(0, window, 1).unfold(1, window, 1).permute(0, 1, 3, 4, 2)
        cosines = torch.bmm(windows.reshape(len(query), -1, query.shape[1]), near.mT)  # (P, window * window, k)
        if self.met is not None:
            cosines[~self.met.to(query.device)] = -torch.inf
        found, (height, width) = [], self.grid
        for part in cosines.split([len(images) for images in groups], dim=2):
            if not part.shape[2]:
                found.append(torch.full_like(query[:, 0], torch.inf))
                continue
            best = part.amax(dim=2).unflatten(1, (window, window)).unflatten(0, self.grid)
            # What lies beyond the border was compared with zeros, and is cut off.
            highest = query.new_full((height + 2 * margin, width + 2 * margin), -torch.inf)
            for down, right in product(range(window), repeat=2):
                place = highest[down : down + height, right : right + width]
                torch.maximum(place, best[:, :, down, right], out=place)
            inside = highest[margin : margin + height, margin : margin + width]
            found.append((1 - inside).clamp(0, 2).flatten())
        return found

    def distances_at(self, row: int, images: Tensor, places: Tensor) -> Tensor:
        """(n,): those of `distances` at some places (n,) alone."""
        import torch

        if self.radius is None:
            return replace(self, queries=self.queries[row, places][None]).distances(0, images)
        if 2 * len(places) > len(self.queries[row]):
            return self.distances(row, images)[places]
        query, (height, width) = self.queries[row], self.grid
        step = torch.arange(-self.radius, self.radius + 1)
        down, right = (offset.flatten() for offset in torch.meshgrid(step, step, indexing="ij"))
        here = places.cpu()
        rows, columns = here[:, None] // width + down, here[:, None] % width + right
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        around = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
        if self.met is not None:
            inside &= self.met.cpu()[around]
        bank, own = self.bank.transpose(0, 1), images.to(self.bank.device)
        at_once = max(1, int(self.budget_gb * 1e9 / (8 * len(images) * around.shape[1] * query.shape[1])))
        found = []
        for some in torch.arange(len(here)).split(at_once):
            near = bank[around[some].to(bank.device)[..., None], own].to(query.device)
            cosines = torch.einsum("nakc,nc->nak", near, query[here[some].to(query.device)]).amax(dim=2)
            found.append(cosines.masked_fill(~inside[some].to(query.device), -torch.inf).amax(dim=1))
        return (1 - torch.cat(found)).clamp(0, 2)

    def _nearest(self, query: Tensor, near: Tensor) -> Tensor:
        """(P,): as `distances`, to all of (P, k, C)."""
        from ad_assets.kernels.local_matching import find_matches
        from ad_assets.kernels.nearest.search import nearest

        if self.radius is None:
            patches = near if self.met is None else near[self.met.to(near.device)]
            distances, _ = nearest(query, patches.flatten(0, 1), 1, memory_gb=self.budget_gb)
            return distances[:, 0].square() / 2  # of unit vectors
        window = 2 * self.radius + 1
        matches = find_matches(query.T.unflatten(1, self.grid)[None], near.unflatten(0, self.grid), window)
        if self.met is not None:
            matches.best[~self.met.unflatten(0, self.grid).to(near.device)] = float("-inf")
        return matches.forward(window)[0].flatten()
