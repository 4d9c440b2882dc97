"""RAD: Zhang et al., Is Training Necessary for Anomaly Detection?, ICML 2026 (arXiv 2601.22763).

An image is compared with the nominal images most like it: the `neighbours` whose class tokens of the deepest block have
the largest cosines with its own. In each layer a patch scores the cosine distance to the nearest patch of these images
whose place is at most `radius` cells away along rows and columns. Layers are averaged, the grid is resized and
smoothed into a map, and an image scores the mean of the highest 1 % of its pixels.

The class token is the tap `class_token` of the extractor. Where the last tap has several cells, as of convolutional
networks, which have no such token, images are retrieved by its mean vector, as SPADE does.

The authors' public code (longkukuhi/RAD, commit b2dad44) reads DINOv3 ViT-B/16, blocks 3, 6, 9 and 11 from 0, each with
the final norm, at 448 pixels cropped of 512. What differs from it:

- one bank holds the images of all categories there, so that retrieval finds the product too. That is a joint lane
  (``method: joint``) here. A lane of its own holds those of one category: on MVTec AD 60 to 391, of which 150 are
  chosen; on VisA at most 905, so that 900 neighbours are as good as all;
- fewer nominal images than `neighbours` are refused there, all are compared with here;
- maps have the size of the extractor's input. There they have 256 pixels a side, and are smoothed there with a sigma of
  1: 1.75 of 448. Its kernel of 5 pixels ends at two sigma, and zeros beyond the border lower scores there; here it ends
  at four, and maps are mirrored;
- layers on grids of their own, as of convolutional networks, are compared on them and averaged as maps: on one grid
  that is the same;
- with a region of interest the highest 1 % are of the inspected pixels, and means of the inspected cells. A class token
  has seen the whole image.

Its weights of layers are not built: all its published commands average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ad_assets.methods.base import register, score_field
from ad_assets.methods.data import Batch, Features, Frame, Matches, ScoreMaps, check_finite
from ad_assets.methods.growth import added_images
from ad_assets.methods.region_of_interest import InspectedGrid, inspected_cells, without_outside
from ad_assets.methods.retrieval.image_retrieval import ImageRetrieval, Pyramids, mean_vector
from ad_assets.methods.retrieval.rad_growth import PatchGrowth
from ad_assets.methods.retrieval.rad_level import Level
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.scoring_graph import ScoringGraph

# As the commands in the authors' README have them.
PRESETS: dict[str, dict[str, Any]] = {
    "mvtec_ad": {"neighbours": 150, "radius": 1},
    "visa": {"neighbours": 900, "radius": 2},
}


@register
class Rad(ImageRetrieval):
    """Cosine distance to patches at the same place of the nominal images most like an image.

    >>> Rad(radius=2).stage_config("score")["radius"]
    2
    """

    name: ClassVar[str] = "rad"
    version: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    reads_class_token: ClassVar[bool] = True

    neighbours: int = score_field(150, ge=1, description="nominal images that an image is compared with")
    radius: int | None = score_field(
        1, ge=0, description="a patch is compared with those at most so many cells from its place; null: with all"
    )
    image_share: float = score_field(
        0.01, gt=0, le=1, description="part of the pixels, the highest, whose mean the image scores; one at least"
    )
    sigma: float = score_field(1.75, ge=0, le=1000, description="Gaussian smoothing of maps in pixels; 0: none")

    def pooled(self, taps: list[Tensor], region: Tensor | None = None) -> Tensor:
        """As `ImageRetrieval.pooled`: the class token, or the mean vector of the deepest layer, of length one."""
        from torch.nn.functional import normalize

        check_finite(*taps)
        return normalize(mean_vector(taps[-1], region), dim=1)

    def vectors(self, taps: list[Tensor]) -> list[Tensor]:
        """As `ImageRetrieval.vectors`: the patches of each layer, of length one."""
        from ad_assets.kernels.unit_vectors import unit_vectors

        return [unit_vectors(tap).flatten(2).mT for tap in compared(taps)]

    def grids(self, taps: list[Tensor]) -> list[tuple[int, int]]:
        """As `ImageRetrieval.grids`: those of the layers."""
        return [(tap.shape[2], tap.shape[3]) for tap in compared(taps)]

    def room(self, images: int, places: int, size: int, runtime: Runtime, beside: int) -> Tensor:
        """As `ImageRetrieval.room`: place by place."""
        return super().room(places, images, size, runtime, beside).transpose(0, 1)

    def kept(self, region: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """As `ImageRetrieval.kept`: all, as neighbours of a place are found by counting."""
        import torch

        del region
        return torch.arange(grid[0] * grid[1])

    @property
    def graph_fault(self) -> str:
        """As `Method.graph_fault`."""
        return ""

    def graph(self, frame: Frame) -> ScoringGraph:
        """As `Method.graph`."""
        from ad_assets.methods.retrieval.rad_graph import RadGraph

        return RadGraph(self, frame)

    def score(self, state: Pyramids, batch: Batch, runtime: Runtime) -> ScoreMaps:
        """Cosine distances, 0..2, on the CPU; with `left_out`, an image is not compared with itself.

        Raises:
            ValueError: features of other shapes than the nominal ones, NaN, or no image to compare with.
        """
        import torch

        from ad_assets.kernels.smoothing import gaussian_blur, upsample

        matches, grids, region = (
            batch.matches or self.search(state, batch, runtime),
            self.grids(batch.taps),
            batch.region,
        )
        total = torch.zeros(len(batch.taps[0]), *batch.map_size, device=runtime.device)
        for level, grid in enumerate(grids):
            distances = matches[f"level{level}"].to(runtime.device)
            filled = InspectedGrid(region, grid).filled(distances).unflatten(1, grid)
            total += upsample(filled, batch.map_size)
        maps = without_outside(gaussian_blur(total / len(grids), self.sigma), region)
        inside = maps.flatten(1) if region is None else maps[:, region.to(maps.device)]
        highest = inside.topk(max(1, int(self.image_share * inside.shape[1])), dim=1).values
        return ScoreMaps(maps.cpu(), highest.mean(dim=1).cpu())

    def match(
        self, state: Pyramids, images: Features, runtime: Runtime, *, left_out: bool = False
    ) -> Iterator[tuple[tuple[str, ...], Matches]]:
        """Yield the nominal images most like each, and the distances to the nearest of their patches; see `search`."""
        for ids, taps in images.batches():
            yield ids, self.search(state, Batch(taps, (0, 0), ids, left_out, region=images.region), runtime)

    def growth(self, state: Pyramids, earlier: Pyramids, runtime: Runtime) -> PatchGrowth | None:
        """As `Method.growth`."""
        added = added_images(earlier.image_ids, state.image_ids)
        return None if added is None else PatchGrowth(self, state, earlier.image_ids, added, runtime)

    def search(self, state: Pyramids, batch: Batch, runtime: Runtime) -> Matches:
        """What a batch finds among the nominal images, on the device.

        Returns:
            ``images`` (B, k) int64, the numbers of the nominal images most like each, ascending, -1 beyond the last;
            ``level0`` (B, P) and further ones, the cosine distances of the patches of each layer to the nearest.

        Raises:
            ValueError: as `score`.
        """
        import torch
        from torch.nn.functional import pad

        pooled, levels = self.described(state, batch, runtime)
        retrieved = [images.sort().values for _, images in self.retrieved(state, pooled, batch)]
        beyond = [pad(images, (0, self.neighbours - len(images)), value=-1) for images in retrieved]
        found = {"images": torch.stack(beyond)}
        for number, level in enumerate(levels):
            distances = [level.distances(row, images) for row, images in enumerate(retrieved)]
            found[f"level{number}"] = torch.stack(distances)
        return found

    def described(self, state: Pyramids, batch: Batch, runtime: Runtime) -> tuple[Tensor, list[Level]]:
        """What the images are retrieved by (B, C), and layer by layer their patches beside those of nominal images.

        Raises:
            ValueError: features of other shapes than the nominal ones, or NaN.
        """
        pooled, region = self.pooled(batch.taps, batch.region), batch.region
        queries = self.vectors([tap.to(runtime.device) for tap in batch.taps])
        shapes = [[tuple(level.shape[1:]) for level in levels] for levels in (queries, state.vectors)]
        if pooled.shape[1] != state.pooled.shape[1] or shapes[0] != shapes[1]:
            raise ValueError(
                f"features give {shapes[0]} vectors, the nominal images {shapes[1]}: score with the extractor that "
                "they are from"
            )
        levels = zip(queries, state.vectors, self.grids(batch.taps), strict=True)
        return pooled, [
            Level(
                query,
                bank,
                grid,
                self.radius,
                inspected_cells(region, grid).flatten() if self.roi_fit and region is not None else None,
                runtime.budget_gb(query.device),
            )
            for query, bank, grid in levels
        ]


def compared(taps: list[Tensor]) -> list[Tensor]:
    """The layers whose patches are compared: all but a last tap of one cell, which images are retrieved by."""
    return taps[:-1] if len(taps) > 1 and taps[-1].shape[2:].numel() == 1 else taps
