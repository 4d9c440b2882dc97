"""AnomalyDINO: Damm et al., Boosting Patch-based Few-shot Anomaly Detection with DINOv2, WACV 2025.

A bank of all patch tokens of a few nominal images. A patch scores the cosine distance to its nearest row, an image the
mean of the highest 1 % of its patches; the grid is resized and smoothed into a map. Tokens have length one in the bank,
where half a squared L2 distance is the cosine distance.

What differs from the paper and its public implementation:

- background is not masked by the first principal component, and nominal images are not turned: the defaults are the
  implementation's `force_no_mask_no_rotation`, not its `agnostic` or `informed` preprocessing;
- the map is smoothed in pixels of the extractor's input, there in pixels of the image;
- with a region of interest the highest 1 % are of the inspected patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import model_validator

from ad_assets.methods.base import Stage, fit_field, register, score_field
from ad_assets.methods.data import Batch, Frame, ScoreMaps
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.memory_bank.patch_bank import PatchBank
from ad_assets.methods.memory_bank.search import Skip
from ad_assets.methods.patch_embedding import Pooling
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.scoring_graph import ScoringGraph


@register
class AnomalyDino(PatchBank):
    """Cosine distance to the nearest nominal token.

    >>> AnomalyDino().stage_config("fit")["metric"]
    'cosine'
    """

    name: ClassVar[str] = "anomalydino"
    version: ClassVar[int] = 1

    pooling: Pooling = fit_field("concat", description="how a neighbourhood becomes a vector; see patch_embedding.py")
    patch_size: int = fit_field(1, ge=1, description="side of the neighbourhood in cells")
    coreset_ratio: float = fit_field(1.0, gt=0, le=1, description="part of the patches kept; 1 keeps all")

    neighbours: int = score_field(1, ge=1, description="a patch scores the mean distance to so many rows")
    skip: Skip = score_field(
        "first", description="what patches of images in the bank skip: the nearest row, or themselves"
    )
    image_share: float = score_field(
        0.01, gt=0, le=1, description="part of the patches, the highest, whose mean the image scores; one at least"
    )

    @model_validator(mode="after")
    def _rows_have_length_one(self) -> Self:
        if self.subsampling == "proxies":
            raise ValueError(
                "subsampling: a proxy does not have length one, as cosine distances need; greedy or random"
            )
        return self

    def stage_config(self, stage: Stage) -> dict[str, Any]:
        """As `PatchBank.stage_config`; a bank of other lengths is another bank."""
        own = super().stage_config(stage)
        return {**own, "metric": "cosine"} if stage in ("fit", "match") else own

    def n_neighbours(self, images: int) -> int:
        """`neighbours`, whatever the number of images."""
        del images
        return self.neighbours

    def embed(self, taps: list[Tensor], device: str) -> Tensor:
        """As `PatchBank.embed`, each patch of length one."""
        from torch.nn.functional import normalize

        return normalize(super().embed(taps, device), dim=2)

    def graph(self, frame: Frame) -> ScoringGraph:
        """As `Method.graph`."""
        from ad_assets.methods.memory_bank.scoring_graphs import AnomalyDinoGraph

        return AnomalyDinoGraph(self, frame)

    def score(self, state: MemoryBank, batch: Batch, runtime: Runtime) -> ScoreMaps:
        """Cosine distances, 0..2, and the mean of the highest of an image."""
        import torch

        distances, _ = self.neighbours_of(state, batch, runtime, self.skip)
        inspected = self.inspected(batch)
        cosines = distances.square().mean(dim=2) / 2
        cells = torch.arange(cosines.shape[1], device=cosines.device)
        inside = cosines[:, inspected.places(cells) == cells]
        count = max(1, int(self.image_share * inside.shape[1]))
        return self.score_maps(batch, inspected.filled(cosines), inside.topk(count, dim=1).values.mean(dim=1))
