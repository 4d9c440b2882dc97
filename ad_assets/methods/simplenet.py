"""SimpleNet: Liu et al., A Simple TrainedNetwork for Image Anomaly Detection and Localization, CVPR 2023.

An adaptor moves patch features towards the product (equation 5); a discriminator learns to tell them from themselves
with Gaussian noise (equations 6 to 8); minus its output is the anomaly score (equation 9). The image score is the
largest patch score (equation 11), the map is the grid, resized bilinearly and smoothed.

Choices where the paper and its public implementation differ (``preset: paper`` has the paper's):

- patches are pooled to 768 + 768 values as the implementation does; `pooling: concat` joins all channels;
- the adaptor has a bias and decoupled weight decay of 0.01; the paper has none, and Adam with 1e-5 for both;
- batches of 8 images, the paper 4. Noise is drawn for every image and epoch, so a batch does not shift it;
- the headline is the last epoch. The implementation, and so the paper's table, keeps the epoch with the best image
  AUROC on the test images: `oracle_every: 4` reports that beside it.

The biases ahead of the batch norm do not train (`kernels/discriminator.py`): the norm takes them out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from ad_assets.methods.base import fit_field, register, score_field
from ad_assets.methods.data import Batch, Features, Frame, LoadMatches, ScoreMaps, check_finite
from ad_assets.methods.patch_embedding import Pooling, embed, patch_grid
from ad_assets.methods.region_of_interest import InspectedGrid, without_outside
from ad_assets.methods.runtime import Runtime
from ad_assets.methods.training.base import TrainedMethod, TrainedNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.kernels.discriminator import HeadWeights
    from ad_assets.methods.scoring_graph import ScoringGraph
    from ad_assets.methods.training.loop import Training


@register
class SimpleNet(TrainedMethod):
    """A discriminator of features and noisy features.

    >>> SimpleNet().noise_sigma
    0.015
    """

    name: ClassVar[str] = "simplenet"
    lengths: ClassVar[tuple[str, ...]] = ("sigma",)
    version: ClassVar[int] = 1
    later: ClassVar[frozenset[str]] = TrainedMethod.later | {"patches_per_image"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "batch_size": 4,
            "adaptor_bias": False,
            "adaptor_weight_decay": 1e-5,
            "decoupled_decay": False,
        },
        # For CPUs: half the epochs on a quarter of the patches, five times the rates, a quarter of the units. No
        # reproduction of the paper. Steps of few patches of many images take less time than those of whole images, and
        # images that differ from one another stay near the running values of the norm. The paper's sigma suits
        # WideResNet50; of the parts 0.1, 0.25, ... of a deviation this one told left-out nominal images best from the
        # same with drawn defects (docs/results.md).
        "quick": {
            "epochs": 80,
            "batch_size": 16,
            "patches_per_image": 256,
            "hidden_units": 256,
            "adaptor_lr": 5e-4,
            "discriminator_lr": 1e-3,
            "noise_unit": "features",
            "noise_sigma": 0.5,
        },
    }

    epochs: int = fit_field(160, ge=1, description="passes over the nominal images")
    batch_size: int = fit_field(8, ge=1, description="images a step")
    patches_per_image: int | None = fit_field(
        None, ge=1, description="patches of an image that train in an epoch, drawn anew in each, at most; null: all"
    )
    pooling: Pooling = fit_field("authors", description="how a neighbourhood becomes a vector; see embedding.py")
    patch_size: int = fit_field(3, ge=1, description="side of the neighbourhood in cells")
    pre_dimensions: int = fit_field(1536, ge=1, description="values a tap is pooled to (authors)")
    dimensions: int = fit_field(1536, ge=1, description="values a patch ends up with (authors)")
    adaptor: Literal["linear", "none", "mlp"] = fit_field("linear", description="table 3")
    adaptor_bias: bool = fit_field(True, description="whether its layers have biases")
    hidden_units: int = fit_field(1024, ge=1, description="of the discriminator")
    noise_sigma: float = fit_field(0.015, gt=0, description="standard deviation of the noise")
    noise_unit: Literal["absolute", "features"] = fit_field(
        "absolute", description="of noise_sigma: 1, or the deviation of the nominal patches' values"
    )
    noise_mix: int = fit_field(1, ge=1, description="scales of noise, each 1.1 times the one before, drawn by patch")
    loss: Literal["truncated", "cross_entropy"] = fit_field("truncated", description="equation 7, or as in table 3")
    margin: float = fit_field(0.5, ge=0, description="th of equation 7")
    adaptor_lr: float = fit_field(1e-4, gt=0, description="learning rate of the adaptor")
    discriminator_lr: float = fit_field(2e-4, gt=0, description="learning rate of the discriminator")
    adaptor_weight_decay: float = fit_field(0.01, ge=0, description="of the adaptor")
    decoupled_decay: bool = fit_field(True, description="the adaptor's as AdamW has it; else as Adam")
    discriminator_weight_decay: float = fit_field(1e-5, ge=0, description="of the discriminator, as Adam has it")
    roi_fit: bool = fit_field(False, description="no patch outside the region of interest trains")

    sigma: float = score_field(4.0, ge=0, le=1000, description="Gaussian smoothing of maps in pixels; 0: none")

    @model_validator(mode="after")
    def _no_idle_options(self) -> Self:
        idle = {"pre_dimensions", "dimensions"} & self.model_fields_set
        if self.pooling == "concat" and idle:
            raise ValueError(f"{', '.join(sorted(idle))}: pooling 'concat' keeps every channel; remove the key")
        return self

    def embed(self, taps: list[Tensor]) -> Tensor:
        """Patch features (B, rows * columns, D) float32.

        Raises:
            ValueError: the taps do not suit the parameters, or hold NaN or infinity.
        """
        patches = embed(
            taps,
            patch_size=self.patch_size,
            pre_dimensions=self.pre_dimensions,
            dimensions=self.dimensions,
            pooling=self.pooling,
        )
        check_finite(patches)
        return patches

    def training(self, features: Features, weights: dict[str, Tensor] | None, runtime: Runtime) -> Training:
        """One step: the gradients of `kernels/discriminator.py`, Adam for the discriminator, AdamW for the adaptor."""
        from ad_assets.methods.simplenet_training import SimpleNetTraining

        return SimpleNetTraining(self, features, weights, runtime)

    def initial_weights(self, dimensions: int) -> dict[str, Tensor]:
        """Normal weights as Glorot has them, uniform biases, by name; drawn with the seed."""
        import torch

        generator = torch.Generator().manual_seed(self.seed)

        def linear(name: str, inputs: int, outputs: int, *, bias: bool) -> dict[str, Tensor]:
            deviation = (2 / (inputs + outputs)) ** 0.5
            found = {f"{name}.weight": torch.randn(outputs, inputs, generator=generator) * deviation}
            if bias:
                found[f"{name}.bias"] = (torch.rand(outputs, generator=generator) * 2 - 1) / inputs**0.5
            return found

        weights: dict[str, Tensor] = {}
        for number in range({"none": 0, "linear": 1, "mlp": 2}[self.adaptor]):
            weights |= linear(f"adaptor.{number}", dimensions, dimensions, bias=self.adaptor_bias)
        weights |= linear("first", dimensions, self.hidden_units, bias=True)
        weights |= {"norm.scale": torch.ones(self.hidden_units), "norm.shift": torch.zeros(self.hidden_units)}
        weights |= {
            "norm.running_mean": torch.zeros(self.hidden_units),
            "norm.running_variance": torch.ones(self.hidden_units),
        }
        return weights | linear("last", self.hidden_units, 1, bias=False)

    def optimizers(self, head: HeadWeights, device: str = "cpu") -> list[Any]:
        """Of the discriminator, and of the adaptor if there is one; all tensors lie on the device."""
        from torch.optim import Adam, AdamW

        from ad_assets.methods.training.loop import fused

        discriminator = [*head.first, *head.norm[:2], head.last]
        at_once = fused(device)
        decay = self.discriminator_weight_decay
        found: list[Any] = [Adam(discriminator, self.discriminator_lr, weight_decay=decay, fused=at_once)]
        adaptor = [tensor for layer in head.adaptor for tensor in layer if tensor is not None]
        if adaptor:
            kind = AdamW if self.decoupled_decay else Adam
            found.append(kind(adaptor, self.adaptor_lr, weight_decay=self.adaptor_weight_decay, fused=at_once))
        return found

    def is_parameter(self, name: str) -> bool:
        """All but the running values of the batch norm and the unit of the noise."""
        return "running" not in name and name != "noise.unit"

    def prepare(
        self, state: TrainedNetwork, train: Features, runtime: Runtime, load_matches: LoadMatches | None = None
    ) -> TrainedNetwork:
        """Fold the batch norm, and an adaptor of one layer, into one linear layer."""
        from ad_assets.kernels.discriminator import folded
        from ad_assets.methods.simplenet_training import head_of

        del train, runtime, load_matches
        weight, bias = folded(head_of(state.weights))
        left = {name: state.weights[name] for name in state.weights if name.startswith("adaptor.0.")}
        kept = left if self.adaptor == "mlp" else {}
        folds = {"folded.weight": weight, "folded.bias": bias, "last": state.weights["last.weight"]}
        return replace(state, weights={**kept, **folds})

    @property
    def graph_fault(self) -> str:
        """As `Method.graph_fault`."""
        return ""

    def graph(self, frame: Frame) -> ScoringGraph:
        """As `Method.graph`."""
        from ad_assets.methods.simplenet_graph import SimpleNetGraph

        return SimpleNetGraph(self, frame)

    def score(self, state: TrainedNetwork, batch: Batch, runtime: Runtime) -> ScoreMaps:
        """Score a batch: minus the discriminator's output, on the CPU.

        Raises:
            ValueError: features of other shapes than those trained on, or images to be left out.
        """
        from ad_assets.kernels.discriminator import patch_scores
        from ad_assets.kernels.smoothing import gaussian_blur, upsample
        from ad_assets.methods.simplenet_training import check_dimensions, layers_of

        self.refuse_left_out(batch.left_out)
        taps = [tap.to(runtime.device) for tap in batch.taps]
        grid = patch_grid(taps, self.patch_size)
        patches = self.embed(taps)
        check_dimensions(state.weights, patches.shape[2])
        scores = patch_scores(
            layers_of(state.weights, "adaptor"),
            (state.weights["folded.weight"], state.weights["folded.bias"]),
            state.weights["last"],
            patches,
        )
        scores = InspectedGrid(batch.region, grid).filled(scores)
        maps = gaussian_blur(upsample(scores.unflatten(1, grid), batch.map_size), self.sigma)
        return ScoreMaps(without_outside(maps, batch.region).cpu(), scores.amax(dim=1).cpu())
