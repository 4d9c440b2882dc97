"""A run launcher for Celery that notices when a worker goes down with its run; named in ``deploy/celery/dagster.yaml``.

Dagster's own trusts the state of the task in the result backend, which stays STARTED for ever once the machine that
would change it is gone. This one asks the worker. Needs the extra ``celery``; nothing else of `ad_assets` imports it.
"""

from __future__ import annotations

import dagster as dg
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from ad_assets.defs.dagster_internals import CheckRunHealthResult, WorkerStatus

ATTEMPTS = 3
PATIENCE_SECONDS = 3.0


class WatchfulCeleryRunLauncher(CeleryRunLauncher):
    """`CeleryRunLauncher` whose health check believes a running task only if its worker confirms it."""

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """What became of the task of a run."""
        told = super().check_run_worker_health(run)
        if told.status is not WorkerStatus.RUNNING:
            return told
        task = run.tags[DAGSTER_CELERY_TASK_ID_TAG]
        worker = (self.celery.AsyncResult(task).info or {}).get("hostname")
        if not worker or any(self._confirms(worker, task) for _ in range(ATTEMPTS)):
            return told
        told = super().check_run_worker_health(run)  # it may have ended while its worker was asked
        if told.status is not WorkerStatus.RUNNING:
            return told
        return CheckRunHealthResult(WorkerStatus.FAILED, f"The Celery worker {worker} no longer runs it.")

    def _confirms(self, worker: str, task: str) -> bool:
        # The parent process answers, even while its child computes.
        asked = self.celery.control.inspect([worker], timeout=PATIENCE_SECONDS)
        answers = asked.query_task([task]) or {}
        return task in answers.get(worker, {})
