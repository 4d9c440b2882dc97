"""Nominal images that are learnt in several directions, through the whole graph."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import torch

from ad_assets.backbones.backbone import load_backbone
from ad_assets.config.load import ConfigError
from ad_assets.graph.stage import Stage, read_head
from ad_assets.graph.stages.feature_files import feature_path, read_feature_index
from ad_assets.graph.stages.fitted_state import read_state
from ad_assets.graph.stages.score_maps import read_score_index
from ad_assets.graph.stages.studies import read_rows
from ad_assets.store.store import Artifact
from tests.support.bench_graph import Bench, draw_image, write_dataset, write_image

CELLS = 8 * 8
TURNED = {"method": "patchcore", "extractor": "lite0", "pooling": "concat", "coreset_ratio": 1.0, "sigma": 0}
FEATURES = ("parts", "features", "lite0")


def _bench(folder: Path) -> Bench:
    """Two categories, of which one is learnt in four directions."""
    write_dataset(folder / "images")
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    lanes = {"turned": {**TURNED, "categories": {"bolt": {"turns": 4}}}}
    bench.tree["datasets"]["parts"]["detectors"] = lanes
    bench.reload()
    return bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Materialized once; images come and go."""
    bench = _bench(tmp_path_factory.mktemp("turned"))
    before = _seen(bench)
    bench.make()
    assert _seen(bench) - before == 2 * 12 + 3 * 6
    return bench


def _stage(bench: Bench, *key: str) -> Stage:
    return next(stage for stage in bench.stages if stage.key == key)


def _artifact(bench: Bench, category: str, *key: str) -> Artifact:
    head = read_head(bench.benchmark.store, key, category)
    assert head
    return bench.benchmark.store.artifact(_stage(bench, *key).kind, head.version)


def _seen(bench: Bench) -> int:
    """Images that have passed the backbone, in whatever direction."""
    return load_backbone(bench.benchmark.extractors["lite0"], bench.benchmark.compute).images_seen


def _version(bench: Bench, category: str, *key: str) -> str:
    head = read_head(bench.benchmark.store, key, category)
    assert head
    return head.version


def _images(bench: Bench, category: str, *key: str) -> list[str]:
    return read_feature_index(_artifact(bench, category, *key))[1]["train"]


def test_training_images_alone_have_features_of_theirs_turned_and_those_are_of_the_turned_image(bench: Bench) -> None:
    backbone = load_backbone(bench.benchmark.extractors["lite0"], bench.benchmark.compute)
    wanted = backbone.extract(backbone.preprocess(np.rot90(draw_image(1000)).copy())[None])
    found = 0
    for turn in (90, 180, 270):
        address, images = read_feature_index(_artifact(bench, "bolt", *FEATURES, f"turned_{turn}"))
        assert images["train"] == _images(bench, "bolt", *FEATURES)
        assert images["test"] == []
        for image in images["train"]:
            stored = bench.benchmark.store.read_tensors(feature_path(address, image))
            alike = all(torch.allclose(stored[f"tap{level}"], tap[0], atol=1e-4) for level, tap in enumerate(wanted))
            found += alike
            assert turn == 90 or not alike
    assert found == 1
    assert {stage.key for stage in bench.stages if stage.kind == "features"} == {
        FEATURES,
        *((*FEATURES, f"turned_{turn}") for turn in (90, 180, 270)),
    }


def test_a_category_that_no_lane_turns_has_none(bench: Bench) -> None:
    for turn in (90, 180, 270):
        assert len(_images(bench, "bolt", *FEATURES, f"turned_{turn}")) == 6
        assert _images(bench, "nut", *FEATURES, f"turned_{turn}") == []


def test_the_bank_has_the_patches_of_all_directions_in_the_category_that_asks_for_them(bench: Bench) -> None:
    for category, turns in (("bolt", 4), ("nut", 1)):
        state = _stage(bench, "parts", "turned", "memory_bank")
        read = read_state(_artifact(bench, category, *state.key), state.settings_for(category).method)
        assert len(read.rows) == 6 * turns * CELLS


def test_a_threshold_is_of_images_that_are_left_out_in_all_directions(bench: Bench) -> None:
    """With its own turned copies in the bank an image of stripes would score no higher than these let it."""
    nominal = read_score_index(_artifact(bench, "bolt", "parts", "turned", "score_maps")).nominal
    state = _stage(bench, "parts", "turned", "memory_bank")
    method = state.settings_for("bolt").method
    bank = read_state(_artifact(bench, "bolt", *state.key), method)
    store = bench.benchmark.store
    address = read_feature_index(_artifact(bench, "bolt", *FEATURES))[0]
    for image, score in zip(nominal.image_ids, nominal.scores, strict=True):
        taps = store.read_tensors(feature_path(address, image))
        patches = method.embed([taps[f"tap{level}"][None] for level in range(2)], "cpu")[0].double()
        others = [number for number, source in enumerate(bank.source.tolist()) if bank.image_ids[source] != image]
        rows = bank.rows[others].double()
        assert score == pytest.approx(float(torch.cdist(patches, rows).amin(dim=1).max()), rel=1e-4)


def test_an_update_turns_new_images_alone(bench: Bench) -> None:
    before = _seen(bench)
    write_image(bench.images / "bolt" / "train" / "good" / "new.png", draw_image(77))
    bench.make()
    assert _seen(bench) - before == 4
    record = _artifact(bench, "bolt", "parts", "turned", "memory_bank").record()["metadata"]
    assert record["fitted"] != "on all images"
    assert record["rows"] == 7 * 4 * CELLS
    (bench.images / "bolt" / "train" / "good" / "new.png").unlink()
    bench.make()
    assert _seen(bench) - before == 4


@pytest.mark.slow
def test_turns_put_back_find_what_was_made(tmp_path: Path) -> None:
    bench = _bench(tmp_path)
    before = _seen(bench)
    lane = bench.tree["datasets"]["parts"]["detectors"]["turned"]["categories"]["bolt"]
    bench.make()
    first, second = {}, {}
    for turns, versions in ((4, first), (1, second), (4, second)):
        lane["turns"] = turns
        bench.reload()
        bench.make()
        versions[turns] = [_version(bench, category, "parts", "turned", "metrics") for category in ("bolt", "nut")]
    assert first[4] == second[4] != second[1]
    assert first[4][1] == second[1][1]
    assert _seen(bench) - before == 2 * 12 + 3 * 6


@pytest.mark.slow
def test_few_shots_are_learnt_in_several_directions(tmp_path: Path) -> None:
    bench = _bench(tmp_path)
    bench.tree["datasets"]["parts"]["studies"] = {
        "few": {"base": "turned", "vary": {"train_images": [2], "turns": [1, 4]}, "draws": 2}
    }
    bench.reload()
    bench.make()
    for category in ("bolt", "nut"):
        assert len(_images(bench, category, *FEATURES, "turned_90")) == 6  # a variant of the study learns both
        rows = read_rows(_artifact(bench, category, "parts", "studies", "few"))
        aurocs = [row for row in rows if row["metric"] == "pixel_auroc" and not row["defect_type"]]
        assert len(aurocs) == 4
        assert len({row["value"] for row in aurocs}) > 2
        assert len({row["fingerprint"] for row in rows}) == 4


def test_of_a_blind_dataset_images_are_not_compared_with_themselves_turned(tmp_path: Path) -> None:
    write_dataset(tmp_path / "images")
    bench = Bench(tmp_path, dg.DagsterInstance.ephemeral())
    lane = {**TURNED, "turns": 8}
    bench.tree["datasets"]["mix"] = {"reader": "blind", "of": "parts", "setting": "mix", "detectors": {"turned": lane}}
    with pytest.raises(ConfigError, match=r"mix\.detectors\.turned\.turns: of a blind dataset"):
        bench.reload()
    lane["exclude_same_image"] = True
    bench.reload()
