"""Extraction and prediction by another engine than PyTorch: one and the same numbers, under an address of their own."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ad_assets.commands.doctor import weights
from ad_assets.graph.stages.score_maps import shards
from ad_assets.prediction import load_detector
from tests.support.bench_graph import Bench

SMALL = {"backbone": "test_resnet", "weights": "random(0)", "taps": ["/4", "/8"], "resize": [64, 64]}


def test_the_graph_and_predictions_use_the_engine_of_the_benchmark_file(
    bench: Bench, onnx_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(onnx_cache))
    shutil.rmtree(bench.images / "nut")
    bench.tree["extractors"]["lite0"] = SMALL
    del bench.tree["datasets"]["parts"]["detectors"]["full"]
    bench.reload()
    bench.make()
    by_pytorch = bench.rows("small", "bolt")

    bench.set("compute.engine", "openvino")
    built, _ = bench.make()
    assert {name for name, _ in built} >= {"parts/features/lite0", "parts/small/score_maps"}
    assert "parts/image_index" not in {name for name, _ in built}
    for key, value in bench.rows("small", "bolt").items():
        assert value == pytest.approx(by_pytorch[key], rel=1e-4), key

    store = bench.benchmark.store
    head = store.read_head(("parts", "small", "score_maps"), "bolt")
    index = store.read_head(("parts", "image_index"), "bolt")
    assert head
    assert index
    rows = store.read_table(store.artifact("image_index", index["version"]).at("index.parquet")).to_pylist()
    files = {row["image_id"]: bench.images / row["path"] for row in rows}
    detector = load_detector("parts", "small", "bolt", bench.benchmark)
    assert detector.engines == ["openvino"]
    for ids, maps, _ in shards(store.artifact("score_maps", head["version"])):
        for image_id, stored in zip(ids, maps, strict=True):
            np.testing.assert_array_equal(detector.predict(Path(files[image_id])).score_map, stored)

    said = weights(bench.benchmark, "lite0")
    assert said.healthy
    assert "by openvino 20" in said.message
    assert "of PyTorch's" in said.message

    bench.set("compute.engine", "torch")
    built, _ = bench.make()
    assert not {name for name, _ in built if name.startswith("parts/")}
