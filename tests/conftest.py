"""Fixtures of the whole-graph tests."""

import os
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import hypothesis
import pytest
import sqlalchemy
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.in_memory import InMemoryEventLogStorage
from sqlalchemy.pool import StaticPool

from ad_assets.store.store import ArtifactStore
from tests.support.bench_graph import Bench, write_dataset
from tests.support.forked import end_template, start_template
from tests.support.places import REPOSITORY

# Files that take longest come first, so that no process of the suite is left alone with one of them.
LONGEST = (
    *("test_template_sets", "test_trained", "test_automation", "test_blind", "test_devices", "test_promises"),
    *("test_lives", "test_cli", "test_new_image_gate", "test_faults", "test_table", "test_good_images_only"),
    *("test_joint", "test_all_pairs", "test_extensions", "test_bundle", "test_crash", "test_damage", "test_fod"),
    *("test_backbone", "test_interrupts", "test_ui", "test_region_of_interest", "test_false_alarms"),
    *("test_prediction", "test_demo", "test_budgets"),
)
S3_SERVER = REPOSITORY / ".venv-s3" / "bin" / "moto_server"


def pytest_configure() -> None:
    """Signals as in the foreground: a background job of a shell ignores SIGINT, and Dagster then SIGTERM too.

    Servers of the tests, and the `tail` that Dagster starts for each run, would never end.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    InMemoryEventLogStorage._connect = _kept_connection
    InMemoryEventLogStorage.has_table = _known_tables(InMemoryEventLogStorage.has_table)
    ScriptDirectory.from_config = staticmethod(_kept_migrations(ScriptDirectory.from_config))
    # No test cuts the power; waiting for a busy disk takes up to a third of a run. Processes that tests start
    # do wait for it.
    os.fsync = lambda _: None
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", _never_synchronous)
    # Nor is a computation judged by the clock of a busy machine.
    hypothesis.settings.register_profile("suite", deadline=None)
    hypothesis.settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """No thread runs yet, and all is imported."""
    start_template()


def pytest_sessionfinish() -> None:
    end_template()


def _never_synchronous(connection: Any, _record: object) -> None:
    """A home of Dagster on disk: SQLite calls the disk itself, for each event of a run."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF").close()


@contextmanager
def _kept_connection(storage: InMemoryEventLogStorage) -> Iterator[sqlalchemy.Connection]:
    """One connection for the life of an instance in memory.

    Dagster opens one for each event, which takes a seventh of a run on a few small images.
    """
    with storage._db_lock:
        if not hasattr(storage, "kept"):
            threads = {"check_same_thread": False}
            storage.kept = sqlalchemy.create_engine(storage._engine.url, poolclass=StaticPool, connect_args=threads)
        with storage.kept.begin() as connection:
            yield connection


def _known_tables(
    look: Callable[[InMemoryEventLogStorage, str], bool],
) -> Callable[[InMemoryEventLogStorage, str], bool]:
    """Dagster asks for each event which tables there are; an instance in memory begins with all that it ever has."""
    known: dict[str, bool] = {}

    def known_table(storage: InMemoryEventLogStorage, name: str) -> bool:
        if name not in known:
            known[name] = look(storage, name)
        return known[name]

    return known_table


def _kept_migrations(read: Callable[[Config], ScriptDirectory]) -> Callable[[Config], ScriptDirectory]:
    """Dagster's migrations, imported once and not for each new instance, of which it takes four fifths."""
    known: dict[str | None, ScriptDirectory] = {}

    def kept(config: Config) -> ScriptDirectory:
        place = config.get_main_option("script_location")
        if place not in known:
            known[place] = read(config)
        return known[place]

    return kept


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which the processes of the suite take files (`--no-loadscope-reorder`)."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


# moto_server answers in threads and compares a condition before it writes, so that two writers may both get through,
# which S3 never lets happen. In turn, one request after the other, its conditions hold.
IN_TURN = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""


@pytest.fixture(scope="session")
def onnx_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ``XDG_CACHE_HOME`` of the tests that use other engines: a network is exported once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 protocol server on loopback, in its own environment (`make test` installs it)."""
    with s3_server(str(S3_SERVER), "-H", "127.0.0.1", "-p") as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def s3_endpoint_in_turn() -> Iterator[str]:
    """The same, for tests of several writers: it answers one request after the other."""
    with s3_server(str(S3_SERVER.with_name("python")), "-c", IN_TURN) as endpoint:
        yield endpoint


@contextmanager
def s3_server(*command: str) -> Iterator[str]:
    """The address of a server that a command starts, given a port."""
    if not S3_SERVER.is_file():
        pytest.skip("no S3 test server: `make .venv-s3/installed` makes it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [*command, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(endpoint, timeout=5).close()
                break
            except OSError:  # refused, or too slow as yet
                time.sleep(0.1)
        else:
            pytest.fail("the S3 test server did not start")
        with pytest.MonkeyPatch.context() as patch:
            # Where users keep them too: a benchmark file refuses secrets.
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            yield endpoint
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def s3_store(s3_endpoint: str) -> ArtifactStore:
    """An empty store in a bucket of its own."""
    return new_s3_store(s3_endpoint)


def new_s3_store(endpoint: str) -> ArtifactStore:
    """The same, for fixtures of a wider scope."""
    import s3fs

    options = {"endpoint_url": endpoint}
    bucket = f"bucket-{time.time_ns()}"
    s3fs.S3FileSystem(**options).mkdir(bucket)
    return ArtifactStore(root=f"s3://{bucket}/prefix", storage_options=options)


@pytest.fixture(scope="session")
def materialized(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The same benchmark after its first run, for tests that only read it, or a copy of it (`Bench.copied`)."""
    return Bench.materialized(tmp_path_factory.mktemp("materialized"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A benchmark on two generated categories, nothing materialized yet."""
    write_dataset(tmp_path / "images")
    return Bench(tmp_path, dg.DagsterInstance.ephemeral())
