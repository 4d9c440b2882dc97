"""`make dev` on a benchmark file, with a home of its own, and what its sensors and runs do: for tests and pictures."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorTick

from ad_assets.defs.dagster_internals import RUN_KEY_TAG
from tests.support.places import REPOSITORY

FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sums_up_inspections(record: dg.RunRecord) -> bool:
    """Whether a run was asked for by the sensor of inspections, which follows some minutes after them."""
    return ":inspections:" in record.dagster_run.tags.get(RUN_KEY_TAG, "")


class DevServer:
    """`make dev`: web server, daemon and code server in one process group; may be stopped and started again.

    Args:
        folder: where the home, the log and the benchmark file ``bench.yaml`` lie.
        environ: variables beside those of this process.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self._environ = {
            **os.environ,
            "AD_ASSETS_CONFIG": str(folder / "bench.yaml"),
            "DAGSTER_HOME": str(folder / "home"),
            "PORT": self.url.rpartition(":")[2],
            "PYTHONWARNINGS": "ignore",
            **(environ or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._instance: dg.DagsterInstance | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """What the processes wrote."""
        return (self.folder / "dev.log").read_text(errors="replace")

    @property
    def instance(self) -> dg.DagsterInstance:
        """The Dagster instance of its home; the server makes the databases, so it must have run once."""
        if self._instance is None:
            self._instance = dg.DagsterInstance.from_config(str(self.folder / "home"))
        return self._instance

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: it ended, or does not answer.
        """

        def own_group() -> None:
            # Started from a script, SIGINT may be ignored; Dagster needs it to shut down.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.setsid()

        with (self.folder / "dev.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["make", "dev"], cwd=REPOSITORY, env=self._environ, stdout=log, stderr=log, preexec_fn=own_group
            )
        try:
            self.wait_for(self._answers, "the UI answers", 180)
        except BaseException:
            self.stop()
            raise

    def stop(self, kill: bool = False) -> None:
        """Stop all its processes, runs among them; as a power cut does, if `kill`."""
        process, self._process = self._process, None
        if process is None:
            return
        os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whoever of the group is left
        process.wait()

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float) -> float:
        """Wait until something holds; returns how long that took.

        Raises:
            RuntimeError: it never did, or the server ended; with the end of its log.
        """
        started = time.monotonic()
        while not condition():
            waited = time.monotonic() - started
            ended = self._process is not None and self._process.poll() is not None
            if ended or waited > seconds:
                problem = "the server ended" if ended else f"not after {waited:.0f} s"
                raise RuntimeError(f"{what}: {problem}\n{self.log[-5000:]}")
            time.sleep(0.2)
        return time.monotonic() - started

    def runs(self, partition: str | None = None) -> list[dg.RunRecord]:
        """All runs, or those of a partition but for runs that sum up inspections; oldest first."""
        tags = {"dagster/partition": partition} if partition else {}
        records = self.instance.get_run_records(dg.RunsFilter(tags=tags), ascending=True)
        return [record for record in records if not (partition and sums_up_inspections(record))]

    def unfinished(self) -> list[dg.RunRecord]:
        """The runs that go on or wait."""
        return [record for record in self.runs() if record.dagster_run.status not in FINISHED]

    def ticks(self, sensor: str) -> list[InstigatorTick]:
        """The latest looks of a sensor, newest first."""
        return [
            tick
            for state in self.instance.all_instigator_state()
            if state.instigator_name == sensor
            for tick in self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=50)
        ]

    def wait_for_tick(self, sensor: str, says: str, seconds: float, since: float = 0.0) -> float:
        """Wait until a sensor looks after a time and says a text; returns how long that took."""

        def said() -> bool:
            return any(tick.timestamp > since and says in (tick.skip_reason or "") for tick in self.ticks(sensor))

        return self.wait_for(said, f"{sensor} says {says!r}", seconds)

    def wait_until_quiet(self, sensors: list[str], seconds: float) -> float:
        """Wait until no run goes on and no sensor asks for one, at two looks of each from now or the last run."""

        def quiet() -> bool:
            records = self.runs()
            if any(record.dagster_run.status not in FINISHED for record in records):
                return False
            last = max([started, *(record.end_time or 0.0 for record in records)])
            looks = [[tick for tick in self.ticks(name) if tick.timestamp > last] for name in sensors]
            return all(sum(tick.is_completed and not tick.run_ids for tick in found) >= 2 for found in looks)

        started = time.time()
        return self.wait_for(quiet, "all is quiet", seconds)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/server_info", timeout=2).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True
