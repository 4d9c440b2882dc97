"""Lives on and on: ``python -m tests.lives [SCHEDULES] [SEED]`` prints the shortest failing schedule and its seed."""

from __future__ import annotations

import random
import sys
import time

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.lives.schedules import LONGEST, lives, steps


def main(schedules: int, number: int) -> None:
    """Live so many schedules.

    Raises:
        AssertionError: of the shortest failing one.
    """
    started, lived = time.perf_counter(), 0
    with pytest.MonkeyPatch.context() as patch, lives(patch) as live:

        @seed(number)
        @settings(
            max_examples=schedules,
            database=None,
            deadline=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(steps(), min_size=1, max_size=LONGEST))
        def lived_through(schedule: list[tuple[object, ...]]) -> None:
            nonlocal lived
            lived += 1
            live(schedule)

        try:
            lived_through()
        finally:
            seconds = time.perf_counter() - started
            cpu = time.process_time()
            sys.stdout.write(f"seed {number}: {lived} schedules in {seconds:.0f} s ({cpu:.0f} CPU s)\n")


if __name__ == "__main__":
    count, *given_seed = map(int, sys.argv[1:] or ("10000",))
    main(count, given_seed[0] if given_seed else random.SystemRandom().randrange(10**6))
