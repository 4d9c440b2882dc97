"""What the sensor of a watched folder does beside damage, asked as Dagster's daemon asks it."""

import hashlib
import json
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from ad_assets.cli import main
from ad_assets.config.benchmark import Dataset
from ad_assets.graph.stages.image_index import changed_files, stamps_path
from ad_assets.production.review_decisions import decide, decisions_path, read_admissions, read_decisions
from ad_assets.production.store_identity import begin_anew
from ad_assets.store.store import ArtifactStore
from tests.support.bench_graph import Bench, draw_image, write_image

DECISION = "a" * 64


@pytest.fixture
def indexed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A production dataset whose two categories are indexed."""
    monkeypatch.setenv("DAGSTER_HOME", str(bench.folder / "home"))
    bench.tree["automation"] = {"mode": "eager"}
    bench.set("datasets.parts.production", {"settle_seconds": 0})
    for category in ("bolt", "nut"):
        assert not index(bench, category)
    return bench


def index(bench: Bench, category: str) -> str:
    """Index a category; returns what failed."""
    job = bench.definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        asset_selection=[dg.AssetKey(["parts", "image_index"])],
        partition_key=category,
        instance=bench.instance,
        raise_on_error=False,
    )
    return "\n".join(str(e.step_failure_data.error) for e in result.filter_events(lambda event: event.is_step_failure))


def tick(bench: Bench, cursor: str | None = None) -> tuple[list[str | None], str, str | None]:
    """A tick of the sensor: the categories that it asks for, why it passes over others, its cursor."""
    [sensor] = [each for each in bench.definitions.sensors or () if each.name == "parts_images"]
    assert isinstance(sensor, dg.SensorDefinition)
    context = dg.build_sensor_context(instance=bench.instance, cursor=cursor, definitions=bench.definitions)
    with dg.partition_loading_context(dynamic_partitions_store=bench.instance):  # as the daemon's code server does
        answer = sensor.evaluate_tick(context)
    return [request.partition_key for request in answer.run_requests or ()], answer.skip_message or "", answer.cursor


def lands(bench: Bench, category: str, seed: int = 7) -> None:
    write_image(bench.images / category / "train" / "good" / f"new{seed}.png", draw_image(seed))


def parts_of(bench: Bench) -> tuple[ArtifactStore, Dataset]:
    return bench.benchmark.store, bench.benchmark.datasets["parts"]


def test_a_scan_record_that_is_empty_asks_for_its_category_alone(indexed: Bench) -> None:
    store, _ = parts_of(indexed)
    _, told, cursor = tick(indexed)
    assert told == "2 categories, nothing has changed"
    place = store.local_path(stamps_path("parts", "bolt"))
    place.write_bytes(b"")
    # What the cursor knows needs no record; without a cursor, as after an installation, the category is looked at anew.
    assert tick(indexed, cursor)[0] == []
    asked, _, cursor = tick(indexed)
    assert asked == ["bolt"]
    assert not index(indexed, "bolt")
    asked, told, cursor = tick(indexed, cursor)
    assert (asked, told) == ([], "2 categories, nothing has changed")
    lands(indexed, "nut")
    place.write_bytes(b"")
    assert tick(indexed, cursor)[0] == ["nut"]


def test_damaged_decisions_stop_their_own_category_alone(indexed: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    store, dataset = parts_of(indexed)
    _, _, cursor = tick(indexed)
    for category in ("bolt", "nut"):
        decide(store, "parts", category, [DECISION], "reject")
        lands(indexed, category)
    damaged = decisions_path("parts", "bolt")
    whole = store.read_bytes(damaged)
    store.write_bytes(damaged, whole[:-9])
    known = json.loads(cursor or "")["bolt"]
    asked, _, cursor = tick(indexed, cursor)
    assert asked == ["nut"]
    assert not index(indexed, "nut")
    asked, told, cursor = tick(indexed, cursor)
    assert not asked
    assert f"bolt: {store.location(damaged)} cannot be read" in told
    assert "from a backup" in told
    assert json.loads(cursor or "")["bolt"] == known
    assert changed_files(dataset, store).keys() == {"bolt"}
    capsys.readouterr()
    assert main(["status", "--config", str(indexed.folder / "bench.yaml")]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "image_index" in line and "[bolt]" in line]
    assert damaged in line
    assert "cannot be read" in index(indexed, "bolt")
    store.write_bytes(damaged, whole)
    assert tick(indexed, cursor)[0] == ["bolt"]


def test_decisions_that_are_lost_open_no_quarantine(indexed: Bench) -> None:
    store, dataset = parts_of(indexed)
    path = decisions_path("parts", "bolt")
    decide(store, "parts", "bolt", [DECISION], "reject")
    before = store.read_bytes(path)
    decide(store, "parts", "bolt", ["b" * 64], "reject")
    for lost in (None, before, b"{}"):  # gone, an older copy, emptied by hand
        store.delete([path])
        if lost is not None:
            store.write_bytes(path, lost)
        told = index(indexed, "bolt")
        assert f"{path} holds" in told
        assert "of at least 2 decisions" in told
        assert "--new-store" in told
        assert not index(indexed, "nut")
        with pytest.raises(ValueError, match="of at least 2 decisions"):
            decide(store, "parts", "bolt", ["c" * 64], "admit")
    begin_anew(dataset, store, indexed.instance)
    assert not index(indexed, "bolt")


def test_decisions_that_earlier_releases_did_not_count_are_missed_too(indexed: Bench) -> None:
    store, _ = parts_of(indexed)
    decide(store, "parts", "bolt", [DECISION], "reject")
    assert not index(indexed, "bolt")
    admissions = store.local_path("admissions/parts/bolt.json")
    admissions.write_text(json.dumps({**json.loads(admissions.read_text()), "decided": None}))
    store.delete([decisions_path("parts", "bolt")])
    assert "holds 0 of at least 1 decisions" in index(indexed, "bolt")


def test_admissions_that_are_lost_beside_decisions_are_refused(indexed: Bench) -> None:
    store, _ = parts_of(indexed)
    decide(store, "parts", "bolt", [DECISION], "reject")
    store.delete(["admissions/parts/bolt.json", store.head_path(("parts", "image_index"), "bolt")])
    assert "its admissions, which say which images are admitted and held, are missing" in index(indexed, "bolt")


@pytest.mark.parametrize("found", ["empty", "another"])
def test_sensor_and_commands_refuse_a_store_that_is_not_the_known_one(
    indexed: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], found: str
) -> None:
    config = str(indexed.folder / "bench.yaml")
    lane = ("parts", "small", "bolt")
    _, _, cursor = tick(indexed)
    indexed.set("store.root", str(tmp_path / "wrong"))
    store, dataset = parts_of(indexed)
    if found == "another":
        begin_anew(dataset, store, dg.DagsterInstance.ephemeral())
        indexed.set("store.root", str(tmp_path / "store"))
        begin_anew(*reversed(parts_of(indexed)), indexed.instance)
        indexed.set("store.root", str(tmp_path / "wrong"))
    before = store.files()
    lands(indexed, "bolt")
    reason = "has no marker: it is empty" if found == "empty" else "has the id"
    asked, told, after = tick(indexed, cursor)
    assert (asked, after) == ([], cursor)
    assert reason in told
    for call in (
        ("quarantine", "parts"),
        ("quarantine", "parts", "bolt", "--reject", "000.png"),
        ("history", *lane),
        ("promote", *lane, "--reason", "x"),
        ("rollback", *lane, "--reason", "x"),
    ):
        assert main([*call, "--config", config]) == 2, call
        error = capsys.readouterr().err
        assert reason in error, call
        assert "--new-store" in error
    assert store.files() == before


def test_a_deep_image_is_rejected_by_its_file(indexed: Bench) -> None:
    store, _ = parts_of(indexed)
    for number in range(6):
        deep = draw_image(number)[..., 0].astype(np.uint16) * 16
        Image.fromarray(deep).save(indexed.images / "bolt" / "train" / "good" / f"deep{number}.png")
    for category in ("bolt", "nut"):
        assert not index(indexed, category)
    call = ["quarantine", "parts", "bolt", "--reject", "deep3.png", "--config", str(indexed.folder / "bench.yaml")]
    assert main(call) == 0
    content = hashlib.sha256((indexed.images / "bolt/train/good/deep3.png").read_bytes()).hexdigest()
    assert read_decisions(store, "parts", "bolt") == {content: "reject"}
    assert not index(indexed, "bolt")
    assert content not in read_admissions(store, "parts", "bolt").admitted
