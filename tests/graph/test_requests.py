"""Requests to an object store: of a small graph they are counted, so that none creep back."""

from collections import Counter
from collections.abc import Iterator

import dagster as dg
import pytest

from ad_assets.graph.graph import Graph
from ad_assets.store.record_snapshot import snapshot_path
from tests.support.bench_graph import Bench, write_dataset
from tests.support.latency_proxy import LatencyProxy, latency_proxy

BUCKET = "requests"
IMAGES, CATEGORIES = 12, 2
ASSETS = 10  # of a category: index, features, and of each of two detectors bank, neighbours, score maps and metrics


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
    write_dataset(folder / "images")
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    bench.set("store", {"root": f"s3://{BUCKET}/store", "storage_options": {"endpoint_url": proxy.endpoint}})
    return bench


def by_verb(proxy: LatencyProxy) -> Counter[str]:
    return Counter(request.verb for request in proxy.requests())


def test_the_first_run_makes_few_requests_an_asset(remote: Bench, proxy: LatencyProxy) -> None:
    proxy.forget()
    remote.run()
    verbs, counts = by_verb(proxy), proxy.counts()
    # One write an image, and nothing of features is read back.
    assert counts["PUT", "features"] == CATEGORIES * IMAGES
    assert counts["RANGE", "features"] == counts["GET", "features"] == 0
    assert sum(verbs.values()) <= CATEGORIES * (IMAGES + 24 * ASSETS)


def test_a_run_with_nothing_to_do_makes_few_requests(remote: Bench, proxy: LatencyProxy) -> None:
    Graph(remote.stages, remote.benchmark.store).note_heads()
    remote.reload()
    proxy.forget()
    assert remote.plan() == {}
    # Heads, attempts, artifacts and features are listed; read are the snapshot, and what each category was made of.
    assert by_verb(proxy) == {"LIST": 4, "RANGE": 1 + CATEGORIES}


def test_the_status_of_a_category_makes_few_requests(remote: Bench, proxy: LatencyProxy) -> None:
    remote.reload()
    proxy.forget()
    assert remote.plan(categories=["bolt"]) == {}
    assert by_verb(proxy) == {"LIST": 4, "RANGE": 2}


def test_a_head_that_another_process_wrote_is_seen(remote: Bench, proxy: LatencyProxy) -> None:
    slot = (("parts", "small", "metrics"), "bolt")
    store = remote.benchmark.store
    before = store.read_head(*slot)
    assert before
    store.write_head(*slot, {**before, "version": "another"})
    remote.reload()
    assert ("parts/small/metrics", "bolt") in remote.plan()
    store.write_head(*slot, before)
    store.write_bytes(snapshot_path("heads"), b"damaged")
    remote.reload()
    assert remote.plan() == {}
