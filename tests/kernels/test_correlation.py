"""Correlations of FOD: full matrices and plain gradients in float64, tiles, threads, shared keys, extreme targets."""

import pytest
import torch

from ad_assets.kernels import correlation as kernel
from ad_assets.kernels.correlation import attend, correlate, target_factors
from ad_assets.kernels.parallel import threads as current_threads
from ad_assets.kernels.parallel import use_threads

SCALE = 0.35
EPSILON = 1e-4


def full_target(sigma: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Equation 5, separable, as one matrix (..., L, L) with rows that sum to one."""
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).double()
    squares = (places[:, None] - places).square()
    logits = -(squares / (2 * sigma[..., None, :].square())).sum(dim=-1)
    return torch.exp(logits) / torch.exp(logits).sum(dim=-1, keepdim=True)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p * (torch.log(p + EPSILON) - torch.log(q + EPSILON))).sum(dim=-1)


def with_full_matrices(q, k, v, sigma, grid):
    """Output, divergence with the gradient of T, with that of S, and entropy."""
    s, t = torch.softmax(SCALE * q @ k.mT, dim=-1), full_target(sigma, grid)
    first, second = (kl(t_, s_) + kl(s_, t_) for t_, s_ in ((t, s.detach()), (t.detach(), s)))
    return s @ v, first, second, -(s * torch.log(s + EPSILON)).sum(dim=-1)


def with_kernel(q, k, v, sigma, grid):
    return correlate(q, k, v, *target_factors(sigma, grid), SCALE)


def inputs(grid: tuple[int, int], *, batch: int = 2, shared: bool = True, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    places, keys = grid[0] * grid[1], 1 if shared else batch
    q, k, v = (torch.randn(count, 3, places, 8, generator=generator) for count in (batch, keys, keys))
    return [q, 2 * k, v, 0.02 + 2 * torch.rand(batch, 3, places, 2, generator=generator)]


def results(function, tensors, grid, dtype=torch.float32, weights=(1.0, 1.0, 1.0, 1.0)):
    """Outputs and gradients of a random combination of them; a weight of zero leaves an output out."""
    tensors = [tensor.to(dtype).requires_grad_() for tensor in tensors]
    found = function(*tensors, grid)
    generator = torch.Generator().manual_seed(9)
    upstream = [torch.randn(value.shape, generator=generator).to(dtype) for value in found]
    loss = sum(
        (value * up).sum() * weight for value, up, weight in zip(found, upstream, weights, strict=True) if weight
    )
    gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
    return [value.detach() for value in found], gradients


def assert_equal_within(found, expected, tolerance):
    """Relative to the largest; no gradient is a gradient of zero."""
    for one, other in zip(found, expected, strict=True):
        if one is None or other is None:
            assert all(value is None or (value == 0).all() for value in (one, other))
        else:
            assert (one - other).abs().max() <= tolerance * (other.abs().max() + 1e-30)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-6)])
@pytest.mark.parametrize("grid", [(5, 7), (1, 6), (9, 1), (13, 12)])
@pytest.mark.parametrize("shared", [True, False])
def test_equal_to_full_matrices(monkeypatch, grid, shared, dtype, tolerance):
    monkeypatch.setattr(kernel, "CPU_TILE_BYTES", 8 * 4 * grid[0] * grid[1])
    tensors = inputs(grid, shared=shared)
    for weights in ((1, 1, 1, 1), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0.5, 0, -2, 0.1)):
        found = results(with_kernel, tensors, grid, dtype, weights)
        expected = results(with_full_matrices, tensors, grid, torch.float64, weights)
        for one, other in zip(found, expected, strict=True):
            assert_equal_within(one, other, tolerance)
        assert found[0][0].dtype == dtype


def test_tiles_threads_and_sharing_change_no_bit(monkeypatch):
    grid, threads = (12, 11), current_threads()
    tensors = inputs(grid)
    expected = results(with_kernel, tensors, grid)
    try:
        for count in (1, 2, 3):
            use_threads(count)
            again = results(with_kernel, tensors, grid)
            assert all(
                torch.equal(a, b) for a, b in zip(expected[0] + [*expected[1]], again[0] + [*again[1]], strict=True)
            )
    finally:
        use_threads(threads)
    q, k, v, sigma = tensors
    apart = results(with_kernel, [q, k.expand(2, -1, -1, -1), v.expand(2, -1, -1, -1), sigma], grid)
    assert all(torch.equal(a, b) for a, b in zip(expected[0], apart[0], strict=True))
    assert torch.equal(expected[1][1], apart[1][1].sum(dim=0, keepdim=True))
    alone = results(with_kernel, [q[1:], k, v, sigma[1:]], grid)
    assert all(torch.equal(a[1:], b) for a, b in zip(expected[0], alone[0], strict=True))
    for size in (1, 5 * 4 * 132, 1 << 30):  # products of other sizes round differently
        monkeypatch.setattr(kernel, "CPU_TILE_BYTES", size)
        tiled = results(with_kernel, tensors, grid)
        assert_equal_within(tiled[0] + [*tiled[1]], expected[0] + [*expected[1]], 3e-6)


def test_heads_in_groups(monkeypatch):
    grid = (6, 7)
    tensors = inputs(grid)
    monkeypatch.setattr(kernel, "_on_threads", kernel._in_groups)  # as on other devices
    for size in (1, 8 * 42 * 50, 8 * 42 * 100, 1 << 30):
        monkeypatch.setattr(kernel, "DEVICE_TILE_BYTES", size)
        found, gradients = results(with_kernel, tensors, grid, torch.float64)
        expected, true = results(with_full_matrices, tensors, grid, torch.float64)
        assert_equal_within([*found, *gradients], [*expected, *true], 1e-13)


def test_extreme_targets_and_correlations():
    grid = (6, 5)
    q, k, v, sigma = inputs(grid)
    sigma[..., :10, :] = 1.1e-5
    sigma[..., 10:15, 1] = 1.1e-5
    sigma[..., 15:20, :] = 1e4
    tensors = [60 * q, k, v, sigma]
    found, gradients = results(with_kernel, tensors, grid)
    expected, _ = results(with_full_matrices, tensors, grid, torch.float64)
    assert all(value.isfinite().all() for value in [*found, *gradients])
    assert_equal_within(found, expected, 1e-4)  # logits of thousands have no more digits
    assert (found[1] >= 0).all()
    assert (gradients[3][..., :10, :] == 0).all()
    rows, columns = target_factors(sigma, grid)
    assert torch.equal(rows[0, 0, 7], torch.eye(6)[1])
    assert torch.equal(columns[0, 0, 7], torch.eye(5)[2])
    torch.testing.assert_close(rows[0, 0, 16], torch.full((6,), 1 / 6))
    whole = (rows.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(-2)
    torch.testing.assert_close(whole.double(), full_target(sigma.double(), grid), atol=1e-6, rtol=0)


def test_what_is_not_asked_for_changes_nothing():
    grid = (4, 6)
    q, k, v, sigma = inputs(grid)
    factors = target_factors(sigma, grid)
    everything = correlate(q, k, v, *factors, SCALE)
    some = correlate(q, k, v, *factors, SCALE, entropy=False)
    assert some.entropy is None
    assert torch.equal(some.div_of_target, everything.div_of_target)
    torch.testing.assert_close(attend(q, k, v, SCALE), everything.output)


def test_float32_under_autocast():
    grid = (4, 6)
    tensors = inputs(grid)
    expected = results(with_kernel, [tensor.bfloat16().float() for tensor in tensors], grid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_kernel(*(tensor.bfloat16() for tensor in tensors[:3]), tensors[3].bfloat16().float(), grid)
        plain = attend(*(tensor.bfloat16() for tensor in tensors[:3]), SCALE)
    for value, other in zip(found, expected[0], strict=True):
        assert torch.equal(value, other)
    assert plain.dtype == torch.float32


def test_refused_shapes():
    grid = (4, 6)
    q, k, v, sigma = inputs(grid)
    factors = target_factors(sigma, grid)
    with pytest.raises(ValueError, match="4 x 5 for 24 keys"):
        correlate(q, k, v, factors[0], factors[1][..., :5], SCALE)
    with pytest.raises(ValueError, match="q must be"):
        attend(q[:1].repeat(3, 1, 1, 1), k.repeat(2, 1, 1, 1), v.repeat(2, 1, 1, 1), SCALE)
    with pytest.raises(ValueError, match="sigma must be"):
        target_factors(sigma, (5, 5))
