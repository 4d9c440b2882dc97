"""New images held back and decided on, champions that predictions use, and the commands for people who decide."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import yaml
from PIL import Image

from ad_assets.cli import main
from ad_assets.datasets import IMAGE_INDEX_SCHEMA, KnownFile
from ad_assets.datasets.index import ImageIndex
from ad_assets.graph.stages import champion_gates
from ad_assets.prediction import DetectorError, load_detector
from ad_assets.prediction.inspection_summary import summarise
from ad_assets.prediction.new_image_gate import NominalStatistics
from ad_assets.production.champion_history import read_history
from ad_assets.production.inspections import append, kept_images, read, read_kept_image
from ad_assets.production.review_decisions import read_admissions
from ad_assets_runtime.appearance import appearance_of, copies
from ad_assets_runtime.identity import content_id
from tests.defs.test_automation import Line, at_the_last_look, built_by, indexed  # noqa: F401 - fixture
from tests.support.bench_graph import draw_image, write_image

Run = Callable[..., int]


@pytest.fixture(scope="session")
def judged(indexed: Line, tmp_path_factory: pytest.TempPathFactory) -> Line:  # noqa: F811 - the fixture
    """What `guarded` copies."""
    line = indexed.copied(tmp_path_factory.mktemp("judged"))
    for number in range(20):
        for category, seed in (("bolt", 20_000), ("nut", 30_000)):
            line.land(category, f"more{number:02}.png", seed + number)
    with pytest.MonkeyPatch.context() as patch:
        at_the_last_look(line, patch)
        line.carry_out(line.tick())
        line.settle()
    line.set("datasets.parts.production.gatekeeper", "small")
    return line


@pytest.fixture
def guarded(judged: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """A line whose new images are judged, with enough images for a threshold."""
    line = judged.copied(tmp_path)
    at_the_last_look(line, monkeypatch)
    return line


@pytest.fixture
def call(guarded: Line, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("DAGSTER_HOME", str(guarded.folder / "home"))
    path = guarded.folder / "bench.yaml"

    def run(*arguments: str) -> int:
        path.write_text(yaml.safe_dump(guarded.tree, sort_keys=False))
        return main([*arguments, "--config", str(path)])

    return run


def held_back(line: Line, category: str) -> dict[str, tuple[str, ...]]:
    held = read_admissions(line.benchmark.store, "parts", category).held.values()
    return {entry.path.rpartition("/")[2]: entry.reasons for entry in held}


def training_images(line: Line, category: str) -> set[str]:
    head = line.benchmark.store.read_head(("parts", "image_index"), category)
    assert head is not None
    table = line.benchmark.store.read_table(
        line.benchmark.store.artifact("image_index", head["version"]).at("index.parquet")
    )
    return {row["path"].rpartition("/")[2] for row in table.to_pylist() if row["split"] == "train"}


def checks(line: Line, category: str) -> dict[str, bool]:
    job = line.definitions.resolve_implicit_global_asset_job_def()
    outcome = job.execute_in_process(
        asset_selection=[dg.AssetKey(["parts", "image_index"])], partition_key=category, instance=line.instance
    )
    return {each.check_name: each.passed for each in outcome.get_asset_check_evaluations()}


def test_a_defective_newcomer_is_held_back_and_good_ones_are_not(guarded: Line, call: Run, capsys: Any) -> None:
    for number in range(5):
        guarded.land("bolt", f"good{number}.png", 40_000 + number)
    guarded.land("bolt", "bad.png", 41_000, defect=True)
    built = built_by(guarded, lambda: guarded.carry_out(guarded.tick()))
    assert set(built) == {"bolt"}
    held = held_back(guarded, "bolt")
    assert set(held) == {"bad.png"}
    assert "small scores it" in held["bad.png"][0]
    [picture] = guarded.benchmark.store.files("held/parts/bolt")
    assert Image.open(Path(guarded.benchmark.store.root) / picture.path).size[0] > 300  # the image and its heat map
    assert {f"good{number}.png" for number in range(5)} <= training_images(guarded, "bolt")
    assert "bad.png" not in training_images(guarded, "bolt")
    # Its features were made once, by the gatekeeper, whoever needs them later.
    event = guarded.instance.get_latest_materialization_event(dg.AssetKey(["parts", "features", "lite0"]))
    assert event
    assert event.asset_materialization
    assert event.asset_materialization.metadata["extracted"].value == 0
    assert not guarded.tick().run_requests
    guarded.settle()
    assert checks(guarded, "bolt") == {"images_found": True, "images_readable": True, "new_images_nominal": False}
    assert call("quarantine", "parts") == 0
    assert "bolt/train/good/bad.png" in capsys.readouterr().out

    # A person decides; the next look takes it up.
    assert call("quarantine", "parts", "bolt", "--admit", "bad.png") == 0
    assert guarded.carry_out(guarded.tick()) == ["bolt"]
    assert "bad.png" in training_images(guarded, "bolt")
    assert checks(guarded, "bolt") == {"images_found": True, "images_readable": True, "new_images_nominal": True}
    # The same from the launchpad of the UI.
    assert review(guarded, category="bolt", reject=["bad.png"]) == ""
    assert guarded.carry_out(guarded.tick()) == ["bolt"]
    assert "bad.png" not in training_images(guarded, "bolt")
    assert not guarded.tick().run_requests
    assert "names 0 of the images" in review(guarded, category="bolt", admit=["nobody.png"])
    assert "did you mean 'bolt'" in review(guarded, category="blot", admit=["all"])
    assert "name the images" in review(guarded, category="bolt")
    assert call("quarantine", "parts", "bolt", "--admit", "nobody.png") == 2
    assert "names 0 of the images" in capsys.readouterr().err


def review(line: Line, **asked: Any) -> str:
    """Run the job of the UI; returns why it failed."""
    job = line.definitions.resolve_job_def("parts_review")
    config = {"ops": {"parts_decide": {"config": asked}}}
    result = job.execute_in_process(run_config=config, instance=line.instance, raise_on_error=False)
    failed = [event.step_failure_data for event in result.filter_events(lambda event: event.is_step_failure)]
    return str(failed[0].user_failure_data or failed[0].error) if failed else ""


def test_newcomers_that_look_odd_are_held_back_whatever_a_detector_says(guarded: Line) -> None:
    good = guarded.images / "nut" / "train" / "good"
    write_image(good / "large.png", np.kron(draw_image(50_000), np.ones((2, 2, 1))).astype(np.uint8))
    write_image(good / "dark.png", draw_image(50_001) // 8)
    test = np.asarray(Image.open(guarded.images / "nut/test/good/000.png"))
    Image.fromarray(test).save(good / "copy.png", compress_level=1)
    (good / "broken.png").write_bytes(b"no image IEND")
    guarded.carry_out(guarded.tick())
    held = held_back(guarded, "nut")
    assert "128 x 128 pixels, the others have 64 x 64" in held["large.png"]
    # Whoever decides sees them, also those that no detector scores.
    pictures = guarded.benchmark.store.files("held/parts/nut")
    assert len(pictures) == len(held)
    assert any(reason.startswith("mean grey") for reason in held["dark.png"])
    assert not {"large.png", "dark.png", "copy.png", "broken.png"} & training_images(guarded, "nut")
    assert checks(guarded, "nut") == {"images_found": True, "images_readable": False, "new_images_nominal": False}


@pytest.mark.parametrize(
    ("sizes", "room", "new", "held"),
    [
        ([(64, 64)], 0.25, (64, 64), False),
        ([(64, 64)], 0.25, (65, 64), True),  # all have one size: no other
        ([(60, 64), (70, 64)], 0.25, (72, 64), False),  # a quarter of the range is 2.5 pixels
        ([(60, 64), (70, 64)], 0.25, (73, 64), True),
        ([(60, 64), (70, 64)], 0.25, (65, 65), True),  # the height never differed
        ([(60, 50), (70, 90)], 0.0, (65, 91), True),
        ([(60, 50), (70, 90)], 0.0, (60, 90), False),
        ([(64, 64)], None, (640, 480), False),
    ],
)
def test_a_size_is_compared_with_the_range_of_sizes(
    sizes: list[tuple[int, int]], room: float | None, new: tuple[int, int], held: bool
) -> None:
    index = grey_index([*sizes, new], [100.0] * (len(sizes) + 1))
    gate = NominalStatistics(index, {str(number) for number in range(len(sizes))}, room, 0.25)
    assert bool(gate.objections(index.rows[-1])) == held


@pytest.mark.parametrize(
    ("room", "grey", "held"),
    [(0.25, 118, False), (0.25, 122, True), (1.0, 122, False), (0.0, 119, True), (None, 255, False)],
)
def test_brightness_is_compared_with_the_room_of_the_setting(room: float | None, grey: float, held: bool) -> None:
    index = grey_index([(8, 8)] * 3, [100.0, 108.0, grey])
    gate = NominalStatistics(index, {"0", "1"}, 0.25, room)
    assert bool(gate.objections(index.rows[-1])) == held


def grey_index(sizes: list[tuple[int, int]], greys: list[float]) -> ImageIndex:
    """Training images of some sizes and mean greys, whose ids are their numbers."""
    rows = [
        {"image_id": str(n), "path": str(n), "split": "train", "width": width, "height": height}
        for n, (width, height) in enumerate(sizes)
    ]
    files = {
        str(n): KnownFile(1, "s", str(n), 8, 8, "RGB", brightness=grey, thumbnail="AA==")
        for n, grey in enumerate(greys)
    }
    return ImageIndex(rows, IMAGE_INDEX_SCHEMA, (), files)


def test_a_copy_is_known_by_its_thumbnail() -> None:
    first, second = (draw_image(seed) for seed in (1, 2))
    noisy = np.clip(first.astype(int) + np.random.default_rng(0).integers(-3, 4, first.shape), 0, 255).astype(np.uint8)
    others = [appearance_of(second).thumbnail, appearance_of(noisy).thumbnail]
    assert copies(appearance_of(first).thumbnail, others) == [1]
    assert copies(appearance_of(first).thumbnail, []) == []


def test_predictions_use_the_champion_with_its_own_settings(guarded: Line, call: Run, capsys: Any) -> None:
    image = guarded.images / "bolt/test/spot/000.png"
    config = guarded.folder / "bench.yaml"
    first = load_detector("parts", "small", "bolt", config)
    score = first.predict(image).score
    champion = read_history(guarded.benchmark.store, "parts", "small", "bolt").champion
    assert champion
    assert first.versions == {"small": champion.state}

    # A state that fails its gates changes nothing for predictions, whatever the benchmark file says by now.
    guarded.set("datasets.parts.production.floors", {"pixel_ap": 1.0})
    guarded.set("datasets.parts.detectors.small.coreset_ratio", 0.5)
    guarded.settle()
    after = load_detector("parts", "small", "bolt", config)
    assert after.versions == first.versions
    assert after.predict(image).score == score
    capsys.readouterr()
    for command in (("history", "parts", "small", "bolt"), ("status",)):
        assert call(*command) == 0
        told = capsys.readouterr().out
        assert "newest state" in told
        assert "its floor is 1" in told

    # By hand it is promoted, and rolled back, which no run undoes.
    assert call("promote", "parts", "small", "bolt", "--reason", "seen on the line") == 0
    promoted = load_detector("parts", "small", "bolt", config)
    assert promoted.versions != first.versions
    assert call("rollback", "parts", "small", "bolt", "--reason", "too many alarms") == 0
    assert load_detector("parts", "small", "bolt", config).predict(image).score == score
    guarded.set("datasets.parts.production.floors", {})
    guarded.settle()
    assert load_detector("parts", "small", "bolt", config).versions == first.versions
    capsys.readouterr()
    assert call("history", "parts", "small", "bolt") == 0
    told = capsys.readouterr().out.splitlines()
    assert [line_.split("  ")[2] for line_ in told[:3]] == [
        "promoted: the first",
        "promoted: passed its gates",
        "promoted by hand: seen on the line",
    ]
    assert "rolled back: too many alarms" in told[-2]
    assert told[-1].startswith("not champion: ")
    assert "it was rolled back from" in told[-1]


def test_without_a_champion_there_is_no_prediction(guarded: Line, call: Run, capsys: Any) -> None:
    guarded.tree["datasets"]["parts"]["detectors"]["full"] = {
        "method": "patchcore",
        "extractor": "lite0",
        "pooling": "concat",
        "coreset_ratio": 1.0,
    }
    guarded.set("datasets.parts.production.floors", {"pixel_ap": 1.0})
    with pytest.raises(DetectorError, match="has no champion"):
        load_detector("parts", "full", "bolt", guarded.folder / "bench.yaml")
    assert call("rollback", "parts", "full", "bolt", "--reason", "x") == 2
    assert "there is no earlier champion" in capsys.readouterr().err
    assert call("promote", "parts", "full", "bolt", "--reason", "x") == 2
    assert "materialize it first" in capsys.readouterr().err
    assert call("history", "parts", "none", "bolt") == 2
    assert "has no lane 'none'" in capsys.readouterr().err


def test_the_store_keeps_what_rollback_needs(guarded: Line) -> None:
    from ad_assets.graph.garbage import unreferenced
    from ad_assets.graph.graph import Graph

    guarded.set("datasets.parts.detectors.small.coreset_ratio", 0.5)
    guarded.settle()
    store = guarded.benchmark.store
    states = {entry.candidate.state for entry in read_history(store, "parts", "small", "bolt").entries}
    assert len(states) > 1
    gone = {
        Path(file.path).parts[2]
        for file in unreferenced(Graph(guarded.stages, store), older_than=0)
        if "artifacts" in file.path
    }
    assert not states & gone


def test_predictions_are_inspections_and_what_they_extracted_is_found(
    guarded: Line, call: Run, capsys: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, inbox = guarded.benchmark.store, guarded.folder / "inbox"
    write_image(inbox / "good.png", draw_image(40_000))
    write_image(inbox / "bad.png", draw_image(41_000, defect=True))
    named = ("--dataset", "parts", "--category", "bolt", str(inbox))
    assert call("predict", *named, "--no-record") == 0
    assert not read(store, "parts", "bolt")
    assert call("predict", *named) == 0
    champion = read_history(store, "parts", "small", "bolt").champion
    assert champion
    told = {Path(row.path).name: row for row in read(store, "parts", "bolt")}
    assert {name: (row.anomalous, row.source, row.champion) for name, row in told.items()} == {
        "good.png": (False, "predict", champion.state),
        "bad.png": (True, "predict", champion.state),
    }
    assert told["bad.png"].image_id == content_id((inbox / "bad.png").read_bytes())
    assert told["bad.png"].regions
    looks = appearance_of(np.asarray(Image.open(inbox / "good.png")))
    assert (told["good.png"].brightness, told["good.png"].contrast) == (looks.brightness, looks.contrast)
    kept = kept_images(store, "parts", "bolt")
    assert [image.image_id for image in kept] == [told[name].image_id for name in ("good.png", "bad.png")]
    assert read_kept_image(store, kept[1]) == (inbox / "bad.png").read_bytes()
    assert call("gc", "--delete", "--older-than", "0") == 0
    assert kept_images(store, "parts", "bolt") == kept

    # The library records too, frames of a camera as the files that they would be.
    config = guarded.folder / "bench.yaml"
    detector = load_detector("parts", "small", "bolt", config)
    frame = draw_image(41_001, defect=True)
    detector.predict(frame)
    [row] = [row for row in read(store, "parts", "bolt") if row.source == "library"]
    [image] = [image for image in kept_images(store, "parts", "bolt") if image.image_id == row.image_id]
    png = inbox / "frame.png"
    png.write_bytes(read_kept_image(store, image))
    assert (np.asarray(Image.open(png)) == frame).all()
    load_detector("parts", "small", "bolt", config, record=False).predict(frame)
    assert len(read(store, "parts", "bolt")) == 3

    # Images are compared with those that the champion learnt: equally dark ones are told at once.
    dark = [
        replace(told["good.png"], image_id=f"{n:064x}", time=row.time + timedelta(seconds=n), brightness=1, contrast=0)
        for n in range(25)
    ]
    assert summarise(store, guarded.benchmark.datasets["parts"], "bolt").drift[-1].alarm is None
    append(store, "parts", "bolt", dark)
    assert "is lower than usual" in str(summarise(store, guarded.benchmark.datasets["parts"], "bolt").drift[-1])

    # What lands is inspected by the gate; its features, and those of the frame, were made already.
    shutil.copy(inbox / "good.png", guarded.images / "bolt/train/good/again.png")
    shutil.copy(png, guarded.images / "bolt/test/good/frame.png")
    built_by(guarded, lambda: guarded.carry_out(guarded.tick()))
    assert [row.path for row in read(store, "parts", "bolt") if row.source == "landed"] == ["bolt/train/good/again.png"]
    event = guarded.instance.get_latest_materialization_event(dg.AssetKey(["parts", "features", "lite0"]))
    assert event
    assert event.asset_materialization
    assert event.asset_materialization.metadata["extracted"].value == 0

    # Beyond the bound the oldest nominal image goes first, and with it features that nothing else needs.
    features = {path.stem for path in (Path(store.root) / "features").rglob("*.safetensors")}
    assert {row.image_id for row in told.values()} <= features
    guarded.set("datasets.parts.production.kept_gb", 1e-9)
    load_detector("parts", "small", "bolt", config).predict(draw_image(40_002))
    assert kept_images(store, "parts", "bolt") == []
    left = {path.stem for path in (Path(store.root) / "features").rglob("*.safetensors")}
    assert features - left == {told["bad.png"].image_id}  # the others are in the index by now

    # A store that cannot be written costs no prediction, and it is said.
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "store/inspections")

    monkeypatch.setattr("ad_assets.prediction.recording.append", refused)
    capsys.readouterr()
    assert call("predict", *named) == 0
    said = capsys.readouterr()
    assert "anomalous" in said.out
    assert "NOT RECORDED 3 inspections: [Errno 13] Permission denied" in said.err
    assert "inspections of parts [bolt] are not recorded" in caplog.text


def test_a_false_alarm_is_learnt_and_no_later_state_may_raise_it_again(
    guarded: Line, call: Run, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = guarded.benchmark.store
    image = guarded.folder / "inbox.png"
    write_image(image, draw_image(61_000, defect=True))
    lane = ["--dataset", "parts", "--detector", "small", "--category", "bolt"]

    def predicted() -> tuple[float, float, str]:
        capsys.readouterr()
        assert call("predict", *lane, str(image)) == 0
        score, threshold, _, decision = capsys.readouterr().out.splitlines()[1].split(maxsplit=4)[1:]
        return float(score), float(threshold), decision

    first = predicted()
    assert first[2] == "anomalous"
    features = len(store.files("features"))
    content = content_id(image.read_bytes())
    assert call("feedback", "parts", "bolt", content[:12], "--false-alarm", "--reason", "a label") == 0
    image.rename(guarded.folder / "elsewhere.png")
    shutil.copy(guarded.folder / "elsewhere.png", image)
    # At once, by the person's word alone: score and threshold are what they were.
    score, threshold, decision = predicted()
    assert (score, threshold) == first[:2]
    assert decision.startswith("nominal, decided by a person on 20")

    # The next look of the sensor takes it, though the file was written just now; no feature is extracted again.
    assert guarded.carry_out(guarded.tick(0)) == ["bolt"]
    assert f"false_alarm_{content[:16]}.png" in training_images(guarded, "bolt")
    assert "inbox" not in str(held_back(guarded, "bolt"))
    assert len(store.files("features")) == features
    champion = read_history(store, "parts", "small", "bolt").champion
    assert champion
    assert predicted()[2].startswith("nominal")

    # A state that would raise it again is kept out.
    def alarms_on(work: Any, kind: str, candidate: Any, images: Any, rate: float) -> set[str]:
        return set() if candidate.state == champion.state else set(images)

    monkeypatch.setattr(champion_gates, "alarms_on", alarms_on)
    guarded.set("datasets.parts.detectors.small.coreset_ratio", 0.2)
    guarded.settle()
    history = read_history(store, "parts", "small", "bolt")
    assert history.champion == champion
    assert history.kept_out
    assert f"alarms on the false alarm {content[:12]}, and the champion does not" in history.kept_out.reason
    # Of a category without feedback it is not asked.
    assert read_history(store, "parts", "small", "nut").kept_out is None

    assert call("feedback", "parts", "bolt", content, "--undo") == 0
    assert guarded.carry_out(guarded.tick()) == ["bolt"]
    assert f"false_alarm_{content[:16]}.png" not in training_images(guarded, "bolt")
