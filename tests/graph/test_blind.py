"""Blind settings in the graph: no label reaches a detector, lanes share banks and searches, studies and comparisons."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest

from ad_assets.config.load import ConfigError
from ad_assets.graph.stages.training_subsets import contaminated_subset
from ad_assets.methods.memory_bank.patchcluster import PatchCluster
from tests.support.bench_graph import Bench, draw_image, write_image

COMMON = {"extractor": "lite0", "pooling": "concat"}
LANES = {
    "padim": {"method": "padim", "extractor": "lite0"},
    "spade": {"method": "spade", "extractor": "lite0", "neighbours": 4},
    "core": {"method": "patchcore", "coreset_ratio": 0.25, "kept_neighbours": 26, **COMMON},
    "cluster": {"method": "patchcluster", "coreset_ratio": 0.25, **COMMON},
    "whole": {"method": "patchcluster", "coreset_ratio": 1, "neighbours": 20, "kept_neighbours": 41, **COMMON},
    "lof": {"method": "patchcore_lof", "neighbours": 40, **COMMON},
}
RESULTS = {("parts_mix/leaderboard", None), ("parts_mix/report", None)}
LEARNT = ("trained_model", "memory_bank", "neighbours", "score_maps")


@pytest.fixture
def blind(bench: Bench) -> Bench:
    """The datasets `parts` without detectors, and `parts_mix` with several."""
    bench.tree["datasets"]["parts"]["detectors"] = {}
    mix = {"reader": "blind", "of": "parts", "setting": "mix"}
    bench.tree["datasets"]["parts_mix"] = {**mix, "detectors": copy.deepcopy(LANES)}
    bench.reload()
    return bench


def only(blind: Bench, *lanes: str) -> None:
    blind.set("datasets.parts_mix.detectors", {name: copy.deepcopy(LANES[name]) for name in lanes})


def head(bench: Bench, *key: str, category: str | None = "bolt") -> dict[str, Any]:
    found = bench.benchmark.store.read_head(key, category)
    assert found is not None, key
    return found


def rows(bench: Bench, detector: str, category: str = "bolt") -> dict[tuple[str, str], float]:
    store = bench.benchmark.store
    version = head(bench, "parts_mix", detector, "metrics", category=category)["version"]
    stored = store.read_json(store.artifact("metrics", version).at("rows.json"))
    return {(row["protocol"], row["metric"]): row["value"] for row in stored if row["protocol"] != "timing"}


def test_no_label_reaches_a_detector(blind: Bench) -> None:
    blind.set("datasets.parts_mix.setting", "test")
    blind.make(categories=["bolt"])
    keys = [stage.key for stage in blind.stages if stage.kind in LEARNT and stage.key[0] == "parts_mix"]
    before = {key: head(blind, *key) for key in keys}
    quality = {detector: rows(blind, detector) for detector in LANES}
    assert {protocol for found in quality.values() for protocol, _ in found} == {
        "standard",
        "interval_95",
        "oracle_f1",
        "oracle_threshold",
        "outlier_threshold",
        "per_image_fpr",
    }  # no threshold from nominal images: nobody knows which they are
    test = blind.images / "bolt" / "test"
    (test / "good").rename(test / "aside")
    (test / "spot").rename(test / "good")
    (test / "aside").rename(test / "spot")
    built, _ = blind.make(categories=["bolt"])
    remade = {"image_index", "metrics", "leaderboard", "category_report", "report"}
    assert {name.rpartition("/")[2] for name, _ in built} <= remade
    assert {key: head(blind, *key) for key in keys} == before
    for detector, found in quality.items():
        assert rows(blind, detector)["standard", "image_auroc"] == pytest.approx(1 - found["standard", "image_auroc"])


def test_lanes_share_banks_and_searches(blind: Bench) -> None:
    only(blind, "core", "cluster", "whole", "lof")
    blind.make(categories=["bolt"])

    def version(lane: str, asset: str) -> str:
        return str(head(blind, "parts_mix", lane, asset)["version"])

    assert version("core", "memory_bank") == version("cluster", "memory_bank")
    assert version("whole", "memory_bank") == version("lof", "memory_bank")
    assert version("core", "neighbours") == version("cluster", "neighbours")
    assert version("whole", "neighbours") == version("lof", "neighbours")
    # Another number of neighbours or another smoothing searches nothing.
    for key, value in {"neighbours": 11, "sigma": 2.0, "image_score": "max", "skip": "self"}.items():
        blind.set(f"datasets.parts_mix.detectors.whole.{key}", value)
        built, _ = blind.make(categories=["bolt"])
        again = ("whole/score_maps", "whole/metrics", "category_report")
        assert built == {*((f"parts_mix/{name}", "bolt") for name in again), *RESULTS}
    blind.set("datasets.parts_mix.detectors.whole.exclude_same_image", True)
    built, _ = blind.make(categories=["bolt"])
    assert ("parts_mix/whole/neighbours", "bolt") in built
    assert ("parts_mix/whole/memory_bank", "bolt") not in built


def test_new_images_join_a_bank(blind: Bench) -> None:
    only(blind, "whole", "cluster")
    blind.make(categories=["bolt"])
    write_image(blind.images / "bolt" / "test" / "good" / "new.png", draw_image(77))
    blind.make(categories=["bolt"])
    versions = {lane: head(blind, "parts_mix", lane, "memory_bank")["version"] for lane in ("whole", "cluster")}
    records = {
        lane: blind.benchmark.store.artifact("memory_bank", version).record()["metadata"]
        for lane, version in versions.items()
    }
    for record in records.values():
        assert record["updated"] == "+1 images"
        assert record["fitted"] == "on the new images alone"
    assert records["cluster"]["appended_rows"] > 0
    grown = rows(blind, "whole")
    blind.make(categories=["bolt"], force=True)
    assert rows(blind, "whole") == grown  # a whole bank is the same from scratch


def test_a_study_of_neighbours_reads_the_kept_search(blind: Bench) -> None:
    only(blind, "whole")
    study = {"base": "whole", "vary": {"neighbours": [1, 5, 40]}}
    blind.set("datasets.parts_mix.studies", {"neighbours": study})
    blind.make(categories=["bolt"])
    tables = blind.files("artifacts/neighbours")
    blind.set("datasets.parts_mix.studies.neighbours.vary.neighbours", [1, 2, 20, 40])
    blind.make(categories=["bolt"])
    assert blind.files("artifacts/neighbours") == tables
    found = study_rows(blind, "parts_mix", "neighbours")
    for metric in ("image_auroc", "pixel_auroc", "aupro_0.30"):
        assert found["neighbours=20", 0, metric] == rows(blind, "whole")["standard", metric]
    with pytest.raises(
        ConfigError, match=r"neighbours=41: kept_neighbours: 41, and a score may read 41 and one to skip"
    ):
        blind.set("datasets.parts_mix.studies.neighbours.vary.neighbours", [41])


def test_a_contaminated_training_set_is_tested_on_the_same_images(bench: Bench) -> None:
    detectors = {"core": {"method": "patchcore", "coreset_ratio": 0.5, **COMMON}}
    bench.set("datasets.parts.detectors", detectors)
    study = {"base": "core", "vary": {"contamination": [0, 0.25]}, "draws": 2}
    bench.set("datasets.parts.studies", {"contamination": study})
    bench.make(categories=["bolt"])
    found = study_rows(bench, "parts", "contamination", values="n")
    # Of 3 anomalous test images one may train, with 3 nominal ones at a share of a quarter: 5 images are left to test.
    assert {n for (_, _, metric), n in found.items() if metric == "image_auroc"} == {5}
    assert {v: n for (v, draw, metric), n in found.items() if metric == "fit_seconds" and not draw} == {
        "contamination=0": 3,
        "contamination=0.25": 4,
    }
    bench.set("datasets.parts.studies.contamination.vary.contamination", [0.9])
    outcome = bench.outcome(categories=["bolt"])
    assert any("too few for a contamination of 0.9" in failure for failure in outcome.failures)


def test_contaminated_draws_differ_in_the_anomalous_images_alone() -> None:
    nominal = [f"n{number:03}" for number in range(100)]
    anomalous = [f"a{number:02}" for number in range(40)]
    draws = {share: contaminated_subset(nominal, anomalous, share, 0.4, seed=3) for share in (0, 0.1, 0.4)}
    assert len({draw.withheld for draw in draws.values()}) == 1
    good = {share: {image for image in draw.train if image in nominal} for share, draw in draws.items()}
    assert len(good[0]) == 30
    assert good[0] == good[0.1] == good[0.4]
    bad = {share: set(draw.train) - good[share] for share, draw in draws.items()}
    assert {share: len(images) for share, images in bad.items()} == {0: 0, 0.1: 3, 0.4: 20}
    assert bad[0.1] < bad[0.4] <= draws[0].withheld
    assert contaminated_subset(nominal, anomalous, 0.1, 0.4, seed=4) != draws[0.1]


def test_a_comparison_marks_the_best_of_each_line(bench: Bench) -> None:
    shutil.rmtree(bench.images / "nut")
    bench.tree["datasets"]["parts"]["detectors"] = lanes = {name: LANES[name] for name in ("padim", "cluster")}
    for setting in ("test", "ano"):
        bench.tree["datasets"][f"parts_{setting}"] = {
            "reader": "blind",
            "of": "parts",
            "setting": setting,
            "detectors": lanes,
        }
    bench.tree["comparisons"] = {"blind": {"datasets": ["parts_test", "parts_ano", "parts"]}}
    bench.reload()
    built, _ = bench.run()
    assert ("comparisons/blind", None) in built
    assert bench.stale() == set()
    store = bench.benchmark.store
    version = head(bench, "comparisons", "blind", category=None)["version"]
    artifact = store.artifact("comparison", version)
    text = store.read_text(artifact.at("comparison.txt"))
    lines = text.splitlines()
    assert lines[0].split() == ["padim", "cluster"]
    assert [line[:12].strip() for line in lines[1:9]] == ["parts_test", "", "", "parts_ano", "", "parts", "", ""]
    assert all(line.count("*") >= 1 for line in lines[1:9])
    assert "best on so many of 8 lines" in text
    page = store.read_text(artifact.at("comparison.html"))
    assert page.count("best") >= 8
    assert "<script" not in page


def study_rows(bench: Bench, dataset: str, study: str, values: str = "value") -> dict[tuple[str, int, str], float]:
    store = bench.benchmark.store
    version = head(bench, dataset, "studies", study)["version"]
    table = store.read_table(store.artifact("study", version).at("rows.parquet")).to_pylist()
    return {(row["variant"], row["draw"], row["metric"]): row[values] for row in table if not row["defect_type"]}


def test_an_interrupted_search_keeps_its_shards(blind: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    only(blind, "cluster")
    monkeypatch.setattr("ad_assets.graph.stages.neighbours.SHARD_IMAGES", 4)
    original = PatchCluster.match

    def interrupted(self: PatchCluster, *arguments: Any, **options: Any) -> Any:
        yield next(original(self, *arguments, **options))
        raise RuntimeError("pulled the plug")

    monkeypatch.setattr(PatchCluster, "match", interrupted)
    outcome = blind.outcome(categories=["bolt"])
    assert any("pulled the plug" in failure for failure in outcome.failures)
    before = blind.files("artifacts/neighbours")
    assert len(before) == 1
    monkeypatch.setattr(PatchCluster, "match", original)
    blind.make(categories=["bolt"])
    after = blind.files("artifacts/neighbours")
    assert len([path for path in after if "neighbours-0" in path]) == 3
    assert {path: after[path] for path in before} == before
    found = rows(blind, "cluster")
    blind.make(categories=["bolt"], force=True)
    assert rows(blind, "cluster") == found
