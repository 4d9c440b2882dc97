"""What is used of Dagster beside its public API: in one module, and as it was when it was tried."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import dagster_webserver.cli
import pytest
from dagster._cli import dev
from dagster._core.storage import tags
from dagster._core.storage.event_log.sqlite import sqlite_event_log

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


def test_an_event_log_is_opened_once_a_process_and_records_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    create_engine = sqlite_event_log.create_engine

    def counted(url: str, **options: Any) -> Any:
        opened.append(url)
        return create_engine(url, **options)

    monkeypatch.setattr(sqlite_event_log, "create_engine", counted)
    dagster_internals.keep_event_logs_open.__wrapped__()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with dg.DagsterInstance.local_temp(str(tmp_path / name)) as instance:
            for number in range(3):
                instance.report_runless_asset_event(dg.AssetMaterialization("asset", metadata={"number": number}))
            found = instance.fetch_materializations(dg.AssetKey("asset"), limit=9).records
            assert not instance.has_dynamic_partition("categories", "bolt")
        materialized = [record.asset_materialization for record in found]
        assert [each.metadata["number"].value for each in materialized if each] == [2, 1, 0]
        assert any(f"/{name}/" in url for url in opened)
    assert len(opened) == len(set(opened))
