"""FOD: Yao et al., Focus the Discrepancy: Intra- and Inter-Correlation Learning for Image Anomaly Detection, ICCV 2023.

At every feature level a transformer reconstructs the tokens of an image, and learns how strongly nominal patches
correlate within the image and with reference features of the nominal images. A patch scores its reconstruction error
times a weight from the latter (equation 12); levels are resized (corners aligned) and averaged. The map is not
smoothed; the image score is its largest value after a Gaussian.

`fod_network` is the transformer with its losses, `fod_scores` the scores, `fod_references` the reference features,
`kernels/correlation` the hot loop; each says where the public implementation departs from the paper. Further:

- tokens are 3 x 3 means, as in the implementation (`pool: false` as in the paper);
- levels share nothing, so each has its optimiser. The implementation has one for both, which with the torch it pins
  moves either level once more by momentum;
- the headline is the last epoch. The implementation takes the best image AUROC and the best pixel AUROC on the test
  images, from different epochs: `oracle_every` reports that beside it.

A training step computes every image and level on a thread of its own, hence the number of threads changes nothing; with
the paper's batches of one image there are as many threads at work as levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from ad_assets.methods.base import fit_field, register, score_field
from ad_assets.methods.data import Batch, Features, Frame, ScoreMaps, check_finite
from ad_assets.methods.needs import Needs
from ad_assets.methods.region_of_interest import InspectedGrid, without_outside
from ad_assets.methods.runtime import Runtime
from ad_assets.methods.training.base import TrainedMethod, TrainedNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.fod.network import Branch, LevelNetwork
    from ad_assets.methods.fod.references import Reference
    from ad_assets.methods.scoring_graph import ScoringGraph
    from ad_assets.methods.training.loop import Training

Grid = tuple[int, int]


@register
class Fod(TrainedMethod):
    """Reconstruction error, weighed by how a patch correlates with nominal features.

    >>> Fod().widths
    (256, 512)
    """

    name: ClassVar[str] = "fod"
    lengths: ClassVar[tuple[str, ...]] = ("image_sigma", "sigma")
    version: ClassVar[int] = 1
    oracle_choice: ClassVar[Literal["image_auroc", "each"]] = "each"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Where the paper prints otherwise and either is an option here.
        "paper": {"pool": False, "residual": True, "printed_weight": True},
        # For CPUs: a fifth of the epochs, levels a quarter as wide, ten times the rate. It is no reproduction of the
        # paper. Features of other scales than the paper's upset the balance of its losses, hence their unit.
        "quick": {"widths": [64, 128], "heads": 2, "epochs": 20, "learning_rate": 1e-3, "unit": "features"},
    }

    epochs: int = fit_field(100, ge=1, description="passes over the nominal images")
    batch_size: int = fit_field(1, ge=1, description="images a step")
    learning_rate: float = fit_field(1e-4, gt=0, description="of Adam")
    widths: tuple[int, ...] = fit_field((256, 512), min_length=1, description="d_m of each level, shallow to deep")
    depth: int = fit_field(3, ge=1, description="layers of each transformer (table 13)")
    heads: int = fit_field(8, ge=1, description="of every attention (table 12)")
    pool: bool = fit_field(True, description="3 x 3 means of the features, zeros outside")
    unit: Literal["absolute", "features"] = fit_field(
        "absolute", description="of tokens: 1, or the deviation of a level's nominal tokens, which balances the losses"
    )
    intra: bool = fit_field(True, description="the branch of correlations within an image (table 4)")
    inter: bool = fit_field(True, description="the branch of correlations with the reference (table 4)")
    residual: bool = fit_field(False, description="equation 1; the implementation's cancels between the branches")
    optimisation: Literal["two_phase", "direct"] = fit_field("two_phase", description="table 10")
    divergence_weight: float = fit_field(0.5, ge=0, description="lambda 1")
    entropy_weight: float = fit_field(0.5, ge=0, description="lambda 2; 0: no entropy constraint (table 4)")
    sigma_base: float = fit_field(
        3.0, gt=1, le=1000, description="sigma of targets: base^sigmoid(slope z) - 1, in cells"
    )
    sigma_slope: float = fit_field(5.0, gt=0, description="slope in it")
    reference: Literal["mean", "nearest", "coreset", "prototype", "codebook"] = fit_field(
        "mean", description="reference features (table 15)"
    )
    window: int = fit_field(3, ge=1, description="side of the window of nearest references, in cells, odd")
    prototypes: int = fit_field(5, ge=1, description="prototypes of a place")
    codes: int = fit_field(512, ge=1, description="codes of the codebook")
    passes: int = fit_field(10, ge=1, description="over the images, for prototypes or codes")

    criterion: Literal["rec_div", "rec", "div"] = score_field(
        "rec_div", description="error times weight, error, or weight (table 4)"
    )
    weighing: Literal["inter", "intra", "both"] | None = score_field(
        None, description="branches that the weight comes from; null: inter, or the one that there is"
    )
    printed_weight: bool = score_field(False, description="equation 12 as printed")
    image_sigma: float = score_field(
        4.0, ge=0, le=1000, description="Gaussian in pixels ahead of the image score; 0: none"
    )
    sigma: float = score_field(0.0, ge=0, le=1000, description="Gaussian smoothing of maps in pixels; 0: none")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for width in self.widths:
            if width < 1 or width % 4 or width % self.heads:
                raise ValueError(f"widths: multiples of 4 and of the {self.heads} heads (got {width})")
        if self.window % 2 == 0:
            raise ValueError(f"window: odd, so that it has a middle (got {self.window})")
        readers = {"window": "nearest", "prototypes": "prototype", "codes": "codebook"}
        idle = {key for key, kind in readers.items() if self.reference != kind}
        if self.reference not in ("prototype", "codebook"):
            idle.add("passes")
        if not self.inter:
            idle.add("reference")
        if not (self.intra or self.inter):
            idle |= {"optimisation", "divergence_weight", "entropy_weight", "sigma_base", "sigma_slope"}
        if self.criterion == "rec":
            idle |= {"weighing"}
        if unread := sorted(idle & self.model_fields_set):
            raise ValueError(f"{', '.join(unread)}: nothing reads it with these settings; remove the key")
        missing = {"inter", "intra"} if self.weighing == "both" else {self.weighing} - {None}
        if (self.criterion != "rec" and not self.branches) or not missing <= set(self.branches):
            raise ValueError("weighing: by a branch that is there, or criterion 'rec'")
        return self

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches that there are."""
        intra: tuple[Branch, ...] = ("intra",) if self.intra else ()
        inter: tuple[Branch, ...] = ("inter",) if self.inter else ()
        return intra + inter

    def check_layers(self, count: int) -> None:
        """A width for each.

        Raises:
            ValueError: there are others.
        """
        if count != len(self.widths):
            raise ValueError(f"widths: {count} taps are read, so give as many (got {list(self.widths)})")

    def tokens(self, taps: list[Tensor], weights: Mapping[str, Tensor]) -> list[Tensor]:
        """Tokens (B, h w, C) of every level.

        Args:
            taps: each (B, C, h, w) float32.
            weights: hold the units, where tokens have one.

        Raises:
            ValueError: another number of taps than of widths, NaN or infinity.
        """
        self.check_layers(len(taps))
        return [self.level_tokens(tap, weights.get(f"units.{number}")) for number, tap in enumerate(taps)]

    def level_tokens(self, tap: Tensor, unit: Tensor | None) -> Tensor:
        """Tokens (B, h w, C) of one level's tap (B, C, h, w), in its unit if there is one.

        Raises:
            ValueError: NaN or infinity.
        """
        from torch.nn.functional import avg_pool2d

        check_finite(tap)
        pooled = avg_pool2d(tap, 3, 1, 1, count_include_pad=True) if self.pool else tap
        tokens = pooled.flatten(2).transpose(1, 2).contiguous()
        return tokens if unit is None else tokens / unit

    def level(self, number: int, channels: int) -> LevelNetwork:
        """The untrained network of one level; its weights come from torch's generator."""
        from ad_assets.methods.fod.network import LevelNetwork

        return LevelNetwork(
            channels,
            self.widths[number],
            depth=self.depth,
            heads=self.heads,
            branches=self.branches,
            residual=self.residual,
            base=self.sigma_base,
            slope=self.sigma_slope,
        )

    def training(self, features: Features, weights: dict[str, Tensor] | None, runtime: Runtime) -> Training:
        """One step: the losses of appendix A.1 in one backward pass, Adam for every level."""
        import torch

        from ad_assets.methods.fod.training import FodTraining

        sample = self.tokens(features.sample(), {})
        grids = [(tap.shape[2], tap.shape[3]) for tap in features.sample()]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            levels = [self.level(number, tokens.shape[2]) for number, tokens in enumerate(sample)]
        if weights is not None:
            for number, level in enumerate(levels):
                own = _under(weights, f"levels.{number}.")
                check_channels(own, sample[number].shape[2])
                level.load_state_dict(own)
        units = {name: tensor for name, tensor in (weights or {}).items() if name.startswith("units.")}
        return FodTraining(self, features, levels, grids, units, runtime)

    def references(self) -> Reference:
        """How reference features are made."""
        from ad_assets.methods.fod.references import Reference

        return Reference(
            self.reference,
            window=self.window,
            prototypes=self.prototypes,
            codes=self.codes,
            passes=self.passes,
            seed=self.seed,
        )

    def needs(self, taps: list[Tensor], images: int) -> Needs:
        """Some references are made of all images that train, level by level."""
        from ad_assets.methods.fod.references import TOKENS

        if not self.inter:
            return Needs()
        trained = images - round(self.held_out * images)
        sizes = [self.references().bytes_each(tap.shape[2] * tap.shape[3], tap.shape[1]) for tap in taps]
        stored = trained * sum(sizes) if self.reference == "nearest" else 0
        return Needs(held={TOKENS: trained * max(sizes)}, stored=stored)

    def is_parameter(self, name: str) -> bool:
        """All but the reference features and the units."""
        return name.startswith("levels.")

    @property
    def graph_fault(self) -> str:
        """As `Method.graph_fault`."""
        return ""

    def graph(self, frame: Frame) -> ScoringGraph:
        """As `Method.graph`."""
        from ad_assets.methods.fod.scoring_graph import FodGraph

        return FodGraph(self, frame)

    def score(self, state: TrainedNetwork, batch: Batch, runtime: Runtime) -> ScoreMaps:
        """Score a batch, on the CPU.

        Every patch attends to the whole image. So with a region of interest the tokens outside, too, are those of the
        nearest inspected places, and nothing of the outside enters a score.

        Raises:
            ValueError: features of other shapes than those trained on, or images to be left out.
        """
        import torch

        from ad_assets.kernels.smoothing import gaussian_blur, upsample

        self.refuse_left_out(batch.left_out)
        found = []
        for number, tokens in enumerate(self.tokens([tap.to(runtime.device) for tap in batch.taps], state.weights)):
            grid = (batch.taps[number].shape[2], batch.taps[number].shape[3])
            inspected = InspectedGrid(batch.region, grid)
            scores = inspected.filled(self._level_scores(state, number, inspected.filled(tokens), grid, runtime))
            found.append(upsample(scores.unflatten(1, grid), batch.map_size, align_corners=True))
        maps = torch.stack(found).mean(dim=0)
        blurred = (gaussian_blur(maps, sigma) for sigma in (self.image_sigma, self.sigma))
        for_image, maps = (without_outside(each, batch.region) for each in blurred)
        return ScoreMaps(maps.cpu(), for_image.amax(dim=(1, 2)).cpu())

    def _level_scores(self, state: TrainedNetwork, number: int, tokens: Tensor, grid: Grid, runtime: Runtime) -> Tensor:
        """(B, L) of one level; on a CPU every image is a task."""
        import torch

        from ad_assets.kernels.parallel import each
        from ad_assets.methods.fod.memory import largest_part, scoring_bytes
        from ad_assets.methods.fod.scores import patch_scores

        own = _under(state.weights, f"levels.{number}.")
        check_channels(own, tokens.shape[2])
        with torch.device("meta"):  # no weights are drawn: those of the state take their places
            level = self.level(number, tokens.shape[2])
        level.load_state_dict(own, assign=True)
        kept = _under(state.weights, f"references.{number}.")
        references = self.references()

        def score_images(images: Tensor) -> Tensor:
            budget = runtime.budget_gb(images.device)
            reference = references.features(kept, images, grid, memory_gb=budget) if self.inter else None
            return patch_scores(
                level,
                images,
                reference,
                grid,
                criterion=self.criterion,
                weighing=self.weighing or ("inter" if self.inter else "intra"),
                printed=self.printed_weight,
            )

        device = tokens.device.type
        need = partial(scoring_bytes, self, number, tokens.shape[2], grid)
        parts = range(1 if device == "cpu" else len(tokens), 0, -1)
        size = largest_part(parts, need, runtime.budget_gb(tokens.device) * 1e9 / 2)
        return torch.cat(list(each(score_images, tokens.split(size), device)))


def _under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names have a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def check_channels(weights: Mapping[str, Tensor], channels: int) -> None:
    """Refuse features that a level was not trained on.

    Raises:
        ValueError: naming both numbers, or that the level is not there.
    """
    embedding = weights.get("embedding.weight")
    known = embedding.shape[1] if embedding is not None else 0
    if known != channels:
        raise ValueError(
            f"a level has {channels} channels, the network was trained on {known}: use the extractor and layers that "
            "it was trained with"
        )
