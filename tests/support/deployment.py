"""Servers of a deployment on loopback, in temporary folders, stopped whatever happens; runs as the UI starts them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import pytest

from tests.support.places import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
POSTGRES_BINARIES = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
T = TypeVar("T")

LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
RELOAD = """
mutation Reload($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) {
    __typename
    ... on WorkspaceLocationEntry { loadStatus locationOrLoadError { __typename ... on PythonError { message } } }
    ... on PythonError { message }
  }
}
"""


def need_packages(*names: str) -> None:
    """Skip the module that asks where a package of an extra is not installed."""
    for name in names:
        if find_spec(name) is None:
            pytest.skip(f"no {name}: `pip install -e '.[celery,kubernetes,postgres]'`", allow_module_level=True)


def binary(name: str) -> str:
    """The path of a server's program; skips the test where it is missing."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *POSTGRES_BINARIES]))
    if found is None:
        package = {"initdb": "postgresql", "pg_ctl": "postgresql"}.get(name, name)
        pytest.skip(f"no {name}: `apt-get install {package}`")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], T], seconds: float, what: Callable[[], str], pause: float = 0.1) -> T:
    """Ask again and again until the answer is true; fail with what `what` says."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = ready()
        if answer:
            return answer
        time.sleep(pause)
    pytest.fail(f"waited {seconds:.0f} s: {what()}")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A program in a process group of its own, whose output goes to a file."""

    def __init__(self, arguments: Sequence[str], log: Path, environ: Mapping[str, str] = os.environ) -> None:
        self.log = log

        def own_group() -> None:
            # Started from a script, SIGINT may be ignored; Dagster needs it to shut down.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.setsid()

        with log.open("ab") as file:
            self._process = subprocess.Popen(
                list(arguments), cwd=REPOSITORY, env=dict(environ), stdout=file, stderr=file, preexec_fn=own_group
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """End it and all its children at once, as a power cut would."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self, patience: float = 15.0) -> None:
        """Ask it to end, then make it."""
        if self.alive():
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self.kill()


@contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """A PostgreSQL server; yields the variables that the shipped ``dagster.yaml`` files read."""
    initdb, pg_ctl = binary("initdb"), binary("pg_ctl")
    # The server refuses to run as root, and another user cannot enter pytest's own temporary folders.
    user = _server_user()
    folder = Path(tempfile.mkdtemp(prefix="ad_assets_postgres_"))
    data, password = folder / "data", folder / "password"
    password.write_text("on loopback only")
    port = free_port()
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
    try:
        if user:
            for path in (folder, password):
                shutil.chown(path, user)
        run = {"check": True, "capture_output": True, "text": True, "cwd": folder, "user": user}
        making = [initdb, "-D", str(data), "-U", "ad", "-A", "scram-sha-256", "--pwfile", str(password), "-E", "UTF8"]
        subprocess.run(making, **run)  # type: ignore[call-overload]
        log = str(folder / "log.txt")
        subprocess.run(
            [pg_ctl, "-D", str(data), "-l", log, "-w", "-o", options, "start"], **{**run, "capture_output": False}
        )  # type: ignore[call-overload]
        yield {
            "DAGSTER_PG_USERNAME": "ad",
            "DAGSTER_PG_PASSWORD": "on loopback only",
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_PORT": str(port),
            "DAGSTER_PG_DB": "postgres",
        }
    finally:
        if (data / "postmaster.pid").exists():
            subprocess.run([pg_ctl, "-D", str(data), "-m", "immediate", "stop"], check=False, cwd=folder, user=user)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis server that keeps nothing on disk; yields its URL."""
    port = free_port()
    arguments = [binary("redis-server"), "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]
    server = Process(arguments, folder / "redis.log")
    try:
        wait_until(lambda: answers(port), 10, server.output)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.stop()


class Deployment:
    """Code server, daemon and two Celery workers on one instance, as ``deploy/README.md`` starts them.

    Args:
        folder: where homes and logs go.
        environ: what every process gets.
        dagster_yaml: text of the instance's ``dagster.yaml``.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], dagster_yaml: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.environ = {**environ, "DAGSTER_HOME": str(folder / "home"), "AD_ASSETS_CODE_PORT": str(self.port)}
        (folder / "home").mkdir()
        (folder / "home" / "dagster.yaml").write_text(dagster_yaml)
        self.workers: list[Process] = []
        self._processes: list[Process] = []
        self._context: Any = None
        self.instance: dg.DagsterInstance

    def start(self) -> None:
        """Start everything and wait until it answers."""
        from dagster._core.workspace.context import WorkspaceProcessContext
        from dagster._core.workspace.load_target import WorkspaceFileTarget

        # Opened first and alone: it makes the tables.
        self.instance = dg.DagsterInstance.from_config(self.environ["DAGSTER_HOME"])
        for number in range(2):
            self.start_worker(number)
        serving = ["-m", "ad_assets.definitions", "-h", "127.0.0.1", "-p", str(self.port)]
        server = self._run("code_server", "dagster", "code-server", "start", *serving)
        wait_until(lambda: answers(self.port) or not server.alive(), 60, server.output)
        assert server.alive(), server.output()
        workspace = DEPLOY / "workspace.yaml"
        self._run("daemon", "dagster-daemon", "run", "-w", str(workspace))
        for worker in self.workers:
            wait_until(lambda worker=worker: " ready." in worker.output(), 60, worker.output)
        self._context = WorkspaceProcessContext(self.instance, WorkspaceFileTarget([str(workspace)])).__enter__()

    def start_worker(self, number: int, queues: Sequence[str] = ("dagster",)) -> Process:
        """Start a worker with the command line of ``deploy/README.md``."""
        worker = self._run(
            f"worker{number}",
            *(
                "dagster-celery",
                "worker",
                "start",
                "-A",
                "dagster_celery.app",
                "-y",
                str(DEPLOY / "celery/celery.yaml"),
            ),
            *("-q", ",".join(queues)),
            *("-i", "torch", "-i", "timm", "--"),
            *("--concurrency=1", "--max-tasks-per-child=1", "--disable-prefetch"),
        )
        self.workers.append(worker)
        return worker

    def stop(self) -> None:
        """Stop what was started, last first."""
        if self._context:
            self._context.__exit__(None, None, None)
        for process in reversed(self._processes):
            process.stop()

    def reload(self) -> None:
        """The button "Reload" of the UI."""
        answer = self._ask(RELOAD, {"name": "ad_assets"})["reloadRepositoryLocation"]
        assert answer["__typename"] == "WorkspaceLocationEntry", answer
        assert answer["locationOrLoadError"]["__typename"] == "RepositoryLocation", answer

    def launch(self, assets: Sequence[Sequence[str]], partition: str | None, **tags: str) -> str:
        """The button "Materialize" of the UI; returns the run's id."""
        tags = {**tags, **({"dagster/partition": partition} if partition else {})}
        selector = {
            "repositoryLocationName": "ad_assets",
            "repositoryName": "__repository__",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": list(path)} for path in assets],
        }
        params = {
            "mode": "default",
            "runConfigData": {},
            "selector": selector,
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        answer = self._ask(LAUNCH, {"params": params})["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def wait(self, run_id: str, seconds: float = 120) -> dg.DagsterRunStatus:
        """Wait for the end of a run and return how it ended."""
        ended = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
        wait_until(
            lambda: self.status(run_id) in ended, seconds, lambda: f"{self.status(run_id)}\n{self.story(run_id)}"
        )
        return self.status(run_id)

    def events(self, run_id: str) -> str:
        """What is on record of a run."""
        return "\n".join(log.message for log in self.instance.all_logs(run_id))

    def story(self, run_id: str) -> str:
        """The same, and what the processes said last: for failing tests."""
        return "\n".join([self.events(run_id), *(f"== {p.log.name}\n{p.output()[-2000:]}" for p in self._processes)])

    def _run(self, name: str, program: str, *arguments: str) -> Process:
        path = str(Path(sys.executable).parent / program)
        # `dagster-celery` looks up `celery` on the path.
        environ = {**self.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        process = Process([path, *arguments], self.folder / f"{name}.log", environ)
        self._processes.append(process)
        return process

    def _ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        from dagster_graphql.test.utils import execute_dagster_graphql

        result = execute_dagster_graphql(self._context.create_request_context(), query, variables=dict(variables))
        assert not result.errors, result.errors
        data: dict[str, Any] = result.data
        return data


def _server_user() -> str | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)
