"""The toy detector of the docs: how far each place is from the mean nominal map."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from ad_assets.kernels.smoothing import gaussian_blur, upsample
from ad_assets.methods import Batch, Features, Method, Runtime, ScoreMaps, State
from ad_assets.methods.base import register, score_field


@dataclass(frozen=True)
class Mean(State):
    mean: torch.Tensor  # (C, h, w)


@register
class MeanTemplate(Method[Mean]):
    name: ClassVar[str] = "mean_template"
    version: ClassVar[int] = 1
    state_asset: ClassVar[Literal["template_set", "memory_bank", "trained_model"]] = "template_set"
    state_type: ClassVar[type[State]] = Mean

    sigma: float = score_field(2.0, ge=0, description="Gaussian smoothing of maps in pixels")

    def fit(self, features: Features, runtime: Runtime) -> Mean:
        total = sum(taps[0].sum(dim=0) for _, taps in features.batches())
        return Mean(torch.as_tensor(total) / len(features))

    def score(self, state: Mean, batch: Batch, runtime: Runtime) -> ScoreMaps:
        distances = torch.linalg.vector_norm(batch.taps[0] - state.mean, dim=1)
        maps = gaussian_blur(upsample(distances, batch.map_size), self.sigma)
        return ScoreMaps(maps, maps.amax(dim=(1, 2)))

    def describe(self, state: Mean) -> dict[str, Any]:
        return {"bytes": state.mean.nbytes}
