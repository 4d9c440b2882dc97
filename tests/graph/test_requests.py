"""Requests to an object store: of a small graph they are counted, so that none creep back."""

from collections import Counter
from collections.abc import Iterator

import dagster as dg
import pytest

from ad_assets.graph.garbage import unreferenced
from ad_assets.graph.graph import Graph
from ad_assets.store.record_snapshot import snapshot_path
from ad_assets.store.store import ArtifactStore, StoredFile
from tests.support.bench_graph import Bench, write_dataset
from tests.support.latency_proxy import LatencyProxy, latency_proxy

BUCKET = "requests"
IMAGES = 12


@pytest.fixture(scope="module")
def proxy(s3_endpoint: str) -> Iterator[LatencyProxy]:
    import s3fs

    s3fs.S3FileSystem(endpoint_url=s3_endpoint).mkdir(BUCKET)
    with latency_proxy(s3_endpoint, 0, "store") as running:
        yield running


@pytest.fixture(scope="module")
def remote(proxy: LatencyProxy, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A benchmark with its store behind the proxy, nothing materialized yet."""
    folder = tmp_path_factory.mktemp("remote")
    write_dataset(folder / "images", ["bolt"])
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    bench.set("store", {"root": f"s3://{BUCKET}/store", "storage_options": {"endpoint_url": proxy.endpoint}})
    return bench


def by_verb(proxy: LatencyProxy) -> Counter[str]:
    return Counter(request.verb for request in proxy.requests())


def test_the_first_run_makes_few_requests_an_asset(remote: Bench, proxy: LatencyProxy) -> None:
    proxy.forget()
    remote.run()
    verbs, counts = by_verb(proxy), proxy.counts()
    # One shard of all images, and nothing of features is read back.
    assert counts["PUT", "features"] == 1
    assert counts["RANGE", "features"] == counts["GET", "features"] == 0
    # Of each asset: an attempt that begins and ends, tensors and pictures, a record with all else, and a head.
    # Read are the heads and scans of others alone, and whether pages are those that lie where people open them.
    assert verbs["LIST"] <= 8
    assert verbs["RANGE"] + verbs["GET"] + verbs["HEAD"] <= 9
    assert counts["LIST", "artifacts"] == 1
    assert not [request for request in proxy.requests() if request.verb == "RANGE" and "artifacts/" in request.key]
    assert sum(verbs.values()) <= 87


def test_a_run_with_nothing_to_do_makes_few_requests(remote: Bench, proxy: LatencyProxy) -> None:
    Graph(remote.stages, remote.benchmark.store).refresh_heads()
    remote.reload()
    proxy.forget()
    assert remote.plan() == {}
    # Heads, artifacts and shards are listed; read are the snapshot, what each category was made of, and what is in the
    # shard.
    assert by_verb(proxy) == {"LIST": 3, "RANGE": 3}


def test_the_status_of_a_category_makes_few_requests(remote: Bench, proxy: LatencyProxy) -> None:
    remote.reload()
    proxy.forget()
    assert remote.plan(categories=["bolt"]) == {}
    assert by_verb(proxy) == {"LIST": 3, "RANGE": 3}


def test_a_head_that_another_process_wrote_is_seen(remote: Bench, proxy: LatencyProxy) -> None:
    slot = (("parts", "small", "metrics"), "bolt")
    store = remote.benchmark.store
    before = store.read_head(*slot)
    assert before
    store.heads.write(store.head_path(*slot), {**before, "version": "another"})
    remote.reload()
    assert ("parts/small/metrics", "bolt") in remote.plan()
    store.heads.write(store.head_path(*slot), before)
    store.write_bytes(snapshot_path("heads"), b"damaged")
    remote.reload()
    assert remote.plan() == {}


def test_a_head_that_is_replaced_after_it_was_listed_is_not_noted_as_the_one_listed(
    remote: Bench, proxy: LatencyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = (("parts", "small", "metrics"), "bolt")
    remote.reload()
    store = remote.benchmark.store
    other = ArtifactStore(root=store.root, storage_options=store.storage_options)
    before = other.read_head(*slot)
    assert before
    files = ArtifactStore.files

    def listed_and_replaced(self: ArtifactStore, prefix: str = "") -> list[StoredFile]:
        found = files(self, prefix)
        if prefix == "heads":
            other.heads.write(other.head_path(*slot), {**before, "version": "another"})
        return found

    store.delete([snapshot_path("heads")])
    with monkeypatch.context() as patched:
        patched.setattr(ArtifactStore, "files", listed_and_replaced)
        Graph(remote.stages, store).refresh_heads()
    assert store.exists(snapshot_path("heads"))
    other.heads.write(other.head_path(*slot), before)  # the same bytes, and so the same ETag, as were listed
    remote.reload()
    graph = Graph(remote.stages, remote.benchmark.store)
    graph.refresh()
    head = graph.head(slot)
    assert head
    assert head.version == before["version"]


def test_gc_finds_nothing_but_what_no_file_asks_for(remote: Bench, proxy: LatencyProxy) -> None:
    remote.reload()
    assert unreferenced(Graph(remote.stages, remote.benchmark.store), older_than=0) == []
    # What a head alone refers to, since no benchmark file plans it: features are listed in the record of an artifact.
    remote.set("extractors.lite0.taps", ["blocks.2"])
    assert unreferenced(Graph(remote.stages, remote.benchmark.store), older_than=0) == []
