"""AnomalyDINO: Damm et al., Boosting Patch-based Few-shot Anomaly Detection with DINOv2, WACV 2025.

A bank of all patch tokens of a few nominal images. A patch scores the cosine distance to its nearest row, an image the
mean of the highest 1 % of its patches; the grid is resized and smoothed into a map. Tokens have length one in the bank,
where half a squared L2 distance is the cosine distance.

What differs from the paper and its public implementation:

- nominal images are turned by `turns: 8`, multiples of 45 degrees, as there. The implementation's preprocessings are
  presets: `mvtec_ad` and `visa` have its choice of masks and no turns (`masking_only`), `mvtec_ad_agnostic` and
  `visa_agnostic` turn all nominal images too, `mvtec_ad_informed` those of hazelnut and screw alone (of VisA none).
  Images turn about the middle of the frame, there about a point half a pixel from it;
- `mask: pca` scores patches of the background zero, as there; a randomised solver finds the component there, a full one
  here (`object_mask`). The bank is not masked, its default. Whether an object is masked is decided on nominal images
  (the paper's figure 2): the presets have the authors';
- the map is smoothed in pixels of the extractor's input, there in pixels of the image;
- with a region of interest the highest 1 % are of the inspected patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from ad_assets.methods.base import Stage, fit_field, register, score_field
from ad_assets.methods.data import Batch, Frame, ScoreMaps
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.memory_bank.object_mask import object_mask
from ad_assets.methods.memory_bank.patch_bank import PatchBank
from ad_assets.methods.memory_bank.search import Skip
from ad_assets.methods.patch_embedding import Pooling, patch_grid
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.scoring_graph import ScoringGraph

_MASKED = ("capsule", "hazelnut", "pill", "screw", "toothbrush")  # of MVTec AD, as the authors' code has them
_TURNED = ("hazelnut", "screw")  # whose parts lie in any direction
_MASKS = {name: {"mask": "pca"} for name in _MASKED}
PRESETS: dict[str, dict[str, Any]] = {
    "mvtec_ad": {"categories": _MASKS},
    "mvtec_ad_agnostic": {"turns": 8, "categories": _MASKS},
    "mvtec_ad_informed": {"categories": _MASKS | {name: {**_MASKS[name], "turns": 8} for name in _TURNED}},
    "visa": {"mask": "pca"},
    "visa_agnostic": {"turns": 8, "mask": "pca"},
}


@register
class AnomalyDino(PatchBank):
    """Cosine distance to the nearest nominal token.

    >>> AnomalyDino().stage_config("fit")["metric"]
    'cosine'
    """

    name: ClassVar[str] = "anomalydino"
    version: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

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

    mask: Literal["none", "pca"] = score_field(
        "none", description="pca: patches of the background, by the image's first principal component, score zero"
    )
    mask_threshold: float = score_field(
        10.0, ge=0, description="how far along the component the object begins, units of the features (pca)"
    )

    @model_validator(mode="after")
    def _reads_the_threshold(self) -> Self:
        if self.mask == "none" and "mask_threshold" in self.model_fields_set:
            raise ValueError("mask_threshold: only mask 'pca' reads it; remove the key")
        return self

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

    @property
    def graph_fault(self) -> str:
        """Why there is no graph of its scoring."""
        if self.mask != "none":
            return "mask: pca decomposes the tokens of each image, which no graph of plain operators does"
        return super().graph_fault

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
        if self.mask == "pca":
            grid = patch_grid(batch.taps, self.patch_size, self.stride)
            tokens = super().embed(batch.taps, runtime.device)
            cosines *= torch.stack([object_mask(image, grid, self.mask_threshold) for image in tokens])
        cells = torch.arange(cosines.shape[1], device=cosines.device)
        inside = cosines[:, inspected.places(cells) == cells]
        count = max(1, int(self.image_share * inside.shape[1]))
        return self.score_maps(batch, inspected.filled(cosines), inside.topk(count, dim=1).values.mean(dim=1))
