"""Product codes: distances to the decoded rows, exact search where nothing is lost, small banks, batches."""

import faiss
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ad_assets.kernels.budget import BudgetError
from ad_assets.kernels.nearest import ivfpq_build
from ad_assets.kernels.nearest.ivfpq import QuantisedIndex, build
from ad_assets.kernels.nearest.search import nearest


def clustered(seed: int, rows: int, dimensions: int, spread: float = 0.3) -> torch.Tensor:
    """Rectified mixture of 80 clusters, the same clusters for every seed."""
    centres = torch.randn(80, dimensions, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    member = torch.randint(80, (rows,), generator=generator)
    return (centres[member] + spread * torch.randn(rows, dimensions, generator=generator)).relu()


def decoded(index: QuantisedIndex) -> np.ndarray:
    """The rows as their codes have them: centroid of the list and centroids of the sub-vectors, float64."""
    copy = faiss.clone_index(index.index)
    copy.make_direct_map()
    return copy.reconstruct_n(0, copy.ntotal).astype(np.float64) + index.centre.numpy().astype(np.float64)


def shape(index: QuantisedIndex) -> dict[str, int]:
    """What was built, after what the bank could not fill."""
    built = index.index
    return {"rows": built.ntotal, "lists": built.nlist, "subquantisers": built.pq.M, "bits": built.pq.nbits}


def packed(index: QuantisedIndex) -> bytes:
    return bytes(faiss.serialize_index(index.index))


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_distances_are_those_to_the_coded_rows(offset):
    bank, queries = clustered(0, 2000, 24) + offset, clustered(1, 60, 24) + offset
    index = build(bank, lists=20, subquantisers=8, bits=5, seed=0)
    assert shape(index) == {"rows": 2000, "lists": 20, "subquantisers": 8, "bits": 5}
    codes = decoded(index)
    expected = np.sqrt(((queries.numpy().astype(np.float64)[:, None] - codes) ** 2).sum(axis=2))
    distances, indices = index.search(queries, 7, probes=20)
    assert (distances.dtype, indices.dtype) == (torch.float32, torch.int64)
    np.testing.assert_allclose(distances.numpy(), np.sort(expected, axis=1)[:, :7], rtol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(expected, indices.numpy(), axis=1), distances.numpy(), rtol=1e-4)


@pytest.mark.slow
def test_recall_grows_with_probes_and_bits():
    bank, queries = clustered(2, 6000, 32), clustered(3, 400, 32)
    exact, truth = nearest(queries, bank, 1)

    def found(bits: int, probes: int) -> tuple[float, float]:
        distances, indices = build(bank, lists=40, subquantisers=32, bits=bits).search(queries, 1, probes=probes)
        return float((indices == truth).float().mean()), float((distances / exact - 1).abs().mean())

    recall, error = found(bits=8, probes=40)
    assert recall > 0.9
    assert error < 0.02
    assert found(bits=8, probes=1)[0] < recall
    assert found(bits=3, probes=40)[0] < recall


@pytest.mark.parametrize(("rows", "dimensions"), [(1, 5), (2, 3), (30, 7), (256, 10), (300, 150)])
def test_small_banks_lose_little(rows, dimensions):
    bank = clustered(4, rows, dimensions)
    index = build(bank)
    assert shape(index)["lists"] == max(1, rows // 39)
    assert shape(index)["subquantisers"] == min(64, dimensions)
    assert shape(index)["bits"] == max(1, min(8, rows.bit_length() - 1))
    distances, indices = index.search(bank, 1, probes=512)
    assert float(distances.max()) <= (1e-2 if rows in (1, 2, 256) else 1.0)
    # A few rows can share a code.
    assert float((indices[:, 0] == torch.arange(rows)).float().mean()) > 0.7
    # One probed list holds a few rows only, every row is asked for.
    _, indices = index.search(bank[:9], rows)
    assert torch.equal(indices.sort(dim=1).values, torch.arange(rows).expand(min(9, rows), -1))


def test_padding_leaves_distances_as_they_are():
    # 256 rows and 256 centroids: each row is coded without loss, in 4 sub-vectors of 3 of which two are filled up.
    bank, queries = clustered(5, 256, 10), clustered(6, 50, 10)
    distances, indices = build(bank, lists=1, subquantisers=4, bits=8).search(queries, 3)
    expected, order = nearest(queries, bank, 3)
    assert indices.tolist() == order.tolist()
    torch.testing.assert_close(distances, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("probes", [1, 6])
def test_batches_do_not_matter(probes):
    bank, queries = clustered(7, 3000, 40), clustered(8, 120, 40)
    index = build(bank, lists=30, subquantisers=20, bits=6)
    distances, indices = index.search(queries, 4, probes=probes)
    parts = [index.search(part, 4, probes=probes) for part in queries.split(7)]
    assert torch.equal(torch.cat([part for part, _ in parts]), distances)
    assert torch.equal(torch.cat([part for _, part in parts]), indices)


def of_faiss_alone(bank: torch.Tensor, index: QuantisedIndex, seed: int) -> bytes:
    """What faiss makes of all rows, given to it at once."""
    built, centred = index.index, (bank.float() - index.centre).numpy()
    other = faiss.IndexIVFPQ(faiss.IndexFlatL2(built.d), built.d, built.nlist, built.pq.M, built.pq.nbits)
    other.cp.seed = other.pq.cp.seed = seed
    other.cp.min_points_per_centroid = other.pq.cp.min_points_per_centroid = 1
    other.train(centred)
    other.add(centred)
    return bytes(faiss.serialize_index(other))


@pytest.mark.parametrize(
    ("rows", "dimensions", "subquantisers", "bits", "dtype"),
    [(9000, 24, 8, 4, torch.float32), (9000, 64, 2, 3, torch.float16), (300, 12, 4, 6, torch.float32)],
)
def test_blocks_of_a_file_become_what_all_rows_at_once_do(
    rows, dimensions, subquantisers, bits, dtype, monkeypatch, tmp_path
):
    path = tmp_path / "rows.safetensors"
    save_file({"rows": clustered(12, rows, dimensions).to(dtype)}, path)
    monkeypatch.setattr(ivfpq_build, "BLOCK_BYTES", 700 * 4 * dimensions)
    with safe_open(path, "pt") as file:
        bank = file.get_tensor("rows")
        index = build(bank, lists=20, subquantisers=subquantisers, bits=bits, seed=5)
        assert packed(index) == of_faiss_alone(bank, index, 5)


def test_codes_beyond_the_budget_are_refused_before_anything_is_learnt(monkeypatch):
    bank = clustered(13, 4000, 16)
    need = ivfpq_build.CodeShape.of(4000, 16, None, 8, 8)
    assert (need.lists, need.held_bytes) == (64, 4000 * (8 + 8) + 4 * 16 * (64 + 256) + 4 * 64 * 8 * 256)
    monkeypatch.setattr(ivfpq_build, "library", None)
    message = (
        r"product codes of 4000 rows need 0\.00\d+ GB \(64 lists, 8 subquantisers of 8 bits\), the budget is 0\.0005"
    )
    with pytest.raises(BudgetError, match=message):
        build(bank, subquantisers=8, memory_gb=0.0005)


def test_codes_depend_on_the_seed_alone():
    bank = clustered(9, 1000, 16)
    codes = packed(build(bank, lists=10, subquantisers=4, seed=3))
    assert packed(build(bank.double(), lists=10, subquantisers=4, seed=3)) == codes
    assert packed(build(bank, lists=10, subquantisers=4, seed=2**40)) != codes


def test_only_allowed_rows_are_found():
    bank, queries = clustered(10, 1200, 16), clustered(11, 80, 16)
    index = build(bank, lists=12, subquantisers=8)
    allowed = torch.rand(1200, generator=torch.Generator().manual_seed(0)) < 0.3
    distances, indices = index.search(queries, 3, probes=12, allowed=allowed)
    every, order = index.search(queries, 1200, probes=12)
    kept = allowed[order]
    expected = torch.stack([row[mask][:3] for row, mask in zip(every, kept, strict=True)])
    assert allowed[indices].all()
    assert torch.equal(distances, expected)
    few = torch.arange(1200) < 2
    _, indices = index.search(queries, 2, allowed=few)
    assert torch.equal(indices.sort(dim=1).values, torch.arange(2).expand(80, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": torch.rand(2, 4)}, "queries have 4 dimensions, the bank has 3"),
        ({"queries": torch.full((2, 3), torch.nan)}, "queries must hold finite numbers"),
        ({"k": 0}, "k must be 1..50"),
        ({"k": 51}, "k must be 1..50"),
        ({"k": 6, "allowed": torch.arange(50) < 5}, "k must be 1..5,"),
        ({"probes": 0}, "probes must be at least 1"),
        ({"allowed": torch.ones(49, dtype=torch.bool)}, "allowed must be .50,. bool"),
        ({"allowed": torch.ones(50)}, "allowed must be .50,. bool"),
    ],
)
def test_refused_searches(change, message):
    index = build(torch.rand(50, 3, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match=message):
        index.search(**{"queries": torch.rand(2, 3), "k": 1, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": torch.zeros(0, 3)}, "rows must be"),
        ({"rows": torch.full((9, 3), torch.inf)}, "row 0"),
        ({"lists": 0}, "at least 1 and bits 1..16"),
        ({"subquantisers": 0}, "at least 1 and bits 1..16"),
        ({"bits": 17}, "at least 1 and bits 1..16"),
    ],
)
def test_refused_banks(change, message):
    with pytest.raises(ValueError, match=message):
        build(**{"rows": torch.rand(9, 3), **change})
