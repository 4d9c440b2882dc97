"""The transformer of one feature level of FOD (Yao et al., Focus the Discrepancy, ICCV 2023), its losses and scores.

A level embeds its tokens, and the reference tokens separately, and reconstructs the tokens. Every layer attends to the
image itself (intra, equation 4) and to the reference (inter, equation 9), and measures how far both correlations are
from their targets (`kernels.correlation`).

Where the authors' code differs from the paper it is followed:

- the residual around both branches cancels, (x + intra) - (x + inter); `residual` adds it (equation 1). With one
  branch alone there is nothing to cancel it and it stays;
- products are scaled by 1 / sqrt(d_m / heads); heads are joined without a projection. (The authors' module evaluates
  one and drops the result: parameters that the paper counts and that do nothing.);
- sigma = base^(sigmoid(slope z) + 1e-5) - 1, z linear in the layer's input, for every head and place;
- the losses are those of appendix A.1, whose signs for S are opposite to equations 8 and 10 (`direct_loss`); Div and
  Ent are means over heads and places (equation 7 sums over places), and the reconstruction error is a mean of squares;
- a patch weighs max(a) - a, a = softmax over places of -Div (inter), which printed equation 12 has as 1 - a.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ad_assets.kernels.correlation import attend, attend_plainly, correlate, correlate_plainly, target_factors

Branch = Literal["intra", "inter"]
BRANCHES: tuple[Branch, ...] = ("intra", "inter")
SMALLEST_POWER = 1e-5  # keeps sigma above zero
LONGEST_WAVE = 1e4  # of the position code, in cells over 2 pi
EXPANSION = 4  # of the feed-forward layers


@dataclass
class Correlations:
    """How one branch correlates, layer by layer; all (B, L) in nats, means over heads.

    Args:
        div_of_target: KL(T, S) + KL(S, T); its gradient reaches T only.
        div_of_correlation: the same values; their gradient reaches S only.
        entropy: of S; empty where only divergences were asked for.
    """

    div_of_target: list[Tensor] = field(default_factory=list)
    div_of_correlation: list[Tensor] = field(default_factory=list)
    entropy: list[Tensor] = field(default_factory=list)

    def divergence(self) -> Tensor:
        """(B, L) mean over layers, without gradient."""
        return torch.stack(self.div_of_target).detach().mean(dim=0)


@dataclass
class Reconstructed:
    """What the network makes of tokens.

    Args:
        tokens: (B, L, D), the reconstruction.
        correlations: by branch, of those that were asked for and that the network has.
    """

    tokens: Tensor
    correlations: dict[Branch, Correlations]


class Correlation(nn.Module):
    """One branch of one layer: multi-head attention whose correlations have targets.

    Attributes:
        plain: whether it computes by operations of torch alone, for an exporter.
    """

    def __init__(self, width: int, heads: int, *, target: bool, base: float, slope: float) -> None:
        super().__init__()
        self.heads, self.base, self.slope, self.plain = heads, base, slope, False
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.sigma = nn.Linear(width, 2 * heads) if target else None

    def forward(
        self, x: Tensor, others: Tensor, grid: tuple[int, int], into: Correlations | None, entropy: bool
    ) -> Tensor:
        """Attention (B, L, d_m) of x (B, L, d_m) to others (B or 1, L, d_m); its correlations go `into`."""
        q, k, v = self._split(self.query(x)), self._split(self.key(others)), self._split(self.value(others))
        scale = 1 / math.sqrt(q.shape[3])
        if self.sigma is None or into is None:
            return self._joined((attend_plainly if self.plain else attend)(q, k, v, scale))
        if self.plain:
            rows, columns = target_factors(self._sigmas(x, self.sigma), grid)
            found = correlate_plainly(q, k, v, rows, columns, scale)
        else:
            rows, columns = target_factors(self.sigmas(x, self.sigma), grid)
            found = correlate(q, k, v, rows, columns, scale, entropy=entropy)
        into.div_of_target.append(found.div_of_target.mean(dim=1))
        into.div_of_correlation.append(found.div_of_correlation.mean(dim=1))
        if found.entropy is not None:
            into.entropy.append(found.entropy.mean(dim=1))
        return self._joined(found.output)

    def sigmas(self, x: Tensor, projection: nn.Linear) -> Tensor:
        """(B, heads, L, 2): standard deviations along rows and columns, in cells, 1.1e-5 to `base` - 1."""
        with torch.autocast(x.device.type, enabled=False):
            return self._sigmas(x.to(projection.weight.dtype), projection)

    def _sigmas(self, x: Tensor, projection: nn.Linear) -> Tensor:
        z = projection(x).unflatten(2, (self.heads, 2)).transpose(1, 2)
        # The smallest sigmas would be differences of numbers that float32 cannot tell apart.
        return torch.expm1(math.log(self.base) * (torch.sigmoid(self.slope * z) + SMALLEST_POWER))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _joined(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


class Layer(nn.Module):
    """Both branches and a feed-forward network, each followed by a normalisation (equations 1 and 2)."""

    def __init__(
        self, width: int, heads: int, branches: Collection[Branch], *, residual: bool, base: float, slope: float
    ) -> None:
        super().__init__()
        self.intra = Correlation(width, heads, target=True, base=base, slope=slope) if "intra" in branches else None
        self.inter = Correlation(width, heads, target=True, base=base, slope=slope) if "inter" in branches else None
        self.plain = None if branches else Correlation(width, heads, target=False, base=base, slope=slope)
        self.residual = residual or len(branches) < 2
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, EXPANSION * width), nn.Linear(EXPANSION * width, width)

    def forward(
        self,
        x: Tensor,
        reference: Tensor | None,
        grid: tuple[int, int],
        into: dict[Branch, Correlations],
        entropy: bool,
    ) -> Tensor:
        """(B, L, d_m) to (B, L, d_m)."""
        parts: list[Tensor] = [x] if self.residual else []
        if self.plain is not None:
            parts.append(self.plain(x, x, grid, None, entropy))
        if self.intra is not None:
            parts.append(self.intra(x, x, grid, into.get("intra"), entropy))
        if self.inter is not None:
            attended = self.inter(x, reference, grid, into.get("inter"), entropy)
            parts.append(-attended if self.intra is not None else attended)
        y = self.first_norm(sum(parts[1:], start=parts[0]))
        return self.second_norm(y + self.narrow(functional.gelu(self.widen(y))))


class LevelNetwork(nn.Module):
    """One level: embedding, layers, reconstruction.

    Args:
        channels: D of the tokens.
        width: d_m, a multiple of 4 and of `heads`.
        depth: layers.
        heads: of every attention.
        branches: which correlations there are; none: plain self-attention, pure reconstruction.
        residual: whether x is added to the difference of both branches.
        base: of the exponential of sigma, more than one.
        slope: of the sigmoid of sigma.

    Raises:
        ValueError: a width that heads or the position code cannot share.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        depth: int = 3,
        heads: int = 8,
        branches: Collection[Branch] = BRANCHES,
        residual: bool = False,
        base: float = 3.0,
        slope: float = 5.0,
    ) -> None:
        super().__init__()
        if width % 4 or width % heads:
            raise ValueError(f"width must be a multiple of 4 and of the {heads} heads, got {width}")
        self.branches = tuple(branch for branch in BRANCHES if branch in branches)
        self.embedding = _embedding(channels, width)
        self.reference_embedding = _embedding(channels, width) if "inter" in self.branches else None
        self.layers = nn.ModuleList(
            Layer(width, heads, self.branches, residual=residual, base=base, slope=slope) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.reconstruct = nn.Linear(width, channels)
        self._codes: dict[tuple[tuple[int, int], torch.dtype], Tensor] = {}

    def forward(
        self,
        tokens: Tensor,
        reference: Tensor | None,
        grid: tuple[int, int],
        *,
        correlations: Collection[Branch] = BRANCHES,
        entropy: bool = True,
    ) -> Reconstructed:
        """Reconstruct tokens.

        Args:
            tokens: (B, H W, D) float32, places by row, then column.
            reference: (B or 1, H W, D), on the same grid; not read without the inter branch.
            grid: H and W.
            correlations: branches whose correlations are returned; the others attend only, which costs much less.
            entropy: whether entropies are returned.

        Raises:
            ValueError: tokens that do not fill the grid, or no reference for the inter branch.
        """
        if tokens.shape[1] != grid[0] * grid[1]:
            raise ValueError(f"{tokens.shape[1]} tokens do not fill a grid of {grid[0]} x {grid[1]}")
        x = self.embedding(tokens)
        code = self._position_code(grid, x)
        x = x + code
        if self.reference_embedding is not None:
            if reference is None:
                raise ValueError("the inter branch needs a reference")
            reference = self.reference_embedding(reference) + code
        kept: dict[Branch, Correlations] = {
            branch: Correlations() for branch in self.branches if branch in correlations
        }
        for layer in self.layers:
            x = layer(x, reference, grid, kept, entropy)
        return Reconstructed(self.reconstruct(self.norm(x)), kept)

    def _position_code(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """Kept on a GPU, which would wait for every copy of it; elsewhere an exporter may be watching."""
        if not like.is_cuda:
            return position_code(grid, like.shape[2], like)
        if (grid, like.dtype) not in self._codes:
            self._codes[grid, like.dtype] = position_code(grid, like.shape[2], like)
        return self._codes[grid, like.dtype]


def _embedding(channels: int, width: int) -> nn.Linear:
    layer = nn.Linear(channels, width)
    nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="leaky_relu")
    return layer


def position_code(grid: tuple[int, int], width: int, like: Tensor) -> Tensor:
    """(H W, width): sines and cosines in turn, of the column in the first half of the channels, of the row after it."""
    height, columns = grid
    # In float64, so that every device has the same code.
    frequencies = torch.exp(torch.arange(0, width // 2, 2, dtype=torch.float64) * (-2 * math.log(LONGEST_WAVE) / width))
    along, down = (
        torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
        for angles in (torch.arange(size)[:, None] * frequencies for size in (columns, height))
    )
    both = [along.expand(height, -1, -1), down[:, None].expand(-1, columns, -1)]
    return torch.cat(both, dim=2).flatten(0, 1).to(like)


def reconstruction_loss(tokens: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean squared error over all entries + mean of 1 - cosine (equation 3)."""
    cosine = functional.cosine_similarity(tokens, reconstruction, dim=2)
    return functional.mse_loss(reconstruction, tokens) + (1 - cosine).mean()


def phase_losses(found: Reconstructed, tokens: Tensor, lambda1: float, lambda2: float) -> tuple[Tensor, Tensor]:
    """L1 and L2 of equation 13: L1 moves targets, L2 correlations, both the reconstruction.

    Args:
        found: what the network made of the tokens.
        tokens: (B, L, D), to be reconstructed.
        lambda1: weight of divergences.
        lambda2: weight of entropies; 0: no entropy constraint.
    """
    first = second = reconstruction_loss(tokens, found.tokens)
    for branch, correlations in found.correlations.items():
        sign = 1 if branch == "intra" else -1
        first = first + sign * lambda1 * _mean(correlations.div_of_target)
        second = second - sign * lambda1 * _mean(correlations.div_of_correlation)
        second = second - sign * lambda2 * _mean(correlations.entropy)
    return first, second


def two_phase_loss(found: Reconstructed, tokens: Tensor, lambda1: float, lambda2: float) -> Tensor:
    """L1 + L2: its gradient is the one that the two backward passes of appendix A.1 add up. Rec counts twice."""
    first, second = phase_losses(found, tokens, lambda1, lambda2)
    return first + second


def direct_loss(found: Reconstructed, tokens: Tensor, lambda1: float, lambda2: float) -> Tensor:
    """Equations 8, 10 and 11 as printed: no gradient is stopped, and Rec counts once."""
    loss = reconstruction_loss(tokens, found.tokens)
    for branch, correlations in found.correlations.items():
        sign = 1 if branch == "intra" else -1
        both = _mean(correlations.div_of_target) + _mean(correlations.div_of_correlation)
        divergence = both - both.detach() / 2  # the value of one, the gradients of both
        loss = loss + sign * (lambda1 * divergence - lambda2 * _mean(correlations.entropy))
    return loss


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()
