"""Carrying out a plan: one Dagster run a category, in this process, then the assets over all categories.

What is made for each category of an asset over all categories, such as a joint bank, comes after that, run by run.
"""

from __future__ import annotations

import os
import re
import socket
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dagster as dg
import filelock

from ad_assets.defs.assets import run_config_of
from ad_assets.defs.dagster_internals import keep_event_logs_open
from ad_assets.defs.home import open_home
from ad_assets.defs.landing_sensor import UNFINISHED
from ad_assets.defs.plan import Step
from ad_assets.defs.tags import PROCESS_TAG
from ad_assets.defs.terminal import TERMINAL_RUN_CONFIG
from ad_assets.graph.stage import Key
from ad_assets.graph.stages.image_index import ON_THEIR_WAY
from ad_assets.interrupts import when_interrupted

LOCK = ".ad_assets.lock"
_INTERRUPTS = ("KeyboardInterrupt", "DagsterExecutionInterruptedError")


@dataclass(frozen=True)
class Outcome:
    """What became of a plan: asset partitions built, found in the store, and failed with their messages.

    `waiting` tells of the files that were not taken, because they are on their way.
    """

    built: int
    found: int
    failures: tuple[str, ...]
    waiting: tuple[str, ...] = ()


def open_instance(source: str) -> dg.DagsterInstance:
    """The Dagster instance of a benchmark file, by its path: that of `open_home`."""
    home = open_home(source)
    keep_event_logs_open()
    # Dagster makes its tables when it first opens a home; two processes that do so at once fail.
    with filelock.FileLock(home / LOCK):
        instance = dg.DagsterInstance.get()
    _close_runs_of_dead_processes(instance)
    _free_slots_of_finished_runs(instance)
    return instance


def execute(
    steps: Sequence[Step],
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    *,
    force: bool = False,
    verify: bool = False,
    before: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run a plan; a failing category does not keep the others from running.

    Args:
        steps: what `plan` returned.
        definitions: the definitions that the plan was made for.
        instance: where runs and materializations are recorded.
        force: build artifacts even if the store has them.
        verify: read images and artifacts again, and build what is damaged.
        before: called with a title before each run.

    Raises:
        KeyboardInterrupt: somebody interrupted a step; what follows it is not begun.
    """
    job = definitions.resolve_implicit_global_asset_job_def()
    planned = deque(in_runs(steps))
    built = found = 0
    failures: list[str] = []
    waiting: list[str] = []
    while planned:
        (dataset, partition), members = planned.popleft()
        title = f"{dataset} [{partition}]" if partition else dataset
        before(f"{title}: {len(members)} assets")
        keys = [dg.AssetKey(list(step.stage.key)) for step in members]
        with when_interrupted(partial(_cancel_runs_of_this_process, instance)):
            result = job.execute_in_process(
                run_config={**TERMINAL_RUN_CONFIG, **run_config_of(keys, force=force, verify=verify)},
                instance=instance,
                partition_key=partition,
                asset_selection=keys,
                tags={PROCESS_TAG: _process_name(os.getpid())},
                raise_on_error=False,
            )
        made: set[Key] = set()
        for event in result.get_asset_materialization_events():
            made.add(tuple(event.asset_key.path) if event.asset_key else ())
            metadata = event.step_materialization_data.materialization.metadata
            reused = metadata["reused"].value
            if ON_THEIR_WAY in metadata:
                told = "files were not taken: they changed just now, or are not whole; run again when they rest"
                waiting.append(f"{title}: {metadata[ON_THEIR_WAY].value} {told}")
            found, built = (found + 1, built) if reused else (found, built + 1)
        failed = result.filter_events(lambda event: event.is_step_failure)
        if any(e.step_failure_data.error and e.step_failure_data.error.cls_name in _INTERRUPTS for e in failed):
            raise KeyboardInterrupt
        failures += [f"{title} {event.step_key}: {_message(event)}" for event in failed]
        if skipped := _skipped(members, made, {event.step_key for event in failed}):
            planned.appendleft(((dataset, partition), skipped))
        if not result.success and not failed:
            failures.append(f"{title}: the run failed; see it in the Dagster UI")
    return Outcome(built, found, tuple(failures), tuple(waiting))


def in_runs(steps: Sequence[Step]) -> Iterator[tuple[tuple[str, str | None], list[Step]]]:
    """Dataset and category of each run of a plan, in order, and its steps, upstream first."""
    runs: dict[tuple[int, str, str | None], list[Step]] = {}
    for step in sorted(steps, key=lambda step: step.stage.turn):
        runs.setdefault((step.stage.turn, step.stage.key[0], step.partition), []).append(step)
    for (_, dataset, partition), members in runs.items():
        yield (dataset, partition), members


def other_processes(instance: dg.DagsterInstance) -> list[str]:
    """The processes, by host and number, other than this one, that carry out runs of this benchmark file now."""
    runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    names = dict.fromkeys(run.tags.get(PROCESS_TAG, "") for run in runs)
    return [name.replace(":", ", process ") for name in names if name not in ("", _process_name(os.getpid()))]


def _skipped(steps: Sequence[Step], made: Collection[Key], failed: Collection[str | None]) -> list[Step]:
    """Of the steps of a run those that can be made without what failed: Dagster skips whatever reads that."""
    missing = {step.stage.key for step in steps} - set(made)
    return [
        step
        for step in steps
        if step.stage.optional
        and step.stage.key in missing
        and dg.AssetKey(list(step.stage.key)).to_python_identifier() not in failed
        and all(step.stage.may_lack((dep.key, step.partition)) for dep in step.stage.deps if dep.key in missing)
        and step.stage.has_lane({dep.key for dep in step.stage.deps} - missing)
    ]


def _message(event: dg.DagsterEvent) -> str:
    error = event.step_failure_data.error
    failure = event.step_failure_data.user_failure_data
    if failure and failure.description:
        return failure.description
    if error and error.cause:  # Dagster's own error wraps ours
        error = error.cause
    # Whose message names file and remedy needs no path of its class.
    return re.sub(r"^ad_assets[\w.]*Error: ", "", error.message.strip()) if error else "failed"


def _process_name(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}"


def _cancel_runs_of_this_process(instance: dg.DagsterInstance) -> None:
    mine = dg.RunsFilter(tags={PROCESS_TAG: _process_name(os.getpid())}, statuses=list(UNFINISHED))
    for run in instance.get_runs(mine):
        instance.report_run_canceled(run, "interrupted in the terminal")


def _close_runs_of_dead_processes(instance: dg.DagsterInstance) -> None:
    """A killed command leaves its run marked as started for ever; say what happened instead."""
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        host, _, pid = run.tags.get(PROCESS_TAG, "").rpartition(":")
        if host == socket.gethostname() and not Path(f"/proc/{pid}").exists() and Path("/proc").exists():
            instance.report_run_failed(run, f"process {pid} ended before the run did")


def _free_slots_of_finished_runs(instance: dg.DagsterInstance) -> None:
    """A run that was killed, or stopped with Ctrl-C, keeps its slots of pools; without a daemon the next would wait."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return
    for pool in storage.get_concurrency_keys():
        info = storage.get_concurrency_info(pool)
        for run_id in info.active_run_ids | info.pending_run_ids:
            run = instance.get_run_by_id(run_id)
            if run is None or run.is_finished:
                storage.free_concurrency_slots_for_run(run_id)
