"""What detectors share that compare an image with the nominal images most like it, when there are more of these."""

from __future__ import annotations

from abc import ABC
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ad_assets.methods.data import Batch
from ad_assets.methods.growth import Growth
from ad_assets.methods.retrieval.image_retrieval import Pyramids
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor


class Retrieval(Protocol):
    """The step of a search that says which images are compared with, as `ImageRetrieval` has it."""

    @property
    def neighbours(self) -> int:
        """As `ImageRetrieval.neighbours`."""

    def retrieved(self, state: Pyramids, pooled: Tensor, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """As `ImageRetrieval.retrieved`."""


Search = TypeVar("Search", bound=Retrieval)


class ImageGrowth(Growth, ABC, Generic[Search]):
    """That of nominal images; which of them are most like an image is worked out from all.

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
        self.method, self.state, self.runtime = method, state, runtime
        here = {image_id: number for number, image_id in enumerate(state.image_ids)}
        # The last place is for -1, beyond the last.
        self.numbers = torch.tensor([*(here[image_id] for image_id in before), -1])
        """(n + 1,) int64: the number that each image of the earlier state has now; -1 for -1."""
