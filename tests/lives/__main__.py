"""Lives on and on: ``python -m tests.lives [SCHEDULES] [SEED]`` prints the shortest failing schedule and its seed."""

from __future__ import annotations

import logging
import random
import sys
import time

import pytest

from tests.lives.runner import FailedLifeError, live_through
from tests.lives.schedules import lives

BATCH = 100  # schedules of a seed; the next seed is the next number


def main(schedules: int, number: int) -> bool:
    """Live so many schedules, and tell how it goes; whether all went well."""
    logging.disable(logging.WARNING)
    before, cpu_before, lived = time.perf_counter(), time.process_time(), 0
    with pytest.MonkeyPatch.context() as patch, lives(patch) as live:
        while lived < schedules:
            asked = min(BATCH, schedules - lived)
            try:
                live_through(live, asked, number)
            except FailedLifeError as error:
                sys.stdout.write(f"{error}\nagain: SCHEDULES={asked} SEED={number} make lives\n")
                return False
            lived += asked
            seconds, cpu = time.perf_counter() - before, time.process_time() - cpu_before
            sys.stdout.write(f"seed {number}: {lived} schedules in {seconds:.0f} s ({cpu:.0f} CPU s)\n")
            sys.stdout.flush()
            number += 1
    return True


if __name__ == "__main__":
    count, *given_seed = map(int, sys.argv[1:] or ("10000",))
    sys.exit(not main(count, given_seed[0] if given_seed else random.SystemRandom().randrange(10**6)))
