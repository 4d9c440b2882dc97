"""Scores of new images outside the graph: the graph's own, for every kind of method, and nothing out of date."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import torch

from ad_assets.datasets.decoding import Decoding
from ad_assets.graph.stages.score_maps import shards
from ad_assets.prediction import DetectorError, Prediction, Predictor, load_detector
from ad_assets_runtime.images import ImageError
from tests.support.bench_graph import Bench, draw_image, write_dataset, write_image

PATCHES = {"extractor": "lite0", "pooling": "concat"}
TRAINED = {"epochs": 1, "batch_size": 2}
LANES = {
    "patchcore": {"method": "patchcore", "coreset_ratio": 0.2, "image_score": "reweighted", **PATCHES},
    "ivfpq": {"method": "patchcore", "coreset_ratio": 1.0, "search": "ivfpq", "lists": 2, **PATCHES},
    "patchcluster": {"method": "patchcluster", "coreset_ratio": 0.5, "neighbours": 3, **PATCHES},
    "lof": {"method": "patchcore_lof", "coreset_ratio": 0.5, "neighbours": 5, **PATCHES},
    "tokens": {"method": "anomalydino", "extractor": "lite0", "image_share": 0.1},
    "layers": {"method": "superadd", "extractor": "lite0", "max_rows": 200, "subsets": 4},
    "hetmm": {"method": "hetmm", "extractor": "lite0", "windows": [3, 3]},
    "sheets": {"method": "hetmm", "extractor": "lite0", "windows": [3], "layers": [2], "sheets": 3},
    "padim": {"method": "padim", "extractor": "cropped", "channels": 20},
    "spade": {"method": "spade", "extractor": "lite0", "neighbours": 3},
    "rad": {"method": "rad", "extractor": "vit", "neighbours": 3},
    "simplenet": {"method": "simplenet", "hidden_units": 16, "held_out": 0.4, **TRAINED, **PATCHES},
    "fod": {"method": "fod", "extractor": "lite0", "widths": [8, 16], "heads": 2, "depth": 1, **TRAINED},
    "ensemble": {"method": "ensemble", "members": ["patchcore", "hetmm"]},
}
BLIND = {"reader": "blind", "of": "parts", "detectors": {lane: LANES[lane] for lane in ("patchcluster", "spade")}}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One category, all lanes materialized; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("prediction")
    write_dataset(folder / "images", ["bolt"])
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    lite0 = bench.tree["extractors"]["lite0"]
    bench.tree["extractors"]["cropped"] = {**lite0, "resize": 72, "crop": 64}
    bench.tree["extractors"]["vit"] = {
        "backbone": "test_vit",
        "weights": "random(0)",
        "taps": ["blocks.0", "blocks.1", "class_token"],
        "norm": True,
        "resize": [64, 64],
    }
    bench.tree["datasets"]["parts"]["detectors"] = LANES
    bench.set("datasets.mix", BLIND)
    bench.make()
    before = bench.files()
    yield bench
    assert bench.files() == before  # features of new images stay in memory


@pytest.fixture
def small(bench: Bench) -> Bench:
    """One category and one lane, materialized, to be changed."""
    shutil.rmtree(bench.images / "nut")
    del bench.tree["datasets"]["parts"]["detectors"]["full"]
    bench.reload()
    bench.make()
    return bench


def paths(bench: Bench) -> dict[str, Path]:
    """Image id -> file, of all images."""
    store = bench.benchmark.store
    head = store.read_head(("parts", "image_index"), "bolt")
    assert head
    rows = store.read_table(store.artifact("image_index", head["version"]).at("index.parquet")).to_pylist()
    return {row["image_id"]: bench.images / row["path"] for row in rows}


def in_the_graph(bench: Bench, dataset: str, lane: str) -> tuple[list[Path], torch.Tensor, torch.Tensor, float]:
    """Files of the test images, their maps and scores, and the threshold that metrics took."""
    store = bench.benchmark.store
    heads = {kind: store.read_head((dataset, lane, kind), "bolt") for kind in ("score_maps", "metrics")}
    assert heads["score_maps"]
    assert heads["metrics"]
    parts = list(shards(store.artifact("score_maps", heads["score_maps"]["version"])))
    known = paths(bench)
    files = [known[image_id] for ids, _, _ in parts for image_id in ids]
    metrics = store.read_json(store.artifact("metrics", heads["metrics"]["version"]).at("images.json"))
    maps, scores = (torch.cat([part[number] for part in parts]) for number in (1, 2))
    return files, maps, scores, metrics["threshold"]


def assert_equal(predictions: list[Prediction], maps: torch.Tensor, scores: torch.Tensor) -> None:
    # To the rounding of float32: with one thread, convolutions round by the number of images in their batch.
    found = torch.tensor([prediction.score for prediction in predictions])
    torch.testing.assert_close(found, scores, rtol=1e-5, atol=1e-6)
    found = torch.stack([torch.from_numpy(prediction.score_map) for prediction in predictions])
    torch.testing.assert_close(found, maps, rtol=1e-5, atol=1e-5 * float(maps.abs().max()))


def test_what_an_approximate_search_finds_stands_with_its_lane(built: Bench) -> None:
    head = built.benchmark.store.read_head(("parts", "ivfpq", "neighbours"), "bolt")
    assert head
    facts = built.benchmark.store.artifact("neighbours", head["version"]).facts()
    rows = built.rows("ivfpq", "bolt")
    for name in ("search_recall_at_1", "search_distance_ratio"):
        assert 0 < facts[name] == rows["standard", name]
        assert ("standard", name) not in built.rows("patchcore", "bolt")
    head = built.benchmark.store.read_head(("parts", "leaderboard"), None)
    assert head
    board = built.benchmark.store.artifact("leaderboard", head["version"])
    text = board.store.read_bytes(board.at("leaderboard.txt")).decode()
    share = f"{100 * facts['search_recall_at_1']:.1f} %"
    assert f"ivfpq: nearest rows are sought among product codes, which find {share}" in text


@pytest.mark.parametrize("batch_size", [None, 1])
@pytest.mark.parametrize("lane", LANES)
def test_scores_are_those_of_the_graph(built: Bench, lane: str, batch_size: int | None) -> None:
    files, maps, scores, threshold = in_the_graph(built, "parts", lane)
    detector = load_detector("parts", lane, "bolt", built.benchmark)
    predictions = list(detector.predict_batch(files, batch_size=batch_size))
    assert_equal(predictions, maps, scores)
    if lane == "fod":  # held nothing out: there is no nominal score, and metrics falls back on the test scores
        assert detector.threshold is None
        assert predictions[0].anomalous is None
    else:
        assert detector.threshold == threshold
        assert [p.anomalous for p in predictions] == [p.score > threshold for p in predictions]
        nominal = detector.nominal.scores
        rare = [(1 + sum(each >= p.score for each in nominal)) / (len(nominal) + 1) for p in predictions]
        assert [p.p_value for p in predictions] == rare
    assert {"decode", "backbone"} < set(predictions[0].step_seconds)
    assert predictions[0].seconds > 0


@pytest.mark.parametrize("lane", BLIND["detectors"])
def test_blind_lanes_recognise_what_they_have_learnt(built: Bench, lane: str) -> None:
    files, maps, scores, _ = in_the_graph(built, "mix", lane)
    detector = load_detector("mix", lane, "bolt", built.benchmark)
    assert detector.threshold is None
    assert_equal(list(detector.predict_batch(files)), maps, scores)
    # The same pixels in another file are an image that it has not seen: its patches lie in the bank.
    stranger = detector.predict(Decoding().rgb(files[0].read_bytes(), "") + np.uint8(0))
    assert stranger.score < float(scores[0])


@pytest.fixture(scope="module")
def detector(built: Bench) -> Predictor:
    return load_detector("parts", "ensemble", "bolt", built.benchmark)


def test_order_batches_and_company_change_nothing(built: Bench, detector: Predictor) -> None:
    files = [*paths(built).values()]
    together = {p.name: p for p in detector.predict_batch(files, batch_size=5)}
    turned = [*reversed(files), files[3], files[3]]
    for prediction in detector.predict_batch(iter(turned), batch_size=4):
        assert prediction.score == pytest.approx(together[prediction.name].score, rel=1e-5)
    assert [p.name for p in detector.predict_batch(turned)] == list(map(str, turned))
    assert list(detector.predict_batch([])) == []


def test_an_image_comes_as_path_bytes_or_pixels(built: Bench, detector: Predictor) -> None:
    path = next(iter(paths(built).values()))
    pixels = Decoding().rgb(path.read_bytes(), "")
    ways: list[Any] = [path, str(path), path.read_bytes(), pixels, np.asfortranarray(pixels)]
    predictions = [detector.predict(image) for image in ways]
    assert len({p.score for p in predictions}) == 1
    assert [p.name for p in predictions[:4]] == [str(path), str(path), "image 1", "image 1"]
    assert predictions[0].shape == (64, 64)
    assert np.array_equal(predictions[0].full_map(), predictions[0].score_map)


def test_a_map_goes_back_to_the_frame_of_its_image(built: Bench) -> None:
    cropped = load_detector("parts", "padim", "bolt", built.benchmark)
    prediction = cropped.predict(np.tile(draw_image(1), (2, 4, 1)))
    assert prediction.shape == (128, 256)
    assert prediction.score_map.shape == (64, 64)
    whole = prediction.full_map()
    assert whole.shape == (128, 256)
    # Resized to 72 x 144, the middle 64 x 64 was seen, 4 to 68 down and 40 to 104 across: nothing is said of the rest.
    seen = prediction.seen_mask()
    assert seen.sum(axis=0).max() == 114  # 64 / 72 of 128, by the pixels' centres
    assert not seen[:, :71].any()
    assert seen[64, 72:184].all()
    assert prediction.seen == pytest.approx(64 * 64 / (72 * 144))
    assert np.array_equal(np.isnan(whole), ~seen)
    assert np.nanmax(whole) <= prediction.score_map.max() + 1e-6
    assert prediction.full_map((8, 16)).shape == (8, 16)


def test_a_bad_image_is_named_and_others_go_on(built: Bench, detector: Predictor, tmp_path: Path) -> None:
    good = next(iter(paths(built).values()))
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:200])
    absent = tmp_path / "absent.png"
    for image, message in [
        (broken, "broken.png: cannot be decoded"),
        (absent, "absent.png: cannot be read: No such file"),
        (b"", "image 1: the file is empty"),
        (np.zeros((4, 4), np.uint8), "image 1: expected pixels"),
        (np.zeros((4, 4, 3)), "image 1: expected pixels"),
        (3, "image 1: expected a path, bytes or pixels"),
    ]:
        with pytest.raises(ImageError, match=message):
            detector.predict(image)  # type: ignore[arg-type]
    errors: list[ImageError] = []
    mixed = [broken, good, absent, good, broken]
    found = list(detector.predict_batch(mixed, batch_size=2, failed=errors.append))
    assert [p.name for p in found] == [str(good)] * 2
    assert [error.path for error in errors] == list(map(str, [broken, absent, broken]))
    # An iterator that is left half way does not keep the detector from others.
    next(detector.predict_batch([good] * 20, batch_size=1))
    assert detector.predict(good).score == found[0].score


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("bolts", "hetmm", "bolt"), "has no dataset 'bolts'; it has: parts, mix"),
        ((None, "hetmm", "bolt"), "name a dataset: .* has several: parts, mix"),
        (("parts", "resnet", "bolt"), "dataset 'parts' has no detector 'resnet'; it has: patchcore, ivfpq"),
        (("parts", None, "bolt"), "name a detector: dataset 'parts' has several"),
        (("parts", "hetmm", "nut"), "dataset 'parts' has no category 'nut'; it has: bolt"),
    ],
)
def test_wrong_names_are_told_with_the_right_ones(built: Bench, names: Any, message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        load_detector(*names, built.benchmark)


def test_what_was_never_materialized_says_what_to_run(bench: Bench) -> None:
    config = bench.folder / "bench.yaml"
    overrides = ["datasets.parts.detectors.small.sigma=1.0"]
    with pytest.raises(DetectorError) as caught:
        load_detector("parts", "small", "nut", config, overrides)
    assert "parts/small [nut] was never materialized" in str(caught.value)
    command = "run: ad-assets materialize parts --category nut --select 'key:\"parts/small/*\"' --config "
    assert f"{command}{config} --set {overrides[0]}" in str(caught.value)


def test_what_is_out_of_date_is_refused(small: Bench) -> None:
    config = small.folder / "bench.yaml"
    fresh = load_detector(None, None, None, config)
    assert (fresh.dataset, fresh.detector, fresh.category) == ("parts", "small", "bolt")

    def load(*overrides: str, **options: Any) -> Predictor:
        return load_detector("parts", "small", "bolt", config, overrides, **options)

    other = "datasets.parts.detectors.small.coreset_ratio=0.5"
    with pytest.raises(DetectorError, match="made under another setting of the benchmark file; run: ad-assets"):
        load(other)
    allowed = load(other, allow_stale=True)
    assert allowed.versions == fresh.versions
    assert allowed.stale == ("parts/small [bolt] was made under another setting of the benchmark file",)
    assert fresh.stale == ()
    with pytest.raises(DetectorError, match="made from features of another extractor"):
        load("extractors.lite0.interpolation=bicubic", allow_stale=True)
    # What is read when images are scored takes effect at once; the threshold follows it.
    smooth = load("datasets.parts.detectors.small.sigma=0.5")
    assert smooth.versions == fresh.versions
    assert smooth.threshold == fresh.threshold  # PatchCore's image score is not smoothed

    write_image(small.images / "bolt/train/good/new.png", draw_image(77))
    job = small.definitions.resolve_implicit_global_asset_job_def()
    index = [dg.AssetKey(["parts", "image_index"])]
    assert job.execute_in_process(asset_selection=index, partition_key="bolt", instance=small.instance).success
    with pytest.raises(DetectorError, match="made of other training images than its image index has now"):
        load()
    image = draw_image(5, defect=True)
    expected = fresh.predict(image)
    assert load(allow_stale=True).predict(image).score == expected.score
    small.make()
    renewed = load()
    assert renewed.versions != fresh.versions

    # A state of before, by its address: its own threshold too, although its score maps knew other test images.
    write_image(small.images / "bolt/test/good/new.png", draw_image(78))
    small.make()
    back = load(version=fresh.versions["small"])
    assert back.versions == fresh.versions
    assert back.predict(image).score == expected.score
    assert back.threshold == fresh.threshold != renewed.threshold
    with pytest.raises(DetectorError, match="the store has no memory_bank 0123"):
        load(version="0123")
    with pytest.raises(DetectorError, match="has no member full: give versions of small"):
        load(version={"full": "0123"})


def test_a_detector_needs_neither_images_nor_score_maps(small: Bench) -> None:
    store, config = small.benchmark.store, small.folder / "bench.yaml"
    expected = load_detector("parts", "small", "bolt", config)
    small.images.rename(small.folder / "elsewhere")
    store.delete([file.path for file in store.files("artifacts/score_maps")])
    said: list[tuple[str, int, int]] = []
    again = load_detector("parts", "small", "bolt", config, report=lambda *words: said.append(words))
    assert ("nominal images scored left-out", 6, 6) in said
    assert again.threshold == expected.threshold
    with pytest.raises(DetectorError, match="no category 'nut'; it has: bolt"):
        load_detector("parts", "small", "nut", config)
    state = next(file.path for file in store.files("artifacts/memory_bank") if file.path.endswith(".safetensors"))
    store.write_bytes(state, b"cut off")
    with pytest.raises(DetectorError, match=r"cannot be loaded: .*state.safetensors is damaged .*materialize --verify"):
        load_detector("parts", "small", "bolt", config)
