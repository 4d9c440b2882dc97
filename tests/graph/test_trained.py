"""Trained detectors in the graph: kills, what a setting rebuilds, warm starts, and epochs chosen on the test images."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch

from ad_assets.graph.stages import fitted_state
from ad_assets.graph.stages.fitted_state import StoreCheckpoints
from ad_assets.graph.stages.score_maps import shards
from ad_assets.kernels.parallel import threads as current_threads
from ad_assets.kernels.parallel import use_threads
from ad_assets.methods import simplenet
from ad_assets.methods.training.loop import Training
from ad_assets.store.layout import CHECKPOINT
from tests.support.bench_graph import Bench, draw_image, write_dataset, write_image

CATEGORIES = ("bolt", "nut")
RESULTS = {("parts/leaderboard", None), ("parts/report", None)}
ALL_PAGES = {("parts/category_report", category) for category in ("bolt", "nut")}
SIMPLENET = {
    "method": "simplenet",
    "extractor": "lite0",
    "pooling": "concat",
    "hidden_units": 16,
    "epochs": 4,
    "batch_size": 2,
    "noise_unit": "features",
    "noise_sigma": 0.5,
}
FOD = {"method": "fod", "extractor": "lite0", "widths": [8, 16], "heads": 2, "depth": 1, "epochs": 4, "batch_size": 2}
LANES = {"simplenet": SIMPLENET, "fod": FOD}
STEPS = 3 * 4  # of 6 training images


def lane(detector: str, *assets: str, categories: tuple[str, ...] = CATEGORIES) -> set[tuple[str, str | None]]:
    return {(f"parts/{detector}/{asset}", category) for asset in assets for category in categories}


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The lanes after their first run, with checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    write_dataset(folder / "images")
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    bench.set("datasets.parts.detectors", copy.deepcopy(LANES))
    bench.set("compute.checkpoint_steps", 3)
    bench.run()
    return bench


@pytest.fixture
def trained(first_run: Bench, tmp_path: Path) -> Bench:
    return first_run.copied(tmp_path)


def model(bench: Bench, detector: str, category: str = "bolt") -> tuple[dict[str, torch.Tensor], dict[str, Any], Any]:
    """Tensors, JSON fields and the artifact of a stored model."""
    store = bench.benchmark.store
    head = store.read_head(("parts", detector, "trained_model"), category)
    assert head is not None
    artifact = store.artifact("trained_model", head["version"])
    tensors = {name: tensor.clone() for name, tensor in store.read_tensors(artifact.at("state.safetensors")).items()}
    return tensors, store.read_json(artifact.at("state.json")), artifact


class Killed(BaseException):
    """Ends a run between two steps."""


@pytest.fixture
def count_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[int]]:
    """Counts optimiser steps from now on, and ends the run before one of them."""
    move = Training.move

    def start(kill_at: int | None) -> list[int]:
        steps: list[int] = []

        def counted(self: Training) -> None:
            if len(steps) == kill_at:
                raise Killed
            steps.append(1)
            move(self)

        monkeypatch.setattr(Training, "move", counted)
        return steps

    return start


@pytest.mark.parametrize("detector", LANES)
def test_a_killed_training_goes_on_where_it_was(
    trained: Bench, detector: str, count_steps: Callable[[int | None], list[int]]
) -> None:
    selected = [dg.AssetKey(["parts", detector, "trained_model"])]
    expected, info, artifact = model(trained, detector)
    store = trained.benchmark.store
    assert not store.exists(artifact.at(CHECKPOINT))  # what is finished needs no checkpoint
    store.delete([file.path for file in store.files(artifact.path)])

    steps = count_steps(8)
    assert "Killed" in trained.outcome(selected=selected, categories=["bolt"]).failures[0]
    assert len(steps) == 8
    assert store.exists(artifact.at(CHECKPOINT))
    from ad_assets.graph.garbage import unreferenced
    from ad_assets.graph.graph import Graph

    assert unreferenced(Graph(trained.stages, store), older_than=0) == []  # the next run needs the checkpoint
    steps = count_steps(None)
    trained.make(selected=selected, categories=["bolt"])
    assert len(steps) == STEPS - 6  # 6 of 8 steps lay before the last checkpoint
    again, second, _ = model(trained, detector)
    assert set(again) == set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.items())
    assert {**second, "seconds": 0} == {**info, "seconds": 0}

    count_steps(5)
    with pytest.raises(Killed):
        trained.make(selected=selected, categories=["bolt"], force=True)
    steps = count_steps(None)
    trained.make(selected=selected, categories=["bolt"], force=True)
    assert len(steps) == STEPS  # force takes nothing up


def test_training_in_bfloat16_gives_the_detector_of_float32(trained: Bench) -> None:
    def results() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        store, found = trained.benchmark.store, {}
        for detector in LANES:
            tensors, info, _ = model(trained, detector)
            assert all(tensor.dtype != torch.bfloat16 for tensor in tensors.values())
            assert all(math.isfinite(loss) for losses in info["losses"].values() for loss in losses)
            head = store.read_head(("parts", detector, "score_maps"), "bolt")
            assert head is not None
            scores = {
                image: score
                for ids, maps, image_scores in shards(store.artifact("score_maps", head["version"]))
                for image, score in zip(ids, image_scores.tolist(), strict=True)
                if bool(maps.isfinite().all())
            }
            found[detector] = torch.tensor([scores[image] for image in sorted(scores)])
            assert len(scores) == 6
            assert bool(found[detector].isfinite().all())
        return found

    exact = results()
    trained.set("extractors.lite0.precision", "bfloat16")
    built, _ = trained.make(categories=["bolt"])
    assert ("parts/fod/trained_model", "bolt") in built
    assert ("parts/simplenet/trained_model", "bolt") in built
    for detector, rounded in results().items():
        assert not torch.equal(rounded, exact[detector])
        torch.testing.assert_close(rounded, exact[detector], rtol=0, atol=0.1 * float(exact[detector].abs().max()))


def test_what_a_setting_rebuilds_and_what_the_ui_is_told(trained: Bench) -> None:
    _, info, artifact = model(trained, "simplenet")
    metadata = artifact.record()["metadata"]
    assert metadata["epochs"] == 4
    assert metadata["parameters"] == 152 * 152 + 152 + 152 * 16 + 16 + 3 * 16
    assert metadata["gmacs_per_image"] == pytest.approx(64 * (152 * 16 + 16) / 1e9)
    assert metadata["fit_seconds"] == pytest.approx(info["seconds"]) == pytest.approx(4 * metadata["seconds_per_epoch"])
    assert metadata["losses"]["md"].startswith("![losses](data:image/png;base64,")
    assert metadata["last_loss"] == info["losses"]["loss"][-1]
    downstream = ("score_maps", "metrics")
    for detector, key, value in (("simplenet", "sigma", 2.0), ("fod", "criterion", "rec")):
        trained.set(f"datasets.parts.detectors.{detector}.{key}", value)
        assert trained.make() == (lane(detector, *downstream) | ALL_PAGES | RESULTS, set())
    trained.set("datasets.parts.detectors.simplenet.noise_sigma", 0.3)
    assert trained.stale() == lane("simplenet", "trained_model")
    assert trained.make() == (lane("simplenet", "trained_model", *downstream) | ALL_PAGES | RESULTS, set())


def test_a_warm_start_is_asked_for_and_recorded(trained: Bench, count_steps: Callable[[int | None], list[int]]) -> None:
    trained.set("datasets.parts.detectors.fod.warm_start", True)
    trained.set("datasets.parts.detectors.fod.warm_epochs", 2)
    trained.make(categories=["bolt"])
    first, _, _ = model(trained, "fod")
    for number in range(2):
        write_image(trained.images / f"bolt/train/good/new{number}.png", draw_image(70 + number))
    steps = count_steps(None)
    trained.make(categories=["bolt"])
    assert len(steps) == 4 * 4 + 2 * 4  # SimpleNet begins again with 8 images; FOD goes on for two epochs
    second, info, artifact = model(trained, "fod")
    metadata = artifact.record()["metadata"]
    assert metadata["fitted"] == "on all images, from the stored weights on"
    assert metadata["warm_started_at_epoch"] == "4"
    assert metadata["updated"] == "+2 images"
    assert len(info["image_ids"]) == 8
    assert not torch.equal(first["weights.levels.0.embedding.weight"], second["weights.levels.0.embedding.weight"])
    cold = model(trained, "simplenet")[2].record()["metadata"]
    assert cold["fitted"] == "on all images"
    assert "warm_started_at_epoch" not in cold


def test_epochs_chosen_on_test_images_stand_apart(trained: Bench) -> None:
    plain = {key: value for key, value in trained.rows("fod", "bolt").items() if key[0] != "timing"}
    weights, _, _ = model(trained, "fod")
    trained.set("datasets.parts.detectors.fod.oracle_every", 2)
    built, _ = trained.make(categories=["bolt"])
    assets = ("trained_model", "oracle_epochs", "score_maps", "metrics")
    assert built == lane("fod", *assets, categories=("bolt",)) | {("parts/category_report", "bolt")} | RESULTS
    # The headline is what it was: the last epoch.
    rows = {key: value for key, value in trained.rows("fod", "bolt").items() if key[0] != "timing"}
    oracle = {metric: value for (protocol, metric), value in rows.items() if protocol == "oracle_best_epoch"}
    assert {key: value for key, value in rows.items() if key[0] != "oracle_best_epoch"} == plain
    again, _, artifact = model(trained, "fod")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.items())
    assert fitted_state.kept_epochs(artifact) == [2, 4]
    assert set(oracle) == {"image_auroc", "pixel_auroc", "aupro_0.30"}
    for metric, value in oracle.items():
        assert value >= rows["standard", metric] - 1e-12  # the last epoch is among those it chooses from


def test_one_class_novelty_needs_no_masks(trained: Bench) -> None:
    """As on CIFAR-10, where other classes are the novelty."""
    shutil.rmtree(trained.images / "bolt/ground_truth")
    trained.set("datasets.parts.detectors.simplenet.oracle_every", 1)
    trained.make(categories=["bolt"])
    rows = trained.rows("simplenet", "bolt")
    assert rows["standard", "image_auroc"] is not None
    assert rows["standard", "pixel_auroc"] is None
    assert rows["oracle_best_epoch", "image_auroc"] >= rows["standard", "image_auroc"]
    assert ("oracle_best_epoch", "pixel_auroc") not in rows


def test_a_selection_leaves_out_what_would_lack_the_kept_epochs(bench: Bench) -> None:
    bench.set("datasets.parts.detectors", {"fod": {**FOD, "oracle_every": 2}})
    selected = [dg.AssetKey(["parts", "fod", "score_maps"])]
    built, _ = bench.make(selected=selected, categories=["bolt"])
    assert lane("fod", "trained_model", "score_maps", categories=("bolt",)) <= built
    assert not built & (lane("fod", "metrics", "oracle_epochs") | RESULTS)  # metrics reads epochs that nobody asked for
    built, _ = bench.make(selected=[dg.AssetKey(["parts", "fod", "metrics"])], categories=["bolt"])
    page = ("parts/category_report", "bolt")
    assert built == lane("fod", "oracle_epochs", "metrics", categories=("bolt",)) | {page} | RESULTS


def test_held_out_images_set_a_threshold_and_an_ensemble(trained: Bench) -> None:
    assert ("nominal_threshold", "threshold") not in trained.rows("fod", "bolt")
    assert ("outlier_threshold", "threshold") in trained.rows("fod", "bolt")
    for detector in LANES:
        trained.set(f"datasets.parts.detectors.{detector}.held_out", 0.4)
    trained.set("datasets.parts.detectors.both", {"method": "ensemble", "members": list(LANES)})
    trained.make(categories=["bolt"])
    assert len(model(trained, "fod")[1]["held_out"]) == 2
    for detector in (*LANES, "both"):
        assert ("nominal_threshold", "threshold") in trained.rows(detector, "bolt")


def test_the_threads_and_the_batch_of_a_machine_change_no_score(trained: Bench) -> None:
    expected = {detector: model(trained, detector)[0] for detector in LANES}
    rows = {detector: trained.rows(detector, "bolt") for detector in LANES}
    threads = current_threads()
    try:
        trained.set("compute.batch_size", 3)
        trained.set("compute.threads", 1)
        trained.make(categories=["bolt"], force=True)
    finally:
        use_threads(threads)
    for detector in LANES:
        again = model(trained, detector)[0]
        assert all(torch.equal(again[name], tensor) for name, tensor in expected[detector].items())
        for key, value in trained.rows(detector, "bolt").items():
            if key[0] == "standard":
                assert value == rows[detector][key]


def test_a_study_trains_every_variant_and_a_kill_loses_little(
    trained: Bench, count_steps: Callable[[int | None], list[int]]
) -> None:
    trained.set("datasets.parts.studies", {"noise": {"base": "simplenet", "vary": {"noise_sigma": [0.25, 0.5]}}})
    study = [dg.AssetKey(["parts", "studies", "noise"])]
    count_steps(8)
    assert "Killed" in trained.outcome(selected=study, categories=["bolt"]).failures[0]
    steps = count_steps(None)
    trained.make(selected=study, categories=["bolt"])
    assert len(steps) == STEPS - 6  # the lane's own setting is never trained again
    assert not [
        file for file in trained.benchmark.store.files("artifacts/study_rows") if file.path.endswith(CHECKPOINT)
    ]


def test_checkpoints_are_whole_or_absent(trained: Bench) -> None:
    store = trained.benchmark.store
    checkpoint = StoreCheckpoints(store, store.artifact("trained_model", "abc"), 5)
    assert checkpoint.load() is None
    checkpoint.save({"a": torch.ones(3)}, {"history": {"losses": {"loss": [0.1]}}})
    checkpoint.save({"a": torch.zeros(3)}, {"history": {"losses": {"loss": [0.1, 0.2]}}})
    found = checkpoint.load()
    assert found is not None
    assert torch.equal(found[0]["a"], torch.zeros(3))
    assert found[1] == {"history": {"losses": {"loss": [0.1, 0.2]}}}
    store.write_bytes(store.artifact("trained_model", "abc").at(CHECKPOINT), b"half")
    assert checkpoint.load() is None  # a damaged one is as if absent: the training begins anew
    checkpoint.clear()
    assert checkpoint.load() is None


def test_faults_of_settings_are_told_when_the_file_loads(trained: Bench) -> None:
    for key, value, message in (
        ("simplenet.oracle_every", 9, "beyond the last of 4 epochs"),
        ("simplenet.warm_epochs", 2, "only a warm start reads it"),
        ("fod.widths", [8, 16, 32], "2 taps are read, so give as many"),
    ):
        detector = key.partition(".")[0]
        before = copy.deepcopy(trained.tree["datasets"]["parts"]["detectors"][detector])
        with pytest.raises(ValueError, match=message):
            trained.set(f"datasets.parts.detectors.{key}", value)
        trained.set(f"datasets.parts.detectors.{detector}", before)
    assert simplenet.SimpleNet.presets["quick"]["epochs"] < 160
