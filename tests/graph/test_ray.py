"""Extraction on Ray: the features of extraction in process, bit for bit, whatever becomes of its workers."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from ad_assets.config.faults import ConfigError
from ad_assets.datasets.files import ChangedFileError
from ad_assets.graph.build import materialize
from ad_assets.graph.progress import watched_by
from ad_assets.graph.stage import StageError
from ad_assets.graph.stages import ray_cluster
from ad_assets.graph.stages.extraction import PASSING
from ad_assets.settings.extract import Extract
from tests.support.bench_graph import Bench, draw_image, write_image

LOG = logging.getLogger(__name__)


class Extractions:
    """The features of one category by some engine, in a store of its own."""

    def __init__(self, bench: Bench, store: str, **extract: Any) -> None:
        bench.tree["store"]["root"] = str(bench.folder / store)
        bench.tree["extract"] = extract
        bench.reload()
        stages = {stage.name: stage for stage in bench.stages}
        self.stage, self.index = stages["parts/features/lite0"], stages["parts/image_index"]
        self.store, self.compute, self.extract = bench.benchmark.store, bench.benchmark.compute, bench.benchmark.extract
        materialize(self.index, "bolt", self.store, self.compute, LOG)

    def run(self, **asked: bool) -> dict[str, Any]:
        made = materialize(self.stage, "bolt", self.store, self.compute, LOG, extract=self.extract, **asked)
        return {"address": made.head.version, **made.metadata}

    def features(self) -> dict[str, dict[str, torch.Tensor]]:
        return {file.path: self.store.read_tensors(file.path) for file in self.store.files("features")}

    def has_those_of(self, other: "Extractions") -> bool:
        own, others = self.features(), other.features()
        return own.keys() == others.keys() and all(
            torch.equal(own[path][tap], others[path][tap]) for path in own for tap in others[path]
        )


def test_without_ray_the_remedy_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(ray_cluster.os, "environ", dict(os.environ))
    extractions = Extractions(bench, "store", engine="ray")
    with pytest.raises(StageError, match=re.escape("pip install 'ad-assets[ray]', or write engine: process")):
        extractions.run()


def test_what_ray_cannot_do_is_refused_where_it_is_written(bench: Bench) -> None:
    with pytest.raises(ValueError, match="write address: auto there"):
        Extract(engine="ray", address="ray://host:10001")
    for address in ("somewhere", "http://host:1"):
        with pytest.raises(ValueError, match="allowed: local, auto, <host>:<port>"):
            Extract(engine="ray", address=address)
    bench.tree["compute"]["device"] = "cuda:1"
    bench.reload()
    bench.tree["extract"] = {"engine": "ray"}
    with pytest.raises(ConfigError, match=r"compute\.device: Ray gives each actor a GPU"):
        bench.reload()


@pytest.fixture
def _ray() -> Iterator[None]:
    if find_spec("ray") is None:  # not imported here: it reads its environment then
        pytest.skip("Ray is not installed: make .venv/deploy")
    yield
    ray_cluster._connection.close()


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_ray_extracts_the_same_features(bench: Bench) -> None:
    here = Extractions(bench, "here")
    wanted = here.run()
    on_ray = Extractions(bench, "on_ray", engine="ray", actors=2)
    assert on_ray.run()["address"] == wanted["address"]
    assert on_ray.has_those_of(here)
    assert {"tap_shapes", "extracted"} <= wanted.keys()
    # Nobody else reaches it.
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    own = [line for line in listening.splitlines() if "raylet" in line or "gcs_server" in line or "ray::" in line]
    assert own
    assert all("127.0.0.1]" in line or "127.0.0.1:" in line for line in own), own

    # Made anew they count rather than the old ones, which go.
    before = {file.stamp.partition(":")[0] for file in on_ray.store.files("features")}
    assert on_ray.run(force=True)["extracted"] == wanted["images"]
    assert on_ray.has_those_of(here)
    assert not before & {file.stamp.partition(":")[0] for file in on_ray.store.files("features")}

    damaged = bench.images / "bolt/train/good/003.png"
    refused = Extractions(bench, "refused", engine="ray", actors=2)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-100])
    with pytest.raises(ChangedFileError, match=r"003\.png: changed since it was indexed"):
        refused.run()
    damaged.write_bytes(whole)
    refused.run()
    assert refused.has_those_of(here)


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_a_machine_that_goes_while_it_extracts_is_not_missed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    for number in range(60):
        write_image(bench.images / "bolt/train/good" / f"more_{number}.png", draw_image(number))
    here = Extractions(bench, "here")
    here.run()
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()

    class Killer:
        """Takes a machine away once the first images have passed."""

        def step(self, title: str, what: str, done: int, total: int) -> None:
            del title
            if what == PASSING and machines:
                assert done < total
                cluster.remove_node(machines.pop(), allow_graceful=False)
                machines.clear()

        def told(self, title: str, message: str, *, ended: bool) -> None: ...

    on_ray = Extractions(bench, "on_ray", engine="ray", address=cluster.address)
    try:
        with watched_by(Killer()):
            on_ray.run()
        assert not machines
        assert on_ray.has_those_of(here)
    finally:
        ray_cluster._connection.close()
        cluster.shutdown()
