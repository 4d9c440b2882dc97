"""The scoring graph of FOD: the networks' weights and the reference features are inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import avg_pool2d, normalize, pad

from ad_assets.methods.fod.network import BRANCHES, Branch, Correlation, LevelNetwork
from ad_assets.methods.fod.scores import errors, weights
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
    from ad_assets.methods.fod.fod import Fod
    from ad_assets.methods.training.base import TrainedNetwork


class FodGraph(ScoringGraph):
    """Reconstruction errors of every level, weighed by how a patch correlates."""

    def __init__(self, method: Fod, frame: Frame) -> None:
        grids = [(shape[1], shape[2]) for shape in frame.taps]
        with torch.random.fork_rng(devices=[]):
            networks = [method.level(number, shape[0]).eval() for number, shape in enumerate(frame.taps)]
        inputs: dict[str, StateInput] = {}
        for number, (level, shape) in enumerate(zip(networks, frame.taps, strict=True)):
            for module in level.modules():
                if isinstance(module, Correlation):
                    module.plain = True
            own = level.state_dict().items()
            inputs |= {f"levels.{number}.{name}": StateInput(tuple(tensor.shape)) for name, tensor in own}
            inputs |= _reference_inputs(method, number, shape)
            if method.unit == "features":
                inputs[f"units.{number}"] = StateInput((1,))
        super().__init__(frame, grids, inputs)
        self.method, self.grids = method, grids
        self._levels: list[LevelNetwork] = networks  # a list is no part of the module: their weights are inputs
        wanted: Collection[Branch] = () if method.criterion == "rec" else BRANCHES
        weighing = method.weighing or ("inter" if method.inter else "intra")
        self._wanted = tuple(branch for branch in wanted if weighing in ("both", branch))
        self.image_blur = Blur(frame.map_size, method.image_sigma)
        self.blur = Blur(frame.map_size, method.sigma)

    def forward(self, taps: list[Tensor], state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As `ScoringGraph.forward`."""
        found = []
        for number, tap in enumerate(taps):
            inspected = Inspected(state, number)
            pooled = avg_pool2d(tap, 3, 1, 1, count_include_pad=True) if self.method.pool else tap
            tokens = pooled.flatten(2).transpose(1, 2)
            unit = state.get(f"units.{number}")
            tokens = inspected.filled((tokens if unit is None else tokens / unit)[0])[None]
            scores = inspected.filled(self._scores(number, tokens, state)[0])
            found.append(upsampled(scores, self.grids[number], self.frame.map_size, align_corners=True))
        score_map = torch.stack(found).mean(dim=0)
        for_image = outside(self.image_blur(score_map), state)
        return outside(self.blur(score_map), state), for_image.max()

    def _scores(self, number: int, tokens: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """(1, L)."""
        method, grid, wanted = self.method, self.grids[number], self._wanted
        own = _under(state, f"levels.{number}.")
        kept = _under(state, f"references.{number}.")
        reference = _reference(method, kept, tokens[0], grid) if method.inter else None
        how = {"correlations": wanted, "entropy": False}
        result = functional_call(self._levels[number], own, (tokens, reference, grid), how, strict=True)
        if method.criterion == "div":
            return weights(result, printed=method.printed_weight)
        error = errors(tokens, result.tokens, printed=method.printed_weight)
        return error * weights(result, printed=method.printed_weight) if wanted else error

    def tensors(self, state: TrainedNetwork) -> dict[str, Tensor]:
        """Weights, units and reference features."""
        known = {name: state.weights[name] for name in self.inputs if name in state.weights}
        return {name: tensor.reshape(1) if tensor.ndim == 0 else tensor for name, tensor in known.items()}


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _reference_inputs(method: Fod, number: int, shape: tuple[int, ...]) -> dict[str, StateInput]:
    if not method.inter:
        return {}
    channels, places = shape[0], shape[1] * shape[2]
    name, own = {
        "mean": ("mean", StateInput((places, channels))),
        "coreset": ("rows", StateInput((places, channels))),
        "codebook": ("codes", StateInput((method.codes, channels))),
        "prototype": ("prototypes", StateInput((places, method.prototypes, channels))),
        "nearest": ("bank", StateInput((places, EXAMPLE_IMAGES, channels), follows=(1,))),
    }[method.reference]
    return {f"references.{number}.{name}": own}


def _reference(method: Fod, tensors: Mapping[str, Tensor], tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Reference features (1, L, D) of tokens (L, D), as `Reference.features` has them for a new image."""
    [own] = tensors.values()
    if method.reference in ("mean", "coreset"):
        return own[None]
    if method.reference == "codebook":
        _, chosen = nearest_rows(tokens, own, 1)
        return own[chosen[:, 0]][None]
    if method.reference == "prototype":
        products = (own @ normalize(tokens, dim=1)[:, :, None])[:, :, 0]
        return own[torch.arange(len(tokens)), products.argmax(dim=1)][None]
    return _nearest(own, tokens, grid, method.window)[None]


def _nearest(bank: Tensor, tokens: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """(L, D): for each of the tokens (L, D) the nearest of all images (L, N, D) in the window around its place."""
    (height, width), reach = grid, window // 2
    rows, own = bank.unflatten(0, grid), tokens.unflatten(0, grid)
    norms = rows.square().sum(dim=3)
    least = torch.full(grid, torch.inf)
    chosen = torch.zeros(*grid, tokens.shape[1])
    for down in range(-reach, reach + 1):
        for across in range(-reach, reach + 1):
            # Tokens whose neighbour at this offset is on the grid, and those neighbours.
            first, last = max(0, -down), min(height, height - down)
            left, right = max(0, -across), min(width, width - across)
            if last <= first or right <= left:
                continue
            near = rows[first + down : last + down, left + across : right + across]
            squares = norms[first + down : last + down, left + across : right + across]
            squares = squares - 2 * (near @ own[first:last, left:right, :, None])[..., 0]
            value, image = squares.min(dim=2)
            vectors = near.gather(2, image[:, :, None, None].expand(-1, -1, 1, near.shape[3]))[:, :, 0]
            around = (left, width - right, first, height - last)
            value = pad(value, around, value=torch.inf)
            vectors = pad(vectors, (0, 0, *around))
            nearer = value < least
            least = torch.where(nearer, value, least)
            chosen = torch.where(nearer[:, :, None], vectors, chosen)
    return chosen.flatten(0, 1)
