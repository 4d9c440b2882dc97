"""PatchCore: Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.

Distance to the nearest row of a bank of nominal patches (equation 6), optionally re-weighted (equation 7); the patch
grid is resized bilinearly and smoothed into a map. `memory_bank` makes and searches the bank.

Choices where the paper and its public implementation differ:

- distances are plain L2; the implementation's squares are `squared: true` (image AUROC stays, maps differ);
- the image score is the largest patch score, as in the implementation; equation 7 is `reweighted`, on plain
  distances, with b = 9, which the paper leaves open;
- the selection starts at one random row; `anchors: official` keeps the mean distance to ten random rows as a
  virtual centre, as the implementation does. The projection is Gaussian instead of uniform;
- scores are never normalised over the test set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ad_assets.methods.base import register, score_field
from ad_assets.methods.data import Batch, Frame, ScoreMaps
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.memory_bank.patch_bank import PatchBank
from ad_assets.methods.memory_bank.search import Skip
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.scoring_graph import ScoringGraph


@register
class PatchCore(PatchBank):
    """Distance to the nearest nominal patch.

    >>> PatchCore(coreset_ratio=0.01).stage_config("score")["neighbours"]
    1
    """

    name: ClassVar[str] = "patchcore"
    version: ClassVar[int] = 2

    neighbours: int = score_field(1, ge=1, description="a patch scores the mean distance to so many rows")
    skip: Skip = score_field(
        "first", description="what patches of images in the bank skip: the nearest row, or themselves"
    )
    squared: bool = score_field(False, description="squared distances")
    image_score: Literal["max", "reweighted"] = score_field("max", description="equation 6 or 7")
    b: int = score_field(9, ge=2, description="rows around the nearest row in equation 7, itself included")

    def n_neighbours(self, images: int) -> int:
        """`neighbours`, whatever the number of images."""
        del images
        return self.neighbours

    def graph(self, frame: Frame) -> ScoringGraph:
        """As `Method.graph`."""
        from ad_assets.methods.memory_bank.scoring_graphs import PatchCoreGraph

        return PatchCoreGraph(self, frame)

    def score(self, state: MemoryBank, batch: Batch, runtime: Runtime) -> ScoreMaps:
        """Equation 6, and equation 6 or 7 for the image; in the units of the distances."""
        import torch

        distances, rows = self.neighbours_of(state, batch, runtime, self.skip)
        inspected = self.inspected(batch)
        scores = inspected.filled((distances.square() if self.squared else distances).mean(dim=2))
        if self.image_score == "max":
            return self.score_maps(batch, scores, scores.amax(dim=1))
        worst = inspected.places(inspected.filled(distances[:, :, 0]).argmax(dim=1))
        around = self.surroundings(state, batch, runtime, worst, rows, self.b)
        return self.score_maps(batch, scores, torch.stack([_reweighted(*each) for each in around]))


def _reweighted(patch: Tensor, match: Tensor, around: Tensor) -> Tensor:
    """Equation 7 for the patch (D,) with the largest distance, the row (D,) nearest to it and those around (b, D)."""
    if len(around) < 2:
        raise ValueError(
            "image_score reweighted compares a row of the bank with others, and it has one: raise coreset_ratio"
        )
    to_around = (around.double() - patch.double()).norm(dim=1)
    to_match = (match.double() - patch.double()).norm()
    weight = 1 - (to_match - to_around.logsumexp(dim=0)).exp()
    return (weight * to_match).float()
