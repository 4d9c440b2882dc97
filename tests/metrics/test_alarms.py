"""Counts of alarms against what simulation and published tables say."""

import numpy as np
import pytest

from ad_assets.metrics.alarms import chance_of_alarms, chance_of_more, most_without_an_alarm, rate_bounds


def test_alarms_above_an_ordered_score_have_the_law_that_draws_show() -> None:
    random = np.random.default_rng(0)
    scores, images, above, draws = 19, 10, 1, 40_000
    values = random.random((draws, scores + images))
    thresholds = np.sort(values[:, :scores], axis=1)[:, -1 - above]
    alarms = (values[:, scores:] > thresholds[:, None]).sum(axis=1)
    for count in (1, 2, 3, 4):
        assert chance_of_alarms(count, images, above, scores) == pytest.approx((alarms >= count).mean(), abs=0.01)
    assert chance_of_alarms(0, images, above, scores) == 1


def test_bounds_are_those_of_the_tables() -> None:
    assert rate_bounds(0, 20) == (0.0, pytest.approx(0.1684, abs=1e-4))
    assert rate_bounds(2, 20) == (pytest.approx(0.0123, abs=1e-4), pytest.approx(0.3170, abs=1e-4))
    assert rate_bounds(20, 20)[1] == 1.0
    # Were the rate any higher, no alarm at all would come in fewer than 5 % of cases.
    assert (1 - most_without_an_alarm(60)) ** 60 == pytest.approx(0.05)


def test_only_images_on_which_two_states_differ_tell_them_apart() -> None:
    same = [True] * 50 + [False] * 50
    assert chance_of_more(same, same) == 1
    assert chance_of_more([*same, *[False] * 5], [*same, *[True] * 5]) == pytest.approx(1 / 32)
    assert chance_of_more([True, False], [False, True]) == pytest.approx(3 / 4)


@pytest.mark.parametrize(("alarms", "images"), [(0, 0), (3, 2), (-1, 2)])
def test_counts_that_cannot_be_are_refused(alarms: int, images: int) -> None:
    with pytest.raises(ValueError, match="there must be images"):
        rate_bounds(alarms, images)
