"""A production dataset of 50, 100, 200 categories, three lanes each: what a look at it costs, and how that grows.

    python -m tests.benchmarks.bench_living_graph [--categories 50 100 200 400]

Nothing is computed: heads, artifacts and Dagster's events (SQLite) are written as runs would have left them, in shared
memory where there is some, for it takes three thousand of each. What is timed only reads. Each figure is the best
of three tries, with the processor's share; that is what growth is told of, for load of others hardly touches it.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from tests.support.living_graph import LivingGraph

CATEGORIES = (50, 100, 200)
TRIES = 3
LIMITS = {"sensor: nothing changed": 2, "status of one category": 2, "automation: nothing due": 10}
SLACK = 2.0  # over growth in proportion to the categories
MEMORY = Path("/dev/shm")  # noqa: S108


class Figures:
    """Seconds of the clock, and of this process, by name of what was timed."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    def time(self, name: str, call: Callable[[], Any], tries: int = TRIES) -> Any:
        """Time a call; returns its last answer."""
        taken = []
        for _ in range(tries):
            started, worked = time.perf_counter(), time.process_time()
            answer = call()
            taken.append((time.perf_counter() - started, time.process_time() - worked))
        self.seconds[name] = min(taken)
        return answer


def measure(folder: Path, instance: dg.DagsterInstance, categories: int) -> Figures:
    """All figures at one number of categories; what the looks answer is checked."""
    graph = LivingGraph(folder, instance, categories)
    graph.make_current()
    figures = Figures()
    one = graph.names[categories // 2]
    figures.time("loading the definitions", graph.reload)

    cursor = figures.time("sensor: first look", lambda: graph.tick(None)).cursor
    assert not figures.time("sensor: nothing changed", lambda: graph.tick(cursor)).run_requests

    def status(**options: Any) -> Any:
        graph.reload()  # cold: nothing is remembered of an earlier look
        return graph.plan(**options)

    assert not figures.time("status of one category", lambda: status(categories=[one]))
    assert not figures.time("status of everything", status)

    graph.reload()
    asked, conditions = figures.time("automation: first look", lambda: graph.evaluate(None), tries=1)
    assert not asked
    asked, conditions = figures.time("automation: nothing due", lambda: graph.evaluate(conditions))
    assert not asked
    figures.time(
        "the same by evaluate_automation_conditions",
        lambda: dg.evaluate_automation_conditions(graph.definitions, instance),
        tries=1,
    )

    graph.land(graph.images / one / "train" / "good" / "new.png")
    result = figures.time("sensor: one category has new images", lambda: graph.tick(cursor))
    assert [request.partition_key for request in result.run_requests] == [one]
    graph.index_stamps([one])
    graph.index_again(one)
    assert len(figures.time("status of one category, stale", lambda: status(categories=[one]))) > 10
    asked, conditions = figures.time("automation: one category due", lambda: graph.evaluate(conditions))
    assert asked.keys() == {one}

    graph.set("datasets.parts.detectors.sheets.sheets", 7)
    asked, _ = figures.time("automation: a setting changed for all", lambda: graph.evaluate(conditions))
    assert asked.keys() == set(graph.names)
    assert len(figures.time("status of everything, a third stale", status)) > 3 * categories
    return figures


def main() -> None:
    """Measure, print, and fail where a figure grows much faster than the categories."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--categories", type=int, nargs="+", default=CATEGORIES)
    counts = parser.parse_args().categories
    warnings.simplefilter("ignore")
    logging.getLogger("dagster").setLevel(logging.WARNING)
    measured: dict[int, Figures] = {}
    for count in counts:
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
            (Path(folder) / "home").mkdir()
            with dg.DagsterInstance.local_temp(str(Path(folder) / "home")) as instance:
                measured[count] = measure(Path(folder), instance, count)
        print(f"{count} categories measured", flush=True)
    steep: list[str] = []
    for name in measured[counts[0]].seconds:
        row = [measured[count].seconds[name] for count in counts]
        growth = ["", *(f", {now / before:.1f}x" for (_, before), (_, now) in itertools.pairwise(row))]
        told = ", ".join(
            f"{n}: {clock:.2f} s ({worked:.2f}{g})" for n, (clock, worked), g in zip(counts, row, growth, strict=True)
        )
        print(f"{name}: {told}{f'; limit at 200: {LIMITS[name]} s' if name in LIMITS else ''}")
        steep += [name] if row[-1][1] / row[0][1] > SLACK * counts[-1] / counts[0] else []
    assert not steep, steep


if __name__ == "__main__":
    main()
