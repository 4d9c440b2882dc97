"""What is used of Dagster beside its public API, in one place; a test fails on a release where it is another.

`pyproject.toml` admits no release of Dagster that these were not tried with.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

# What a run launcher answers to run monitoring; Dagster exports neither.
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus

__all__ = [
    "GRPC_INFO_TAG",
    "RUN_KEY_TAG",
    "CheckRunHealthResult",
    "WorkerStatus",
    "keep_event_logs_open",
    "wrap_process_start",
    "wrap_web_application",
]

GRPC_INFO_TAG = ".dagster/grpc_info"  # of a code server on this machine it names a socket, of others a port
RUN_KEY_TAG = "dagster/run_key"

OPEN_LOGS = 4  # those of all assets and of the run at work, of two homes

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


def wrap_web_application(wrapper: Wrapper) -> None:
    """Put something round the function by which `dagster-webserver` makes its ASGI application."""
    _wrap("dagster_webserver.cli", "create_app_from_workspace_process_context", wrapper)


def wrap_process_start(wrapper: Wrapper) -> None:
    """Put something round the function by which `dg dev` starts its processes, given a command line."""
    _wrap("dagster._cli.dev", "open_ipc_subprocess", wrapper)


@cache
def keep_event_logs_open() -> None:
    """Keep the SQLite files of event logs open in this process: Dagster opens and closes one for every query.

    Whoever closes such a file last writes its journal back, and a new engine compiles all its queries anew.
    """
    _wrap("dagster._core.storage.event_log.sqlite.sqlite_event_log", "create_engine", _OpenLogs)


class _OpenLogs:
    """Makes an engine of SQLAlchemy a file; what it makes opens a connection a query still."""

    def __init__(self, create_engine: Callable[..., Any]) -> None:
        self._create = create_engine
        self._engines: dict[str, Any] = {}
        self._held: dict[str, sqlite3.Connection] = {}

    def __call__(self, url: str, **options: Any) -> Any:
        engine = self._engines.get(url)
        if engine is None:
            if len(self._engines) >= OPEN_LOGS:
                oldest = next(iter(self._engines))
                self._engines.pop(oldest, None)
                if held := self._held.pop(oldest, None):
                    held.close()
            return self._engines.setdefault(url, self._create(url, **options))
        if url not in self._held:  # the first time it was yet to be made, with the kind of journal that it has
            self._held[url] = sqlite3.connect(engine.url.database, check_same_thread=False)
            self._held[url].execute("SELECT count(*) FROM sqlite_master").fetchall()  # a file is open once it was read
        return engine


def _wrap(module: str, name: str, wrapper: Wrapper) -> None:
    names = vars(import_module(module))
    names[name] = wrapper(names[name])
