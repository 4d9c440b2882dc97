"""A benchmark built on a CUDA device, from features to champions, studies and predictions: what the CPU builds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ad_assets.config.benchmark import Benchmark
from ad_assets.config.load import load_config
from ad_assets.graph.build import materialize
from ad_assets.graph.lanes import stages_of
from ad_assets.prediction import load_detector
from ad_assets.prediction.explanation import explain
from ad_assets.prediction.new_image_gate import NewImageGate
from ad_assets.store.store import ArtifactStore
from tests.support.bench_graph import config_tree, draw_image, write_dataset, write_image
from tests.support.emulated_device import cuda_device

EXTRACTOR = {"backbone": "test_resnet", "weights": "random(0)", "taps": ["/4", "/8"], "resize": [64, 64]}
PATCHES = {"pre_dimensions": 16, "dimensions": 16}
TRAINED = {"epochs": 2, "batch_size": 2, "warm_start": True}
LANES: dict[str, dict[str, Any]] = {
    "core": {"method": "patchcore", "coreset_ratio": 0.1, "image_score": "reweighted", **PATCHES},
    "self": {"method": "patchcore", "coreset_ratio": 1.0, "skip": "self", **PATCHES},
    "cluster": {"method": "patchcluster", "coreset_ratio": 0.5, "neighbours": 3, **PATCHES},
    "lof": {"method": "patchcore_lof", "coreset_ratio": 0.5, "neighbours": 5, **PATCHES},
    # All templates: clusters of features that differ by rounding are others now and then.
    "templates": {"method": "hetmm", "windows": [3, 1]},
    "padim": {"method": "padim", "channels": 20},
    "spade": {"method": "spade", "neighbours": 3},
    "rad": {"method": "rad", "neighbours": 3},
    "simplenet": {"method": "simplenet", "hidden_units": 16, "held_out": 0.4, **TRAINED, **PATCHES},
    "fod": {"method": "fod", "widths": [8, 16], "heads": 2, "depth": 1, "unit": "features", **TRAINED},
    "ensemble": {"method": "ensemble", "members": ["core", "padim"]},
}
EXPLAINED = ("core", "templates", "spade", "rad")


def benchmark(folder: Path, images: Path, device: str) -> Benchmark:
    tree = config_tree(folder)
    tree["compute"]["device"] = device
    tree["extractors"] = {"small": EXTRACTOR}
    parts = tree["datasets"]["parts"]
    parts["root"] = str(images)
    parts["detectors"] = {
        name: lane if "members" in lane else {"extractor": "small", **lane} for name, lane in LANES.items()
    }
    parts["studies"] = {"ratio": {"base": "core", "vary": {"coreset_ratio": [0.2, 0.5]}}}
    line = {"reader": "folder", "root": str(images), "production": {"settle_seconds": 0}}
    tree["datasets"]["line"] = {**line, "detectors": {"core": parts["detectors"]["core"]}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_config(folder / "bench.yaml", environ={})


def build(made: Benchmark) -> None:
    """Build every asset partition that computes with tensors, upstream first."""
    for stage in stages_of(made, gate=NewImageGate):
        if stage.kind in ("leaderboard", "category_report", "report"):
            continue
        for partition in stage.partitions if stage.partitions is not None else (None,):
            materialize(stage, partition, made.store, made.compute, logging.getLogger("build"))


def assert_same_tensors(one: Path, other: Path) -> int:
    """All tensors of two stores, but for the weights of trained models: Adam makes whole steps of mere rounding."""
    first, second = (ArtifactStore(root=str(root)) for root in (one, other))
    paths = {file.path for file in first.files() if file.path.endswith(".safetensors")}
    files = sorted(path for path in paths if "trained_model" not in path and "/shards/" not in path)
    for file in files:
        found, expected = second.read_tensors(file), first.read_tensors(file)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            spread = float(tensor.double().abs().amax()) if tensor.numel() else 0.0
            apart = float((found[name].double() - tensor.double()).abs().amax()) if tensor.numel() else 0.0
            assert apart <= 1e-3 * spread, f"{file}: {name} is {apart} apart of {spread}"
    return len(files)


def predictions(made: Benchmark, image: Path) -> dict[str, Any]:
    found = {}
    for lane in LANES:
        detector = load_detector("parts", lane, "bolt", made, record=False)
        prediction = detector.predict(image)
        found[lane] = (prediction.score, prediction.score_map)
        if lane in EXPLAINED:
            found[f"{lane} explained"] = [source.image_id for source in explain(detector, image).sources]
    return found


def test_a_benchmark_on_a_device_is_that_of_the_cpu(tmp_path: Path) -> None:
    images, new = tmp_path / "images", tmp_path / "new.png"
    write_dataset(images, ["bolt"])
    write_image(new, draw_image(7, defect=True))
    by_cpu = benchmark(tmp_path / "cpu", images, "cpu")
    with cuda_device() as device:
        on_device = benchmark(tmp_path / "device", images, str(device))
    stores = tmp_path / "cpu" / "store", tmp_path / "device" / "store"
    build(by_cpu)
    with cuda_device() as device:
        build(on_device)
        assert device.counts.launches > 1000
    assert assert_same_tensors(*stores) > 20
    expected = predictions(by_cpu, new)
    with cuda_device():
        found = predictions(on_device, new)
    for lane in LANES:
        assert found[lane][0] == pytest.approx(expected[lane][0], rel=1e-3)
        np.testing.assert_allclose(found[lane][1], expected[lane][1], atol=1e-3 * np.abs(expected[lane][1]).max())
    for lane in EXPLAINED:
        assert found[f"{lane} explained"] == expected[f"{lane} explained"]
