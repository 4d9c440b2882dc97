"""SPADE: Cohen and Hoshen, Sub-Image Anomaly Detection with Deep Pyramid Correspondences, 2020.

An image is compared with the nominal images most like it: the `neighbours` whose deepest features, averaged over the
image, are nearest. The image score is the mean distance to them (section 3.2); a pixel's score is the smallest distance
of its feature vector to any vector of these images, at any place (section 3.3). Vectors are the layers joined on the
grid of the first, deeper ones resized bilinearly.

Distances are plain L2; the paper squares them for the image score, which is `squared: true`.

For blind settings (Zhang et al., 2023, section 5): an image is never compared with itself, and `pixel_neighbours` above
one is their SPADE-Cluster (section 5.2), the mean distance to so many vectors. They read layers 2 and 3 only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from ad_assets.methods.base import fit_field, register, score_field
from ad_assets.methods.data import Batch, Features, Frame, Matches, ScoreMaps, check_finite
from ad_assets.methods.growth import added_images
from ad_assets.methods.patch_embedding import embed
from ad_assets.methods.region_of_interest import InspectedGrid, without_outside
from ad_assets.methods.retrieval.image_retrieval import ImageRetrieval, Pyramids, mean_vector
from ad_assets.methods.retrieval.spade_growth import VectorGrowth, nearest_vectors
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.scoring_graph import ScoringGraph


@register
class Spade(ImageRetrieval):
    """Distance to the pixels of the nominal images most like an image.

    >>> Spade(neighbours=20).stage_config("score")["neighbours"]
    20
    """

    name: ClassVar[str] = "spade"
    version: ClassVar[int] = 1

    pixel_layers: int | None = fit_field(
        None, ge=1, description="so many layers, from the first, describe pixels; null: all. The last describes images"
    )

    pixel_neighbours: int = score_field(1, ge=1, description="a pixel scores the mean distance to so many vectors")
    squared: bool = score_field(False, description="squared distances in the image score")

    def check_layers(self, count: int) -> None:
        """There are as many layers as describe pixels.

        Raises:
            ValueError: naming the parameter.
        """
        if self.pixel_layers is not None and self.pixel_layers > count:
            raise ValueError(f"pixel_layers: {self.pixel_layers} of {count} layers; give at most {count}, or null")

    def pooled(self, taps: list[Tensor], region: Tensor | None = None) -> Tensor:
        """As `ImageRetrieval.pooled`: the mean vector of the deepest layer."""
        check_finite(*taps)
        return mean_vector(taps[-1], region)

    def vectors(self, taps: list[Tensor]) -> list[Tensor]:
        """As `ImageRetrieval.vectors`: one level of joined layers."""
        return [embed(taps[: self.pixel_layers], patch_size=1, pooling="concat")]

    def grids(self, taps: list[Tensor]) -> list[tuple[int, int]]:
        """As `ImageRetrieval.grids`."""
        return [(taps[0].shape[2], taps[0].shape[3])]

    @property
    def graph_fault(self) -> str:
        """As `Method.graph_fault`."""
        return ""

    def graph(self, frame: Frame) -> ScoringGraph:
        """As `Method.graph`."""
        from ad_assets.methods.retrieval.spade_graph import SpadeGraph

        return SpadeGraph(self, frame)

    def score(self, state: Pyramids, batch: Batch, runtime: Runtime) -> ScoreMaps:
        """Score a batch, on the CPU; with `left_out`, an image is not compared with itself.

        Raises:
            ValueError: features of other shapes than the nominal ones, NaN, or no image to compare with.
        """
        import torch

        from ad_assets.kernels.smoothing import gaussian_blur, upsample

        found = batch.matches or self.search(state, batch, runtime)
        scores = []
        for near, images in zip(found["near"], found["images"], strict=True):
            near = near[images >= 0]
            scores.append((near.square() if self.squared else near).mean())
        grid = batch.taps[0].shape[2:]
        distances = found["distances"].to(runtime.device).mean(dim=2)
        filled = InspectedGrid(batch.region, grid).filled(distances).unflatten(1, grid)
        maps = without_outside(gaussian_blur(upsample(filled, batch.map_size), self.sigma), batch.region)
        return ScoreMaps(maps.cpu(), torch.stack(scores).float().cpu())

    def match(
        self, state: Pyramids, images: Features, runtime: Runtime, *, left_out: bool = False
    ) -> Iterator[tuple[tuple[str, ...], Matches]]:
        """Yield the nominal images most like each, and the nearest of their vectors for every place; see `search`."""
        for ids, taps in images.batches():
            yield ids, self.search(state, Batch(taps, (0, 0), ids, left_out, region=images.region), runtime)

    def growth(self, state: Pyramids, earlier: Pyramids, runtime: Runtime) -> VectorGrowth | None:
        """As `Method.growth`."""
        added = added_images(earlier.image_ids, state.image_ids)
        return None if added is None else VectorGrowth(self, state, earlier.image_ids, added, runtime)

    def search(self, state: Pyramids, batch: Batch, runtime: Runtime) -> Matches:
        """What a batch finds among the nominal images.

        Returns:
            ``images`` (B, k) int64, the numbers of the nominal images most like each, nearest first, and ``near``
            (B, k), how far they are; -1 and infinity beyond the last. ``distances`` (B, P, n) float32 and ``rows``
            (B, P, n) int64: the nearest of their vectors, number of the image times vectors of an image plus number of
            the vector.

        Raises:
            ValueError: as `score`.
        """
        import torch
        from torch.nn.functional import pad

        pooled, queries = self.described(state, batch, runtime)
        found: dict[str, list[Tensor]] = {"near": [], "images": [], "distances": [], "rows": []}
        for query, (near, images) in zip(queries, self.retrieved(state, pooled, batch), strict=True):
            if len(images) * state.vectors[0].shape[1] < self.pixel_neighbours:
                raise ValueError(
                    f"pixel_neighbours: {self.pixel_neighbours}, and {len(images)} images have "
                    f"{len(images) * state.vectors[0].shape[1]} vectors"
                )
            distances, rows = nearest_vectors(state, query, images, self.pixel_neighbours, runtime)
            beyond = (0, self.neighbours - len(near))
            found["near"].append(pad(near, beyond, value=torch.inf))
            found["images"].append(pad(images, beyond, value=-1))
            found["distances"].append(distances)
            found["rows"].append(rows)
        return {name: torch.stack(each) for name, each in found.items()}

    def described(self, state: Pyramids, batch: Batch, runtime: Runtime) -> tuple[Tensor, Tensor]:
        """What the images are retrieved by (B, C), and their vectors (B, P, D) on the device.

        Raises:
            ValueError: features of other shapes than the nominal ones, or NaN.
        """
        pooled = self.pooled(batch.taps, batch.region)
        (queries,) = self.vectors([tap.to(runtime.device) for tap in batch.taps])
        (bank,) = state.vectors
        alike = queries.shape[2] == bank.shape[2] if self.roi_fit else queries.shape[1:] == bank.shape[1:]
        if pooled.shape[1] != state.pooled.shape[1] or not alike:
            raise ValueError(
                f"features give {tuple(queries.shape[1:])} vectors, the nominal images {tuple(bank.shape[1:])}: score "
                "with the extractor that they are from"
            )
        return pooled, queries
