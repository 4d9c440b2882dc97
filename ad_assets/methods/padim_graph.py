"""The scoring graph of PaDiM: means, inverse Cholesky factors and the chosen channels are inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ad_assets.methods.scoring_graph import Blur, Inspected, ScoringGraph, StateInput, outside, upsampled

if TYPE_CHECKING:
    from ad_assets.methods.data import Frame
    from ad_assets.methods.padim import Gaussians, Padim


class PadimGraph(ScoringGraph):
    """Mahalanobis distances to the nominal vectors of the same place."""

    def __init__(self, method: Padim, frame: Frame) -> None:
        height, width = frame.taps[0][1:]
        joined = sum(shape[0] for shape in frame.taps)
        size, places = min(method.channels or joined, joined), height * width
        inputs = {
            "mean": StateInput((places, size)),
            "whitening": StateInput((places, size, size)),
            "channels": StateInput((size,), torch.int64),
        }
        super().__init__(frame, [(height, width)], inputs)
        self.grid, self.blur = (height, width), Blur(frame.map_size, method.sigma)

    def forward(self, taps: list[Tensor], state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As `ScoringGraph.forward`."""
        layers = [tap if tap.shape[2:] == self.grid else interpolate(tap, self.grid, mode="nearest") for tap in taps]
        vectors = torch.cat(layers, dim=1)[0].flatten(1)[state["channels"]].T
        away = torch.bmm(state["whitening"], (vectors - state["mean"])[:, :, None])
        distances = Inspected(state).filled(away.square().sum(dim=(1, 2))).sqrt()
        score_map = outside(self.blur(upsampled(distances, self.grid, self.frame.map_size)), state)
        return score_map, score_map.max()

    def tensors(self, state: Gaussians) -> dict[str, Tensor]:
        """Of the factors those of the whole covariances: a new image is left out of nothing."""
        return {
            "mean": state.mean.flatten(0, 1),
            "whitening": state.whitening[0],
            "channels": state.channels,
        }
