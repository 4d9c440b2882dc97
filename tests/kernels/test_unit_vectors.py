"""Vectors of length one are those of torch to the last bit: templates and banks that are stored stay what they are."""

import pytest
import torch
from torch.nn.functional import normalize

from ad_assets.kernels.unit_vectors import unit_vectors


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("channels", [1, 2, 7, 112])
@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (5, 7), (16, 16)])
def test_vectors_are_those_of_torch(images: int, channels: int, grid: tuple[int, int]) -> None:
    tap = torch.randn(images, channels, *grid, generator=torch.Generator().manual_seed(channels)) * 13.7
    tap[0, :, 0, 0] = 0  # a vector without a direction
    last = tap.contiguous(memory_format=torch.channels_last)
    for each in (tap, last, tap.double(), tap.mT.contiguous().mT):
        assert torch.equal(unit_vectors(each), normalize(each, dim=1))
    assert not unit_vectors(tap[:0]).numel()


def test_a_value_that_is_no_number_stays_one() -> None:
    tap = torch.ones(1, 3, 2, 2)
    tap[0, 1, 0, 1] = torch.nan
    assert unit_vectors(tap).isnan().sum() == 3
