"""Runs beside others: two score-map stages at once against one after the other, one core of two, busy neighbours.

Seconds are of the wall and, in brackets, of the CPU; ratios are within this run. `--demo` adds the whole demo alone and
beside two processes that only count, which takes minutes.

    python -m tests.benchmarks.bench_contention [--demo]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.places import REPOSITORY

STAGE = ("demo", "hetmm_all", "score_maps")
CATEGORIES = ("brick", "grass")
REPEATS = 3
GOAL_AT_ONCE = 0.7
GOAL_BESIDE = 3.0


class Seconds(NamedTuple):
    """Wall and CPU seconds."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.1f} s ({self.cpu:.1f})"


def best(times: Sequence[Seconds]) -> Seconds:
    """The run that the load of others lengthened least."""
    return min(times)


def settings(folder: Path) -> list[str]:
    """What makes a call use a store of its own."""
    places = {"store.root": folder / "store", "datasets.demo.root": folder / "images"}
    return [f"{key}={place}" for key, place in places.items()]


def materialize(folder: Path, *arguments: str) -> Seconds:
    """One call of the command, in a process of its own."""
    sets = [part for text in settings(folder) for part in ("--set", text)]
    command = [sys.executable, "-m", "ad_assets.cli", "materialize", "--config", "demo", *arguments, *sets]
    started, before = time.perf_counter(), os.times()
    subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "DAGSTER_HOME": str(folder / "home")},
        check=True,
        capture_output=True,
    )
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Seconds(time.perf_counter() - started, cpu)


def build_stage(folder: str, category: str, runs: str) -> None:
    """The body of a measured process: build the stage once it is told to, on the threads of one of so many runs."""
    from ad_assets.config.load import load_config
    from ad_assets.graph.build import materialize as build
    from ad_assets.graph.lanes import stages_of

    class Silent:
        def info(self, message: str) -> None:
            del message

    benchmark = load_config("demo", settings(Path(folder)))
    stage = next(stage for stage in stages_of(benchmark) if stage.key == STAGE)
    benchmark.compute.apply_threads(int(runs))
    print("ready", flush=True)
    sys.stdin.readline()
    started, before = time.perf_counter(), time.process_time()
    build(stage, category, benchmark.store, benchmark.compute, Silent(), force=True)
    print(json.dumps([time.perf_counter() - started, time.process_time() - before]), flush=True)


@contextmanager
def processes(folder: Path, runs: int, cores: set[int] | None = None) -> Iterator[list[subprocess.Popen[str]]]:
    """A process for each category, ready to build."""

    def pin() -> None:
        if cores:
            os.sched_setaffinity(0, cores)

    command = [sys.executable, "-m", "tests.benchmarks.bench_contention", "stage", str(folder)]
    started = [
        subprocess.Popen(
            [*command, category, str(runs)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=pin,
        )
        for category in CATEGORIES
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    yield started
    for process in started:
        process.wait()


def go(process: subprocess.Popen[str]) -> None:
    """Let a process build."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def told(process: subprocess.Popen[str]) -> Seconds:
    """What a process measured."""
    assert process.stdout is not None
    return Seconds(*json.loads(process.stdout.readline()))


def one_after_the_other(folder: Path, runs: int = 1, cores: set[int] | None = None) -> Seconds:
    """Both stages in turn."""
    total = Seconds(0.0, 0.0)
    with processes(folder, runs, cores) as started:
        for process in started:
            go(process)
            seconds = told(process)
            total = Seconds(total.wall + seconds.wall, total.cpu + seconds.cpu)
    return total


def at_once(folder: Path, runs: int) -> Seconds:
    """Both stages at the same time, on the threads that each of so many runs gets."""
    with processes(folder, runs) as started:
        begun = time.perf_counter()
        for process in started:
            go(process)
        cpu = sum(told(process).cpu for process in started)
        return Seconds(time.perf_counter() - begun, cpu)


def beside_counters(folder: Path, count: int) -> Seconds:
    """The whole demo beside so many processes that keep a core busy."""
    counters = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        return materialize(folder)
    finally:
        for counter in counters:
            counter.kill()
            counter.wait()


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lane = [part for category in CATEGORIES for part in ("--category", category)]
        materialize(folder, *lane, "--select", f'key:"{"/".join(STAGE)}"')
        turns = [(one_after_the_other(folder), at_once(folder, 2), at_once(folder, 1)) for _ in range(REPEATS)]
        turn, shared, unshared = (best(times) for times in zip(*turns, strict=True))
        print(f"two {'/'.join(STAGE)}, one after the other: {turn}")
        for what, seconds in (("half of the cores each", shared), ("all cores each", unshared)):
            ratio = seconds.wall / turn.wall
            print(f"  both at once, {what}: {seconds}, {ratio:.2f}x (goal {GOAL_AT_ONCE}x)", flush=True)
        one = {min(os.sched_getaffinity(0))}
        pinned = [(one_after_the_other(folder, 1, one), one_after_the_other(folder, 64, one)) for _ in range(REPEATS)]
        quota, alone = (best(times) for times in zip(*pinned, strict=True))
        print(f"  on one core: {quota}; with one thread there: {alone}, {quota.wall / alone.wall:.2f}x (goal 1.0x)")
    if "--demo" in sys.argv:
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            calm, busy = materialize(Path(first)), beside_counters(Path(second), 2)
        ratio = busy.wall / calm.wall
        print(f"demo alone: {calm}; beside two busy processes: {busy}, {ratio:.2f}x (goal {GOAL_BESIDE}x)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["stage"]:
        build_stage(*sys.argv[2:])
    else:
        main()
