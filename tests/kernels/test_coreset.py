"""Greedy k-centre: the authors' picks, a plain loop in float64, and the hard cases of a lazy method."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ad_assets.kernels import coreset
from ad_assets.kernels.coreset import greedy_coreset
from ad_assets.kernels.coverage import covering_radius
from tests.support.emulated_device import cuda_device
from tests.support.fixtures import fixture


def plain_loop(features: np.ndarray, k: int, start: int, initial: np.ndarray | None = None) -> list[int]:
    """One pass over all rows for every pick, float64."""
    rows = features.astype(np.float64)
    free = np.ones(len(rows), dtype=bool)
    if initial is None:
        distance, pick = np.full(len(rows), np.inf), start
    else:
        distance = initial.astype(np.float64)
        pick = int(np.argmax(distance))
    picks = []
    for _ in range(k):
        picks.append(pick)
        free[pick] = False
        distance = np.minimum(distance, np.sqrt(((rows - rows[pick]) ** 2).sum(axis=1)))
        pick = int(np.argmax(np.where(free, distance, -1.0)))
    return picks


def clustered(seed: int, rows: int, dimensions: int, clusters: int, spread: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, dimensions, generator=generator)
    member = torch.randint(clusters, (rows,), generator=generator)
    return centres[member] + spread * torch.randn(rows, dimensions, generator=generator)


def mean_distance(features: torch.Tensor, points: np.ndarray) -> torch.Tensor:
    return torch.cdist(features.double(), features[torch.from_numpy(points).long()].double()).mean(dim=1)


def test_picks_of_the_fixture():
    data = fixture("coreset")
    features, k = torch.from_numpy(data["features"]), int(data["k"])
    clean = greedy_coreset(features, k, start=int(data["start_index"]))
    assert clean.tolist() == data["greedy_indices"].tolist()
    initial = mean_distance(features, data["approx_start_points"])
    assert greedy_coreset(features, k, initial=initial).tolist() == data["approx_indices"].tolist()
    projected = features @ torch.from_numpy(data["proj_matrix"]).T
    initial = mean_distance(projected, data["proj_start_points"])
    assert greedy_coreset(projected, k, initial=initial).tolist() == data["proj_indices"].tolist()
    for done in (1, 7, k):
        assert covering_radius(features, features[clean[:done]]) == pytest.approx(
            data["greedy_radius"][done - 1], rel=1e-6
        )


@pytest.mark.parametrize("spread", [0.02, 1.0])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_equal_to_the_plain_loop(monkeypatch, spread, offset):
    # Small pools, so that thousands of rows go through many rounds; an offset, so that products cancel.
    monkeypatch.setattr(coreset, "POOL", 32)
    features = clustered(3, 2500, 24, clusters=40, spread=spread) + offset
    expected = plain_loop(features.numpy(), 150, start=5)
    assert greedy_coreset(features, 150, start=5).tolist() == expected
    assert greedy_coreset(features, 150, start=5, memory_gb=1e-4).tolist() == expected
    initial = mean_distance(features, np.arange(10))
    expected = plain_loop(features.numpy(), 150, start=0, initial=initial.numpy())
    assert greedy_coreset(features, 150, initial=initial).tolist() == expected


@settings(max_examples=60)
@given(
    grid=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=70),
    pool=st.sampled_from([1, 2, 8]),
    data=st.data(),
)
def test_ties_and_duplicates_go_to_the_lowest_index(grid, pool, data):
    features = torch.tensor(grid, dtype=torch.float32)
    k = data.draw(st.integers(1, len(grid)))
    start = data.draw(st.integers(0, len(grid) - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coreset, "POOL", pool)
        assert greedy_coreset(features, k, start=start).tolist() == plain_loop(features.numpy(), k, start)


def test_many_copies_of_few_rows():
    features = clustered(0, 7, 16, clusters=7, spread=0.1).repeat(600, 1) + 50
    picks = greedy_coreset(features, 200, start=2)
    assert picks.tolist() == plain_loop(features.numpy(), 200, start=2)
    assert covering_radius(features, features[picks]) == 0.0


def test_two_far_clusters_finer_than_the_rounding_of_their_products():
    generator = torch.Generator().manual_seed(0)
    side = torch.where(torch.arange(3000) % 2 == 0, 1.0, -1.0).unsqueeze(1)
    features = 1000 * side + 1e-3 * torch.randn(3000, 8, generator=generator).round(decimals=1)
    assert greedy_coreset(features, 100).tolist() == plain_loop(features.numpy(), 100, start=0)


def test_every_row_and_progress():
    features = clustered(1, 500, 8, clusters=5, spread=0.3)
    told: list[tuple[int, int]] = []
    picks = greedy_coreset(features, 500, report=lambda done, total: told.append((done, total)))
    assert sorted(picks.tolist()) == list(range(500))
    assert told[-1] == (500, 500)


def test_shortcuts_of_the_process_do_not_reach_the_picks():
    features = clustered(2, 3000, 64, clusters=30, spread=0.5)
    expected = greedy_coreset(features, 100).tolist()
    torch.set_float32_matmul_precision("medium")
    try:
        assert greedy_coreset(features, 100).tolist() == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be 1..20"),
        ({"k": 21}, "k must be 1..20"),
        ({"start": 20}, "start must be a row"),
        ({"start": -1}, "start must be a row"),
        ({"features": torch.zeros(20)}, "must be .rows, D."),
        ({"features": torch.full((20, 3), torch.nan)}, "row 0"),
        ({"features": torch.zeros(20, 3).index_fill_(0, torch.tensor([7]), torch.inf)}, "row 7"),
        ({"initial": torch.zeros(19)}, "one distance a row"),
        ({"initial": torch.full((20,), -1.0)}, "finite distances"),
    ],
)
def test_refused_input(change, message):
    arguments = {"features": torch.rand(20, 3), "k": 2, **change}
    with pytest.raises(ValueError, match=message):
        greedy_coreset(**arguments)


@pytest.mark.parametrize(("spread", "offset"), [(0.02, 0.0), (1.0, 0.0), (1.0, 300.0)])
def test_a_device_picks_what_the_cpu_picks(monkeypatch, spread, offset):
    monkeypatch.setattr(coreset, "POOL", 64)
    features = clustered(3, 2500, 24, clusters=40, spread=spread) + offset
    initial = mean_distance(features, np.arange(10))
    expected = [greedy_coreset(features, 300, start=5), greedy_coreset(features, 300, initial=initial)]
    with cuda_device() as device:
        rows = features.to(device)
        found = [greedy_coreset(rows, 300, start=5), greedy_coreset(rows, 300, initial=initial.to(device))]
        small = greedy_coreset(rows, 300, start=5, memory_gb=1e-4).cpu()
        assert [picks.cpu().tolist() for picks in found] == [picks.tolist() for picks in expected]
        assert small.tolist() == expected[0].tolist()
        copies = torch.cat([features[:40]] * 30).to(device)
        assert greedy_coreset(copies, 60).tolist() == greedy_coreset(copies.cpu(), 60).tolist()
