"""A joint lane through the whole graph, one bank of all categories beside a bank each; and few-shot rows."""

import hashlib
import logging
import re
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import torch

from ad_assets.backbones.backbone import load_backbone
from ad_assets.commands.needs_checks import needs_checks
from ad_assets.config.faults import ConfigError
from ad_assets.graph.build import materialize as materialize_stage
from ad_assets.graph.build_attempts import attempt_path
from ad_assets.graph.garbage import unreferenced
from ad_assets.graph.graph import Graph, UpstreamError
from ad_assets.graph.stage import Stage, StageError
from ad_assets.graph.stages.feature_files import read_feature_index, stored_features
from ad_assets.graph.stages.fitted_state import read_state
from ad_assets.graph.stages.joint_bank import images_joined, read_joined
from ad_assets.graph.stages.metrics import read_scored_images
from ad_assets.graph.stages.score_maps import read_score_index
from ad_assets.kernels.budget import BudgetError
from ad_assets.methods import Batch, Features, Runtime
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.memory_bank.patchcore import PatchCore
from ad_assets.prediction import load_detector
from ad_assets.prediction.explanation import explain
from ad_assets.prediction.explanation_files import KnownImages
from ad_assets.prediction.lookup import DetectorError, Lookup
from ad_assets.prediction.refits import Refits
from ad_assets.results import few_shot
from ad_assets.store.records import write_record
from tests.support.bench_graph import Bench, draw_image, write_dataset, write_image
from tests.support.living_graph import LivingGraph

CATEGORIES = ("bolt", "nut")
BELOW = ("neighbours", "score_maps", "metrics")  # a joint bank, for each category
OVER_ALL = {("parts/leaderboard", None), ("parts/report", None)}


def below(lane: str, categories: tuple[str, ...] = CATEGORIES) -> set[tuple[str, str | None]]:
    return {(f"parts/{lane}/{asset}", category) for asset in BELOW for category in categories}


def pages(categories: tuple[str, ...] = CATEGORIES) -> set[tuple[str, str | None]]:
    return {("parts/category_report", category) for category in categories}


def with_joint(bench: Bench) -> Bench:
    bench.tree["datasets"]["parts"]["detectors"] = {
        "full": bench.tree["datasets"]["parts"]["detectors"]["full"],
        "one": {"method": "joint", "of": "full"},
    }
    bench.reload()
    return bench


def images_seen(bench: Bench) -> int:
    return load_backbone(bench.benchmark.extractors["lite0"], bench.benchmark.compute).images_seen


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("joint")
    write_dataset(folder / "images")
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    before = images_seen(bench)
    bench.run()
    images = {image for split in ("train", "test") for image in features_of(bench, split, *CATEGORIES).image_ids}
    assert images_seen(bench) - before == len(images)
    return bench


@pytest.fixture(scope="module")
def joint(made: Bench, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """With the joint lane, which was added to what was there; for tests that change nothing."""
    bench = made.copied(tmp_path_factory.mktemp("joined") / "bench")
    seen = images_seen(bench)
    before = bench.files("features")
    built, found = with_joint(bench).run()
    assert images_seen(bench) == seen
    assert bench.files("features") == before
    assert (built, found) == ({("parts/one/joint_bank", None), *below("one"), *pages(), *OVER_ALL}, set())
    return bench


def materialize(bench: Bench, category: str | None, *assets: str) -> None:
    """Some assets of a category alone, as from the UI."""
    keys = [dg.AssetKey(["parts", *asset.split("/")]) for asset in assets]
    job = bench.definitions.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(asset_selection=keys, partition_key=category, instance=bench.instance).success


def stage_of(bench: Bench, *name: str) -> Stage:
    return next(stage for stage in bench.stages if stage.key == ("parts", *name))


def artifact_of(bench: Bench, *name: str, category: str | None = None) -> Any:
    stage = stage_of(bench, *name)
    head = bench.benchmark.store.read_head(stage.key, category)
    assert head is not None
    return bench.benchmark.store.artifact(stage.kind, head["version"])


def features_of(bench: Bench, split: str, *categories: str) -> Features:
    benchmark, ids = bench.benchmark, set()
    for category in categories:
        address, images = read_feature_index(artifact_of(bench, "features", "lite0", category=category))
        ids |= set(images[split])
    return stored_features(
        benchmark.store, benchmark.compute, address, sorted(ids), None, benchmark.extractors["lite0"]
    )


def full_of(bench: Bench) -> PatchCore:
    method = bench.benchmark.datasets["parts"].detectors["full"].method
    assert isinstance(method, PatchCore)
    return method


def joint_bank(bench: Bench) -> MemoryBank:
    state = read_state(artifact_of(bench, "one", "joint_bank"), full_of(bench))
    assert isinstance(state, MemoryBank)
    return state


def assert_from_scratch(bench: Bench) -> None:
    """The joint bank is the bank of all patches of all images; scores are those against it."""
    method, runtime = full_of(bench), Runtime()
    bank, expected = joint_bank(bench), method.fit(features_of(bench, "train", *CATEGORIES), runtime)
    assert bank.image_ids == expected.image_ids
    assert torch.equal(bank.rows, expected.rows)
    assert torch.equal(bank.source, expected.source)
    assert torch.equal(bank.place, expected.place)
    for category in CATEGORIES:
        test = features_of(bench, "test", category)
        batch = Batch(test.load(test.image_ids, None), bench.benchmark.extractors["lite0"].map_size, test.image_ids)
        scores = method.score(expected, batch, runtime).image_scores
        scored = read_scored_images(artifact_of(bench, "one", "metrics", category=category)).images
        found = {image["image_id"]: image["score"] for image in scored}
        assert [found[image_id] for image_id in test.image_ids] == pytest.approx(scores.tolist(), rel=1e-5)


@pytest.mark.parametrize("name", ["rad", "spade"])
def test_images_are_retrieved_of_all_categories(name: str, made: Bench, tmp_path: Path) -> None:
    bench = made.copied(tmp_path / "bench")
    near = {"method": name, "extractor": "lite0", "neighbours": 4}
    bench.tree["datasets"]["parts"]["detectors"] = {"near": near, "one": {"method": "joint", "of": "near"}}
    bench.reload()
    seen = images_seen(bench)
    bench.make()
    assert images_seen(bench) == seen
    method, train = bench.benchmark.datasets["parts"].detectors["near"].method, features_of(bench, "train", *CATEGORIES)
    assert method
    state = method.prepare(method.fit(train, Runtime()), train, Runtime())
    for category in CATEGORIES:
        test = features_of(bench, "test", category)
        batch = Batch(test.load(test.image_ids, None), bench.benchmark.extractors["lite0"].map_size, test.image_ids)
        scores = method.score(state, batch, Runtime()).image_scores
        scored = read_scored_images(artifact_of(bench, "one", "metrics", category=category)).images
        found = {image["image_id"]: image["score"] for image in scored}
        assert [found[image_id] for image_id in test.image_ids] == pytest.approx(scores.tolist(), rel=1e-5)
        predicted = load_detector("parts", "one", category, bench.benchmark, record=False)
        picture = next((bench.images / category / "test" / "good").iterdir())
        again = predicted.predict(picture)
        assert again.score == pytest.approx(found[hashlib.sha256(picture.read_bytes()).hexdigest()], rel=1e-5)


def test_the_joint_bank_is_what_a_fit_on_all_categories_would_be(joint: Bench) -> None:
    assert_from_scratch(joint)
    joined = read_joined(artifact_of(joint, "one", "joint_bank"))
    banks = {category: artifact_of(joint, "full", "memory_bank", category=category) for category in CATEGORIES}
    assert joined.states == {category: bank.version for category, bank in banks.items()}
    nut = features_of(joint, "train", "nut").image_ids
    assert [joined.categories_of(image_id) for image_id in nut] == [["nut"]] * len(nut)
    expected, method = joint_bank(joint), full_of(joint)
    for category in CATEGORIES:
        assert joint.rows("one", category)["standard", "joined_categories"] == 2
        # Which product it is, patch by patch, in plain numpy.
        test, own = features_of(joint, "test", category), features_of(joint, "train", category).image_ids
        patches = method.embed(test.load(test.image_ids, None), "cpu").flatten(0, 1).numpy()
        rows = expected.rows.numpy()
        nearest = ((rows**2).sum(axis=1) - 2 * patches @ rows.T).argmin(axis=1)
        share = np.mean([expected.image_ids[int(expected.source[row])] in own for row in nearest])
        assert 0.3 < share < 0.7  # both categories show the same stripes
        assert joint.rows("one", category)["standard", "own_category_share"] == pytest.approx(share, abs=2e-3)
    assert ("standard", "joined_categories") not in joint.rows("full", "bolt")


def test_a_nominal_image_is_scored_without_its_own_rows(joint: Bench) -> None:
    nominal = read_score_index(artifact_of(joint, "one", "score_maps", category="bolt")).nominal
    every = features_of(joint, "train", *CATEGORIES)
    method, size = full_of(joint), joint.benchmark.extractors["lite0"].map_size
    assert set(nominal.image_ids) == set(features_of(joint, "train", "bolt").image_ids)
    for image_id, score in zip(nominal.image_ids[:2], nominal.scores[:2], strict=True):
        others = Features(tuple(each for each in every.image_ids if each != image_id), every.load)
        alone = method.score(method.fit(others, Runtime()), Batch(every.load([image_id], None), size), Runtime())
        assert score == pytest.approx(float(alone.image_scores[0]), rel=1e-5)


def test_one_model_stands_beside_one_a_category_in_the_leaderboard(joint: Bench) -> None:
    text = (Path(joint.benchmark.store.root) / artifact_of(joint, "leaderboard").at("leaderboard.txt")).read_text()
    assert re.search(r"one: one bank of 2 categories for all.*: \d\d\.\d % of patches", text)
    assert joint.stale() == set()
    assert joint.plan() == {}


def test_few_shot_rows_stand_in_the_leaderboard_and_no_image_passes_the_backbone_again(
    joint: Bench, tmp_path: Path
) -> None:
    bench = joint.copied(tmp_path / "bench")
    images = {path for split in ("train", "test") for path in features_of(bench, split, *CATEGORIES).image_ids}
    seen, before = images_seen(bench), artifact_of(bench, "leaderboard").version
    vary = {"train_images": [1, 2], "sigma": [2]}
    bench.set("datasets.parts.studies", {"shots": {"base": ["full"], "vary": vary, "draws": 2}})
    bench.make()
    assert images_seen(bench) == seen
    assert len(bench.files("features")) == len(images)  # of both models of every category, and of few images
    rows = few_shot("parts", bench.folder / "bench.yaml").query("metric == 'image_auroc'")
    tidy = bench.benchmark.store.read_table(artifact_of(bench, "studies", "shots", category="nut").at("rows.parquet"))
    for count in (1, 2):
        own = rows[rows["train_images"] == count].set_index("category")
        assert list(own.index) == ["bolt", "nut", "mean"]
        assert set(own["detector"]) == {"full"}
        name = f"full, train_images={count}, sigma=2"
        draws = [r["value"] for r in tidy.to_pylist() if (r["variant"], r["metric"]) == (name, "image_auroc")]
        assert own.loc["nut", "value"] == pytest.approx(np.mean([*draws]))
        assert own.loc["nut", "spread"] == pytest.approx(np.std([*draws]))
        assert own.loc["mean", "n"] == 2
    board = artifact_of(bench, "leaderboard")
    text = bench.benchmark.store.read_text(board.at("leaderboard.txt"))
    assert "few-shot: fitted on few nominal images" in text
    assert re.search(r"full, train_images=2, sigma=2 +2 +2 +\d+\.\d ±\d+\.\d.* 2 of 2", text)
    report = artifact_of(bench, "report")
    assert "full, train_images=2, sigma=2" in bench.benchmark.store.read_text(report.at("report.html"))
    # Measured under another setting of its lane, a study is left out by name until it is measured again.
    bench.set("datasets.parts.studies.shots.vary.sigma", [3])
    bench.make(categories=["bolt"])
    event = bench.instance.get_latest_materialization_event(dg.AssetKey(["parts", "leaderboard"]))
    assert event
    assert event.asset_materialization
    assert "parts/studies/shots [nut] is out of date" in event.asset_materialization.metadata["left_out"].value
    text = bench.benchmark.store.read_text(artifact_of(bench, "leaderboard").at("leaderboard.txt"))
    assert re.search(r"full, train_images=2, sigma=3 .* 1 of 2", text)
    partial = artifact_of(bench, "leaderboard").version
    bench.make()
    assert artifact_of(bench, "leaderboard").version != partial
    text = bench.benchmark.store.read_text(artifact_of(bench, "leaderboard").at("leaderboard.txt"))
    assert re.search(r"full, train_images=2, sigma=3 .* 2 of 2", text)
    bench.set("datasets.parts.studies", {})
    bench.make()
    assert artifact_of(bench, "leaderboard").version == before


def test_a_changed_category_renews_the_joint_bank_and_all_that_is_scored_with_it(joint: Bench, tmp_path: Path) -> None:
    bench = joint.copied(tmp_path / "bench")
    write_image(bench.images / "bolt" / "train" / "good" / "new.png", draw_image(1))
    seen = images_seen(bench)
    own = {(f"parts/full/{asset}", "bolt") for asset in ("memory_bank", "neighbours", "score_maps", "metrics")}
    scanned = {("parts/image_index", "bolt"), ("parts/features/lite0", "bolt")}
    # Asked for one category, the others are out of date afterwards, and the board says so.
    built, found = bench.make(categories=["bolt"])
    joint = {("parts/one/joint_bank", None), *below("one", ("bolt",))}
    assert built == {*scanned, *own, *joint, *pages(("bolt",)), *OVER_ALL}
    assert not found
    assert images_seen(bench) == seen + 1
    assert {slot for slot in bench.plan() if slot[1]} == below("one", ("nut",)) | pages(("nut",))
    event = bench.instance.get_latest_materialization_event(dg.AssetKey(["parts", "leaderboard"]))
    assert event
    assert event.asset_materialization
    assert "parts/one/metrics [nut] is out of date" in event.asset_materialization.metadata["left_out"].value
    built, _ = bench.make()
    assert built == below("one", ("nut",)) | pages(("nut",)) | OVER_ALL
    assert_from_scratch(bench)
    # Taken back, all is found.
    (bench.images / "bolt" / "train" / "good" / "new.png").unlink()
    built, found = bench.make()
    assert built == {("parts/image_index", "bolt")} - found
    assert {("parts/one/joint_bank", None), *below("one")} <= found
    assert bench.plan() == {}


def test_categories_that_are_not_built_are_named(tmp_path: Path) -> None:
    write_dataset(tmp_path / "images")
    bench = with_joint(Bench(tmp_path, dg.DagsterInstance.ephemeral()))
    bench.run(categories=["bolt"])
    assert bench.rows("one", "bolt")["standard", "joined_categories"] == 1
    [record] = bench.instance.fetch_materializations(dg.AssetKey(["parts", "one", "joint_bank"]), limit=1).records
    assert record.asset_materialization
    lacks = record.asset_materialization.metadata["left_out"].value
    assert lacks == "parts/full/memory_bank [nut] is not materialized"
    checks = bench.instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(dg.AssetKey(["parts", "one", "joint_bank"]), "all_categories")]
    )
    [check] = checks.values()
    assert check.status.value == "FAILED"
    bench.make()
    assert bench.rows("one", "bolt")["standard", "joined_categories"] == 2
    assert_from_scratch(bench)
    # What fails stays out, and nothing waits for it for ever.
    graph = Graph(bench.stages, bench.benchmark.store)
    write_image(bench.images / "nut" / "train" / "good" / "new.png", draw_image(2))
    materialize(bench, "nut", "image_index", "features/lite0")
    graph.refresh()
    bank = ("parts", "full", "memory_bank")
    planned = graph.planned((bank, "nut"))
    assert planned
    write_record(graph.store, attempt_path(bank, "nut"), {"version": planned.version, "count": 1, "error": "no"})
    graph.refresh()
    due = {slot for slot in graph.slots() if graph.is_due(slot)}
    assert {(key[-1], category) for key, category in due} == {
        ("joint_bank", None),
        *((asset, "bolt") for asset in (*BELOW, "category_report")),
    }
    with pytest.raises(UpstreamError, match="parts/one/joint_bank is out of date: materialize it first"):
        graph.upstream((("parts", "one", "neighbours"), "bolt"))
    materialize(bench, None, "one/joint_bank")
    materialize(bench, "bolt", *(f"one/{asset}" for asset in BELOW))
    graph.refresh()
    due = {slot for slot in graph.slots() if graph.is_due(slot)}
    assert due == {(("parts", "leaderboard"), None), (("parts", "category_report"), "bolt")}
    assert bench.rows("one", "bolt")["standard", "joined_categories"] == 1


def test_a_joint_bank_that_the_budget_does_not_hold_is_refused_by_doctor_and_by_its_build(
    joint: Bench, tmp_path: Path
) -> None:
    bench = joint.copied(tmp_path / "bench")
    [needs] = [check for check in needs_checks(bench.benchmark, "parts") if check[0] == "needs of parts/one"]
    assert needs[1]
    assert re.fullmatch(r"joined of 2 of 2 categories: 0\.\d+ GB in memory", needs[2])
    bench.set("compute.memory_gb", 0.0005)
    [needs] = [check for check in needs_checks(bench.benchmark, "parts") if check[0] == "needs of parts/one"]
    assert not needs[1]
    assert "warning: more than compute.memory_gb (0.0005): raise it, or keep fewer rows" in needs[2]
    [stage] = [stage for stage in bench.stages if stage.key[-1] == "joint_bank"]
    with pytest.raises(BudgetError, match=r"the joined banks need .* GB \(2 banks, and the joint one beside them\)"):
        materialize_stage(stage, None, bench.benchmark.store, bench.benchmark.compute, logging, force=True)


def test_damage_is_mended_and_nothing_that_is_needed_is_collected(joint: Bench, tmp_path: Path) -> None:
    bench = joint.copied(tmp_path / "bench")
    store = bench.benchmark.store
    gone = {file.path for file in unreferenced(Graph(bench.stages, store), older_than=-1)}
    assert not any(path.startswith(artifact_of(bench, "one", "joint_bank").path) for path in gone)
    tensors = Path(store.root) / artifact_of(bench, "one", "joint_bank").at("state.safetensors")
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert bench.plan() == {}  # names and sizes are as they were
    built, found = bench.make(verify=True)
    assert built == {("parts/one/joint_bank", None)}
    assert below("one") <= found
    assert tensors.read_bytes() == whole


def test_new_images_are_scored_and_explained_with_the_joint_bank(joint: Bench, tmp_path: Path) -> None:
    bench = joint.copied(tmp_path / "bench")
    path = bench.images / "bolt" / "test" / "spot" / "000.png"
    detector = load_detector("parts", "one", "bolt", bench.benchmark)
    stored = read_scored_images(artifact_of(bench, "one", "metrics", category="bolt"))
    prediction = detector.predict(path)
    assert any(prediction.score == pytest.approx(image["score"], rel=1e-5) for image in stored.images)
    assert prediction.threshold == pytest.approx(stored.threshold)
    parts = bench.benchmark.datasets["parts"]
    with pytest.raises(DetectorError, match=r"parts/one \[bolt\] is joint, which fits nothing: name full"):
        Refits(Lookup(bench.benchmark), parts, parts.detectors["one"], "bolt", "image_auroc", lambda *_: None)
    # An image of another product: the bank says which.
    known = KnownImages(bench.benchmark.store, parts, "bolt", CATEGORIES)
    spoilt = draw_image(2000)
    spoilt[:8, :8] = 255
    source = explain(detector, spoilt, at=(48, 48)).sources[0]
    assert (known.category(source.image_id), known.path(source.image_id)) == ("nut", "nut/train/good/000.png")
    assert known.rgb(source.image_id) is not None
    # What was joined of other states than there are now is refused.
    (bench.images / "nut" / "train" / "good" / "005.png").unlink()
    materialize(bench, "nut", "image_index", "features/lite0", "full/memory_bank")
    with pytest.raises(DetectorError, match=r"parts/one \[bolt\] was joined of other states than are up to date now"):
        load_detector("parts", "one", "bolt", bench.benchmark)


@pytest.mark.parametrize(
    ("lanes", "message"),
    [
        ({"one": {"method": "joint", "of": "huge"}}, "one.of: unknown value 'huge'; choose from: full"),
        ({"one": {"method": "joint"}}, "one.of: .*required"),
        ({"one": {"method": "joint", "of": "full", "sigma": 2}}, "one.sigma: unknown key"),
        (
            {"one": {"method": "joint", "of": "full", "export": {"runtime": "onnx"}}},
            "one.export: one is joint: export full, which it joins",
        ),
        (
            {"gauss": {"method": "padim", "extractor": "lite0"}, "one": {"method": "joint", "of": "gauss"}},
            "one.of: gauss cannot be joined: method padim has no join of what it learnt",
        ),
        (
            {"lof": {"method": "patchcore_lof", "extractor": "lite0"}, "one": {"method": "joint", "of": "lof"}},
            "one.of: lof cannot be joined: densities are those among all rows",
        ),
        (
            {
                "apart": {
                    "method": "patchcore",
                    "extractor": "lite0",
                    "categories": {"nut": {"coreset_ratio": 0.5}},
                },
                "one": {"method": "joint", "of": "apart"},
            },
            "one.of: apart cannot be joined: it learns nut with settings of their own",
        ),
        (
            {
                "one": {"method": "joint", "of": "full"},
                "both": {"method": "ensemble", "members": ["full", "one"], "export": {"runtime": "onnx"}},
            },
            "both.export: one is joint: export full, which it joins",
        ),
        (
            {"one": {"method": "joint", "of": "full"}, "two": {"method": "joint", "of": "one"}},
            "two.of: unknown value 'one'; choose from: full",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused_by_name(
    made: Bench, tmp_path: Path, lanes: dict[str, Any], message: str
) -> None:
    bench = made.copied(tmp_path / "bench")
    full = bench.tree["datasets"]["parts"]["detectors"]["full"]
    with pytest.raises(ConfigError, match=message):
        bench.set("datasets.parts.detectors", {"full": full, **lanes})


def test_no_category_is_scored_by_a_bank_that_has_nothing_of_it(joint: Bench, tmp_path: Path) -> None:
    bench = joint.copied(tmp_path / "bench")
    spade = {"method": "spade", "extractor": "lite0", "neighbours": 3}  # matches nothing before it scores
    bench.set("datasets.parts.detectors", {"spade": spade, "one": {"method": "joint", "of": "spade"}})
    materialize(bench, "bolt", "spade/memory_bank")
    materialize(bench, None, "one/joint_bank")
    graph = Graph(bench.stages, bench.benchmark.store)
    slot = ("parts", "one", "score_maps"), "nut"
    assert graph.faults(slot) == {(("parts", "spade", "memory_bank"), "nut"): "is not materialized"}
    # Nor by one that the category's own bank has come after.
    materialize(bench, "bolt", "one/score_maps")
    with pytest.raises(StageError, match="joint_bank has nothing of nut, only of bolt: materialize it again"):
        images_joined(artifact_of(bench, "one", "joint_bank"), "nut", "parts/one/joint_bank")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("studies", {"shots": {"base": "one", "vary": {"sigma": [1]}}}, "base: unknown value 'one'; choose from: full"),
        ("production", {"gatekeeper": "one"}, "gatekeeper: unknown value 'one'; choose from: full"),
    ],
)
def test_a_joint_lane_is_no_base_and_no_gatekeeper(
    joint: Bench, tmp_path: Path, key: str, value: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        joint.copied(tmp_path / "bench").set(f"datasets.parts.{key}", value)


def leave(graph: LivingGraph, category: str | None, *lanes: str) -> None:
    """What runs of the assets of some lanes would leave."""
    store = graph.benchmark.store
    for stage in graph.stages:
        if stage.key[1] in lanes and (stage.partitions is None) == (category is None):
            head = stage.head_of(Graph([stage], store).upstream((stage.key, category)))
            files = store.artifact(stage.kind, head.version)
            files.commit({"asset": stage.name, "metadata": {}})
            store.heads.write(store.head_path(stage.key, category), head.record({}))


def test_conditions_take_up_the_joint_bank_after_the_banks_and_its_scores_after_that(tmp_path: Path) -> None:
    graph = LivingGraph(tmp_path, dg.DagsterInstance.ephemeral(), 2)
    small = graph.tree["datasets"]["parts"]["detectors"]["small"]
    graph.set("datasets.parts.detectors", {"small": small, "one": {"method": "joint", "of": "small"}})
    graph.make_current()
    assert not [stage.name for stage in graph.stages if stage.key[1] == "one" and stage.key[2] == "champion"]
    # The job of a category, which the sensor starts, leaves out what waits for all of them.
    job = graph.definitions.resolve_job_def("parts_category")
    assert not [key for key in job.asset_layer.executable_asset_keys if "one" in key.path]
    asked, cursor = graph.evaluate(None)
    assert asked == {}
    graph.index_again("c000")
    asked, cursor = graph.evaluate(cursor)
    assert set(asked) == {"c000"}
    assert not [name for name in asked["c000"] if "/one/" in name]
    leave(graph, "c000", "features", "small")
    asked, cursor = graph.evaluate(cursor)
    assert asked == {"": {"parts/one/joint_bank"}}
    leave(graph, None, "one")
    asked, cursor = graph.evaluate(cursor)
    last = {"parts/category_report", *(f"parts/one/{asset}" for asset in BELOW)}  # of all lanes of the category
    assert asked == dict.fromkeys(("c000", "c001"), last)
    for name in ("c000", "c001"):
        leave(graph, name, "one", "category_report")
    asked, _ = graph.evaluate(cursor)
    assert asked == {"": {"parts/leaderboard"}}
