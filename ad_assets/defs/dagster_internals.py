"""What is used of Dagster beside its public API, in one place; a test fails on a release where it is another.

`pyproject.toml` admits no release of Dagster that these were not tried with.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

# What a run launcher answers to run monitoring; Dagster exports neither.
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus

__all__ = [
    "GRPC_INFO_TAG",
    "RUN_KEY_TAG",
    "CheckRunHealthResult",
    "WorkerStatus",
    "wrap_process_start",
    "wrap_web_application",
]

GRPC_INFO_TAG = ".dagster/grpc_info"  # of a code server on this machine it names a socket, of others a port
RUN_KEY_TAG = "dagster/run_key"

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


def wrap_web_application(wrapper: Wrapper) -> None:
    """Put something round the function by which `dagster-webserver` makes its ASGI application."""
    _wrap("dagster_webserver.cli", "create_app_from_workspace_process_context", wrapper)


def wrap_process_start(wrapper: Wrapper) -> None:
    """Put something round the function by which `dg dev` starts its processes, given a command line."""
    _wrap("dagster._cli.dev", "open_ipc_subprocess", wrapper)


def _wrap(module: str, name: str, wrapper: Wrapper) -> None:
    names = vars(import_module(module))
    names[name] = wrapper(names[name])
