"""One training step of FOD at WideResNet-50's levels, against a step with whole matrices.

Run: ``python -m tests.benchmarks.bench_fod``. Ours is the step that training takes: one image, 512 channels at 32 x 32
and 1,024 at 16 x 16, both levels, Adam. The reference does as the public recipe does: correlations and targets as
(heads, places, places) matrices, distances tiled for every head, an unnormalised Gaussian divided by its row sums, two
losses and a backward pass for each. Prints seconds, their ratio, and peak memory beyond parameters and inputs (each in
a process of its own). Gradients are compared with the reference's, relative to the largest of all, and both with the
reference's in float64 on smaller grids, relative to the largest of their tensor: in deep layers some are so small that
neither has many digits.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys

import torch
from torch.nn import functional

from ad_assets.methods import Runtime
from ad_assets.methods.fod.fod import Fod
from ad_assets.methods.fod.network import LevelNetwork, position_code
from ad_assets.methods.fod.training import FodTraining
from tests.benchmarks.measure import interleaved, peak_extra_megabytes, report
from tests.support.tap_features import tap_features

LEVELS = ((512, 32), (1024, 16))
HEADS, LAMBDA, EPSILON = 8, 0.5, 1e-4


def tiled_distances(grid: tuple[int, int], batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared row and column offsets of all pairs of places, (batch, heads, L, L) each."""
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).float()
    squares = (places[:, None] - places).square()
    rows, columns = (squares[..., axis].repeat(batch, HEADS, 1, 1) for axis in (0, 1))
    return rows, columns


def whole_attention(branch, x, others, grid):
    """Output, S and T of one branch, with matrices in full."""
    q, k, v = (
        part.unflatten(2, (HEADS, -1)).transpose(1, 2).expand(len(x), -1, -1, -1)
        for part in (branch.query(x), branch.key(others), branch.value(others))
    )
    s = torch.softmax(q @ k.mT / math.sqrt(q.shape[3]), dim=3)
    z = branch.sigma(x).unflatten(2, (HEADS, 2)).transpose(1, 2)
    sigma = torch.pow(branch.base, torch.sigmoid(branch.slope * z) + 1e-5) - 1
    down, across = (one.unsqueeze(3).repeat(1, 1, 1, x.shape[1]) for one in sigma.unbind(3))
    rows, columns = tiled_distances(grid, len(x))
    raw = torch.exp(-rows / (2 * down**2) - columns / (2 * across**2)) / (2 * math.pi * down * across)
    return (s @ v).transpose(1, 2).flatten(2), s, raw / raw.sum(dim=3, keepdim=True)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p * (torch.log(p + EPSILON) - torch.log(q + EPSILON))).sum(dim=3).mean()


def both_ways(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return kl(one, other) + kl(other, one)


def entropy(s: torch.Tensor) -> torch.Tensor:
    return -(s * torch.log(s + EPSILON)).sum(dim=3).mean()


def whole_step(network: LevelNetwork, tokens: torch.Tensor, reference: torch.Tensor, grid: tuple[int, int]) -> None:
    """Gradients of both phases, one backward pass each."""
    network.zero_grad()
    x = network.embedding(tokens)
    code = position_code(grid, x.shape[2], x)
    x, embedded = x + code, network.reference_embedding(reference) + code
    pairs = []
    for layer in network.layers:
        intra, inter = whole_attention(layer.intra, x, x, grid), whole_attention(layer.inter, x, embedded, grid)
        y = layer.first_norm((x + intra[0]) - (x + inter[0]))
        x = layer.second_norm(y + layer.narrow(functional.gelu(layer.widen(y))))
        pairs.append((intra[1:], inter[1:]))
    made = network.reconstruct(network.norm(x))
    rec = functional.mse_loss(made, tokens) + (1 - functional.cosine_similarity(made, tokens, dim=2)).mean()
    first = second = rec
    for (s, t), (s_inter, t_inter) in pairs:
        weight = LAMBDA / len(pairs)
        first = first + weight * (both_ways(t, s.detach()) - both_ways(t_inter, s_inter.detach()))
        second = second - weight * (both_ways(t.detach(), s) - both_ways(t_inter.detach(), s_inter))
        second = second - weight * (entropy(s) - entropy(s_inter))
    first.backward(retain_graph=True)
    second.backward()


class Step:
    """Both ways to take a step, from the same weights."""

    def __init__(self, scale: int = 1) -> None:
        generator = torch.Generator().manual_seed(0)
        taps = [torch.rand(1, size, side // scale, side // scale, generator=generator) for size, side in LEVELS]
        self.grids = [(side // scale, side // scale) for _, side in LEVELS]
        method, images = Fod(), tap_features(taps)
        training = method.training(images, None, Runtime())
        assert isinstance(training, FodTraining)
        self._training = training
        self.tokens = method.tokens(taps, {})
        # A reference that differs from the one image there is.
        self.references = [tokens + 0.3 * torch.randn(tokens.shape, generator=generator) for tokens in self.tokens]
        for number, reference in enumerate(self.references):
            training.weights[f"references.{number}.mean"].copy_(reference[0])
        self.levels = [method.level(number, size) for number, (size, _) in enumerate(LEVELS)]
        for number, level in enumerate(self.levels):
            prefix = f"levels.{number}."
            own = {n.removeprefix(prefix): t for n, t in training.weights.items() if n.startswith(prefix)}
            level.load_state_dict(own)
        self._optimizers = [torch.optim.Adam(level.parameters(), method.learning_rate) for level in self.levels]

    def ours(self) -> None:
        """As training does."""
        self._training.step([0], 0)

    def reference(self) -> None:
        """With whole matrices."""
        for level, optimizer, *arguments in zip(
            self.levels, self._optimizers, self.tokens, self.references, self.grids, strict=True
        ):
            whole_step(level, *arguments)
            optimizer.step()

    def our_gradients(self) -> list[dict[str, torch.Tensor]]:
        """Of the last step, level by level."""
        parameters = [optimizer.param_groups[0]["params"] for optimizer in self._training.optimizers]
        return [
            {name: own.grad.clone() for (name, _), own in zip(level.named_parameters(), tensors, strict=True)}
            for level, tensors in zip(self.levels, parameters, strict=True)
        ]


def gradients(network: LevelNetwork) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest, relative to the largest of its tensor; biases of keys have no gradient but rounding."""
    names = [name for name in one if not name.endswith("key.bias")]
    return max(float((one[name] - other[name]).abs().max() / other[name].abs().max()) for name in names)


def of_all(gradient: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"all": torch.cat([part.flatten() for part in gradient.values()])}


def errors(scale: int) -> tuple[float, float]:
    """Of our gradients and of the reference's, against the reference's in float64."""
    steps = Step(scale)
    steps.ours()
    found = []
    for level, own, *arguments in zip(
        steps.levels, steps.our_gradients(), steps.tokens, steps.references, steps.grids, strict=True
    ):
        tokens, reference, grid = arguments
        whole_step(level, tokens, reference, grid)
        its = gradients(level)
        whole_step(level.double(), tokens.double(), reference.double(), grid)
        true = gradients(level)
        found.append((difference(own, true), difference(its, true)))
    return max(own for own, _ in found), max(its for _, its in found)


def megabytes(which: str) -> float:
    """Peak of one step, measured in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_fod", "--memory", which]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure, print, and fail where the gradients differ or a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", choices=["ours", "reference"], help="only print a step's peak in MB")
    options = parser.parse_args()
    if options.memory:
        small, steps = Step(4), Step()
        getattr(small, options.memory)()  # what code and libraries take once
        print(peak_extra_megabytes(getattr(steps, options.memory)))
        return
    steps = Step()
    steps.ours()
    steps.reference()
    error = max(
        difference(of_all(own), of_all(gradients(level)))
        for own, level in zip(steps.our_gradients(), steps.levels, strict=True)
    )
    timing = interleaved(steps.ours, steps.reference, options.repeats)
    report("training step, one image, both levels", timing, f"gradients differ by {error:.1e} at most")
    own, its = errors(2)
    print(f"gradients against float64 at half the sides: ours off by {own:.1e}, reference by {its:.1e}")
    ours, reference = megabytes("ours"), megabytes("reference")
    print(f"peak memory of a step: ours {ours:.0f} MB, reference {reference:.0f} MB, {reference / ours:.1f} times")
    assert error < 1e-4
    assert own < 2 * its
    assert timing.best_ratio >= 1.5
    assert ours <= reference / 2


if __name__ == "__main__":
    main()
