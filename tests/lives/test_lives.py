"""Random lives of a line, and by name those that once went wrong."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.lives.schedules import LONGEST, Step, lives, steps

Live = Callable[[Sequence[Step]], None]


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """Carries out a schedule."""
    with pytest.MonkeyPatch.context() as patch, lives(patch) as carried_out:
        yield carried_out


@seed(20261128)
@settings(max_examples=40, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(schedule=st.lists(steps(), min_size=1, max_size=LONGEST))
def test_whatever_happens_to_a_line_what_must_hold_does(live: Live, schedule: list[Any]) -> None:
    live(schedule)


@pytest.mark.parametrize(
    "decided", [[], [("wait", 1000), ("tick",), ("decide", "reject", 0)]], ids=["held", "rejected"]
)
def test_an_image_under_two_names_is_held_back_under_both(live: Live, decided: list[Step]) -> None:
    live([("odd", 3), ("odd", 3), *decided])
