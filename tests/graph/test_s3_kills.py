"""A run on an object store that is killed at each of its requests in turn: the next one makes what is missing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ad_assets.graph.graph import Graph
from ad_assets.store.layout import MARKER
from tests.support.bench_graph import Bench, write_dataset
from tests.support.forked import Forked
from tests.support.latency_proxy import LatencyProxy, latency_proxy

BUCKET = "kills"


@pytest.fixture(scope="module")
def proxy(s3_endpoint: str) -> Iterator[LatencyProxy]:
    import s3fs

    s3fs.S3FileSystem(endpoint_url=s3_endpoint).mkdir(BUCKET)
    with latency_proxy(s3_endpoint, 0) as running:
        yield running


def opened(folder: Path, store: str, endpoint: str) -> Bench:
    """The benchmark of a category and a detector, on a store of that name, as another process has it."""
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    del bench.tree["datasets"]["parts"]["detectors"]["full"]
    bench.set("store", {"root": f"s3://{BUCKET}/{store}", "storage_options": {"endpoint_url": endpoint}})
    return bench


def state_of(bench: Bench) -> dict[str, Any]:
    """Addresses of all assets, and the metrics; each artifact is read and compared with its record."""
    graph = Graph(bench.stages, bench.benchmark.store)
    heads = {slot: graph.head(slot) for slot in graph.slots()}
    found: dict[str, Any] = {"rows": bench.rows("small", "bolt")}
    for (key, _), head in heads.items():
        assert head is not None, key
        artifact = bench.benchmark.store.artifact(graph.stages[key].kind, head.version)
        assert artifact.is_sound(), artifact.path
        found["/".join(key)] = head.version
    return found


@pytest.mark.slow
def test_what_a_run_killed_at_any_request_has_made_is_whole(proxy: LatencyProxy, tmp_path: Path) -> None:
    write_dataset(tmp_path / "images", ["bolt"])
    calm = opened(tmp_path, "calm", proxy.endpoint)
    proxy.forget()
    calm.make()
    length = len(proxy.requests())
    expected, committed = state_of(calm), 0
    for number in range(1, length + 1):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        (folder / "images").symlink_to(tmp_path / "images")

        def killed(number: int = number, folder: Path = folder) -> int:
            import os

            proxy.kill(os.getpid(), number)
            opened(folder, f"{number}", proxy.endpoint).make()
            return 0

        assert Forked(killed, tmp_path / "log.txt", {}).wait() == -signal.SIGKILL, number
        bench = opened(folder, f"{number}", proxy.endpoint)
        store = bench.benchmark.store
        before = {file.path: file.stamp for file in store.files("artifacts") if file.path.endswith(f"/{MARKER}")}
        built, _ = bench.make()
        # What had its record is found, as it was.
        after = {file.path: file.stamp for file in store.files("artifacts")}
        assert {path: after[path] for path in before} == before, number
        assert len(built) == len(bench.stages) - len(before), number
        bench.reload()
        assert bench.plan() == {}, number
        assert state_of(bench) == expected, number
        committed = max(committed, len(before))
    assert committed == len(calm.stages)
