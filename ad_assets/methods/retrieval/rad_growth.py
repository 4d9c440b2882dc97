"""RAD with more nominal images: an image is compared anew with those alone that are new among the most like it.

Which patch was nearest is not kept. So an image is compared with those, too, that are no longer among the most like it:
a place to which one of them is as near as what was nearest is compared with all again, and no other place is. Products
of other numbers of images may round otherwise, so distances are those of a search in all to about 1e-6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ad_assets.methods.data import Batch, Matches
from ad_assets.methods.retrieval.image_growth import ImageGrowth, Retrieval
from ad_assets.methods.retrieval.image_retrieval import Pyramids
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.retrieval.rad_level import Level

AS_NEAR = 1e-5  # more than rounding adds to the cosine distance of two unit vectors


class Comparison(Retrieval, Protocol):
    """The steps of a search, as `Rad` has them."""

    def described(self, state: Pyramids, batch: Batch, runtime: Runtime) -> tuple[Tensor, list[Level]]:
        """As `Rad.described`."""


class PatchGrowth(ImageGrowth[Comparison]):
    """See `ImageGrowth`."""

    def renew(self, batch: Batch) -> Matches:
        """As `Growth.renew`."""
        import torch
        from torch.nn.functional import pad

        pooled, levels = self.method.described(self.state, batch, self.runtime)
        found: dict[str, list[Tensor]] = {name: [] for name in batch.matches}
        for row, (_, images) in enumerate(self.method.retrieved(self.state, pooled, batch)):
            images, former = images.sort().values.cpu(), self.numbers[batch.matches["images"][row]]
            found["images"].append(pad(images, (0, self.method.neighbours - len(images)), value=-1))
            for number, level in enumerate(levels):
                kept = batch.matches[f"level{number}"][row]
                found[f"level{number}"].append(self._compared(level, row, images, former[former >= 0], kept))
        return {name: torch.stack(own) for name, own in found.items()}

    def _compared(self, level: Level, row: int, images: Tensor, former: Tensor, kept: Tensor) -> Tensor:
        """(P,): distances of one image among nominal ones (k,), from those among the former ones (k,)."""
        import torch

        came, gone = images[~torch.isin(images, former)], former[~torch.isin(former, images)]
        if len(came) + len(gone) >= len(images):
            return level.distances(row, images)
        least = kept.to(level.queries.device)
        to_came, to_gone = level.distances_to_few(row, [came, gone])
        places = (to_gone <= least + AS_NEAR).nonzero().flatten()
        least = torch.minimum(least, to_came)
        return least.index_put((places,), level.distances_at(row, images, places)) if len(places) else least
