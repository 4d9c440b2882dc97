"""One training step of FOD at the finer level of WideResNet-50, against a step with whole matrices.

Run: ``python -m tests.benchmarks.bench_fod``. The reference does as the public recipe does: correlations and targets as
(heads, 1024, 1024) matrices, distances tiled for every head, an unnormalised Gaussian divided by its row sums, two
losses and a backward pass for each. Prints seconds, their ratio, where a step's time goes, and peak memory beyond
parameters and inputs (each in a process of its own). Gradients are compared with the reference's, relative to the
largest of all, and both with the reference's in float64 on a smaller grid, relative to the largest of their tensor: in
deep layers some are so small that neither has many digits.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Callable

import torch
from torch.nn import functional

from ad_assets.kernels.correlation import attend, correlate, target_factors
from ad_assets.methods.fod_network import Network, position_code, two_phase_loss
from tests.benchmarks.measure import interleaved, peak_extra_megabytes, report

GRID, CHANNELS, WIDTH, HEADS, DEPTH = (32, 32), 512, 256, 8, 3
LAMBDA, EPSILON = 0.5, 1e-4
Step = Callable[[], None]


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


def whole_step(network: Network, tokens: torch.Tensor, reference: torch.Tensor, grid: tuple[int, int]) -> None:
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


def step(network: Network, tokens: torch.Tensor, reference: torch.Tensor, grid: tuple[int, int]) -> None:
    """The same gradients, ours."""
    network.zero_grad()
    two_phase_loss(network(tokens, reference, grid), tokens, LAMBDA, LAMBDA).backward()


def setting(grid: tuple[int, int]) -> tuple[Network, torch.Tensor, torch.Tensor, tuple[int, int]]:
    """Tokens that are not negative, as a backbone's, around their mean."""
    torch.manual_seed(0)
    network = Network(CHANNELS, WIDTH, depth=DEPTH, heads=HEADS)
    reference = torch.rand(1, grid[0] * grid[1], CHANNELS)
    tokens = (reference + 0.3 * torch.randn(reference.shape)).relu()
    return network, tokens, reference, grid


def gradients(network: Network) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest, relative to the largest of its tensor; biases of keys have no gradient but rounding."""
    names = [name for name in one if not name.endswith("key.bias")]
    return max(float((one[name] - other[name]).abs().max() / other[name].abs().max()) for name in names)


def of_all(gradient: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"all": torch.cat([part.flatten() for part in gradient.values()])}


def errors(grid: tuple[int, int]) -> tuple[float, float]:
    """Of our gradients and of the reference's, against the reference's in float64."""
    network, tokens, reference, _ = setting(grid)
    found = []
    for one in (step, whole_step):
        one(network, tokens, reference, grid)
        found.append(gradients(network))
    whole_step(network.double(), tokens.double(), reference.double(), grid)
    true = gradients(network)
    return difference(found[0], true), difference(found[1], true)


def megabytes(which: str) -> float:
    """Peak of one step, measured in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_fod", "--memory", which]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def split() -> None:
    """Where the time of a step goes: attention of both branches, and the rest."""
    generator = torch.Generator().manual_seed(1)
    places = GRID[0] * GRID[1]
    q, k, v = (torch.randn(1, HEADS, places, WIDTH // HEADS, generator=generator) for _ in range(3))
    sigma = 2 * torch.rand(1, HEADS, places, 2, generator=generator)

    def forward() -> None:
        with torch.no_grad():
            correlate(q, k, v, *target_factors(sigma, GRID), 0.2)

    def both() -> None:
        tensors = [tensor.clone().requires_grad_() for tensor in (q, k, v, sigma)]
        found = correlate(*tensors[:3], *target_factors(tensors[3], GRID), 0.2)
        (found[0].sum() + found[1].mean() - found[2].mean() - found[3].mean()).backward()

    def plain() -> None:
        with torch.no_grad():
            attend(q, k, v, 0.2)

    timing = interleaved(both, forward, 9)
    alone = interleaved(plain, forward, 9).ours
    count = 2 * DEPTH
    print(
        f"of which {count} correlations: forward {count * timing.reference:.3f} s, backward "
        f"{count * (timing.ours - timing.reference):.3f} s; forward without divergence {count * alone:.3f} s"
    )


def main() -> None:
    """Measure, print, and fail where the gradients differ or a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", choices=["ours", "reference"], help="only print a step's peak in MB")
    options = parser.parse_args()
    if options.memory:
        one = step if options.memory == "ours" else whole_step
        one(*setting((8, 8)))  # what code and libraries take once
        arguments = setting(GRID)
        print(peak_extra_megabytes(lambda: one(*arguments)))
        return
    arguments = setting(GRID)
    network = arguments[0]
    whole_step(*arguments)
    expected = gradients(network)
    step(*arguments)
    error = difference(of_all(gradients(network)), of_all(expected))
    timing = interleaved(lambda: step(*arguments), lambda: whole_step(*arguments), options.repeats)
    report(f"training step, {GRID[0]} x {GRID[1]} places", timing, f"gradients differ by {error:.1e} at most")
    split()
    own, its = errors((16, 16))
    print(f"gradients against float64 at 16 x 16: ours off by {own:.1e}, reference by {its:.1e}")
    ours, reference = megabytes("ours"), megabytes("reference")
    print(f"peak memory of a step: ours {ours:.0f} MB, reference {reference:.0f} MB, {reference / ours:.1f} times")
    assert error < 1e-4
    assert own < 2 * its
    assert timing.best_ratio >= 1.5
    assert ours <= reference / 2


if __name__ == "__main__":
    main()
