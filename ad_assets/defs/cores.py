"""How many runs may be at work on the cores that a run finds: those of one machine share them."""

from __future__ import annotations

import dagster as dg
from dagster._core.launcher import DefaultRunLauncher

from ad_assets.defs.tags import PROCESS_TAG

UNLIMITED = 1 << 16  # runs of a queue without a limit: each then has one core


def runs_at_once(instance: dg.DagsterInstance, run: dg.DagsterRun | None = None) -> int:
    """The runs, this one included, among which the usable cores are divided.

    The queue of the instance starts at most ``max_concurrent_runs`` (`dagster.yaml`), here on this machine. A command
    has its runs one after another and does not wait in the queue; other launchers give each run a worker or a container
    of its own.

    Args:
        instance: where the run is recorded.
        run: the run; None: one that the queue starts.
    """
    if (run is not None and PROCESS_TAG in run.tags) or not isinstance(instance.run_launcher, DefaultRunLauncher):
        return 1
    queue = instance.get_concurrency_config().run_queue_config
    if queue is None:
        return 1
    return UNLIMITED if queue.max_concurrent_runs < 0 else max(1, queue.max_concurrent_runs)
