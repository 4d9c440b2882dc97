"""What features are refused for: NaN and infinity anywhere, and no number that is merely large."""

import pytest
import torch

from ad_assets.methods.data import check_finite


@pytest.mark.parametrize("bad", [[torch.nan], [torch.inf], [-torch.inf], [torch.inf, -torch.inf]])
def test_one_value_that_is_no_number_is_refused(bad: list[float]) -> None:
    tap = torch.randn(2, 3, 5, 7)
    tap.flatten()[11 : 11 + len(bad)] = torch.tensor(bad)
    with pytest.raises(ValueError, match="NaN or infinity"):
        check_finite(torch.zeros(4), tap)


def test_large_values_whose_sum_overflows_are_numbers() -> None:
    check_finite(torch.full((8,), 3e38), torch.zeros(0))
