"""RAD with more nominal images: an image is compared anew with those alone that are new among the most like it.

Where one is no longer among them, it is compared with all: which patch was nearest is not kept. Products of other
numbers of images may round otherwise, so distances are those of a search in all to about 1e-6.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

from ad_assets.methods.data import Batch, Matches
from ad_assets.methods.growth import Growth
from ad_assets.methods.retrieval.image_retrieval import Pyramids
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor


class Search(Protocol):
    """What compares images, as `Rad.search` does."""

    def search(
        self, state: Pyramids, batch: Batch, runtime: Runtime, former: Sequence[Tensor] | None = None
    ) -> Matches:
        """As `Rad.search`."""


class PatchGrowth(Growth):
    """That of nominal images.

    Args:
        method: the configured method.
        state: with the vectors of all images.
        before: ids of the images of the earlier state, in their order.
        added: as `Growth.added`.
        runtime: device and memory budget.
    """

    def __init__(
        self, method: Search, state: Pyramids, before: Sequence[str], added: Collection[str], runtime: Runtime
    ) -> None:
        import torch

        super().__init__(added)
        self._method, self._state, self._runtime = method, state, runtime
        here = {image_id: number for number, image_id in enumerate(state.image_ids)}
        self._numbers = torch.tensor([here[image_id] for image_id in before])

    def renew(self, batch: Batch) -> Matches:
        """As `Growth.renew`."""
        former = [self._numbers[images[images >= 0]] for images in batch.matches["images"]]
        return self._method.search(self._state, batch, self._runtime, former)
