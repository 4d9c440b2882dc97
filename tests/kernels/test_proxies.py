"""Learned proxies: equation 8 by explicit loops, what learning gains on rows not seen, and what must not matter."""

import math

import numpy as np
import pytest
import torch

from ad_assets.kernels import proxies as module
from ad_assets.kernels.proxies import learned_proxies


def equation_8(rows: np.ndarray, proxies: np.ndarray, unit: float) -> list[float]:
    """One row after the other, float64."""
    errors = []
    for row in rows.astype(np.float64):
        weights = [math.exp(-math.dist(row, proxy) / unit) for proxy in proxies.astype(np.float64)]
        blend = sum(weight * proxy for weight, proxy in zip(weights, proxies.astype(np.float64), strict=True))
        errors.append(float(((row - blend / sum(weights)) ** 2).sum()))
    return errors


def reconstruction_errors(rows: torch.Tensor, proxies: torch.Tensor, unit: float) -> torch.Tensor:
    """What learning minimises, of rows and proxies that it centres."""
    centre = proxies.mean(dim=0)
    return module._errors(rows - centre, proxies - centre, unit)


def patches(seed: int, rows: int, dimensions: int = 24) -> torch.Tensor:
    """Rectified mixture of 60 clusters, the same clusters for every seed."""
    centres = torch.randn(60, dimensions, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    member = torch.randint(60, (rows,), generator=generator)
    return (centres[member] + 0.3 * torch.randn(rows, dimensions, generator=generator)).relu()


def initial(rows: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]]


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("unit", [0.2, 1.0, 30.0])
def test_errors_are_equation_8(unit, offset):
    rows, proxies = patches(0, 40) + offset, patches(1, 15) + offset
    rows[3] = proxies[7]
    expected = equation_8(rows.numpy(), proxies.numpy(), unit)
    errors = reconstruction_errors(rows, proxies, unit)
    np.testing.assert_allclose(errors.numpy(), expected, rtol=2e-2 if offset else 1e-3, atol=1e-4)


def test_a_step_follows_the_gradient_of_equation_8():
    # In float64, of rows that lie on no proxy, the objective is smooth: differences tell the gradient.
    rows, proxies = patches(0, 30, 5).double(), patches(1, 6, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: module._errors(rows, values, 0.7), (proxies,))


def test_learning_describes_rows_not_seen_better_than_random_rows():
    rows, held = patches(0, 4000), patches(1, 500)
    first, unit = initial(rows, 40, seed=5), 0.3
    learned = learned_proxies(rows, 40, seed=5, unit=unit, batch=512)
    before, after = (float(reconstruction_errors(held, proxies, unit).mean()) for proxies in (first, learned))
    assert after < 0.7 * before
    near = [
        float(torch.cdist(held, proxies).amin(dim=1).mean()) for proxies in (first, learned_proxies(rows, 40, seed=5))
    ]
    assert near[1] < 0.85 * near[0]


def test_seed_scale_place_and_tiles():
    rows = patches(2, 1500)
    learned = learned_proxies(rows, 30, seed=1, steps=30)
    assert learned.dtype == torch.float32
    assert learned.shape == (30, 24)
    assert torch.equal(learned_proxies(rows, 30, seed=1, steps=30), learned)
    assert not torch.allclose(learned_proxies(rows, 30, seed=2, steps=30), learned)
    assert torch.equal(learned_proxies(rows * 1024, 30, seed=1, steps=30), learned * 1024)
    for other in (
        learned_proxies(rows, 30, seed=1, steps=30, memory_gb=1e-4),
        learned_proxies(rows.double(), 30, seed=1, steps=30),
        learned_proxies(rows + 4, 30, seed=1, steps=30) - 4,
    ):
        torch.testing.assert_close(other, learned, rtol=0, atol=2e-3)


def test_shortcuts_of_the_process_and_switched_off_gradients_do_not_matter():
    rows = patches(3, 600)
    expected = learned_proxies(rows, 20, seed=0, steps=20)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.no_grad():
            assert torch.equal(learned_proxies(rows, 20, seed=0, steps=20), expected)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_duplicates_and_every_row():
    told: list[tuple[int, int]] = []
    rows = patches(4, 50)
    every = learned_proxies(rows, 50, seed=0, report=lambda done, steps: told.append((done, steps)))
    assert sorted(every.tolist()) == sorted(rows.tolist())
    assert told[-1] == (300, 300)
    assert torch.equal(learned_proxies(torch.ones(9, 3), 2, seed=0), torch.ones(2, 3))
    # Rows in the very centre of the data, where a proxy starts and no distance has a direction.
    cross = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).repeat(40, 1)
    assert learned_proxies(cross, 12, seed=0, steps=30).isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "count must be 1..20"),
        ({"count": 21}, "count must be 1..20"),
        ({"steps": 0}, "steps and batch"),
        ({"batch": 0}, "steps and batch"),
        ({"unit": 0.0}, "unit must be a positive distance"),
        ({"unit": math.nan}, "unit must be a positive distance"),
        ({"rows": torch.zeros(20)}, "must be .rows, D."),
        ({"rows": torch.zeros(20, 3).index_fill_(0, torch.tensor([7]), torch.nan)}, "row 7"),
    ],
)
def test_refused_input(change, message):
    arguments = {"rows": torch.rand(20, 3), "count": 2, "seed": 0, **change}
    with pytest.raises(ValueError, match=message):
        learned_proxies(**arguments)
