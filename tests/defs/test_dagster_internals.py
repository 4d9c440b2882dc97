"""What is used of Dagster beside its public API: in one module, and as it was when it was tried."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import dagster_webserver.cli
from dagster._cli import dev
from dagster._core.storage import tags

from ad_assets.defs import dagster_internals
from ad_assets.defs.dagster_internals import CheckRunHealthResult, WorkerStatus
from tests.support.places import REPOSITORY


def private_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in names if name.startswith("dagster") and "._" in name)


def test_one_module_imports_internals_of_dagster() -> None:
    found = {
        path.relative_to(REPOSITORY).as_posix(): names
        for folder in ("ad_assets", "resources", "project")
        for path in (REPOSITORY / folder).rglob("*.py")
        if (names := list(private_imports(path)))
    }
    assert found == {"ad_assets/defs/dagster_internals.py": ["dagster._core.launcher"]}


def test_the_internals_are_those_that_were_tried() -> None:
    assert (dagster_internals.GRPC_INFO_TAG, dagster_internals.RUN_KEY_TAG) == (tags.GRPC_INFO_TAG, tags.RUN_KEY_TAG)
    assert {"RUNNING", "FAILED"} <= {status.name for status in WorkerStatus}
    assert CheckRunHealthResult(WorkerStatus.FAILED, "why").msg == "why"
    # What the guard wraps is called by its name, with the command line first.
    assert "open_ipc_subprocess(" in inspect.getsource(dev.dev_command_impl)
    assert "create_app_from_workspace_process_context(" in inspect.getsource(dagster_webserver.cli)
    assert next(iter(inspect.signature(dev.open_ipc_subprocess).parameters)) == "parts"
