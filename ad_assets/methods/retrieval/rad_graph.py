"""The scoring graph of RAD: the nominal images' vectors are inputs, of any number of images.

All nominal images are compared with, and those that are not retrieved do not count: which they are follows from the
image, and what is chosen by it would be copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ad_assets.methods.scoring_graph import (
    CELLS,
    EXAMPLE_IMAGES,
    PIXELS,
    Blur,
    Inspected,
    ScoringGraph,
    StateInput,
    nearest_rows,
    outside,
    upsampled,
)
from ad_assets.methods.windowed_cosines import NEVER, WindowedCosines

if TYPE_CHECKING:
    from ad_assets.methods.data import Frame
    from ad_assets.methods.retrieval.image_retrieval import Pyramids
    from ad_assets.methods.retrieval.rad import Rad


class RadGraph(ScoringGraph):
    """Cosine distances to patches at the same place of the nominal images most like an image."""

    def __init__(self, method: Rad, frame: Frame) -> None:
        own_tap = len(frame.taps) > 1 and frame.taps[-1][1:] == (1, 1)
        layers = frame.taps[:-1] if own_tap else frame.taps
        grids = [(height, width) for _, height, width in layers]
        inputs = {"pooled": StateInput((EXAMPLE_IMAGES, frame.taps[-1][0]), follows=(0,))} | {
            f"vectors.{level}": StateInput((height, width, EXAMPLE_IMAGES, channels), follows=(2,))
            for level, (channels, height, width) in enumerate(layers)
        }
        # The last grid is that of what images are retrieved by.
        super().__init__(frame, [*grids, (frame.taps[-1][1], frame.taps[-1][2])], inputs)
        self.grids, self.method = grids, method
        self.blur = Blur(frame.map_size, method.sigma)
        self.windows = nn.ModuleList(WindowedCosines(grid, method.radius or 0) for grid in grids)

    def forward(self, taps: list[Tensor], state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As `ScoringGraph.forward`."""
        mean = Inspected(state, len(self.grids)).mean(taps[-1].flatten(2)[0])
        away = (state["pooled"] - normalize(mean, dim=0)).square().sum(dim=1)
        # The distance of the last that is retrieved, of however few: images as near as that are like it.
        last = torch.arange(self.method.neighbours).clamp(max=away.shape[0] - 1)[-1:]
        retrieved = away <= away.sort().values[last]
        found = []
        for level, grid in enumerate(self.grids):
            query = normalize(taps[level], dim=1)[0].permute(1, 2, 0)
            distances = self._distances(level, query, state, retrieved)
            filled = Inspected(state, level).filled(distances.flatten())
            found.append(upsampled(filled, grid, self.frame.map_size))
        blurred = outside(self.blur(torch.stack(found).mean(dim=0)), state)
        return blurred, self._image_score(blurred, state)

    def _distances(self, level: int, query: Tensor, state: Mapping[str, Tensor], retrieved: Tensor) -> Tensor:
        """(H, W) or (H W,) cosine distances of unit vectors (H, W, C)."""
        vectors, met = state[f"vectors.{level}"], None
        if self.method.roi_fit and self.frame.region:
            cells = state[f"{CELLS}.{level}"]
            met = cells == torch.arange(cells.shape[0])
        if self.method.radius is None:
            rows = vectors.flatten(0, 1)
            present = retrieved[None].expand(rows.shape[0], -1)
            present = present if met is None else present & met[:, None]
            away, _ = nearest_rows(query.flatten(0, 1), rows.flatten(0, 1), 1, present.flatten())
            return away[:, 0].square() / 2
        windows = cast(WindowedCosines, self.windows[level])
        largest = torch.full(self.grids[level], NEVER)
        met = met if met is None else met.reshape(self.grids[level])
        for down, first, best in windows.tables(query, vectors, counted=retrieved, met=met):
            own = windows.of_queries(best, windows.reach)
            largest = torch.maximum(largest, windows.placed(own, first + down))
        return (1 - largest).clamp(0, 2)

    def _image_score(self, blurred: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """The mean of the highest pixels, of those that are inspected."""
        pixels = blurred.flatten()
        if PIXELS not in state:
            return pixels.topk(max(1, int(self.method.image_share * pixels.shape[0]))).values.mean()
        inspected = state[PIXELS].flatten()
        # In double precision a share of a whole number of pixels is that number, as it is in Python.
        count = (self.method.image_share * inspected.sum().double()).long().clamp(min=1)
        ordered = torch.where(inspected, pixels, NEVER).sort(descending=True).values
        highest = torch.arange(pixels.shape[0]) < count
        return torch.where(highest, ordered, 0.0).sum() / count

    def tensors(self, state: Pyramids) -> dict[str, Tensor]:
        """All images."""
        return {"pooled": state.pooled} | {
            f"vectors.{level}": vectors.transpose(0, 1).unflatten(0, grid)
            for level, (vectors, grid) in enumerate(zip(state.vectors, self.grids, strict=True))
        }
