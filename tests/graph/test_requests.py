"""Requests to an object store: of a small graph they are counted, so that none creep back."""

from collections import Counter
from collections.abc import Iterator

import dagster as dg
import pytest

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
