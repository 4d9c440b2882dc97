"""The promises about the graph, through Dagster's own stale status and run events.

Promise 1, only downstream: a changed setting rebuilds what reads it and what follows. Promise 2, nothing twice: what
is in the store is found.
"""

from pathlib import Path

import dagster as dg
import pytest

from ad_assets.backbones.backbone import Backbone
from ad_assets.graph.stage import Stage
from tests.support.bench_graph import Bench, draw_image, write_dataset, write_image

CATEGORIES = ("bolt", "nut")
RESULTS = {("parts/leaderboard", None), ("parts/report", None)}


def lane(detector: str, *assets: str, categories: tuple[str, ...] = CATEGORIES) -> set[tuple[str, str | None]]:
    return {(f"parts/{detector}/{asset}", category) for asset in assets for category in categories}


def shared(*assets: str, categories: tuple[str, ...] = CATEGORIES) -> set[tuple[str, str | None]]:
    return {(f"parts/{asset}", category) for asset in assets for category in categories}


LANE = ("memory_bank", "neighbours", "score_maps", "metrics")
PAGES = shared("category_report")
EVERYTHING = shared("image_index", "features/lite0") | lane("small", *LANE) | lane("full", *LANE) | PAGES | RESULTS


@pytest.fixture
def ready(materialized: Bench, tmp_path: Path) -> Bench:
    """The benchmark `bench` after its first run."""
    return materialized.copied(tmp_path)


@pytest.fixture
def forward_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images per call of the backbone."""
    calls: list[int] = []
    original = Backbone.start

    def counted(self: Backbone, batch: object) -> object:
        calls.append(len(batch))  # type: ignore[arg-type]
        return original(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Backbone, "start", counted)
    return calls


def test_only_downstream_and_nothing_twice(bench: Bench, forward_passes: list[int]) -> None:
    # From nothing: everything, once. Twelve images a category pass the backbone for both detectors together.
    assert bench.stale() == EVERYTHING
    built, found = bench.run()
    assert built == EVERYTHING
    assert not found
    assert sum(forward_passes) == 24

    # Nothing changed: nothing stale, nothing to run; "Materialize all" finds everything.
    assert bench.stale() == set()
    assert bench.plan() == {}
    before = bench.files("artifacts") | bench.files("features")
    assert bench.materialize_all("bolt") == (
        set(),
        {slot for slot in EVERYTHING if slot[1] == "bolt"},
    )
    assert bench.stale() == set()
    first_rows = {(d, c): bench.rows(d, c) for d in ("small", "full") for c in CATEGORIES}

    # A changed coreset ratio: that lane from its bank on; features and the other lane untouched.
    bench.set("datasets.parts.detectors.small.coreset_ratio", 0.2)
    assert bench.stale() == lane("small", "memory_bank")  # Dagster marks one level
    expected = lane("small", *LANE) | PAGES | RESULTS
    assert set(bench.plan()) == expected
    assert set(bench.plan().values()) == {"compute"}
    assert bench.run() == (expected, set())
    assert bench.stale() == set()

    # Put back: found in the store, not built.
    bench.set("datasets.parts.detectors.small.coreset_ratio", 0.1)
    assert set(bench.plan().values()) == {"reuse"}
    assert bench.run() == (set(), expected)
    assert bench.stale() == set()

    # Smoothing is read when images are scored: banks stay.
    bench.set("datasets.parts.detectors.full.sigma", 2.0)
    assert bench.stale() == lane("full", "score_maps")
    expected = lane("full", "score_maps", "metrics") | PAGES | RESULTS
    assert bench.run() == (expected, set())

    # The report's style: the pages with pictures, and the one that links to them.
    bench.set("report", {"hits": 1})
    assert bench.stale() == PAGES
    assert bench.run() == (PAGES | {("parts/report", None)}, set())

    # Another extractor: features and all that follows, in both lanes; the images are read by a new backbone setting.
    assert sum(forward_passes) == 24
    bench.set("extractors.lite0.taps", ["blocks.1", "blocks.4"])
    assert bench.stale() == shared("features/lite0")
    expected = EVERYTHING - shared("image_index")
    assert bench.run() == (expected, set())
    assert sum(forward_passes) == 48

    # Everything put back: nothing is built, the rows are the first ones, and no stored file was touched meanwhile.
    bench.set("extractors.lite0.taps", ["blocks.2", "blocks.4"])
    bench.set("datasets.parts.detectors.full.sigma", 4.0)
    bench.set("report", {})
    assert bench.run() == (set(), expected)
    assert sum(forward_passes) == 48
    assert {(d, c): bench.rows(d, c) for d in ("small", "full") for c in CATEGORIES} == first_rows
    after = bench.files("artifacts") | bench.files("features")
    assert {path: after[path] for path in before} == before
    assert bench.stale() == set()


def test_a_new_nominal_image_costs_one_forward_pass_in_one_category(ready: Bench, forward_passes: list[int]) -> None:
    del forward_passes[:]
    before = ready.files()
    write_image(ready.images / "nut/train/good/new.png", draw_image(77))
    category = {slot for slot in EVERYTHING if slot[1] == "nut"}
    assert set(ready.plan()) == category | RESULTS
    built, found = ready.run()
    assert built == category | RESULTS
    assert not found
    assert forward_passes == [1]
    assert ready.stale() == set()
    after = ready.files()
    untouched = [p for p in before if p.startswith(("features/", "artifacts/")) or p.endswith("bolt.json")]
    assert {path: after[path] for path in untouched} == {path: before[path] for path in untouched}


def test_a_new_test_image_leaves_what_was_learnt(ready: Bench, forward_passes: list[int]) -> None:
    bank = ready.benchmark.store.read_head(("parts", "small", "memory_bank"), "bolt")
    del forward_passes[:]
    write_image(ready.images / "bolt/test/good/new.png", draw_image(78))
    built, found = ready.make()
    assert found == lane("small", "memory_bank", categories=("bolt",)) | lane(
        "full", "memory_bank", categories=("bolt",)
    )
    assert built == {slot for slot in EVERYTHING if slot[1] == "bolt"} - found | RESULTS
    assert forward_passes == [1]
    assert ready.benchmark.store.read_head(("parts", "small", "memory_bank"), "bolt") == bank


def test_what_dagster_marks_is_in_the_plan_after_features_were_made_alone(ready: Bench) -> None:
    ready.materialize_all("bolt")  # by a run, which records the versions that were read
    write_image(ready.images / "bolt/test/good/new.png", draw_image(78))
    job = ready.definitions.resolve_implicit_global_asset_job_def()
    alone = [dg.AssetKey(["parts", "image_index"]), dg.AssetKey(["parts", "features", "lite0"])]
    assert job.execute_in_process(asset_selection=alone, partition_key="bolt", instance=ready.instance).success
    plan = ready.plan()
    assert plan["parts/small/memory_bank", "bolt"] == "reuse"  # it reads nothing of the test image, and is marked
    assert ready.stale() <= plan.keys()
    ready.run()
    assert not ready.stale()
    assert not ready.plan()


def test_labels_and_masks_reach_metrics_only(ready: Bench) -> None:
    source = ready.images / "bolt/test/spot/000.png"
    (ready.images / "bolt/test/good/moved.png").write_bytes(source.read_bytes())
    source.unlink()
    (ready.images / "bolt/ground_truth/spot/000_mask.png").unlink()
    built, found = ready.make()
    relabelled = shared("image_index", "category_report", categories=("bolt",)) | RESULTS
    relabelled |= lane("small", "metrics", categories=("bolt",)) | lane("full", "metrics", categories=("bolt",))
    assert built == relabelled
    assert found == {slot for slot in EVERYTHING if slot[1] == "bolt"} - relabelled


def test_the_same_images_in_another_dataset_are_not_extracted_again(ready: Bench, forward_passes: list[int]) -> None:
    del forward_passes[:]
    parts = ready.tree["datasets"]["parts"]
    ready.set("datasets.copy", {**parts, "detectors": {"small": parts["detectors"]["small"]}})
    built, found = ready.make()
    assert not forward_passes
    # Same content and settings, same addresses: only what names the dataset is made again.
    names = {name for name, _ in built}
    assert names == {"copy/leaderboard", "copy/category_report", "copy/report"}
    assert {name for name, _ in found} == {
        "copy/image_index",
        "copy/features/lite0",
        "copy/small/memory_bank",
        "copy/small/neighbours",
        "copy/small/score_maps",
        "copy/small/metrics",
    }


def test_a_selection_brings_what_it_needs_and_what_reads_it(bench: Bench) -> None:
    import dagster as dg

    graph = bench.definitions.resolve_asset_graph()
    selected = dg.AssetSelection.from_string('key:"parts/small/score_maps"').resolve(graph)
    built, _ = bench.make(selected=selected, categories=["bolt"])
    expected = shared("image_index", "features/lite0", categories=("bolt",)) | lane(
        "small", *LANE, categories=("bolt",)
    )
    assert built == expected | shared("category_report", categories=("bolt",)) | RESULTS
    # The leaderboard has the rows that exist, and says what is left out.
    store = bench.benchmark.store
    head = store.read_head(("parts", "leaderboard"), None)
    assert head is not None
    board = store.read_table(store.artifact("leaderboard", head["version"]).at("leaderboard.parquet")).to_pylist()
    assert {(row["detector"], row["category"]) for row in board} == {("small", "bolt"), ("small", "mean")}


def test_force_builds_again_with_the_same_result(ready: Bench, forward_passes: list[int]) -> None:
    rows = ready.rows("full", "bolt")
    del forward_passes[:]
    built, found = ready.make(categories=["bolt"], force=True)
    assert not found
    assert built == {slot for slot in EVERYTHING if slot[1] in ("bolt", None)}
    assert sum(forward_passes) == 12
    assert ready.rows("full", "bolt") == rows


def test_an_upstream_of_another_setting_is_never_mixed_in(ready: Bench) -> None:
    ready.set("extractors.lite0.taps", ["blocks.1"])
    job = ready.definitions.resolve_implicit_global_asset_job_def()
    import dagster as dg

    result = job.execute_in_process(
        asset_selection=[dg.AssetKey(["parts", "small", "memory_bank"])],
        partition_key="bolt",
        instance=ready.instance,
        raise_on_error=False,
    )
    assert not result.success
    [failure] = result.filter_events(lambda event: event.is_step_failure)
    description = failure.step_failure_data.user_failure_data.description
    assert description.startswith("parts/features/lite0 [bolt] was made under another setting")


def test_a_new_category_is_a_new_partition(ready: Bench, forward_passes: list[int]) -> None:
    del forward_passes[:]
    write_dataset(ready.images, ["washer"], first_seed=5000)
    ready.reload()
    built, found = ready.make()
    assert {category for _, category in built} == {"washer", None}
    assert not found
    assert sum(forward_passes) == 12
    # Another with the very images of the first: they are known by content.
    write_dataset(ready.images, ["copy_of_bolt"])
    ready.reload()
    built, found = ready.make()
    assert built == shared("image_index", "category_report", categories=("copy_of_bolt",)) | RESULTS
    assert {category for _, category in found} == {"copy_of_bolt"}
    assert sum(forward_passes) == 12


def test_an_ensemble_is_a_lane_on_the_score_maps_of_others(ready: Bench, forward_passes: list[int]) -> None:
    del forward_passes[:]
    ready.set("datasets.parts.detectors.both", {"method": "ensemble", "members": ["small", "full"]})
    built, found = ready.make()
    assert built == lane("both", "score_maps", "metrics") | PAGES | RESULTS
    assert not found
    assert not forward_passes
    assert ready.rows("both", "bolt")["standard", "image_auroc"] > 0.5
    # A member that scores anew is fused anew.
    ready.set("datasets.parts.detectors.small.sigma", 1.0)
    built, _ = ready.make()
    both = lane("small", "score_maps", "metrics") | lane("both", "score_maps", "metrics")
    assert built == both | PAGES | RESULTS


def test_one_training_image_and_unmasked_defects_are_enough(bench: Bench) -> None:
    for path in sorted((bench.images / "bolt/train/good").iterdir())[1:]:
        path.unlink()
    for path in (bench.images / "bolt/ground_truth/spot").iterdir():
        path.unlink()
    bench.make(categories=["bolt"])
    rows = bench.rows("small", "bolt")
    assert rows["standard", "image_auroc"] is not None
    assert rows["standard", "pixel_auroc"] is None  # no mask, no pixel metric
    assert ("nominal_threshold", "threshold") not in rows  # left out, nothing would remain to score against


def test_garbage_is_what_nothing_refers_to(ready: Bench) -> None:
    from ad_assets.graph.garbage import unreferenced
    from ad_assets.graph.graph import Graph

    def garbage() -> set[str]:
        return {file.path for file in unreferenced(Graph(ready.stages, ready.benchmark.store), older_than=0)}

    assert garbage() == set()
    first = set(ready.files("artifacts"))
    ready.set("datasets.parts.detectors.small.coreset_ratio", 0.2)
    assert garbage() == set()  # heads still point to the first artifacts
    ready.make()
    old = garbage()
    kinds = {path.split("/")[1] for path in old}
    assert kinds == {"memory_bank", "neighbours", "score_maps", "metrics", "leaderboard", "category_report", "report"}
    assert old < first
    ready.set("datasets.parts.detectors.small.coreset_ratio", 0.1)
    assert garbage() == set()  # the benchmark file refers to them again
    ready.set("datasets.parts.detectors.small.coreset_ratio", 0.2)
    ready.benchmark.store.delete(old)
    assert garbage() == set()
    assert ready.plan() == {}
    ready.benchmark.store.write_bytes("features/unknown/ab/abc.safetensors", b"")
    ready.benchmark.store.write_bytes("artifacts/metrics/.rows.json.123.tmp", b"")
    assert garbage() == {"features/unknown/ab/abc.safetensors", "artifacts/metrics/.rows.json.123.tmp"}
    assert unreferenced(Graph(ready.stages, ready.benchmark.store), older_than=3600) == []


def test_stages_come_upstream_first(bench: Bench) -> None:
    seen: set[Stage] = set()
    for stage in bench.stages:
        assert set(stage.deps) <= seen
        seen.add(stage)
