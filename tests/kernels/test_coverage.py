"""Covering radii are those of all distances, on any device; projections repeat and keep lengths."""

from __future__ import annotations

import pytest
import torch

from ad_assets.kernels import coverage
from ad_assets.kernels.coverage import covering_radius, radius_of_picks, random_projection
from ad_assets.kernels.rows import HeldRows
from tests.support.emulated_device import cuda_device


def normal(rows: int, dimensions: int) -> torch.Tensor:
    return torch.randn(rows, dimensions, generator=torch.Generator().manual_seed(rows))


def radius_by(rows: torch.Tensor, picks: torch.Tensor, projected: torch.Tensor) -> float:
    """As picked from all projected rows at once."""
    bank, near = rows[picks].to(projected.device), projected[picks.to(projected.device)]
    return radius_of_picks(HeldRows(rows), bank, near, lambda first, block: projected[first : first + len(block)])


def test_the_radius_is_the_largest_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "RADIUS_ROWS", 64)
    monkeypatch.setattr(coverage, "PROJECTED_ROWS", 16)
    rows, picks = normal(900, 40), torch.randperm(900, generator=torch.Generator().manual_seed(0))[:60]
    expected = float(torch.cdist(rows.double(), rows[picks].double()).amin(dim=1).max())
    projected = random_projection(rows, 12, seed=1)
    assert covering_radius(rows, rows[picks]) == pytest.approx(expected, rel=1e-6)
    assert radius_by(rows, picks, projected) == pytest.approx(expected, rel=1e-6)
    assert radius_by(rows, picks, rows) == covering_radius(rows, rows[picks])
    with cuda_device() as device:  # rows stay in main memory and go to the device in blocks
        torch.testing.assert_close(random_projection(rows, 12, seed=1, device=device).cpu(), projected)
        assert covering_radius(rows, rows[picks].to(device), 1e-4) == pytest.approx(expected, rel=1e-6)
        assert radius_by(rows, picks, projected.to(device)) == pytest.approx(expected, rel=1e-6)


def test_random_projection_repeats_and_keeps_lengths() -> None:
    rows = torch.randn(400, 300, generator=torch.Generator().manual_seed(0))
    projected = random_projection(rows, 128, seed=5)
    assert torch.equal(projected, random_projection(rows, 128, seed=5))
    assert not torch.equal(projected, random_projection(rows, 128, seed=6))
    ratio = torch.pdist(projected[:50]) / torch.pdist(rows[:50])
    assert ratio.mean() == pytest.approx(1.0, abs=0.05)
    with pytest.raises(ValueError, match="dimensions"):
        random_projection(rows, 0, seed=0)
