"""Nearest neighbours: the authors' distances, brute force in float64, ties, and independence of the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ad_assets.kernels.nearest import search as neighbours
from ad_assets.kernels.nearest.search import nearest
from tests.support.fixtures import fixture


def brute_force(queries: torch.Tensor, bank: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Every distance of one query after the other, sorted by (distance, index)."""
    rows = bank.numpy().astype(np.float64)
    distances, indices = [], []
    for query in queries.numpy().astype(np.float64):
        all_distances = np.sqrt(((rows - query) ** 2).sum(axis=1))
        order = np.lexsort((np.arange(len(rows)), all_distances))[:k]
        distances.append(all_distances[order])
        indices.append(order)
    return np.array(distances), np.array(indices)


def normal(seed: int, rows: int, dimensions: int) -> torch.Tensor:
    return torch.randn(rows, dimensions, generator=torch.Generator().manual_seed(seed))


def test_distances_of_the_fixture():
    data = fixture("patchcore_score")
    queries, bank = torch.from_numpy(data["queries"]), torch.from_numpy(data["bank"])
    distances, indices = nearest(queries, bank, 3)
    squared = distances.double().square().numpy()
    assert indices[:, 0].tolist() == data["nn_index"].ravel().tolist()
    np.testing.assert_allclose(squared[:, 0], data["nn_sq"].ravel(), rtol=1e-5)
    np.testing.assert_allclose(squared.mean(axis=1), data["nn3_sq_mean"].ravel(), rtol=1e-5)


@pytest.mark.parametrize("k", [1, 9, 60])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_equal_to_brute_force_over_many_tiles(monkeypatch, k, offset):
    monkeypatch.setattr(neighbours, "BANK_TILE", 192)
    bank, queries = normal(0, 1001, 20) + offset, normal(1, 57, 20) + offset
    queries[3] = bank[1000]
    expected, order = brute_force(queries, bank, k)
    distances, indices = nearest(queries, bank, k)
    assert distances.dtype == torch.float32
    assert indices.numpy().tolist() == order.tolist()
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-6)
    assert float(distances[3, 0]) == 0.0
    again = nearest(queries, bank, k, memory_gb=1e-5)
    assert torch.equal(again[0], distances)
    assert torch.equal(again[1], indices)


@pytest.mark.parametrize("left", [2, 4, 40, 700])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_rows_that_are_not_allowed_are_as_if_not_there(monkeypatch, left, offset):
    monkeypatch.setattr(neighbours, "BANK_TILE", 192)
    bank, queries = normal(0, 1001, 20) + offset, normal(1, 57, 20) + offset
    queries[:9] = bank[:9]  # equal to rows that are not allowed, and to some that are
    bank[500:509] = bank[:9]
    some = torch.randperm(992, generator=torch.Generator().manual_seed(left))[:left] + 9
    allowed = torch.zeros(1001, dtype=torch.bool)
    allowed[some] = True
    numbers = allowed.nonzero().flatten()
    for memory_gb in (1.0, 1e-5):
        expected, indices = nearest(queries, bank[numbers], min(9, left))
        found = nearest(queries, bank, min(9, left), memory_gb=memory_gb, allowed=allowed)
        assert torch.equal(found[0], expected)
        assert torch.equal(found[1], numbers[indices])
    with pytest.raises(ValueError, match=f"k must be 1..{left}"):
        nearest(queries, bank, left + 1, allowed=allowed)


@pytest.mark.parametrize("k", [1, 9])
def test_batches_do_not_matter(k):
    bank, queries = normal(2, 3000, 512) + 5, normal(3, 32, 512) + 5
    together = nearest(queries, bank, k)
    alone = [nearest(query, bank, k) for query in queries.split(1)]
    assert torch.equal(together[0], torch.cat([distances for distances, _ in alone]))
    assert torch.equal(together[1], torch.cat([indices for _, indices in alone]))


@settings(max_examples=60)
@given(
    bank=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=80),
    tile=st.sampled_from([3, 20, 64]),
    data=st.data(),
)
def test_ties_go_to_the_lowest_index(bank, tile, data):
    rows = torch.tensor(bank, dtype=torch.float32)
    k = data.draw(st.integers(1, len(bank)))
    queries = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 1.5], [9.0, -9.0]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BANK_TILE", tile)
        distances, indices = nearest(queries, rows, k)
    expected, order = brute_force(queries, rows, k)
    assert indices.tolist() == order.tolist()
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-6)


def test_true_neighbour_below_the_rounding_of_products():
    # Rows 1e-4 apart at a length of 1000: float32 products cannot tell them from each other.
    bank = torch.tensor([[1000.0], [-1000.0]]).repeat(200, 16) + 1e-4 * normal(4, 400, 16).round(decimals=1)
    queries = bank[::7] + 1e-4
    expected, order = brute_force(queries, bank, 2)
    distances, indices = nearest(queries, bank, 2)
    assert indices.tolist() == order.tolist()
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("queries", "bank", "k", "message"),
    [
        (torch.rand(2, 3), torch.rand(5, 3), 0, "k must be 1..5"),
        (torch.rand(2, 3), torch.rand(5, 3), 6, "k must be 1..5"),
        (torch.rand(2, 4), torch.rand(5, 3), 1, "queries have 4 dimensions, the bank has 3"),
        (torch.rand(0, 3), torch.rand(5, 3), 1, "queries must be"),
        (torch.rand(2, 3), torch.rand(0, 3), 1, "bank must be"),
        (torch.rand(2, 3), torch.zeros(5, 3, dtype=torch.int64), 1, "bank must be .* floating point"),
        (torch.full((2, 3), torch.nan), torch.rand(5, 3), 1, "queries must hold finite numbers .* row 0"),
    ],
)
def test_refused_input(queries, bank, k, message):
    with pytest.raises(ValueError, match=message):
        nearest(queries, bank, k)
