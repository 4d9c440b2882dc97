"""SPADE: Cohen and Hoshen, Sub-Image Anomaly Detection with Deep Pyramid Correspondences, 2020.

An image is compared with the nominal images most like it: the `neighbours` whose deepest features, averaged over the
image, are nearest. The image score is the mean distance to them (section 3.2); a pixel's score is the smallest distance
of its feature vector to any vector of these images, at any place (section 3.3). Vectors are the layers joined on the
grid of the first, deeper ones resized bilinearly.

Distances are plain L2; the paper squares them for the image score, which is `squared: true`. The vectors are not stored
again: the features are in the store, and `complete` reads them. So adding images costs their features and nothing else.

For blind settings (Zhang et al., 2023, section 5): an image is never compared with itself, and `pixel_neighbours` above
one is their SPADE-Cluster (section 5.2), the mean distance to so many vectors. They read layers 2 and 3 only.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from ad_assets.methods.base import Method, fit_field, register, score_field
from ad_assets.methods.data import Batch, Features, Frame, LoadMatches, ScoreMaps, check_finite
from ad_assets.methods.patch_embedding import embed
from ad_assets.methods.region_of_interest import InspectedGrid, inspected_cells, learnt_places, without_outside
from ad_assets.methods.runtime import Runtime
from ad_assets.methods.state import State

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.scoring_graph import ScoringGraph


@dataclass(frozen=True)
class Pyramids(State):
    """Nominal images.

    Args:
        pooled: (N, C) float32, the mean vector of the deepest layer.
        image_ids: the N images.
        vectors: none until completed; then one tensor (N, H W, D) float32.
    """

    pooled: Tensor
    image_ids: list[str]
    vectors: list[Tensor]

    def to(self, device: str) -> Self:
        """Pooled vectors on a device. The others stay where `prepare` put them: a device may not hold them."""
        return replace(self, pooled=self.pooled.to(device))


@register
class Spade(Method[Pyramids]):
    """Distance to the pixels of the nominal images most like an image.

    >>> Spade(neighbours=20).stage_config("score")["neighbours"]
    20
    """

    name: ClassVar[str] = "spade"
    version: ClassVar[int] = 1
    lengths: ClassVar[tuple[str, ...]] = ("sigma",)
    state_asset: ClassVar[Literal["template_set", "memory_bank", "trained_model"]] = "memory_bank"
    state_type: ClassVar[type[State]] = Pyramids

    pixel_layers: int | None = fit_field(
        None, ge=1, description="so many layers, from the first, describe pixels; null: all. The last describes images"
    )

    neighbours: int = score_field(50, ge=1, description="nominal images that an image is compared with")
    pixel_neighbours: int = score_field(1, ge=1, description="a pixel scores the mean distance to so many vectors")
    exclude_same_image: bool = score_field(True, description="an image that was trained on is not compared with itself")
    squared: bool = score_field(False, description="squared distances in the image score")
    roi_fit: bool = score_field(False, description="no vector outside the region of interest is compared with")
    sigma: float = score_field(4.0, ge=0, le=1000, description="Gaussian smoothing of maps in pixels; 0: none")

    @property
    def updatable(self) -> bool:
        """New images join the others."""
        return True

    @property
    def leaves_out(self) -> bool:
        """An image is no neighbour of its own."""
        return True

    def check_layers(self, count: int) -> None:
        """There are as many layers as describe pixels.

        Raises:
            ValueError: naming the parameter.
        """
        if self.pixel_layers is not None and self.pixel_layers > count:
            raise ValueError(f"pixel_layers: {self.pixel_layers} of {count} layers; give at most {count}, or null")

    def fit(self, features: Features, runtime: Runtime) -> Pyramids:
        """Describe the nominal images.

        Raises:
            ValueError: no image, or features that hold NaN.
        """
        import torch

        self.check_layers(len(features.sample()))
        pooled = []
        for _, taps in features.batches():
            pooled.append(_pooled(taps))
            runtime.report("images described", sum(map(len, pooled)), len(features))
        return Pyramids(torch.cat(pooled), list(features.image_ids), [])

    def update(self, state: Pyramids, new: Features, runtime: Runtime) -> Pyramids:
        """The state on the union, in the canonical order of image ids; equal to one from scratch."""
        import torch

        added = self.fit(new, runtime)
        ids = [*state.image_ids, *added.image_ids]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        return Pyramids(torch.cat([state.pooled, added.pooled])[order], [ids[i] for i in order], [])

    def most_images(self, taps: list[Tensor], runtime: Runtime) -> int:
        """Scoring reads the vectors of all."""
        return runtime.most_images(4 * self._vectors(taps).numel())

    def prepare(
        self, state: Pyramids, train: Features, runtime: Runtime, load_matches: LoadMatches | None = None
    ) -> Pyramids:
        """Read the vectors of all nominal images from the stored features; onto the device, if they fit its budget.

        With a region of interest, images are described anew by what is inspected of them.

        Raises:
            ValueError: they need more than the budget.
        """
        import torch

        del load_matches
        sample = self._vectors(train.sample())
        places, size = sample.shape[1:]
        parts = f"{len(train)} images x {places} places x {size} float32"
        runtime.check_images("the vectors", len(train), 4 * sample.numel(), parts, "read deeper layers")
        kept = learnt_places(train.region if self.roi_fit else None, train.sample()[0].shape[2:])
        vectors = torch.empty(len(train), len(kept), size)
        pooled = state.pooled if train.region is None else torch.empty_like(state.pooled)
        done = 0
        for ids, taps in train.batches():
            own = self._vectors([tap.to(runtime.device) for tap in taps]).cpu()
            vectors[done : done + len(ids)] = own if len(kept) == places else own[:, kept]
            if train.region is not None:
                pooled[done : done + len(ids)] = _pooled(taps, train.region)
            done += len(ids)
        fits = vectors.nbytes <= runtime.budget_gb(runtime.device) * 1e9
        return replace(state, pooled=pooled, vectors=[vectors.to(runtime.device) if fits else vectors])

    def without(self, state: Pyramids, image_ids: Collection[str], train: Features, runtime: Runtime) -> Pyramids:
        """The other images. The vectors stay where they are: those of images infinitely far away are never read."""
        import torch

        del train, runtime
        away = torch.tensor([image_id in image_ids for image_id in state.image_ids], device=state.pooled.device)
        if away.all():
            raise ValueError("there is no other nominal image to compare near-copies with: fit others too")
        return replace(state, pooled=state.pooled.masked_fill(away[:, None], torch.inf))

    def _vectors(self, taps: list[Tensor]) -> Tensor:
        """(B, H W, D)."""
        return embed(taps[: self.pixel_layers], patch_size=1, pooling="concat")

    @property
    def graph_fault(self) -> str:
        """As `Method.graph_fault`."""
        return ""

    def graph(self, frame: Frame) -> ScoringGraph:
        """As `Method.graph`."""
        from ad_assets.methods.spade_graph import SpadeGraph

        return SpadeGraph(self, frame)

    def score(self, state: Pyramids, batch: Batch, runtime: Runtime) -> ScoreMaps:
        """Score a batch, on the CPU; with `left_out`, an image is not compared with itself.

        Raises:
            ValueError: features of other shapes than the nominal ones, NaN, or no image to compare with.
        """
        import torch

        from ad_assets.kernels.nearest.bounds import exact_distances
        from ad_assets.kernels.nearest.search import nearest
        from ad_assets.kernels.smoothing import gaussian_blur, upsample

        pooled = _pooled(batch.taps, batch.region)
        queries = self._vectors([tap.to(runtime.device) for tap in batch.taps])
        (bank,) = state.vectors
        alike = queries.shape[2] == bank.shape[2] if self.roi_fit else queries.shape[1:] == bank.shape[1:]
        if pooled.shape[1] != state.pooled.shape[1] or not alike:
            raise ValueError(
                f"features give {tuple(queries.shape[1:])} vectors, the nominal images {tuple(bank.shape[1:])}: score "
                "with the extractor that they are from"
            )
        distances = exact_distances(pooled, state.pooled.to(pooled.device))
        excluded = self.excluded_ids(batch)
        own = {image_id: number for number, image_id in enumerate(state.image_ids)}
        grids, scores = [], []
        for number, row in enumerate(distances):
            itself = own.get(excluded[number]) if excluded is not None else None
            if itself is not None:
                row = row.clone()
                row[itself] = torch.inf
            count = min(self.neighbours, int(row.isfinite().sum()))
            if not count:
                raise ValueError(f"there is no nominal image but {state.image_ids[0]} itself: fit at least two images")
            near, images = row.topk(count, largest=False)
            scores.append((near.square() if self.squared else near).mean())
            rows = bank[images.to(bank.device)].flatten(0, 1)
            if len(rows) < self.pixel_neighbours:
                raise ValueError(
                    f"pixel_neighbours: {self.pixel_neighbours}, and {count} images have {len(rows)} vectors"
                )
            found, _ = nearest(
                queries[number],
                rows.to(runtime.device),
                self.pixel_neighbours,
                memory_gb=runtime.budget_gb(runtime.device),
            )
            grids.append(found.mean(dim=1))
        grid = batch.taps[0].shape[2:]
        filled = InspectedGrid(batch.region, grid).filled(torch.stack(grids)).unflatten(1, grid)
        maps = without_outside(gaussian_blur(upsample(filled, batch.map_size), self.sigma), batch.region)
        return ScoreMaps(maps.cpu(), torch.stack(scores).float().cpu())

    def describe(self, state: Pyramids) -> dict[str, int | float | str]:
        """How many images are kept."""
        return {**super().describe(state), "images": len(state.image_ids)}


def _pooled(taps: list[Tensor], region: Tensor | None = None) -> Tensor:
    """(B, C): the mean vector of the deepest layer, of its inspected cells.

    Raises:
        ValueError: NaN or infinity.
    """
    check_finite(*taps)
    if region is None:
        return taps[-1].mean(dim=(2, 3))
    cells = inspected_cells(region, taps[-1].shape[2:])
    return taps[-1][:, :, cells.to(taps[-1].device)].mean(dim=2)
