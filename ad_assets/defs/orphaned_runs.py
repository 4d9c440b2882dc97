"""Marks runs as failed whose process died with the machine; Dagster's launcher never notices these.

Dagster's own launcher notices when the process of a run ends, unless it ends as well, as in a power cut. Such a run
would go on for ever in the records: it would hold a slot, and whatever waits for its end would wait for ever.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import dagster as dg

from ad_assets.config.benchmark import Benchmark
from ad_assets.defs.dagster_internals import GRPC_INFO_TAG

SENSOR = "cut_off_runs"
PROCESSES = Path("/proc")
EVENTS = {dg.DagsterEventType.RUN_START, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED}


def cut_off_sensor(benchmark: Benchmark, keys: Sequence[dg.AssetKey], name: str = "") -> dg.SensorDefinition:
    """The sensor that ends the runs whose process is gone.

    Args:
        benchmark: the file that says how often.
        keys: the assets whose runs it looks after; those of others in the same project are not its business.
        name: begins the sensor's name, which a code location has once.
    """
    own = frozenset(keys)

    @dg.sensor(
        name=f"{name}_{SENSOR}" if name else SENSOR,
        minimum_interval_seconds=max(30, benchmark.automation.every_seconds),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Marks runs as failed whose process ended with the machine, so that they are tried again.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        ended = close_cut_off_runs(context.instance, own)
        return dg.SkipReason(f"ended: {', '.join(ended)}" if ended else "every run that goes on has its process")

    return sensor


def close_cut_off_runs(instance: dg.DagsterInstance, keys: Collection[dg.AssetKey]) -> list[str]:
    """Mark the started runs of this machine as failed whose process is gone; returns their ids.

    Other launchers look after their runs themselves, and processes of other machines cannot be seen from here.

    Args:
        instance: where runs are recorded.
        keys: the assets whose runs are looked after.
    """
    if not isinstance(instance.run_launcher, dg.DefaultRunLauncher) or not PROCESSES.is_dir():
        return []
    ended = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        run = record.dagster_run
        events = [entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=EVENTS) if entry.dagster_event]
        pids = [event.pid for event in events if event.event_type is dg.DagsterEventType.RUN_START and event.pid]
        planned = {event.asset_key for event in events}
        if '"socket"' not in run.tags.get(GRPC_INFO_TAG, "") or not pids or record.start_time is None:
            continue
        if planned.isdisjoint(keys):
            continue
        since = _alive_since(pids[0])
        # After a restart of the machine another process may have its number.
        if since is None or since > record.start_time + 1:
            instance.report_run_failed(run, f"its process {pids[0]} ended before the run did")
            ended.append(run.run_id[:8])
    return ended


def _alive_since(pid: int) -> float | None:
    """When a process of this machine began, in seconds since 1970; None where there is none."""
    try:
        state, *fields = (PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()
        booted = next(line for line in (PROCESSES / "stat").read_text().splitlines() if line.startswith("btime"))
    except FileNotFoundError:
        return None
    ticks = int(fields[18])  # proc(5): starttime is field 22, the state is field 3
    return None if state in "ZX" else float(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
