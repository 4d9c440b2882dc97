"""Groups of nominal images in the whole graph: they reach the scores of the threshold, and what reads these."""

import shutil
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ad_assets.graph.stages import judgement
from ad_assets.graph.stages.image_index import current_index, declared_groups, read_index
from ad_assets.graph.stages.judgement import families_of
from ad_assets.graph.stages.score_maps import read_score_index
from ad_assets.prediction import load_detector
from tests.support.bench_graph import Bench


def test_a_lot_is_left_out_as_one_and_another_grouping_rebuilds_scores_and_metrics_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(bench.images / "nut")
    del bench.tree["datasets"]["parts"]["detectors"]["full"]
    bench.tree["datasets"]["parts"]["decision"] = {"false_alarm_rate": 0.2}
    bench.set("datasets.parts.groups", "train/good/(00)[01]")
    bench.make()
    store = bench.benchmark.store

    def left_out() -> str:
        head = store.read_head(("parts", "small", "score_maps"), "bolt")
        assert head
        return read_score_index(store.artifact("score_maps", head["version"])).nominal.left_out

    assert left_out() == "by group: 5 groups of 6 images"
    head = store.read_head(("parts", "small", "metrics"), "bolt")
    assert head
    told = store.artifact("metrics", head["version"]).record()["metadata"]["decision"]
    assert told == (
        "at most 20 % of new nominal images are called anomalous (6 nominal scores in 5 groups); left out by group: "
        "5 groups of 6 images"
    )
    detector = load_detector("parts", "small", "bolt", bench.benchmark)
    assert detector.nominal.left_out == left_out()
    assert detector.promise == told

    bench.set("datasets.parts.groups", "train/good/(00)[0123]")
    built, _ = bench.make()
    kinds = {name.split("/")[-1] for name, _ in built}
    assert kinds == {"image_index", "score_maps", "metrics", "leaderboard", "category_report", "report"}
    assert left_out() == "by group: 3 groups of 6 images"

    # The gate on false alarms asks which test images belong together: declared, or else near-copies.
    bench.set("datasets.parts.groups", "good/(00)[01]")
    bench.make()
    index = current_index(store, "parts", "bolt")
    assert index
    judged = sorted(row["image_id"] for row in read_index(index) if row["split"] == "test" and row["label"] == 0)
    [state] = [stage for stage in bench.stages if stage.name == "parts/small/memory_bank"]
    about = {"store": store, "stage": state, "partition": "bolt", "compute": bench.benchmark.compute}
    work = cast(Any, SimpleNamespace(**about, progress=lambda *_: None))
    assert sorted(families_of(work, state, True, judged, True).values()) == ["00", "00"]
    assert families_of(work, state, False, judged, True) == {}
    bench.set("datasets.parts.groups", "lot_(x)")
    bench.make()
    assert families_of(work, state, True, judged, True) == {}  # three images: nobody knows what is usual
    monkeypatch.setattr(judgement, "near_copy_groups", lambda features, *_: [frozenset(features.image_ids[1:])])
    assert set(families_of(work, state, True, judged, True)) == set(judged[1:])
    assert families_of(work, state, True, judged, False) == {}


def test_a_trained_method_holds_out_whole_lots_and_another_grouping_trains_it_again(bench: Bench) -> None:
    shutil.rmtree(bench.images / "nut")
    trained = {"method": "simplenet", "extractor": "lite0", "pooling": "concat", "epochs": 1, "hidden_units": 8}
    bench.tree["datasets"]["parts"]["detectors"] = {"net": {**trained, "held_out": 0.4}}
    bench.tree["datasets"]["parts"]["decision"] = {"false_alarm_rate": 0.2}
    bench.reload()
    bench.make()
    store = bench.benchmark.store

    def state() -> tuple[str, list[str]]:
        head = store.read_head(("parts", "net", "trained_model"), "bolt")
        assert head
        info = store.read_json(store.artifact("trained_model", head["version"]).at("state.json"))
        return head["version"], info["held_out"]

    alone, _ = state()
    bench.set("datasets.parts.groups", "train/good/00([01234])")  # each its own, one in none
    bench.make()
    assert state()[0] != alone
    for pattern in ("train/good/(00)[012]", "train/good/(00)[345]"):
        bench.set("datasets.parts.groups", pattern)
        bench.make()
        index = current_index(store, "parts", "bolt")
        assert index
        [lot] = declared_groups(index)
        assert len(lot) == 3
        held_out = {*state()[1]}
        assert held_out
        assert lot <= held_out or not lot & held_out
    detector = load_detector("parts", "net", "bolt", bench.benchmark)
    assert {*detector.nominal.image_ids} == held_out
    assert detector.nominal.left_out == "held out, of each group all or none"
    # Where images are judged alone, groups change nothing, and the first state is found again.
    bench.set("datasets.parts.decision", {"false_alarm_rate": 0.2, "leave_out": "image"})
    built, _ = bench.make()
    assert state()[0] == alone
    assert "parts/net/trained_model" not in {name for name, _ in built}
