"""PatchCluster: Zhang, Suganuma, Okatani, That's BAD: Blind Anomaly Detection, 2023. No public implementation exists.

The bank holds the patches of the very images that are scored, good and bad alike. Normal patches lie close together and
anomalous ones apart, so a patch scores the mean distance to its `neighbours` nearest rows, from the second on (equation
2); the image scores the largest of them, a*, times 1 - exp(a*) / sum of exp(distance) from that patch to the rows
around its nearest (equation 3).

What the paper leaves open, and what is done:

- the nearest row is skipped for every patch of an image in the bank, as the text says; `skip: self` skips only the
  patch itself, `exclude_same_image` all of its image. Images that the bank has not seen (one-class) skip nothing;
- `neighbours` are counted after skipping: one is PatchCore under the same skipping, as in the paper's tables;
- f* in equation 3 is the first row that counts, and N(f*) are as many rows as `neighbours`, itself included; `b` sets
  another number. Distances are plain L2; a weight below 0 counts as 0 (a* is a mean, and may exceed all of N(f*));
- a* is taken before the map is resized and smoothed, with sigma 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ad_assets.methods.base import fit_field, register, score_field
from ad_assets.methods.data import Batch, Frame, ScoreMaps
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.memory_bank.patch_bank import PatchBank
from ad_assets.methods.memory_bank.search import Skip
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.scoring_graph import ScoringGraph

FEWEST_NEIGHBOURS = 5
PAPER_IMAGES = 100  # about the mean size of a category of MVTec AD's test split


@register
class PatchCluster(PatchBank):
    """Mean distance to many patches of a mixed set of images.

    >>> [PatchCluster(coreset_ratio=ratio).n_neighbours(40) for ratio in (1, 0.25, 0.1, 0.01)]
    [100, 25, 10, 5]
    >>> PatchCluster(coreset_ratio=0.25, neighbours="images").n_neighbours(40)
    10
    """

    name: ClassVar[str] = "patchcluster"
    version: ClassVar[int] = 1

    coreset_ratio: float = fit_field(0.25, gt=0, le=1, description="part of the patches kept; 1 keeps all")

    neighbours: Annotated[int, Field(ge=1)] | Literal["images"] | None = score_field(
        None,
        description="rows in the mean; images: their number times coreset_ratio; null: as for 100 images (the paper)",
    )
    skip: Skip = score_field(
        "first", description="what patches of images in the bank skip: the nearest row, or themselves"
    )
    image_score: Literal["max", "reweighted"] = score_field(
        "reweighted", description="largest patch score, or equation 3"
    )
    b: int | None = score_field(None, ge=2, description="rows around f* in equation 3; null: as many as neighbours")

    def n_neighbours(self, images: int) -> int:
        """K: each image tends to hold most kinds of patch once, so as many as images, times the ratio (section 5.2)."""
        if isinstance(self.neighbours, int):
            return self.neighbours
        wanted = PAPER_IMAGES if self.neighbours is None else images
        return max(FEWEST_NEIGHBOURS, round(self.coreset_ratio * wanted))

    @property
    def join_fault(self) -> str:
        """The reason for as many neighbours as images is that each image has most kinds of patch."""
        if self.neighbours == "images":
            return "neighbours: images counts those of all categories, which have other kinds of patch; give a number"
        return super().join_fault

    @property
    def graph_fault(self) -> str:
        """Where `neighbours` follows the number of images an update would need another graph."""
        if self.neighbours == "images":
            return "neighbours: images follows the number of images, so that every update needs another graph"
        return super().graph_fault

    def graph(self, frame: Frame) -> ScoringGraph:
        """As `Method.graph`."""
        from ad_assets.methods.memory_bank.scoring_graphs import PatchClusterGraph

        return PatchClusterGraph(self, frame)

    def score(self, state: MemoryBank, batch: Batch, runtime: Runtime) -> ScoreMaps:
        """Equations 2 and 3, in the units of the distances."""
        import torch

        distances, rows = self.neighbours_of(state, batch, runtime, self.skip)
        inspected = self.inspected(batch)
        scores = inspected.filled(distances.mean(dim=2))
        largest, worst = scores.max(dim=1)
        if self.image_score == "max":
            return self.score_maps(batch, scores, largest)
        worst, count = inspected.places(worst), self.b or max(distances.shape[2], 2)
        around = self.surroundings(state, batch, runtime, worst, rows, count)
        weights = [_weight(patch, score, rows) for (patch, _, rows), score in zip(around, largest, strict=True)]
        return self.score_maps(batch, scores, largest * torch.stack(weights))

    def describe(self, state: MemoryBank) -> dict[str, int | float | str]:
        """With the K that the number of images suggests."""
        suggested = self.model_copy(update={"neighbours": "images"}).n_neighbours(len(state.image_ids))
        return {**super().describe(state), "suggested_neighbours": suggested}


def _weight(patch: Tensor, score: Tensor, around: Tensor) -> Tensor:
    """The weight of equation 3, 0..1, for a patch (D,), its score a* and the rows N(f*) (b, D)."""
    to_around = (around.double() - patch.double()).norm(dim=1)
    return (1 - (score.double() - to_around.logsumexp(dim=0)).exp()).clamp(min=0).float()
