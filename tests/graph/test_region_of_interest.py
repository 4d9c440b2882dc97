"""Regions of interest through the whole graph: what a mask changes, what it leaves, and what predictions go on with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from ad_assets.datasets.base import DatasetError
from ad_assets.datasets.geometry import fit_mask
from ad_assets.graph.stages.region_of_interest import read_region, region_location
from ad_assets.graph.stages.score_maps import read_score_index, read_shard
from ad_assets.prediction import load_detector
from tests.support.bench_graph import SIDE, Bench, draw_image, write_dataset, write_image

INSPECTED = 24  # columns of 64; the defect outside lies beyond what a patch inside sees
LANES = {
    "small": {"method": "patchcore", "extractor": "lite0", "pooling": "concat", "coreset_ratio": 0.1},
    "inside": {"method": "patchcore", "extractor": "lite0", "pooling": "concat", "coreset_ratio": 0.1, "roi_fit": True},
    "gauss": {"method": "padim", "extractor": "lite0"},
    "both": {"method": "ensemble", "members": ["small", "gauss"]},
}


def draw_region(images: Path, columns: slice = slice(0, INSPECTED), category: str = "bolt") -> np.ndarray:
    """White columns of a black mask."""
    region = np.zeros((SIDE, SIDE), bool)
    region[:, columns] = True
    path = images / "roi" / f"{category}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(region).convert("L").save(path)
    return region


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One category, whose defects are in the left half of its images and, of one image, in the right half alone."""
    folder = tmp_path_factory.mktemp("roi")
    write_dataset(folder / "images", ["bolt"])
    for number, left in (("000", 8), ("001", 48), ("002", 2)):
        pixels, mask = draw_image(7, defect=False), np.zeros((SIDE, SIDE), np.uint8)
        pixels[20:34, left : left + 14], mask[20:34, left : left + 14] = 240, 255
        write_image(folder / "images/bolt/test/spot" / f"{number}.png", pixels)
        Image.fromarray(mask).save(folder / "images/bolt/ground_truth/spot" / f"{number}_mask.png")
    draw_region(folder / "images")
    made = Bench(folder, dg.DagsterInstance.ephemeral())
    made.tree["extractors"]["lite0"]["taps"] = ["blocks.1", "blocks.2"]
    made.tree["datasets"]["parts"] |= {"roi": "roi/{category}.png", "detectors": dict(LANES)}
    made.reload()
    made.make()
    return made


def _artifact(bench: Bench, lane: str, kind: str) -> Any:
    head = bench.benchmark.store.read_head(("parts", lane, kind) if lane else ("parts", kind), "bolt")
    assert head is not None
    return bench.benchmark.store.artifact(kind, head["version"])


def _rows(bench: Bench, split: str = "test") -> list[dict[str, Any]]:
    index = _artifact(bench, "", "image_index")
    return [
        row for row in bench.benchmark.store.read_table(index.at("index.parquet")).to_pylist() if row["split"] == split
    ]


def test_the_index_names_the_region_and_says_what_share_is_inspected(bench: Bench) -> None:
    store = bench.benchmark.store
    head = store.read_head(("parts", "image_index"), "bolt")
    assert head is not None
    digest = head["parts"]["roi"]
    inspected = read_region(store, digest)
    assert inspected is not None
    assert inspected[:, :INSPECTED].all()
    assert not inspected[:, INSPECTED:].any()
    metadata = _artifact(bench, "", "image_index").record()["metadata"]
    assert metadata["inspected_percent"] == 37.5
    assert metadata["region_of_interest"]["md"].startswith("![what is inspected](data:image/jpeg;base64,")
    assert metadata["problems"] == 0
    # A file of the artifact, whose damage is found and mended.
    Path(store.location(region_location(digest))).unlink()
    assert ("parts/image_index", "bolt") in bench.plan(verify=True)
    bench.make(verify=True)
    assert np.array_equal(read_region(store, digest), inspected)


@pytest.mark.parametrize("lane", list(LANES))
def test_a_defect_outside_raises_no_score_and_counts_in_no_metric(bench: Bench, lane: str) -> None:
    maps = _artifact(bench, lane, "score_maps")
    inside = np.zeros((SIDE, SIDE), bool)
    inside[:, :INSPECTED] = True
    scores = {}
    for row in _rows(bench):
        score_map, scores[row["path"]] = read_shard(maps, row["image_id"])
        assert score_map.numpy()[~inside].max() <= score_map.numpy()[inside].min()
    seen = min(scores["bolt/test/spot/000.png"], scores["bolt/test/spot/002.png"])
    assert scores["bolt/test/spot/001.png"] < seen
    measured = bench.rows(lane, "bolt")
    assert measured["standard", "images_outside_roi"] == 1
    counts = _pixels(bench, lane)
    assert counts == 6 * SIDE * INSPECTED  # three nominal images, three anomalous ones, the inspected part of each


def _pixels(bench: Bench, lane: str) -> int:
    rows = bench.benchmark.store.read_json(_artifact(bench, lane, "metrics").at("rows.json"))
    (found,) = (row["n"] for row in rows if (row["protocol"], row["metric"]) == ("standard", "pixel_auroc"))
    return int(found)


def test_the_threshold_is_of_the_region(bench: Bench) -> None:
    maps = _artifact(bench, "small", "score_maps")
    nominal = read_score_index(maps).nominal
    assert nominal.scores
    detector = load_detector("parts", "small", "bolt", bench.benchmark)
    assert detector.nominal.scores == nominal.scores
    assert detector.inspected is not None
    for row in _rows(bench):
        prediction = detector.predict(bench.images / row["path"])
        assert prediction.score == pytest.approx(read_shard(maps, row["image_id"])[1], rel=1e-5)
        assert prediction.full_map()[:, INSPECTED:].max() <= prediction.full_map()[:, :INSPECTED].min()
    assert detector.predict(bench.images / "bolt/test/spot/000.png").anomalous
    assert not detector.predict(bench.images / "bolt/test/spot/001.png").anomalous
    small = Image.fromarray(draw_image(1)).resize((48, 48))
    with pytest.raises(ValueError, match=r"is of 48 x 48, and what to inspect is known of images of 64 x 64 alone"):
        detector.predict(np.asarray(small))


def test_what_learns_inside_holds_no_patch_of_the_outside(bench: Bench) -> None:
    store = bench.benchmark.store
    whole, inside = (
        store.read_tensors(_artifact(bench, lane, "memory_bank").at("state.safetensors"))
        for lane in LANES
        if lane in ("small", "inside")
    )
    columns = 16  # of a grid of 16 x 16 cells, six columns of which are inspected
    assert len(inside["rows"]) < len(whole["rows"])
    assert (inside["place"] % columns).max() < 6
    assert (whole["place"] % columns).max() >= 6


def test_redrawing_costs_no_feature_and_only_the_states_that_learn_inside(bench: Bench) -> None:
    features, before = bench.files("features"), bench.rows("small", "bolt")
    draw_region(bench.images, slice(0, 64))
    wanted = {asset for asset, _ in bench.plan()}
    built, _ = bench.make()
    assert bench.files("features") == features
    assert {asset for asset, partition in built if partition} <= {
        *("parts/image_index", "parts/category_report"),
        *(f"parts/{lane}/{role}" for lane in LANES for role in ("score_maps", "metrics")),
        *("parts/inside/memory_bank", "parts/inside/neighbours"),
    }
    assert {"parts/small/score_maps", "parts/both/metrics", "parts/inside/memory_bank"} <= wanted
    assert "parts/features/lite0" not in {asset for asset, _ in built}
    assert "parts/small/memory_bank" not in {asset for asset, _ in built}
    assert ("standard", "images_outside_roi") not in bench.rows("small", "bolt")
    draw_region(bench.images)
    built, _ = bench.make()
    assert not {asset for asset, partition in built if partition}  # all of it lies in the store
    assert bench.rows("small", "bolt") == before


def test_a_margin_costs_what_redrawing_does(bench: Bench) -> None:
    features, before = bench.files("features"), bench.rows("small", "bolt")
    bench.tree["datasets"]["parts"]["roi_margin"] = 4
    bench.reload()
    try:
        built, _ = bench.make()
        assert bench.files("features") == features
        assert "parts/small/memory_bank" not in {asset for asset, _ in built}
        assert _pixels(bench, "small") == 6 * SIDE * (INSPECTED - 4)
        assert _artifact(bench, "", "image_index").record()["metadata"]["inspected_percent"] == 31.25
    finally:
        del bench.tree["datasets"]["parts"]["roi_margin"]
        bench.reload()
    bench.make()
    assert bench.rows("small", "bolt") == before


def test_a_dataset_without_the_option_is_as_it_was(bench: Bench) -> None:
    """The same images with and without a region share features and states."""
    del bench.tree["datasets"]["parts"]["roi"]
    del bench.tree["datasets"]["parts"]["detectors"]["inside"]
    bench.reload()
    try:
        built, _ = bench.make()
        assert "parts/small/memory_bank" not in {asset for asset, _ in built}
        assert _pixels(bench, "small") == 6 * SIDE * SIDE
        head = bench.benchmark.store.read_head(("parts", "image_index"), "bolt")
        assert head is not None
        assert "roi" not in head["parts"]
    finally:
        bench.tree["datasets"]["parts"] |= {"roi": "roi/{category}.png", "detectors": dict(LANES)}
        bench.reload()


def test_original_resolution_ignores_the_outside_too(bench: Bench) -> None:
    bench.set("evaluation", {"resolution": "original"})
    bench.make(selected=[dg.AssetKey(["parts", "small", "metrics"]), dg.AssetKey(["parts", "image_index"])])
    try:
        assert _pixels(bench, "small") == 6 * SIDE * INSPECTED
    finally:
        bench.set("evaluation", {})


def test_the_frame_of_an_extractor_keeps_every_pixel_that_is_touched() -> None:
    region = np.zeros((100, 100), bool)
    region[33, 50] = True
    assert fit_mask(region, (10, 10), None, "any_pixel").nonzero() == (np.array([3]), np.array([5]))
    assert not fit_mask(region, (10, 10), 4, "nearest").any()


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The same with a champion, promoted with the region as it is drawn first."""
    folder = tmp_path_factory.mktemp("line")
    write_dataset(folder / "images", ["bolt"])
    draw_region(folder / "images")
    made = Bench(folder, dg.DagsterInstance.ephemeral())
    made.tree["extractors"]["lite0"]["taps"] = ["blocks.1", "blocks.2"]
    lanes = {"inside": LANES["inside"]}
    production = {"settle_seconds": 0, "gatekeeper": "inside", "margin": 1.0}
    made.tree["datasets"]["parts"] |= {"roi": "roi/{category}.png", "detectors": lanes, "production": production}
    made.reload()
    made.make()
    return made


def index_alone(line: Bench) -> None:
    """Run the image index, and nothing that reads it."""
    job = line.definitions.resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(["parts", "image_index"])]
    job.execute_in_process(asset_selection=keys, partition_key="bolt", instance=line.instance)


def test_a_champion_goes_on_with_the_region_it_was_promoted_with(line: Bench) -> None:
    before = load_detector("parts", "inside", "bolt", line.benchmark, record=False)
    assert before.stale == ()
    assert before.inspected is not None
    image = line.images / "bolt/test/spot/000.png"
    score, first = before.predict(image).score, before.inspected
    wider = draw_region(line.images, slice(0, 48))
    index_alone(line)
    kept = load_detector("parts", "inside", "bolt", line.benchmark, record=False)
    assert kept.versions == before.versions
    assert np.array_equal(kept.inspected, first)
    assert kept.predict(image).score == score
    assert kept.nominal.scores == before.nominal.scores
    (told,) = kept.stale
    assert told == (
        "parts/inside [bolt] inspects another region of interest than its dataset has now, as it was promoted"
    )
    line.make()
    after = load_detector("parts", "inside", "bolt", line.benchmark, record=False)
    assert np.array_equal(after.inspected, wider)
    assert after.stale == ()
    assert after.versions != before.versions
    # The option is gone: the champion goes on until a state without a region takes its place.
    tree = line.tree["datasets"]["parts"]
    option = tree.pop("roi")
    tree["detectors"] = {"inside": {**LANES["inside"], "roi_fit": False}}
    try:
        line.reload()
        index_alone(line)
        kept = load_detector("parts", "inside", "bolt", line.benchmark, record=False)
        assert np.array_equal(kept.inspected, wider)
        assert kept.nominal.scores == after.nominal.scores
        assert len(kept.stale) == 1
    finally:
        tree |= {"roi": option, "detectors": {"inside": LANES["inside"]}}
        line.reload()


def test_regions_of_defects_lie_inside_even_where_all_of_it_is_above_the_threshold(line: Bench) -> None:
    detector = load_detector("parts", "inside", "bolt", line.benchmark, record=False)
    prediction = detector.predict(draw_image(1, defect=True))
    (region,) = replace(prediction, pixel_threshold=-1.0).regions
    assert prediction.inspected is not None
    assert region.area == prediction.inspected.sum()
    assert region.box[2] <= prediction.inspected.any(axis=0).sum()


def test_a_mask_that_is_being_written_waits_and_stops_nothing(line: Bench) -> None:
    line.set("datasets.parts.production", {"settle_seconds": 3600})
    try:
        draw_region(line.images, slice(0, 40))
        with pytest.raises(DatasetError, match=r"its region of interest roi/bolt.png is on its way; wait until"):
            index_alone(line)
    finally:
        line.set("datasets.parts.production", {"settle_seconds": 0, "gatekeeper": "inside", "margin": 1.0})
