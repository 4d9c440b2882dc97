"""Lives through random schedules, and finds the shortest that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import engine

from tests.lives.schedules import LONGEST, Step, steps

Live = Callable[[Sequence[Step]], None]
SHRINK_SECONDS = 60  # until the shortest schedule so far is good enough


class FailedLifeError(AssertionError):
    """A schedule after which something is not as it must be.

    Attributes:
        number: the how manyth schedule of its seed failed first, from 1.
        shortest: the shortest that was found.
    """

    def __init__(self, given_seed: int, number: int, shortest: Sequence[Step], why: BaseException) -> None:
        self.number, self.shortest = number, shortest
        super().__init__(
            f"seed {given_seed}, schedule {number}: {type(why).__name__}: {why}\nshortest schedule: {shortest}"
        )


def live_through(live: Live, schedules: int, given_seed: int, *, shrink_seconds: float = SHRINK_SECONDS) -> int:
    """Live through so many random schedules; the same seed has the same. Returns how many there were.

    Args:
        live: carries out a schedule, and raises what is wrong.
        schedules: how many at most; fewer where all that differ were lived.
        given_seed: of the random choices.
        shrink_seconds: how long shorter schedules that fail are looked for; 0: not at all.

    Raises:
        FailedLifeError: one failed.
    """
    lived, failed, shortest = 0, 0, list[Step]()

    @seed(given_seed)
    @settings(
        max_examples=schedules,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink) if shrink_seconds else (Phase.generate,),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(steps(), min_size=1, max_size=LONGEST))
    def lived_through(schedule: list[Step]) -> None:
        nonlocal lived, failed, shortest
        lived += 1
        try:
            live(schedule)
        except BaseException:
            failed, shortest = failed or lived, schedule  # the last that is tried is the shortest
            raise

    try:
        with patch.object(engine, "MAX_SHRINKING_SECONDS", shrink_seconds):
            lived_through()
    except Exception as error:
        raise FailedLifeError(given_seed, failed, shortest, error) from error
    return lived
