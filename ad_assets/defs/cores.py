"""Among how many steps the cores are divided that a run finds: those of one machine share them."""

from __future__ import annotations

import dagster as dg

from ad_assets.defs.tags import PROCESS_TAG

UNLIMITED = 1 << 16  # runs of a queue without a limit: each then has one core
A_PROCESS_A_STEP = (dg.multi_or_in_process_executor.name, dg.multiprocess_executor.name)  # and all that they can


def steps_at_once(context: dg.AssetExecutionContext) -> int:
    """The steps, that of the context included, that may be at work on this machine at once.

    The queue of the instance starts at most ``max_concurrent_runs`` (`dagster.yaml`), here on this machine. A command
    has its runs one after another and does not wait in the queue; other launchers give each run a worker or a container
    of its own. Our jobs do a step at a time; where a project's own executor starts a process a step, each has one core.
    """
    if PROCESS_TAG in context.run.tags:
        return 1
    if context.job_def.executor_def.name in A_PROCESS_A_STEP:
        return UNLIMITED
    if not isinstance(context.instance.run_launcher, dg.DefaultRunLauncher):
        return 1
    queue = context.instance.get_concurrency_config().run_queue_config
    if queue is None:
        return 1
    return UNLIMITED if queue.max_concurrent_runs < 0 else max(1, queue.max_concurrent_runs)
