"""PatchCore: Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.

Fit: locally aware patch features of all nominal images (section 3.1), thinned by greedy k-centre selection
on a random projection (section 3.2, Algorithm 1). Score: distance to the nearest row of the bank (equation
6), optionally re-weighted (equation 7); the patch grid is resized bilinearly and smoothed into a map.

Choices where the paper and its public implementation differ:

- distances are plain L2; the implementation's squares are `squared: true` (image AUROC stays, maps differ);
- the image score is the largest patch score, as in the implementation; equation 7 is `reweighted`, on plain
  distances, with b = 9, which the paper leaves open;
- the selection starts at one random row; `anchors: official` keeps the mean distance to ten random rows as a
  virtual centre, as the implementation does. The projection is Gaussian instead of uniform;
- scores are never normalised over the test set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from ad_assets.methods.base import (
    Features,
    Method,
    Runtime,
    ScoreMaps,
    State,
    check_finite,
    fit_field,
    register,
    score_field,
)
from ad_assets.methods.embedding import Pooling, embed, patch_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

OFFICIAL_ANCHORS = 10


@dataclass(frozen=True)
class MemoryBank(State):
    """Nominal patches.

    Args:
        rows: (M, D) float32, in the order of selection.
        source: (M,) int64, which of `image_ids` a row comes from.
        image_ids: the nominal images.
        grid: rows and columns of the patch grid.
        covering_radius: largest L2 distance of any nominal patch to the bank, feature units.
    """

    rows: Tensor
    source: Tensor
    image_ids: list[str]
    grid: list[int]
    covering_radius: float


@register
class PatchCore(Method[MemoryBank]):
    """Distance to the nearest nominal patch.

    >>> PatchCore(coreset_ratio=0.01).stage_config("score")["neighbours"]
    1
    """

    name: ClassVar[str] = "patchcore"
    version: ClassVar[int] = 1
    state_asset: ClassVar[Literal["template_set", "memory_bank", "trained_model"]] = "memory_bank"
    state_type: ClassVar[type[State]] = MemoryBank

    pooling: Pooling = fit_field("authors", description="how a neighbourhood becomes a vector; see embedding.py")
    patch_size: int = fit_field(3, ge=1, description="side of the neighbourhood in cells")
    stride: int = fit_field(1, ge=1, description="step between patches in cells")
    pre_dimensions: int = fit_field(1024, ge=1, description="values a tap is pooled to (authors)")
    dimensions: int = fit_field(1024, ge=1, description="values a patch ends up with (authors)")
    coreset_ratio: float = fit_field(0.1, gt=0, le=1, description="part of the patches kept; 1 keeps all")
    projection: int | None = fit_field(128, ge=1, description="dimensions in which the coreset is selected; null: all")
    anchors: Literal["clean", "official"] = fit_field("clean", description="how the selection starts")

    neighbours: int = score_field(1, ge=1, description="a patch scores the mean distance to so many rows")
    squared: bool = score_field(False, description="squared distances")
    image_score: Literal["max", "reweighted"] = score_field("max", description="equation 6 or 7")
    b: int = score_field(9, ge=2, description="rows around the nearest row in equation 7, itself included")
    sigma: float = score_field(4.0, ge=0, description="Gaussian smoothing of maps in pixels; 0: none")

    @model_validator(mode="after")
    def _no_idle_options(self) -> Self:
        idle = {"pre_dimensions", "dimensions"} & self.model_fields_set
        if self.pooling == "concat" and idle:
            raise ValueError(f"{', '.join(sorted(idle))}: pooling 'concat' keeps every channel; remove the key")
        return self

    def embed(self, taps: list[Tensor], device: str) -> Tensor:
        """Patch features (B, rows * columns, D) float32 on a device.

        Raises:
            ValueError: the taps do not suit the parameters, or hold NaN or infinity.
        """
        patches = embed(
            [tap.to(device) for tap in taps],
            patch_size=self.patch_size,
            stride=self.stride,
            pre_dimensions=self.pre_dimensions,
            dimensions=self.dimensions,
            pooling=self.pooling,
        )
        check_finite(patches)
        return patches

    def fit(self, features: Features, runtime: Runtime) -> MemoryBank:
        """Build the memory bank.

        Raises:
            ValueError: no image, features that differ in shape or hold NaN, or too many for the budget.
        """
        import torch

        patches, grid = self._all_patches(features, runtime)
        per_image = grid[0] * grid[1]
        rows, radius = patches, 0.0
        picks = torch.arange(len(patches))
        if self.coreset_ratio < 1:
            picks, radius = self._select(patches, runtime)
            rows = patches[picks]
        return MemoryBank(rows, picks // per_image, list(features.image_ids), list(grid), radius)

    def _all_patches(self, features: Features, runtime: Runtime) -> tuple[Tensor, tuple[int, int]]:
        import torch

        if not len(features):
            raise ValueError("no nominal image to fit: the train split is empty")
        patches = torch.empty(0)
        grid = (0, 0)
        done = 0
        for ids, taps in features.batches():
            batch = self.embed(taps, runtime.device)
            if not done:
                grid = patch_grid(taps, self.patch_size, self.stride)
                patches = _allocate((len(features), *batch.shape[1:]), runtime)
            if batch.shape[1:] != patches.shape[1:]:
                raise ValueError(
                    f"image {ids[0]} has {batch.shape[1]} patches of {batch.shape[2]} values, those before "
                    f"{patches.shape[1]} of {patches.shape[2]}: extract all features with one extractor"
                )
            patches[done : done + len(ids)] = batch.cpu()
            done += len(ids)
            runtime.report("patches embedded", done, len(features))
        return patches.flatten(0, 1), grid

    def _select(self, patches: Tensor, runtime: Runtime) -> tuple[Tensor, float]:
        """Indices of the coreset and its covering radius."""
        import torch

        from ad_assets.kernels.coreset import covering_radius, greedy_coreset, random_projection

        count = max(1, int(self.coreset_ratio * len(patches)))
        seen = patches
        if self.projection is not None and self.projection < patches.shape[1]:
            seen = random_projection(patches, self.projection, seed=self.seed)
        seen = seen.to(runtime.device)
        generator = torch.Generator().manual_seed(self.seed)
        start, initial = 0, None
        if self.anchors == "official":
            anchors = torch.randint(len(seen), (OFFICIAL_ANCHORS,), generator=generator).to(seen.device)
            initial = torch.cdist(seen, seen[anchors], compute_mode="donot_use_mm_for_euclid_dist").mean(dim=1)
        else:
            start = int(torch.randint(len(seen), (1,), generator=generator))
        picks = greedy_coreset(
            seen,
            count,
            start=start,
            initial=initial,
            memory_gb=runtime.memory_gb,
            report=lambda done, total: runtime.report("coreset rows chosen", done, total),
        ).cpu()
        if len(picks) != count:
            raise AssertionError(f"the coreset has {len(picks)} rows instead of {count}")
        return picks, covering_radius(patches, picks, runtime.memory_gb, projected=seen)

    def score(
        self,
        state: MemoryBank,
        taps: list[Tensor],
        map_size: tuple[int, int],
        runtime: Runtime,
        *,
        left_out: Sequence[str] | None = None,
    ) -> ScoreMaps:
        """Score a batch; maps and image scores are in feature units (squared with `squared`), on the CPU.

        With `left_out`, an image meets the bank without its own rows; the others are not selected anew.

        Raises:
            ValueError: features of another dimension than the bank's, or fewer rows than `neighbours` (left).
        """
        import torch

        from ad_assets.kernels.smoothing import gaussian_blur, upsample

        patches = self.embed(taps, runtime.device)
        grid = patch_grid(taps, self.patch_size, self.stride)
        if patches.shape[2] != state.rows.shape[1]:
            raise ValueError(
                f"patches have {patches.shape[2]} values, the rows of the bank {state.rows.shape[1]}: "
                "score with the extractor and the embedding that the bank was fitted with"
            )
        bank = state.rows.to(runtime.device)
        if left_out is None:
            scored = [self._score_patches(patches, bank, runtime)]
        else:
            scored = [
                self._score_patches(image[None], _without(state, bank, image_id), runtime)
                for image, image_id in zip(patches, left_out, strict=True)
            ]
        maps = upsample(torch.cat([grids for grids, _ in scored]).unflatten(1, grid), map_size)
        if self.sigma:
            maps = gaussian_blur(maps, self.sigma)
        return ScoreMaps(maps.cpu(), torch.cat([images for _, images in scored]).cpu())

    def _score_patches(self, patches: Tensor, rows: Tensor, runtime: Runtime) -> tuple[Tensor, Tensor]:
        """Scores (B, P) of patches (B, P, D) and (B,) of their images."""
        import torch

        from ad_assets.kernels.neighbours import nearest

        needed = max(self.neighbours, 2 if self.image_score == "reweighted" else 1)
        if len(rows) < needed:
            raise ValueError(
                f"{len(rows)} row(s) of the bank are left, neighbours {self.neighbours} with image_score "
                f"{self.image_score} needs {needed}: raise coreset_ratio or lower neighbours"
            )
        found = nearest(patches.flatten(0, 1), rows, self.neighbours, memory_gb=runtime.memory_gb)
        distances, indices = (values.unflatten(0, patches.shape[:2]) for values in found)
        scores = (distances.square() if self.squared else distances).mean(dim=2)
        if self.image_score == "max":
            return scores, scores.amax(dim=1)
        images = [
            self._reweighted(patches[image, worst], rows, int(indices[image, worst, 0]), runtime)
            for image, worst in enumerate(distances[:, :, 0].argmax(dim=1).tolist())
        ]
        return scores, torch.stack(images)

    def _reweighted(self, patch: Tensor, rows: Tensor, match: int, runtime: Runtime) -> Tensor:
        """Equation 7 for the patch (D,) with the largest distance and the row nearest to it."""
        from ad_assets.kernels.neighbours import nearest

        count = min(self.b, len(rows))
        _, around = nearest(rows[match, None], rows, count, memory_gb=runtime.memory_gb)
        to_around = (rows[around[0]].double() - patch.double()).norm(dim=1)
        to_match = (rows[match].double() - patch.double()).norm()
        weight = 1 - (to_match - to_around.logsumexp(dim=0)).exp()
        return (weight * to_match).float()

    def describe(self, state: MemoryBank) -> dict[str, int | float | str]:
        """Size of the bank, and how well it covers the nominal patches."""
        patches = len(state.image_ids) * state.grid[0] * state.grid[1]
        return {
            **super().describe(state),
            "rows": state.rows.shape[0],
            "dimensions": state.rows.shape[1],
            "covering_radius": state.covering_radius,
            "compression": patches / state.rows.shape[0],
        }


def _allocate(shape: tuple[int, ...], runtime: Runtime) -> Tensor:
    import torch

    images, patches, values = shape
    parts = f"{images} images x {patches} patches x {values} float32"
    remedy = "choose a larger stride, fewer dimensions or deeper taps"
    runtime.check_budget("the patches", 4e-9 * math.prod(shape), parts, remedy)
    return torch.empty(shape)


def _without(state: MemoryBank, rows: Tensor, image_id: str) -> Tensor:
    """The rows that come from other images."""
    import torch

    own = [number for number, known in enumerate(state.image_ids) if known == image_id]
    others = ~torch.isin(state.source, torch.tensor(own, dtype=torch.int64))
    if not others.any():
        raise ValueError(
            f"every row of the bank comes from image {image_id}, so nothing is left to score it against: "
            "fit at least two images, or a larger coreset_ratio"
        )
    return rows[others.to(rows.device)]
