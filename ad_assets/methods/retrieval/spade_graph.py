"""The scoring graph of SPADE: the nominal images' vectors are inputs, of any number of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ad_assets.methods.scoring_graph import (
    EXAMPLE_IMAGES,
    Blur,
    Inspected,
    ScoringGraph,
    StateInput,
    nearest_rows,
    outside,
    upsampled,
)

if TYPE_CHECKING:
    from ad_assets.methods.data import Frame
    from ad_assets.methods.retrieval.image_retrieval import Pyramids
    from ad_assets.methods.retrieval.spade import Spade


class SpadeGraph(ScoringGraph):
    """Distances to the pixels of the nominal images most like an image."""

    def __init__(self, method: Spade, frame: Frame) -> None:
        self._layers = frame.taps[: method.pixel_layers]
        height, width = frame.taps[0][1:]
        size, places = sum(shape[0] for shape in self._layers), height * width
        # Of a region that vectors are taken inside of alone, how many there are is not known.
        follows = (0, 1) if method.roi_fit and frame.region else (0,)
        inputs = {
            "pooled": StateInput((EXAMPLE_IMAGES, frame.taps[-1][0]), follows=(0,)),
            "vectors": StateInput((EXAMPLE_IMAGES, places, size), follows=follows),
        }
        super().__init__(frame, [(height, width), (frame.taps[-1][1], frame.taps[-1][2])], inputs)
        self.grid, self.blur = (height, width), Blur(frame.map_size, method.sigma)
        self.neighbours, self.pixel_neighbours, self.squared = (
            method.neighbours,
            method.pixel_neighbours,
            method.squared,
        )

    def forward(self, taps: list[Tensor], state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As `ScoringGraph.forward`."""
        pooled = Inspected(state, 1).mean(taps[-1].flatten(2)[0])
        distances, order = (state["pooled"] - pooled).square().sum(dim=1).sqrt().sort()
        # As many places as neighbours, whatever the number of images: beyond it the last one is named, and not counted.
        numbers = torch.arange(self.neighbours)
        last = state["pooled"].shape[0] - 1
        there, places = numbers <= last, numbers.clamp(max=last)
        near = distances[places].square() if self.squared else distances[places]
        score = torch.where(there, near, 0.0).sum() / there.sum()
        layers = taps[: len(self._layers)]
        alike = [tap if tap.shape[2:] == self.grid else interpolate(tap, self.grid, mode="bilinear") for tap in layers]
        queries = torch.cat(alike, dim=1)
        vectors = state["vectors"][order[places]]
        present = there[:, None].expand(-1, vectors.shape[1]).flatten()
        found, _ = nearest_rows(queries[0].flatten(1).T, vectors.flatten(0, 1), self.pixel_neighbours, present)
        filled = Inspected(state).filled(found.mean(dim=1))
        return outside(self.blur(upsampled(filled, self.grid, self.frame.map_size)), state), score

    def tensors(self, state: Pyramids) -> dict[str, Tensor]:
        """All images."""
        return {"pooled": state.pooled, "vectors": state.vectors[0]}
