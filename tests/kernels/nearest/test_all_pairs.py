"""All pairs: every distance in float64 with ties by index, equality with `nearest`, permutations, and small budgets."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ad_assets.kernels.nearest import all_pairs as kernel
from ad_assets.kernels.nearest import bfloat16_bounds as tile_screens
from ad_assets.kernels.nearest import pairs_on_device
from ad_assets.kernels.nearest.all_pairs import all_pairs
from ad_assets.kernels.nearest.search import nearest
from tests.support.emulated_device import cuda_device


def every_distance(rows: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """One row after the other: distances to all rows, sorted by (distance, index)."""
    values = rows.double().numpy()
    distances, indices = [], []
    for row in values:
        to_all = np.sqrt(((values - row) ** 2).sum(axis=1))
        order = np.lexsort((np.arange(len(values)), to_all))[:k]
        distances.append(to_all[order])
        indices.append(order)
    return np.array(distances), np.array(indices)


def normal(seed: int, rows: int, dimensions: int) -> torch.Tensor:
    return torch.randn(rows, dimensions, generator=torch.Generator().manual_seed(seed))


def patches(rows: int, dimensions: int) -> torch.Tensor:
    """Not negative, few intrinsic dimensions, sorted by cluster."""
    cluster = torch.arange(rows) * 7 // rows
    inside = normal(1, rows, 5) @ normal(2, 5, dimensions) * 0.1
    return torch.relu(normal(3, 7, dimensions)[cluster] + inside + 0.01 * normal(4, rows, dimensions))


def with_duplicates() -> torch.Tensor:
    rows = normal(5, 600, 24)
    rows[100:400] = rows[7]
    rows[500:] = rows[40:60].repeat(5, 1)
    return rows


CASES = {
    "normal": lambda: normal(0, 700, 40),
    "far from the origin": lambda: normal(0, 500, 40) + 1000,
    "float64 far from the origin": lambda: normal(0, 500, 40).double() + 1e7,
    "far below one": lambda: normal(0, 200, 3) * 1e-17,
    "float16": lambda: normal(6, 400, 33).half(),
    "bfloat16, which has ties": lambda: normal(6, 400, 2).bfloat16(),
    "patches": lambda: patches(900, 64),
    "duplicates": with_duplicates,
    "constant": lambda: torch.full((300, 5), 0.1),
    "one dimension": lambda: normal(8, 500, 1),
    "a row alone": lambda: torch.ones(1, 3),
    "one outlier": lambda: torch.cat([normal(9, 300, 6), torch.full((1, 6), 1e6)]),
    "below the rounding of products": lambda: 1e3 + 1e-3 * normal(10, 300, 16).round(decimals=1),
}


@cache
def every_distance_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """All of a case, of which the first k columns are the k nearest."""
    rows = CASES[name]()
    return every_distance(rows, len(rows))


def always_coarse(patch: pytest.MonkeyPatch) -> None:
    """Products in bfloat16, however few rows there are and however many candidates they let through."""
    patch.setattr(tile_screens, "FEWEST_COARSE", 1)
    patch.setattr(tile_screens, "LARGEST_SHARE", torch.inf)
    patch.setattr(tile_screens, "_has_fast_bfloat16", lambda: True)


@pytest.mark.parametrize(("tile", "coarse"), [(64, False), (64, True), (1024, False)])
@pytest.mark.parametrize("name", CASES)
def test_equal_to_every_distance(monkeypatch, name, tile, coarse):
    monkeypatch.setattr(kernel, "TILE", tile)
    if coarse:
        always_coarse(monkeypatch)
    rows = CASES[name]()
    every, all_in_order = every_distance_of(name)
    for k in sorted({1, min(20, len(rows)), len(rows)}):
        expected, order = every[:, :k], all_in_order[:, :k]
        distances, indices = all_pairs(rows, k)
        assert (distances.dtype, indices.dtype) == (torch.float32, torch.int64)
        assert indices.numpy().tolist() == order.tolist()
        np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-6)
        assert np.array_equal(distances.numpy() == 0, expected == 0)


@pytest.mark.parametrize("name", CASES)
def test_a_device_answers_as_the_cpu(monkeypatch, name):
    monkeypatch.setattr(pairs_on_device, "LARGEST_TILE", 128)
    rows, told = CASES[name](), []
    for k in sorted({1, min(20, len(rows))}):
        expected = all_pairs(rows, k)
        with cuda_device() as device:
            found = [each.cpu() for each in all_pairs(rows.to(device), k, report=lambda *done: told.append(done))]
            small = [each.cpu() for each in all_pairs(rows.to(device), k, memory_gb=1e-3)]
        assert told[-1][0] == told[-1][1]
        for distances, indices in (found, small):
            assert torch.equal(indices, expected[1])
            torch.testing.assert_close(distances, expected[0], rtol=1e-6, atol=0)


@settings(max_examples=60)
@given(
    points=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=150),
    tile=st.sampled_from([5, 64]),
    coarse=st.booleans(),
    data=st.data(),
)
def test_ties_go_to_the_lowest_index(points, tile, coarse, data):
    rows = torch.tensor(points, dtype=torch.float32)
    k = data.draw(st.integers(1, len(points)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "TILE", tile)
        patch.setattr(kernel, "LEAST_SPARE_ROOM", 2)
        patch.setattr(kernel, "SPARE_ROOM", 2)
        if coarse:
            always_coarse(patch)
        distances, indices = all_pairs(rows, k)
    expected, order = every_distance(rows, k)
    assert indices.tolist() == order.tolist()
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("rows", [normal(11, 3000, 64), patches(3000, 64)])
def test_equal_to_nearest_whatever_the_order_and_the_budget(monkeypatch, rows):
    distances, indices = nearest(rows, rows, 30)
    calls = []
    ours = all_pairs(rows, 30, report=lambda done, total: calls.append((done, total)))
    assert torch.equal(ours[0], distances)
    assert torch.equal(ours[1], indices)
    assert [done for done, _ in calls] == list(range(1, calls[-1][1] + 1))
    for memory_gb in (0.002, 1e-4):  # the lists are shorter; they lie in temporary files
        small = all_pairs(rows, 30, memory_gb=memory_gb)
        assert torch.equal(small[0], distances)
        assert torch.equal(small[1], indices)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(12))
    always_coarse(monkeypatch)
    shuffled = all_pairs(rows[order], 30)
    assert torch.equal(shuffled[0], distances[order])
    assert torch.equal(order[shuffled[1]], indices[order])


@pytest.mark.parametrize(
    ("rows", "k", "message"),
    [
        (torch.rand(5, 3), 0, "k must be 1..5"),
        (torch.rand(5, 3), 6, "k must be 1..5"),
        (torch.rand(5), 1, "rows must be"),
        (torch.rand(0, 3), 1, "rows must be"),
        (torch.zeros(5, 3, dtype=torch.int64), 1, "rows must be .* floating point"),
        (torch.tensor([[1.0], [torch.nan]]), 1, "rows must hold finite numbers .* row 1"),
    ],
)
def test_refused_input(rows, k, message):
    with pytest.raises(ValueError, match=message):
        all_pairs(rows, k)


def test_an_error_of_the_report_ends_the_search():
    def report(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        all_pairs(normal(13, 3000, 8), 3, report=report)
