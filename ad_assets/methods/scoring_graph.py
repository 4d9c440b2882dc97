"""A method's scoring of one image as operations on tensors alone, which an exporter can write down as one graph.

What a method has learnt is an input of the graph and no constant of it, so an update changes a file of tensors and
leaves the graph as it is. All that follows from the state is worked out in the graph, or is a part of the state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from ad_assets.kernels.smoothing import Border, blur_matrices
from ad_assets.methods.patch_embedding import Pooling, patch_grid, pooling_kernels
from ad_assets.methods.region_of_interest import InspectedGrid

if TYPE_CHECKING:
    from ad_assets.methods.data import Frame

SPARE_CANDIDATES = 3  # rows that are compared exactly beyond those wanted: room for near ties
PRODUCT_VALUES = 1 << 23  # of what is gathered at once, float32
MOST_QUERIES = 1024  # at once, which bounds the products with all rows
PIXELS, CELLS = "roi.pixels", "roi.cells"
EXAMPLE_IMAGES = 5  # that stand for all numbers of images while a graph is written down


@dataclass(frozen=True)
class StateInput:
    """What a graph takes of the state under one name.

    Args:
        shape: of a tensor that stands for it while the graph is written down.
        dtype: of its values.
        follows: axes whose length follows what was learnt; the others are fixed.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    follows: tuple[int, ...] = ()


class ScoringGraph(nn.Module, ABC):
    """The scoring of one image by a method.

    Args:
        frame: the shapes of its inputs and of its map.
        grids: rows and columns of the grids whose cells a region of interest is laid on.
        inputs: what it takes of the state, by name, in the order of the graph's inputs.

    Attributes:
        inputs: the same, and what it takes of a region of interest.
    """

    def __init__(self, frame: Frame, grids: Sequence[tuple[int, int]], inputs: Mapping[str, StateInput]) -> None:
        super().__init__()
        self.frame, self._grids, self.inputs = frame, grids, dict(inputs)
        if frame.region:
            self.inputs[PIXELS] = StateInput(frame.map_size, torch.bool)
            for level, (height, width) in enumerate(grids):
                self.inputs[f"{CELLS}.{level}"] = StateInput((height * width,), torch.int64)

    @abstractmethod
    def forward(self, taps: list[Tensor], state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Score an image.

        Args:
            taps: each (1, C, h, w) float32, shallow to deep: those that the method reads.
            state: as `inputs` names it.

        Returns:
            The map (H, W) float32 and the image score, a scalar.
        """

    @abstractmethod
    def tensors(self, state: Any) -> dict[str, Tensor]:
        """What it takes of a state as `Method.prepare` returned it, by name."""

    def state(self, state: Any, region: Tensor | None) -> dict[str, Tensor]:
        """All that `inputs` names.

        Args:
            state: as `Method.prepare` returned it.
            region: (H, W) bool, in the frame of the map; None where `Frame.region` is false.
        """
        found = self.tensors(state)
        if region is not None:
            found[PIXELS] = region
            for level, grid in enumerate(self._grids):
                cells = torch.arange(grid[0] * grid[1])
                found[f"{CELLS}.{level}"] = InspectedGrid(region, grid).places(cells)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


class Inspected:
    """The cells of one grid, of which those outside the region of interest have the values of the nearest inspected.

    Args:
        state: of the graph.
        level: number of the grid.
    """

    def __init__(self, state: Mapping[str, Tensor], level: int = 0) -> None:
        self._nearest = state.get(f"{CELLS}.{level}")

    def filled(self, values: Tensor) -> Tensor:
        """Values (cells, ...)."""
        return values if self._nearest is None else values[self._nearest]

    def filled_tap(self, tap: Tensor) -> Tensor:
        """Features (1, C, h, w)."""
        return tap if self._nearest is None else tap.flatten(2)[:, :, self._nearest].reshape(tap.shape)

    def place(self, cell: Tensor) -> Tensor:
        """The inspected cell that the filled value of a cell is of."""
        return cell if self._nearest is None else self._nearest[cell]

    def mean(self, values: Tensor) -> Tensor:
        """The mean (C,) of values (C, cells) over the inspected cells."""
        if self._nearest is None:
            return values.mean(dim=1)
        inside = (self._nearest == torch.arange(values.shape[1], device=values.device)).to(values.dtype)
        return (values * inside).sum(dim=1) / inside.sum()


def outside(score_map: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """A map (H, W) with its lowest inspected score wherever nothing is inspected."""
    pixels = state.get(PIXELS)
    if pixels is None:
        return score_map
    lowest = torch.where(pixels, score_map, torch.inf).min()
    return torch.where(pixels, score_map, lowest)


def upsampled(values: Tensor, grid: Sequence[int], size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Values (cells,) of a grid as a map (H, W), bilinear."""
    cells = values.reshape(1, 1, grid[0], grid[1])
    return interpolate(cells, size=size, mode="bilinear", align_corners=align_corners)[0, 0]


class Blur(nn.Module):
    """The Gaussian of `gaussian_blur` for maps of one size.

    Args:
        size: (H, W).
        sigma: in pixels; 0: none.
        kernel: side of the kernel; None: it ends at 4 sigma.
        border: as there.
    """

    def __init__(self, size: tuple[int, int], sigma: float, kernel: int | None = None, border: Border = "reflect"):
        super().__init__()
        self._blurs = sigma > 0
        self.rows: Tensor
        self.columns: Tensor
        if self._blurs:
            rows, columns = blur_matrices(size, sigma, kernel, border)
            self.register_buffer("rows", rows.float())
            self.register_buffer("columns", columns.T.float().contiguous())

    def forward(self, score_map: Tensor) -> Tensor:
        """(H, W) to (H, W)."""
        return self.rows @ score_map @ self.columns if self._blurs else score_map


class PatchEmbedding(nn.Module):
    """`patch_embedding.embed` of one image.

    Args:
        frame: shapes of the taps.
        patch_size: as there.
        stride: as there.
        pre_dimensions: as there.
        dimensions: as there.
        pooling: as there.
    """

    def __init__(
        self, frame: Frame, *, patch_size: int, stride: int = 1, pre_dimensions: int, dimensions: int, pooling: Pooling
    ) -> None:
        super().__init__()
        self._patch, self._stride = patch_size, stride
        channels = tuple(shape[0] for shape in frame.taps)
        self.grid = patch_grid([torch.empty(1, *shape, device="meta") for shape in frame.taps], patch_size, stride)
        self.size = sum(channels) if pooling == "concat" else dimensions
        self._kernels: list[tuple[int, str, int]] = []
        if pooling == "authors":
            for level, (first, kernel, groups) in enumerate(
                pooling_kernels(channels, patch_size, pre_dimensions, dimensions)
            ):
                self.register_buffer(f"kernel{level}", torch.from_numpy(kernel))
                self._kernels.append((first, f"kernel{level}", groups))

    def forward(self, taps: list[Tensor]) -> Tensor:
        """Patches (P, D) of taps (1, C, h, w)."""
        parts = []
        border = (self._patch - 1) // 2
        for level, tap in enumerate(taps):
            if self._kernels:
                first, name, groups = self._kernels[level]
                part = conv2d(tap, self.get_buffer(name), stride=self._stride, padding=border, groups=groups)
            else:
                part = avg_pool2d(tap, self._patch, self._stride, border, count_include_pad=True)
            if part.shape[2:] != self.grid:
                part = interpolate(part, self.grid, mode="bilinear", align_corners=False)
            if self._kernels:  # taps may meet in one value, which both are parts of
                part = pad(part, (0, 0, 0, 0, first, self.size - first - part.shape[1]))
            parts.append(part)
        joined = torch.stack(parts).sum(dim=0) if self._kernels else torch.cat(parts, dim=1)
        return joined.flatten(2)[0].T


def nearest_rows(queries: Tensor, rows: Tensor, count: int, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The nearest rows (M, D) of queries (Q, D), nearest first, as `kernels.nearest.search` finds them.

    Products choose a few more than are wanted, and differences rank these. Beyond the last row distances are infinite.

    Args:
        queries: (Q, D) float32.
        rows: (M, D) float32.
        count: how many.
        present: (M,) bool, which rows there are; None: all.

    Returns:
        Distances (Q, count) float32 and numbers of rows (Q, count) int64.
    """
    last, wanted = rows.shape[0] - 1, count + SPARE_CANDIDATES
    centre = rows.mean(dim=0)
    # So many more than there are, infinitely far, that there are enough in every bank.
    centred = pad(rows - centre, (0, 0, 0, wanted))
    norms = (rows - centre).square().sum(dim=1)
    if present is not None:
        norms = torch.where(present, norms, torch.inf)
    norms = pad(norms, (0, wanted), value=torch.inf)
    step = max(1, min(MOST_QUERIES, PRODUCT_VALUES // (wanted * queries.shape[1])))
    found = []
    for some in queries.split(step):
        products = norms - 2 * ((some - centre) @ centred.T)
        _, chosen = products.topk(wanted, dim=1, largest=False)
        there = chosen.clamp(max=last)
        exact = (rows[there] - some[:, None]).square().sum(dim=2).sqrt()
        exact = torch.where(norms[chosen].isinf(), torch.inf, exact)
        distances, order = exact.topk(count, dim=1, largest=False)
        found.append((distances, there.gather(1, order)))
    return torch.cat([distances for distances, _ in found]), torch.cat([numbers for _, numbers in found])
