"""The scoring graph of SimpleNet: the folded weights are inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import leaky_relu

from ad_assets.kernels.discriminator import SLOPE
from ad_assets.methods.scoring_graph import (
    Blur,
    Inspected,
    PatchEmbedding,
    ScoringGraph,
    StateInput,
    outside,
    upsampled,
)

if TYPE_CHECKING:
    from ad_assets.methods.data import Frame
    from ad_assets.methods.simplenet import SimpleNet
    from ad_assets.methods.training.base import TrainedNetwork

WEIGHT, BIAS = "adaptor.0.weight", "adaptor.0.bias"  # of an adaptor of two layers, the second of which is folded


class SimpleNetGraph(ScoringGraph):
    """Minus the discriminator's output."""

    def __init__(self, method: SimpleNet, frame: Frame) -> None:
        embedding = PatchEmbedding(
            frame,
            patch_size=method.patch_size,
            pre_dimensions=method.pre_dimensions,
            dimensions=method.dimensions,
            pooling=method.pooling,
        )
        size, hidden = embedding.size, method.hidden_units
        inputs = {
            "folded.weight": StateInput((hidden, size)),
            "folded.bias": StateInput((hidden,)),
            "last": StateInput((1, hidden)),
        }
        if method.adaptor == "mlp":
            inputs[WEIGHT] = StateInput((size, size))
            if method.adaptor_bias:
                inputs[BIAS] = StateInput((size,))
        super().__init__(frame, [embedding.grid], inputs)
        self.embedding, self.blur = embedding, Blur(frame.map_size, method.sigma)

    def forward(self, taps: list[Tensor], state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As `ScoringGraph.forward`."""
        patches = self.embedding(taps)
        if WEIGHT in state:
            hidden = patches @ state[WEIGHT].T
            patches = leaky_relu(hidden + state[BIAS] if BIAS in state else hidden, SLOPE)
        hidden = leaky_relu(patches @ state["folded.weight"].T + state["folded.bias"], SLOPE)
        scores = Inspected(state).filled(-(hidden @ state["last"][0]))
        score_map = self.blur(upsampled(scores, self.embedding.grid, self.frame.map_size))
        return outside(score_map, state), scores.max()

    def tensors(self, state: TrainedNetwork) -> dict[str, Tensor]:
        """The folded weights, and those of the adaptor's first layer where it has two."""
        return {name: state.weights[name] for name in self.inputs if name in state.weights}
