"""Extractors with tiles in the graph: every method, its metrics and predictions, at maps of a bounded size."""

from __future__ import annotations

from typing import Any

import dagster as dg
import numpy as np
import pytest
import torch

from ad_assets.graph.stages.features import features_address
from ad_assets.graph.stages.score_maps import shards
from ad_assets.prediction import load_detector
from tests.support.bench_graph import Bench, draw_image, write_dataset

LANES: dict[str, dict[str, Any]] = {
    "patchcore": {"method": "patchcore", "extractor": "tiled", "pooling": "concat", "coreset_ratio": 0.2},
    "padim": {"method": "padim", "extractor": "tiled", "channels": 20},
    "hetmm": {"method": "hetmm", "extractor": "half", "windows": [3, 3]},
    "spade": {"method": "spade", "extractor": "half", "neighbours": 3},
    "ensemble": {"method": "ensemble", "members": ["patchcore", "hetmm"]},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("tiles")
    write_dataset(folder / "images", ["bolt"])
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    tiled = {**bench.tree["extractors"]["lite0"], "resize": [96, 128], "tiles": {"size": 64, "overlap": 32}}
    bench.tree["extractors"] = {"tiled": tiled, "half": {**tiled, "storage": "float16"}}
    bench.tree["datasets"]["parts"]["detectors"] = LANES
    bench.tree["evaluation"] = {**bench.tree.get("evaluation", {}), "resolution": "original"}
    bench.reload()
    bench.make()
    return bench


@pytest.mark.parametrize("lane", LANES)
def test_scores_of_new_images_are_those_of_the_graph(built: Bench, lane: str) -> None:
    store = built.benchmark.store
    made = store.read_head(("parts", lane, "score_maps"), "bolt")
    index = store.read_head(("parts", "image_index"), "bolt")
    assert index
    assert made
    rows = store.read_table(store.artifact("image_index", index["version"]).at("index.parquet")).to_pylist()
    files = {row["image_id"]: built.images / row["path"] for row in rows}
    detector = load_detector("parts", lane, "bolt", built.benchmark)
    for ids, maps, scores in shards(store.artifact("score_maps", made["version"])):
        assert tuple(maps.shape[1:]) == (12, 16)  # the grid of the first tap, not the 96 x 128 pixels of the input
        predictions = list(detector.predict_batch([files[image] for image in ids]))
        found = torch.tensor([prediction.score for prediction in predictions])
        torch.testing.assert_close(found, scores, rtol=1e-5, atol=1e-6)
        own = torch.stack([torch.from_numpy(prediction.score_map) for prediction in predictions])
        torch.testing.assert_close(own, maps, rtol=1e-5, atol=1e-5 * float(maps.abs().max()))
    assert built.rows(lane, "bolt")["standard", "pixel_auroc"] > 0.5


def test_a_whole_map_covers_the_whole_image(built: Bench) -> None:
    detector = load_detector("parts", "patchcore", "bolt", built.benchmark)
    prediction = detector.predict(draw_image(6, defect=True))
    whole = prediction.full_map()
    assert whole.shape == prediction.shape
    assert prediction.seen == 1
    assert np.isfinite(whole).all()
    assert whole.max() <= prediction.score_map.max()
    assert detector.view([prediction.shape]).sentence("it").startswith("images are 64 x 64, it looks at 100 % of them")


def test_features_in_float16_take_half_the_room(built: Bench) -> None:
    sizes = {
        name: {file.size for file in built.benchmark.store.files(f"features/{features_address(extractor)}")}
        for name, extractor in built.benchmark.extractors.items()
    }
    assert {name: len(each) for name, each in sizes.items()} == {"tiled": 1, "half": 1}
    full, half = max(sizes["tiled"]), max(sizes["half"])
    assert full // 2 < half < full // 2 + 300  # the header
