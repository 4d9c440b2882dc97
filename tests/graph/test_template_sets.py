"""HETMM in the graph: what a changed setting rebuilds, sheets for single categories, new images in an old set."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch

from ad_assets.backbones.backbone import load_backbone
from tests.support.bench_graph import Bench, draw_image, write_dataset, write_image

CATEGORIES = ("bolt", "nut")
RESULTS = {("parts/leaderboard", None), ("parts/report", None)}
ALL_PAGES = {("parts/category_report", category) for category in ("bolt", "nut")}
LANE = {"method": "hetmm", "extractor": "lite0", "windows": [3, 3]}


def lane(detector: str, *assets: str, categories: tuple[str, ...] = CATEGORIES) -> set[tuple[str, str | None]]:
    return {(f"parts/{detector}/{asset}", category) for asset in assets for category in categories}


@pytest.fixture
def hetmm(bench: Bench) -> Bench:
    bench.set("datasets.parts.detectors", {"all": LANE, "few": {**LANE, "sheets": 3}})
    return bench


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """What `made` copies."""
    folder = tmp_path_factory.mktemp("hetmm")
    write_dataset(folder / "images")
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    bench.set("datasets.parts.detectors", {"all": LANE, "few": {**LANE, "sheets": 3}})
    bench.run()
    return bench


@pytest.fixture
def made(first_run: Bench, tmp_path: Path) -> Bench:
    """The same lanes, materialized."""
    return first_run.copied(tmp_path / "made")


def state(bench: Bench, detector: str, category: str) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """Tensors, JSON fields and metadata of a stored template set."""
    store = bench.benchmark.store
    head = store.read_head(("parts", detector, "template_set"), category)
    assert head is not None
    artifact = store.artifact("template_set", head["version"])
    tensors = store.read_tensors(artifact.at("state.safetensors"))
    return tensors, store.read_json(artifact.at("state.json")), artifact.record()["metadata"]


def test_sheets_rebuild_the_set_and_windows_do_not(made: Bench) -> None:
    downstream = ("score_maps", "metrics")
    made.set("datasets.parts.detectors.few.sheets", 2)
    assert made.stale() == lane("few", "template_set")
    assert made.run() == (lane("few", "template_set", *downstream) | ALL_PAGES | RESULTS, set())
    # Together: that each is in the address of scores and in no other is what tests/graph/test_addresses.py holds.
    scoring = {"alpha": 0.5, "windows": [5, 1], "weights": [1.0, 0.5], "image_sigma": 2.0}
    made.set("datasets.parts.detectors.few", {**made.tree["datasets"]["parts"]["detectors"]["few"], **scoring})
    assert made.stale() == lane("few", "score_maps")
    assert made.run() == (lane("few", *downstream) | ALL_PAGES | RESULTS, set())
    assert made.stale() == set()


def test_a_setting_of_one_category_rebuilds_that_category(hetmm: Bench) -> None:
    hetmm.set("datasets.parts.detectors", {"few": {**LANE, "sheets": 3}})
    hetmm.run()
    hetmm.set("datasets.parts.detectors.few.categories", {"nut": {"sheets": 2}})
    built, found = hetmm.run()
    page = {("parts/category_report", "nut")}
    assert built == lane("few", "template_set", "score_maps", "metrics", categories=("nut",)) | page | RESULTS
    # Dagster's code version is one an asset, so the other category is looked at, and found.
    others = lane("few", "template_set", "score_maps", "metrics", categories=("bolt",))
    assert found == others | {("parts/category_report", "bolt")}
    assert [state(hetmm, "few", category)[2]["sheets"] for category in CATEGORIES] == [3, 2]
    assert hetmm.stale() == set()
    hetmm.set("datasets.parts.detectors.few.categories", {"nut": {"alpha": 0.1}, "bolt": {"sheets": 3}})
    built, found = hetmm.make()
    page = {("parts/category_report", "nut")}
    assert built == lane("few", "score_maps", "metrics", categories=("nut",)) | page | RESULTS
    assert lane("few", "template_set") <= found


@pytest.mark.parametrize("news", [1, 4])
def test_an_updated_set_equals_one_from_scratch(made: Bench, tmp_path: Path, news: int) -> None:
    _, before, _ = state(made, "all", "nut")
    for number in range(news):
        write_image(made.images / f"nut/train/good/new{number}.png", draw_image(70 + number))
    built, found = made.make()
    assert (
        built
        == lane("all", "template_set", "score_maps", "metrics", categories=("nut",))
        | lane("few", "template_set", "score_maps", "metrics", categories=("nut",))
        | {(f"parts/{name}", "nut") for name in ("image_index", "features/lite0", "category_report")}
        | RESULTS
    )
    assert not found
    scratch = Bench(tmp_path, dg.DagsterInstance.ephemeral())
    scratch.tree["datasets"] = made.tree["datasets"]
    scratch.reload()
    scratch.make(categories=["nut"])
    for detector in ("all", "few"):
        (ours, info, metadata), (theirs, other, fresh) = (state(b, detector, "nut") for b in (made, scratch))
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert info == other
        assert metadata["updated"] == f"+{news} images"
        assert "updated" not in fresh
        # Left-out scores of what was there are merged with those on the new templates: docs/speed.md says how exact.
        assert made.rows(detector, "nut") == pytest.approx(scratch.rows(detector, "nut"), rel=1e-6)
    assert len(before["image_ids"]) + news == len(state(made, "all", "nut")[1]["image_ids"])
    # A set of all images holds no vector of its own: nothing but the list of images was written.
    assert state(made, "all", "nut")[0] == {}
    (made.images / "nut/train/good/new0.png").unlink()
    made.make(categories=["nut"])
    assert ("updated" in state(made, "all", "nut")[2]) == (news > 1)  # with one image gone, the first set is found


def test_gaussians_are_updated_from_the_new_images_alone(bench: Bench, tmp_path: Path) -> None:
    lanes = {"padim": {"method": "padim", "extractor": "lite0", "channels": 20}}
    bench.set("datasets.parts.detectors", lanes)
    bench.make()

    def learnt(one: Bench) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        store = one.benchmark.store
        head = store.read_head(("parts", "padim", "trained_model"), "bolt")
        assert head is not None
        artifact = store.artifact("trained_model", head["version"])
        return store.read_tensors(artifact.at("state.safetensors")), artifact.record()["metadata"]

    assert learnt(bench)[1]["fitted"] == "on all images"
    for number in range(2):
        write_image(bench.images / f"bolt/train/good/new{number}.png", draw_image(70 + number))
    bench.make()
    tensors, metadata = learnt(bench)
    assert (metadata["fitted"], metadata["updated"]) == ("on the new images alone", "+2 images")
    rows = bench.rows("padim", "bolt")
    bench.make(force=True, categories=["bolt"])
    again, metadata = learnt(bench)
    assert metadata["fitted"] == "on all images"
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, again[name], rtol=1e-5, atol=1e-5)
    assert bench.rows("padim", "bolt")["standard", "image_auroc"] == rows["standard", "image_auroc"]

    # An image that is gone, or other features, take a fit of all.
    (bench.images / "bolt/train/good/new0.png").unlink()
    bench.make()
    assert (learnt(bench)[1]["fitted"], learnt(bench)[1]["updated"]) == ("on all images", "-1 images")
    write_image(bench.images / "bolt/train/good/new2.png", draw_image(75))
    bench.set("extractors.lite0.taps", ["blocks.1", "blocks.4"])
    bench.make()
    assert learnt(bench)[1]["fitted"] == "on all images"
    assert "updated" not in learnt(bench)[1]


def test_a_study_measures_what_a_lane_would(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    from ad_assets.methods.hetmm.hetmm import Hetmm

    fit, score = Hetmm.fit, Hetmm.score
    monkeypatch.setattr(Hetmm, "fit", lambda *a, **k: (calls.append("fit"), fit(*a, **k))[1])
    monkeypatch.setattr(Hetmm, "score", lambda *a, **k: (calls.append("score"), score(*a, **k))[1])
    made.set(
        "datasets.parts.studies",
        {"mixing": {"base": "few", "variants": {"as it is": {}, "forward": {"alpha": 1.0}, "two": {"sheets": 2}}}},
    )
    study = {("parts/studies/mixing", category) for category in CATEGORIES}
    assert made.make() == (study | {("parts/report", None)}, set())
    # A state that a lane has learnt is read; variants that differ in scoring share it. Six test images, four a batch.
    assert calls.count("fit") == 2
    assert calls.count("score") == 3 * 2 * len(CATEGORIES)
    rows = study_rows(made, "bolt")
    lane_rows = made.rows("few", "bolt")
    for metric in ("image_auroc", "pixel_auroc", "aupro_0.30"):
        assert rows["as it is", 0, metric, ""] == lane_rows["standard", metric]
    assert ("as it is", 0, "image_auroc", "spot") in rows
    assert rows["two", 0, "fit_seconds", ""] > 0

    # Another variant: what was measured stays; nothing but it is measured.
    del calls[:]
    made.set("datasets.parts.studies.mixing.variants.backward", {"alpha": 0.0})
    assert made.make() == (study | {("parts/report", None)}, set())
    assert calls.count("fit") == 0
    assert calls.count("score") == 2 * len(CATEGORIES)
    assert {key: value for key, value in study_rows(made, "bolt").items() if key in rows} == rows
    # Rows of variants are no garbage while a study shows them.
    from ad_assets.graph.garbage import unreferenced
    from ad_assets.graph.graph import Graph

    files = unreferenced(Graph(made.stages, made.benchmark.store), older_than=0)
    assert not [file for file in files if "study_rows" in file.path]


def test_a_study_alone_needs_no_leaderboard(hetmm: Bench) -> None:
    hetmm.set("datasets.parts.detectors", {"few": {**LANE, "sheets": 3}})
    hetmm.set("datasets.parts.studies", {"mixing": {"base": "few", "vary": {"alpha": [0.0, 1.0]}}})
    selected = dg.AssetSelection.from_string('key:"parts/studies/mixing"').resolve(
        hetmm.definitions.resolve_asset_graph()
    )
    built, _ = hetmm.make(selected=selected)
    shared = {(f"parts/{asset}", category) for asset in ("image_index", "features/lite0") for category in CATEGORIES}
    # What the varied detector has learnt is a variant's too.
    assert built == shared | lane("few", "template_set") | {("parts/studies/mixing", c) for c in CATEGORIES}
    hetmm.make()
    assert hetmm.plan() == {}


def test_draws_take_other_images_and_are_repeatable(made: Bench) -> None:
    study = {"base": "all", "vary": {"train_images": [1, 3]}, "draws": 3}
    made.set("datasets.parts.studies", {"few_images": study})
    made.make(categories=["bolt"])
    rows = study_rows(made, "bolt", "few_images")
    scores = {key: value for key, value in rows.items() if key[2] == "pixel_auroc"}
    assert len(scores) == 6
    assert len(set(scores.values())) > 3
    made.make(categories=["bolt"], force=True)
    again = study_rows(made, "bolt", "few_images")
    assert {key: again[key] for key in scores} == scores
    made.set("datasets.parts.studies.few_images.vary.train_images", [7])
    outcome = made.outcome(categories=["bolt"])
    assert any("7 training images are asked for, there are 6" in failure for failure in outcome.failures)


def test_few_shots_of_several_lanes_share_draws_and_features(made: Bench) -> None:
    backbone = load_backbone(made.benchmark.extractors["lite0"], made.benchmark.compute)
    before = backbone.images_seen
    shots = {"base": ["all", "few"], "vary": {"train_images": [1, 2, 4]}, "draws": 2}
    made.set("datasets.parts.studies", {"few_shot": shots})
    made.make(categories=["bolt"])
    rows = study_rows(made, "bolt", "few_shot")
    names = {f"{lane}, train_images={count}" for lane in ("all", "few") for count in (1, 2, 4)}
    assert {(variant, draw) for variant, draw, *_ in rows} == {(name, draw) for name in names for draw in (0, 1)}
    assert backbone.images_seen == before  # all draws read the features of the lanes


def study_rows(bench: Bench, category: str, study: str = "mixing") -> dict[tuple[str, int, str, str], float]:
    store = bench.benchmark.store
    head = store.read_head(("parts", "studies", study), category)
    assert head is not None
    table = store.read_table(store.artifact("study", head["version"]).at("rows.parquet")).to_pylist()
    return {
        (row["variant"], row["draw"], row["metric"], row["defect_type"]): row["value"]
        for row in table
        if "images_per_second" not in row["metric"]
    }


def test_the_report_shows_studies(made: Bench) -> None:
    variants = {"alpha=0.0": {"alpha": 0.0}, "<i>x</i>": {}}
    made.set("datasets.parts.studies", {"mixing": {"base": "few", "variants": variants}})
    made.make(categories=["bolt"])
    store = made.benchmark.store
    head = store.read_head(("parts", "report"), None)
    assert head is not None
    text = store.read_text(store.artifact("report", head["version"]).at("report.html"))
    assert "Study: mixing" in text
    assert "alpha=0.0" in text
    assert "&lt;i&gt;x" in text
    assert "<i>x" not in text
    assert "data:image/png;base64," in text
