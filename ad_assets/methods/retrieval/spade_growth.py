"""SPADE with more nominal images: an image is compared anew with those alone that are new among the most like it.

Which images these are is worked out from all. A place keeps its nearest vectors where all of them are of images that
still are among them, and meets the vectors of those that came; else it is compared with all. Distances are those of a
search in all to the last bit, since either is ranked by differences in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ad_assets.methods.data import Batch, Matches
from ad_assets.methods.retrieval.image_growth import ImageGrowth, Retrieval
from ad_assets.methods.retrieval.image_retrieval import Pyramids
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor


class Comparison(Retrieval, Protocol):
    """The steps of a search, as `Spade` has them."""

    def described(self, state: Pyramids, batch: Batch, runtime: Runtime) -> tuple[Tensor, Tensor]:
        """As `Spade.described`."""


def nearest_vectors(
    state: Pyramids, query: Tensor, images: Tensor, count: int, runtime: Runtime
) -> tuple[Tensor, Tensor]:
    """The vectors of some nominal images (k,) nearest to those of an image (P, D): ``distances`` and ``rows``."""
    from ad_assets.kernels.nearest.search import nearest

    (bank,) = state.vectors
    own = bank[images.to(bank.device)].flatten(0, 1).to(query.device)
    distances, rows = nearest(query, own, count, memory_gb=runtime.budget_gb(query.device))
    vectors = bank.shape[1]
    return distances, images.to(rows.device)[rows // vectors] * vectors + rows % vectors


class VectorGrowth(ImageGrowth[Comparison]):
    """See `ImageGrowth`."""

    def renew(self, batch: Batch) -> Matches:
        """As `Growth.renew`."""
        import torch
        from torch.nn.functional import pad

        pooled, queries = self.method.described(self.state, batch, self.runtime)
        found: dict[str, list[Tensor]] = {"near": [], "images": [], "distances": [], "rows": []}
        kept = zip(*(batch.matches[name] for name in ("images", "distances", "rows")), strict=True)
        pairs = zip(queries, self.method.retrieved(self.state, pooled, batch), kept, strict=True)
        for query, (near, images), (former, distances, rows) in pairs:
            own = self._compared(query, images.cpu(), self.numbers[former], distances, rows)
            beyond = (0, self.method.neighbours - len(near))
            found["near"].append(pad(near.cpu(), beyond, value=torch.inf))
            found["images"].append(pad(images.cpu(), beyond, value=-1))
            found["distances"].append(own[0])
            found["rows"].append(own[1])
        return {name: torch.stack(each) for name, each in found.items()}

    def _compared(
        self, query: Tensor, images: Tensor, former: Tensor, distances: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Distances and rows of one image (P, n) among nominal ones (k,), from those among the former ones (k,)."""
        import torch

        vectors, count = self.state.vectors[0].shape[1], distances.shape[1]
        rows = self.numbers[rows // vectors] * vectors + rows % vectors
        came = images[~torch.isin(images, former)]
        lost = ~torch.isin(rows // vectors, images).all(dim=1)
        distances = distances.clone()
        if len(came):
            own = (~lost).nonzero().flatten()
            if len(own):
                more = self._search(query[own.to(query.device)], came, min(count, len(came) * vectors))
                pairs = zip((distances, rows), more, strict=True)
                both, numbers = (torch.cat([old[own], new], dim=1) for old, new in pairs)
                order = both.argsort(dim=1, stable=True)[:, :count]
                distances[own], rows[own] = both.gather(1, order), numbers.gather(1, order)
        again = lost.nonzero().flatten()
        if len(again):
            distances[again], rows[again] = self._search(query[again.to(query.device)], images, count)
        return distances, rows

    def _search(self, query: Tensor, images: Tensor, count: int) -> tuple[Tensor, Tensor]:
        distances, rows = nearest_vectors(self.state, query, images, count, self.runtime)
        return distances.cpu(), rows.cpu()
