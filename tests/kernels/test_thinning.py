"""The thinning of rows against loops, and its promises."""

import numpy as np
import pytest
import torch

from ad_assets.kernels.parallel import threads, use_threads
from ad_assets.kernels.thinning import COUNTED, FIRST_RADIUS, GROWTH, density_thinning


def _thinned(rows: torch.Tensor, count: int, subsets: int, seed: int = 0) -> torch.Tensor:
    return density_thinning(rows, count, subsets=subsets, generator=torch.Generator().manual_seed(seed))


def _by_loops(rows: np.ndarray, count: int, subsets: int, seed: int) -> list[int]:
    """Row by row; random numbers are drawn as the kernel draws them."""
    generator = torch.Generator().manual_seed(seed)
    kept: set[int] = set()
    for _ in range(subsets):
        left = [row for row in range(len(rows)) if row not in kept]
        order = torch.randperm(len(left), generator=generator)[: len(rows) // subsets].tolist()
        drawn = [left[place] for place in order]
        away = [sorted(np.linalg.norm(rows[a] - rows[b]) for b in drawn)[:COUNTED] for a in drawn]
        numbers = torch.rand(len(drawn), generator=generator, dtype=torch.float64).tolist()
        radius, chosen = FIRST_RADIUS * np.mean(away), drawn
        while len(chosen) > count // subsets:
            within = [sum(distance < radius for distance in each) for each in away]
            chosen = [row for row, n, number in zip(drawn, within, numbers, strict=True) if number < 1 / (1 + n)]
            radius *= GROWTH
        kept |= set(chosen)
    left = [row for row in range(len(rows)) if row not in kept]
    order = torch.randperm(len(left), generator=generator)[: count - len(kept)].tolist()
    return sorted(kept | {left[place] for place in order})


def _dense_and_sparse(seed: int) -> torch.Tensor:
    """270 rows of which 30 lie apart, the last ones."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.05] * 240 + [8.0] * 30)[:, None]
    return torch.randn(270, 5, generator=generator) * scale


@pytest.mark.parametrize(("count", "subsets"), [(60, 1), (60, 4), (61, 7), (269, 3)])
def test_the_rows_are_those_of_loops(count: int, subsets: int) -> None:
    rows = _dense_and_sparse(count)
    assert _thinned(rows, count, subsets, 3).tolist() == _by_loops(rows.double().numpy(), count, subsets, 3)


def test_rows_that_lie_apart_are_kept_and_dense_ones_thinned() -> None:
    kept = [_thinned(_dense_and_sparse(seed), 60, 3, seed) for seed in range(10)]
    apart = sum(int((picks >= 240).sum()) for picks in kept) / 300
    # At random 22 % of both would be kept; a row that is alone is kept every second time, for it counts itself.
    assert 0.4 < apart < 0.7


@pytest.mark.parametrize("count", [1, 3, 99, 270])
@pytest.mark.parametrize("subsets", [1, 100, 1000])
def test_so_many_are_kept_as_asked_for(count: int, subsets: int) -> None:
    picks = _thinned(_dense_and_sparse(0), count, subsets)
    assert picks.tolist() == sorted(set(picks.tolist()))
    assert len(picks) == count
    assert torch.equal(picks, _thinned(_dense_and_sparse(0), count, subsets))


def test_few_rows_of_many_alike_are_kept_without_end() -> None:
    """Of so many equal rows every radius keeps a hundredth or more."""
    assert len(_thinned(torch.ones(400, 3), 2, 1)) == 2


def test_the_number_of_threads_changes_nothing() -> None:
    before = threads()
    try:
        found = []
        for count in (1, 3):
            use_threads(count)
            found.append(_thinned(_dense_and_sparse(5), 70, 2).tolist())
    finally:
        use_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize(("count", "subsets"), [(0, 1), (271, 1), (5, 0)])
def test_what_cannot_be_is_refused(count: int, subsets: int) -> None:
    with pytest.raises(ValueError, match=r"expected 1\.\.270 rows"):
        _thinned(_dense_and_sparse(0), count, subsets)
