"""Protocols of single datasets through the graph: kinds of anomalies, saturated regions, whole images, no labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

from ad_assets.cli import main
from ad_assets.config.benchmark import Benchmark
from ad_assets.config.load import load_config
from ad_assets.datasets import ImageFiles
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.geometry import fit_mask
from ad_assets.datasets.readers.cifar10 import CLASSES
from ad_assets.graph.stages.score_maps import shards
from ad_assets.store.store import Artifact
from ad_assets_runtime.geometry import unfit_map
from tests.support.bench_graph import LITE0
from tests.support.trees import cifar_tree, loco_tree, mvtec_ad_2_tree

CATEGORY = "pushpins"
BANK = {"method": "patchcore", "extractor": "lite0", "pooling": "concat", "coreset_ratio": 1.0}


def materialize(tmp_path: Path, dataset: dict[str, Any], category: str, **sections: Any) -> Benchmark:
    tree = {
        "store": {"root": str(tmp_path / "store")},
        "compute": {"device": "cpu", "batch_size": 4},
        "extractors": {
            "lite0": {**LITE0, "resize": [32, 48]},
        },
        "datasets": {
            "set": {
                "check_counts": False,
                "root": str(tmp_path / "images"),
                "detectors": {"bank": BANK},
                **dataset,
            }
        },
        **sections,
    }
    path = tmp_path / "bench.yaml"
    path.write_text(yaml.safe_dump(tree))
    assert main(["materialize", "set", "--category", category, "--config", str(path)]) == 0
    return load_config(path, environ={})


def artifact(benchmark: Benchmark, key: tuple[str, ...], category: str) -> Artifact:
    head = benchmark.store.read_head(("set", *key), category)
    assert head is not None
    return benchmark.store.artifact(key[-1], head["version"])


def rows(benchmark: Benchmark, category: str) -> dict[tuple[str, str], Any]:
    """Whole rows by protocol and metric."""
    measured = artifact(benchmark, ("bank", "metrics"), category)
    return {(row["protocol"], row["metric"]): row for row in benchmark.store.read_json(measured.at("rows.json"))}


def values(benchmark: Benchmark, category: str) -> dict[tuple[str, str], Any]:
    return {key: row["value"] for key, row in rows(benchmark, category).items()}


def scored(benchmark: Benchmark, category: str) -> list[tuple[dict[str, Any], np.ndarray, float]]:
    """Test rows of the index with their maps and scores."""
    index, maps = (artifact(benchmark, key, category) for key in (("image_index",), ("bank", "score_maps")))
    listed = benchmark.store.read_table(index.at("index.parquet")).to_pylist()
    table = {row["image_id"]: row for row in listed if row["split"] == "test"}
    return [
        (table[image], score_map, float(score))
        for ids, found, scores in shards(maps)
        for image, score_map, score in zip(ids, found.numpy(), scores, strict=True)
    ]


def naive_au_spro(images: list[tuple[np.ndarray, list[tuple[np.ndarray, float]]]], limit: float) -> float:
    """By definition, threshold by threshold: (map, regions with the part of their area that saturates them)."""
    thresholds = np.unique(np.concatenate([score_map.ravel() for score_map, _ in images]))[::-1]
    free = sum((~np.any([mask for mask, _ in regions], axis=0)).sum() if regions else m.size for m, regions in images)
    xs, ys = [0.0], [0.0]
    for threshold in thresholds:
        wrong, covered = 0, []
        for score_map, regions in images:
            above = score_map >= threshold
            union = np.any([mask for mask, _ in regions], axis=0) if regions else np.zeros_like(above)
            wrong += (above & ~union).sum()
            covered += [min((above & mask).sum() / (part * mask.sum()), 1.0) for mask, part in regions]
        xs.append(wrong / free)
        ys.append(float(np.mean(covered)))
    grid = [x for x in xs if x < limit] + [limit]
    # The height at which the curve reaches the limit: where a step lies right on it, its foot and not its top.
    reached = slice(len(grid) - 2, len(grid))
    heights = [*ys[: len(grid) - 1], float(np.interp(limit, xs[reached], ys[reached]))]
    return float(np.trapezoid(heights, grid) / limit)


@pytest.mark.parametrize("resolution", ["map", "original"])
def test_loco_has_kinds_and_saturated_regions(tmp_path: Path, resolution: str) -> None:
    loco_tree(tmp_path / "images")
    benchmark = materialize(
        tmp_path, {"reader": "mvtec_loco"}, CATEGORY, evaluation={"resolution": resolution, "fpr_limits": [0.3, 0.05]}
    )
    found, files = values(benchmark, CATEGORY), ImageFiles(str(tmp_path / "images"))
    kinds: dict[str, list[Any]] = {"structural": [], "logical": []}
    scores: dict[str, list[float]] = {"": [], "structural": [], "logical": []}
    for row, score_map, score in scored(benchmark, CATEGORY):
        masks = [Decoding().mask(files.read(path), path).anomalous for path in row["mask_paths"]]
        if resolution == "original":
            score_map = unfit_map(score_map, (row["height"], row["width"]), (32, 48), None)
        else:
            masks = [fit_mask(mask, (32, 48), None) for mask in masks]
        scores[row["anomaly_kind"]].append(score)
        for kind, images in kinds.items():
            if row["anomaly_kind"] in ("", kind):
                images.append((score_map, list(zip(masks, row["mask_saturations"], strict=True))))
    for limit in (0.3, 0.05):
        for kind, images in kinds.items():
            assert found["standard", f"au_spro_{limit:.2f}_{kind}"] == pytest.approx(
                naive_au_spro(images, limit), abs=1e-6
            )
        mean = np.mean([found["standard", f"au_spro_{limit:.2f}_{kind}"] for kind in kinds])
        assert found["standard", f"au_spro_{limit:.2f}"] == pytest.approx(mean)
    for kind in kinds:
        pairs = [(a > b) + (a == b) / 2 for a in scores[kind] for b in scores[""]]
        assert found["standard", f"image_auroc_{kind}"] == pytest.approx(np.mean(pairs))
    assert ("interval_95", "image_auroc_low") in found
    pixels = 32 * 48 if resolution == "map" else 12 * 10
    assert rows(benchmark, CATEGORY)["standard", "pixel_auroc"]["n"] == 6 * pixels


def test_images_for_a_server_are_scored_and_exported_without_labels(tmp_path: Path, capsys: Any) -> None:
    mvtec_ad_2_tree(tmp_path / "images")
    benchmark = materialize(tmp_path, {"reader": "mvtec_ad_2", "split": "private"}, "vial")
    found = values(benchmark, "vial")
    assert found["standard", "image_auroc"] is None
    assert found["standard", "pixel_auroc"] is None
    assert found["nominal_threshold", "threshold"] is not None
    assert ("nominal_threshold", "false_positives") not in found
    config = str(tmp_path / "bench.yaml")
    out = ["--layout", "mvtec_ad_2", "--out", str(tmp_path / "out"), "--category", "vial"]
    assert main(["export", "maps", "set", "bank", *out, "--config", config]) == 0
    capsys.readouterr()
    maps = sorted((tmp_path / "out" / "anomaly_images" / "vial" / "test_private").glob("*.tiff"))
    assert [path.stem for path in maps] == ["000_regular", "001_regular"]
    assert tifffile.imread(maps[0]).dtype == np.float16
    assert tifffile.imread(maps[0]).shape == (10, 12)


@pytest.mark.slow
def test_one_class_of_cifar_through_both_detectors(tmp_path: Path) -> None:
    source = cifar_tree(tmp_path / "source", CLASSES, images=40)
    detectors = {
        "simplenet": {"method": "simplenet", "extractor": "lite0", "preset": "quick", "epochs": 2, "oracle_every": 1},
        "bank": BANK,
    }
    dataset = {"reader": "cifar10_one_class", "source": str(source), "detectors": detectors}
    benchmark = materialize(tmp_path, dataset, "cat")
    for lane in detectors:
        measured = benchmark.store.read_json(artifact(benchmark, (lane, "metrics"), "cat").at("rows.json"))
        found = {(row["protocol"], row["metric"]): row for row in measured}
        assert 0 <= found["standard", "image_auroc"]["value"] <= 1
        assert found["standard", "pixel_auroc"]["value"] is None
        test = [row for row, *_ in scored(benchmark, "cat")]
        assert {row["label"] for row in test} == {0, 1}
        assert all((row["label"] == 0) == (row["defect_type"] == "good") for row in test)
    # Another class tests the same images: their features are there.
    before = len(benchmark.store.files("features"))
    assert main(["materialize", "set", "--category", "dog", "--config", str(tmp_path / "bench.yaml")]) == 0
    train = sum(row["split"] == "train" for row in index_rows(benchmark, "dog"))
    assert len(benchmark.store.files("features")) == before + train


def index_rows(benchmark: Benchmark, category: str) -> list[dict[str, Any]]:
    table = benchmark.store.read_table(artifact(benchmark, ("image_index",), category).at("index.parquet"))
    rows_: list[dict[str, Any]] = table.to_pylist()
    return rows_
