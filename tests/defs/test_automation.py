"""The living graph: images that land, what becomes stale, who becomes champion; tick by tick, without a daemon."""

import datetime
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import patch

import dagster as dg
import pytest

from ad_assets.config.benchmark import Automation
from ad_assets.config.load import ConfigError
from ad_assets.defs.conditions import Window
from ad_assets.defs.landing_sensor import MOST_TRIES, RUN_KEY_TAG, Watch
from ad_assets.defs.schedules import updated_lanes
from ad_assets.graph.graph import Graph
from ad_assets.graph.stages.image_index import current_index, read_index
from ad_assets.production.champion_history import ChampionCandidate, History, read_history
from tests.support.bench_graph import Bench, draw_image, write_dataset, write_image

LANE = {
    f"parts/small/{kind}"
    for kind in ("memory_bank", "neighbours", "score_maps", "metrics", "synthetic_anomalies", "champion")
}
INDEX = dg.AssetKey(["parts", "image_index"])
CATEGORY = {"parts/image_index", "parts/features/lite0", *LANE, "parts/category_report"}


class Line(Bench):
    """A production dataset with one lane; `tick` is a look of the sensor, `settle` one of the conditions."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.cursor: str | None = None
        self.conditions: Any = None
        self.ahead = 0.0
        super().__init__(folder, instance)
        del self.tree["datasets"]["parts"]["detectors"]["full"]
        self.tree["datasets"]["parts"]["production"] = {"settle_seconds": 20, "patience_seconds": 600}
        self.tree["automation"] = {"mode": "eager"}
        self.reload()

    def land(self, category: str, name: str, seed: int, *, defect: bool = False) -> Path:
        """A new nominal image."""
        path = self.images / category / "train" / "good" / name
        write_image(path, draw_image(seed, defect=defect))
        return path

    def copied(self, folder: Path) -> Self:
        """As `Bench.copied`; its sensor starts anew."""
        other = super().copied(folder)
        other.cursor = None
        return other

    def tick(self, seconds: float = 60.0) -> dg.SensorResult:
        """A look of the sensor, some seconds after the last."""
        self.ahead += seconds
        dataset = self.benchmark.datasets["parts"]
        assert dataset.production is not None
        now = time.time() + self.ahead
        result = Watch(dataset, dataset.production, self.benchmark.store, self.instance, now).look(self.cursor)
        self.cursor = result.cursor
        for request in result.dynamic_partitions_requests or ():
            keys = list(request.partition_keys)
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(request.partitions_def_name, keys)
            else:
                for key in keys:
                    self.instance.delete_dynamic_partition(request.partitions_def_name, key)
        return result

    def carry_out(
        self, result: dg.SensorResult, *, succeeds: bool = True, selected: Sequence[dg.AssetKey] | None = None
    ) -> list[str]:
        """What the daemon does with the answer of a sensor, or of that the selected assets; returns the categories."""
        job = self.definitions.resolve_job_def("parts_category")
        categories = []
        for request in result.run_requests or ():
            assert request.partition_key
            assert request.run_key
            tags = {**request.tags, RUN_KEY_TAG: request.run_key}
            outcome = job.execute_in_process(
                instance=self.instance,
                partition_key=request.partition_key,
                tags=tags,
                raise_on_error=False,
                asset_selection=selected,
            )
            assert outcome.success == succeeds
            categories.append(request.partition_key)
        return categories

    def index(self, result: dg.SensorResult, *, succeeds: bool = True) -> list[str]:
        """Of what the daemon does that which the sensor looks at again: the image index, in such a run."""
        return self.carry_out(result, succeeds=succeeds, selected=[INDEX])

    def requested(self) -> set[tuple[str, str | None]]:
        """What the conditions ask for at one tick, in which Dagster asks hundreds of times for the same partitions."""
        with patch.object(self.instance, "get_dynamic_partitions", cache(self.instance.get_dynamic_partitions)):
            result = dg.evaluate_automation_conditions(self.definitions, self.instance, cursor=self.conditions)
        self.conditions = result.cursor
        return {
            (slot.asset_key.to_user_string(), slot.partition_key)
            for each in result.results
            for slot in each.true_subset.expensively_compute_asset_partitions()
        }

    def settle(self, *, in_runs: bool = True) -> list[set[tuple[str, str | None]]]:
        """Carry out what the conditions ask for until they ask for nothing; returns what each tick asked for.

        Without runs, which take most of it, where what was made is asked for and not how.
        """
        ticks = []
        while slots := self.requested():
            ticks.append(slots)
            assert len(ticks) < 6, ticks
            if not in_runs:
                own = ((stage, name) for stage in self.stages for name in stage.partitions or (None,))
                self.make_each((stage, name) for stage, name in own if (stage.name, name) in slots)
                continue
            for partition in sorted({partition for _, partition in slots}, key=str):
                keys = [dg.AssetKey(name.split("/")) for name, own in slots if own == partition]
                job = self.definitions.resolve_implicit_global_asset_job_def()
                assert job.execute_in_process(
                    asset_selection=keys, partition_key=partition, instance=self.instance
                ).success
        return ticks


def at_the_last_look(line: Line, patch: pytest.MonkeyPatch) -> None:
    """Its runs live at the time of the last look of the sensor."""
    clock = SimpleNamespace(time=lambda: time.time() + line.ahead)
    patch.setattr("ad_assets.graph.stages.image_index.time", clock)


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """Its runs live at the time of the last look of the sensor."""
    write_dataset(tmp_path / "images")
    line = Line(tmp_path, dg.DagsterInstance.ephemeral())
    at_the_last_look(line, monkeypatch)
    return line


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """What `running` copies."""
    folder = tmp_path_factory.mktemp("indexed")
    write_dataset(folder / "images")
    line = Line(folder, dg.DagsterInstance.ephemeral())
    with pytest.MonkeyPatch.context() as patch:
        at_the_last_look(line, patch)
        assert line.carry_out(line.tick()) == ["bolt", "nut"]
        assert line.settle() == [{("parts/leaderboard", None)}, {("parts/report", None)}]
    return line


@pytest.fixture
def running(indexed: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """A line whose two categories are indexed, with leaderboard and report."""
    line = indexed.copied(tmp_path)
    at_the_last_look(line, monkeypatch)
    return line


def built_by(line: Line, act: Any) -> dict[str, set[str]]:
    """Category -> the assets that an action built."""
    before = line._last_storage_id()
    act()
    built, _ = line.materialized_since(before)
    names: dict[str, set[str]] = {}
    for name, partition in built:
        names.setdefault(partition or "", set()).add(name)
    return names


def test_images_that_land_update_their_category_once(running: Line) -> None:
    assert not running.tick().run_requests  # found as indexed
    for number in range(3):
        running.land("bolt", f"new{number}.png", 7000 + number)
    built = built_by(running, lambda: running.carry_out(running.tick()))
    assert built == {"bolt": CATEGORY}
    features = running.instance.get_latest_materialization_event(dg.AssetKey(["parts", "features", "lite0"]))
    assert features
    assert features.asset_materialization
    assert features.asset_materialization.metadata["extracted"].value == 3
    assert not running.tick().run_requests
    assert running.settle() == [{("parts/leaderboard", None)}, {("parts/report", None)}]
    assert running.settle() == []


def test_an_upload_is_left_in_peace_until_it_rests(running: Line) -> None:
    path = running.land("bolt", "new.png", 7000)
    now = time.time() + running.ahead
    os.utime(path, (now, now))
    answer = running.tick(5)
    assert not answer.run_requests
    assert "an upload goes on, 1 files" in str(answer.skip_reason)
    assert running.index(running.tick(30)) == ["bolt"]

    # A file that stalled half way is waited for, by name, for as long as patience lasts.
    data = running.land("nut", "half.png", 7001).read_bytes()
    (running.images / "nut/train/good/half.png").write_bytes(data[: len(data) // 2])
    answer = running.tick(60)
    assert not answer.run_requests
    assert "nut/train/good/half.png is incomplete" in str(answer.skip_reason)
    (running.images / "nut/train/good/half.png").write_bytes(data)
    assert running.index(running.tick(60)) == ["nut"]


def test_a_file_that_stays_half_is_recorded_and_left_out(running: Line) -> None:
    running.set("datasets.parts.on_problem", "skip")
    running.index(running.tick())
    data = running.land("nut", "half.png", 7001).read_bytes()
    (running.images / "nut/train/good/half.png").write_bytes(data[: len(data) // 2])
    running.land("nut", "whole.png", 7002)
    assert "half.png is incomplete" in str(running.tick().skip_reason)
    assert running.index(running.tick(700)) == ["nut"]
    assert not running.tick().run_requests
    head = running.benchmark.store.read_head(("parts", "image_index"), "nut")
    assert head is not None
    artifact = running.benchmark.store.artifact("image_index", head["version"])
    paths = running.benchmark.store.read_table(artifact.at("index.parquet")).column("path").to_pylist()
    assert "nut/train/good/whole.png" in paths
    assert "nut/train/good/half.png" not in paths


def test_a_trickle_is_taken_after_the_longest_wait_but_never_what_is_being_written(
    running: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.time()
    monkeypatch.setattr("tests.defs.test_automation.time", SimpleNamespace(time=lambda: began))

    def landed(name: str, seed: int) -> None:
        now = time.time() + running.ahead
        os.utime(running.land("bolt", name, seed), (now, now))

    started = []
    for number in range(25):  # one image every 8 s, for 200 s
        landed(f"new{number:02}.png", 7000 + number)
        answer = running.tick(8)
        if running.index(answer) == ["bolt"]:
            started.append((8 * (number + 1), len(new_images(running))))
    # The first rests after 20 s, so it is seen at 24 s and taken 60 s later with the others that rest by then.
    assert started[0] == (88, 9)
    assert [seconds for seconds, _ in started] == [88, 160]
    assert running.index(running.tick(30)) == ["bolt"]
    assert len(new_images(running)) == 25
    assert not running.tick().run_requests

    # An index cannot do without an image that it has: one that is written again is waited for.
    landed("new99.png", 7099)
    running.tick(30)
    now = time.time() + running.ahead + 75
    os.utime(running.images / "bolt/train/good/new03.png", (now, now))
    assert not running.tick(80).run_requests
    assert running.index(running.tick(30)) == ["bolt"]

    # Half an image holds nothing up.
    data = running.land("bolt", "half.png", 7100).read_bytes()
    now = time.time() + running.ahead
    (running.images / "bolt/train/good/half.png").write_bytes(data[: len(data) // 2])
    os.utime(running.images / "bolt/train/good/half.png", (now, now))
    landed("whole.png", 7101)
    assert not running.tick(30).run_requests
    assert running.index(running.tick(61)) == ["bolt"]
    assert {"new99.png", "whole.png"} <= new_images(running)
    assert "half.png" not in new_images(running)
    answer = running.tick()
    assert not answer.run_requests
    assert "half.png is incomplete" in str(answer.skip_reason)
    (running.images / "bolt/train/good/half.png").write_bytes(data)
    assert running.index(running.tick()) == ["bolt"]
    assert "half.png" in new_images(running)


def new_images(line: Line) -> set[str]:
    """The training images of bolt that are in its index and landed later."""
    index = current_index(line.benchmark.store, "parts", "bolt")
    assert index
    names = {row["path"].rpartition("/")[2] for row in read_index(index) if row["split"] == "train"}
    return {name for name in names if not name[0].isdigit()}


def test_a_batch_is_not_asked_for_while_the_run_before_goes_on(running: Line) -> None:
    running.land("bolt", "one.png", 7000)
    [request] = running.tick().run_requests or ()
    run = running.instance.create_run_for_job(
        running.definitions.resolve_job_def("parts_category"), tags={RUN_KEY_TAG: request.run_key or ""}
    )
    running.land("bolt", "two.png", 7001)
    answer = running.tick()
    assert not answer.run_requests
    assert "bolt: more images, once its run is over" in str(answer.skip_reason)
    running.instance.report_run_canceled(run)
    assert running.index(running.tick()) == ["bolt"]
    assert new_images(running) == {"one.png", "two.png"}


def test_a_dataset_that_becomes_a_production_dataset_is_looked_at_by_its_gate_first(line: Line) -> None:
    section = line.tree["datasets"]["parts"]
    production = section.pop("production")
    section["on_problem"] = "skip"  # as production has it: the index is the same
    line.reload()
    line.make()
    assert not line.plan()
    section["production"] = production
    line.reload()
    planned = {(name, category) for name, category in line.plan() if category}
    assert {("parts/image_index", "bolt"), ("parts/small/champion", "bolt")} <= planned
    assert line.requested() >= {("parts/image_index", "bolt"), ("parts/small/champion", "bolt")}
    line.conditions = None
    line.settle(in_runs=False)
    assert not line.plan()
    assert not line.tick().run_requests
    assert read_history(line.benchmark.store, "parts", "small", "nut").champion
    line.land("bolt", "new.png", 7000)
    assert line.carry_out(line.tick()) == ["bolt"]
    assert new_images(line) == {"new.png"}


def test_nothing_twice_and_nothing_missed_across_restarts(running: Line) -> None:
    running.land("bolt", "new.png", 7000)
    first = running.tick()
    assert [request.partition_key for request in first.run_requests or ()] == ["bolt"]
    # The daemon stopped before the run began: the next looks know that it is on its way.
    assert not running.tick().run_requests
    assert "about to start" in str(running.tick().skip_reason)
    running.index(first)
    assert not running.tick().run_requests

    # With the cursor lost the store still tells what is indexed; what landed meanwhile is found.
    running.cursor = None
    assert not running.tick().run_requests
    running.cursor = None
    running.land("nut", "new.png", 7001)
    assert running.index(running.tick()) == ["nut"]


def test_a_run_that_failed_is_tried_again_and_then_explained(running: Line, monkeypatch: Any) -> None:
    running.land("bolt", "new.png", 7000)
    keys = set()
    with monkeypatch.context() as broken:
        broken.setattr(
            "ad_assets.graph.stages.image_index.build_index", lambda *_, **__: (_ for _ in ()).throw(OSError("gone"))
        )
        for _ in range(MOST_TRIES):
            answer = running.tick()
            keys |= {request.run_key for request in answer.run_requests or ()}
            assert running.index(answer, succeeds=False) == ["bolt"]
        answer = running.tick()
    assert len(keys) == MOST_TRIES
    assert not answer.run_requests
    assert f"bolt: {MOST_TRIES} runs did not index its images" in str(answer.skip_reason)
    running.land("bolt", "another.png", 7001)
    assert running.index(running.tick()) == ["bolt"]


def test_categories_come_and_go(running: Line) -> None:
    write_dataset(running.images, categories=["washer"], first_seed=9000)
    answer = running.tick()
    assert running.carry_out(answer) == ["washer"]
    assert set(running.instance.get_dynamic_partitions("parts")) == {"bolt", "nut", "washer"}
    running.reload()
    assert running.settle(in_runs=False) == [{("parts/leaderboard", None)}, {("parts/report", None)}]
    shutil.rmtree(running.images / "nut")
    assert not running.tick().run_requests
    assert set(running.instance.get_dynamic_partitions("parts")) == {"bolt", "washer"}
    running.reload()
    assert running.settle(in_runs=False) == [{("parts/leaderboard", None)}, {("parts/report", None)}]
    assert {row["category"] for row in board(running)} == {"bolt", "washer", "mean"}

    # A share that is not mounted is no reason to forget anything.
    running.images.rename(running.folder / "away")
    answer = running.tick()
    assert "does not exist" in str(answer.skip_reason)
    assert set(running.instance.get_dynamic_partitions("parts")) == {"bolt", "washer"}


def board(line: Line) -> list[dict[str, Any]]:
    store = line.benchmark.store
    head = store.read_head(("parts", "leaderboard"), None)
    assert head is not None
    rows: list[dict[str, Any]] = store.read_table(
        store.artifact("leaderboard", head["version"]).at("leaderboard.parquet")
    ).to_pylist()
    return rows


def test_results_wait_for_categories_that_keep_changing_for_a_time_only(running: Line) -> None:
    running.tree["automation"] = {"mode": "eager", "results_minutes": 0.01}
    running.set("datasets.parts.detectors.small.sigma", 2.0)
    both = running.requested()
    assert {category for _, category in both} == {"bolt", "nut"}
    job = running.definitions.resolve_implicit_global_asset_job_def()

    def carry_out(slots: set[tuple[str, str | None]], category: str | None) -> None:
        keys = [dg.AssetKey(name.split("/")) for name, own in slots if own == category]
        assert job.execute_in_process(asset_selection=keys, partition_key=category, instance=running.instance).success

    # The other category is always due: images land there, or its runs are slow.
    carry_out(both, "bolt")
    time.sleep(0.7)
    seen = []
    for _ in range(3):
        seen.append({slot for slot in running.requested() if slot[1] is None})
        if seen[-1]:
            carry_out(seen[-1], None)
            time.sleep(0.7)
    assert seen == [{("parts/leaderboard", None)}, {("parts/report", None)}, set()]
    assert {row["category"] for row in board(running)} == {"bolt", "mean"}
    carry_out(both, "nut")
    running.settle(in_runs=False)
    assert {row["category"] for row in board(running)} == {"bolt", "nut", "mean"}


def test_a_changed_setting_rebuilds_what_reads_it_in_order(running: Line) -> None:
    running.set("datasets.parts.detectors.small.coreset_ratio", 0.2)
    both = {(name, category) for name in (*LANE, "parts/category_report") for category in ("bolt", "nut")}
    assert running.settle() == [both, {("parts/leaderboard", None)}, {("parts/report", None)}]
    # Put back, it is found in the store, and Dagster's marks agree.
    running.set("datasets.parts.detectors.small.coreset_ratio", 0.1)
    before = running._last_storage_id()
    running.settle()
    built, _ = running.materialized_since(before)
    assert built == set()
    assert not running.stale()


@pytest.mark.parametrize("mode", ["manual", "eager", "nightly"])
def test_in_manual_mode_nothing_starts_by_itself(line: Line, mode: str) -> None:
    line.set("automation", {"mode": mode})
    on = {each.name for each in line.definitions.sensors or () if each.default_status.value == "RUNNING"}
    start_runs = {"bring_up_to_date", "parts_images", "parts_inspections"}
    assert on & start_runs == (set() if mode == "manual" else start_runs)
    assert on - start_runs <= {"current_assets", "cut_off_runs"}  # which start nothing


def test_an_equal_result_starts_nothing(running: Line) -> None:
    job = running.definitions.resolve_implicit_global_asset_job_def()
    for key in (["parts", "image_index"], ["parts", "features", "lite0"]):
        assert job.execute_in_process(
            asset_selection=[dg.AssetKey(key)], partition_key="bolt", instance=running.instance
        ).success
    assert running.requested() == set()


def test_an_update_between_a_run_and_the_next_tick_is_not_lost(running: Line) -> None:
    running.requested()
    # An image index made behind the back of sensor and conditions, before either looks.
    running.land("bolt", "new.png", 7000)
    running.ahead = 0
    old = time.time() - 100
    os.utime(running.images / "bolt/train/good/new.png", (old, old))
    running.set("datasets.parts.production.settle_seconds", 0)
    job = running.definitions.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(
        asset_selection=[dg.AssetKey(["parts", "image_index"])], partition_key="bolt", instance=running.instance
    ).success
    asked = running.requested()
    assert asked == {(name, "bolt") for name in CATEGORY - {"parts/image_index"}}


def test_what_a_run_makes_while_conditions_look_is_not_due(running: Line, monkeypatch: Any) -> None:
    running.set("datasets.parts.detectors.small.coreset_ratio", 0.2)
    lane = [dg.AssetKey(name.split("/")) for name in LANE]
    refresh, looks = Graph.refresh, []

    def look_and_be_overtaken(graph: Graph, categories: Any = None) -> None:
        refresh(graph, categories)
        looks.append(all(graph.is_due((tuple(key.path), "bolt")) for key in lane))
        if len(looks) == 1:
            with ThreadPoolExecutor() as pool:  # conditions are evaluated in an event loop, runs have their own
                pool.submit(running.run, selected=lane).result()

    monkeypatch.setattr(Graph, "refresh", look_and_be_overtaken)
    assert {name for name, _ in running.requested()} <= {"parts/leaderboard"}
    assert looks[0]


def test_what_failed_waits_for_a_cause(running: Line, monkeypatch: Any) -> None:
    running.set("datasets.parts.detectors.small.coreset_ratio", 0.3)
    job = running.definitions.resolve_implicit_global_asset_job_def()
    with monkeypatch.context() as broken:
        broken.setattr(
            "ad_assets.methods.memory_bank.patchcore.PatchCore.fit",
            lambda *_, **__: (_ for _ in ()).throw(ValueError("no")),
            raising=False,
        )
        for category in ("bolt", "nut"):
            assert ("parts/small/memory_bank", category) in running.requested()
            outcome = job.execute_in_process(
                asset_selection=[dg.AssetKey(name.split("/")) for name in sorted(LANE)],
                partition_key=category,
                instance=running.instance,
                raise_on_error=False,
            )
            assert not outcome.success
    assert running.requested() == set()
    running.set("datasets.parts.detectors.small.coreset_ratio", 0.4)
    assert ("parts/small/memory_bank", "bolt") in running.requested()


def test_the_night_has_a_window(running: Line) -> None:
    window = Window(Automation(mode="nightly", nightly="0 2 * * *", nightly_hours=4, timezone="Europe/Berlin"))

    def at(hour: int, minute: int) -> bool:
        zone = datetime.timezone(datetime.timedelta(hours=1))  # Berlin in winter
        return window.is_open(datetime.datetime(2026, 1, 15, hour, minute, tzinfo=zone).timestamp())

    assert [at(1, 59), at(2, 0), at(5, 59), at(6, 0), at(14, 0)] == [False, True, True, False, False]
    running.set("datasets.parts.detectors.small.coreset_ratio", 0.2)
    hour = (datetime.datetime.now(datetime.UTC).hour + 12) % 24
    running.set("automation", {"mode": "nightly", "nightly": f"0 {hour} * * *", "nightly_hours": 1})
    assert running.requested() == set()
    running.set("automation", {"mode": "nightly", "nightly": "* * * * *"})
    assert ("parts/small/memory_bank", "bolt") in running.requested()


def test_a_state_is_promoted_only_through_its_gates(running: Line) -> None:
    store = running.benchmark.store
    first = read_history(store, "parts", "small", "bolt")
    assert [entry.action for entry in first.entries] == ["promoted"]
    running.set("datasets.parts.production.floors", {"pixel_ap": 1.0})
    running.set("datasets.parts.detectors.small.coreset_ratio", 0.5)
    running.settle(in_runs=False)
    kept = read_history(store, "parts", "small", "bolt")
    assert kept.entries == first.entries
    assert kept.kept_out
    assert "its floor is" in kept.kept_out.reason
    event = running.instance.get_latest_materialization_event(dg.AssetKey(["parts", "small", "champion"]))
    assert event
    assert event.asset_materialization
    assert "its floor is 1" in str(event.asset_materialization.metadata["kept_out"].value)
    running.set("datasets.parts.production.floors", {"image_auroc": 0.1})
    running.settle(in_runs=False)
    second = read_history(store, "parts", "small", "bolt")
    assert second.champion
    assert first.champion
    assert second.champion.state != first.champion.state
    assert second.entries[:1] == first.entries


def test_gates_compare_on_the_same_test_images_alone(running: Line) -> None:
    from ad_assets.config.benchmark import Production
    from ad_assets.production.champion_history import ROLLED_BACK, behind_champion

    champion = ChampionCandidate("a", "m", "x", "code", "truth", {"image_auroc": 0.95, "pixel_auroc": 0.9})
    worse = ChampionCandidate("b", "m", "y", "code", "truth", {"image_auroc": 0.92, "pixel_auroc": 0.9})
    elsewhere = ChampionCandidate("b", "m", "y", "code", "other", {"image_auroc": 0.5, "pixel_auroc": 0.5})
    gates = Production(margin=0.02)
    assert behind_champion(worse, champion, gates.margin) == ["image_auroc 0.9200 after 0.9500, more than 0.02 behind"]
    assert behind_champion(worse, champion, 0.04) == []
    assert behind_champion(elsewhere, champion, gates.margin) == []
    history = History((), ()).with_champion(champion, "promoted", "").with_champion(worse, "promoted", "")
    back = history.with_champion(champion, ROLLED_BACK, "by hand")
    assert back.refused == ("b",)
    assert back.champion == champion


def test_retraining_takes_what_was_only_updated(running: Line) -> None:
    dataset = running.benchmark.datasets["parts"]
    assert list(updated_lanes(dataset, running.stages, running.benchmark.store)) == []
    running.land("bolt", "new.png", 7000)
    running.carry_out(running.tick())
    assert list(updated_lanes(dataset, running.stages, running.benchmark.store)) == [("bolt", "small")]
    running.set("automation", {"mode": "eager", "retrain": "0 3 * * *", "verify": "0 4 * * 0"})
    schedules = {each.name: each for each in running.definitions.schedules or ()}
    context = dg.build_schedule_context(
        instance=running.instance, scheduled_execution_time=datetime.datetime(2026, 1, 1, 3, tzinfo=datetime.UTC)
    )
    [request] = list(schedules["parts_retraining"](context))  # type: ignore[operator, call-overload]
    job = running.definitions.resolve_job_def("parts_category")
    assert job.execute_in_process(
        instance=running.instance,
        partition_key=request.partition_key,
        asset_selection=request.asset_selection,
        run_config=request.run_config,
    ).success
    assert list(updated_lanes(dataset, running.stages, running.benchmark.store)) == []
    assert len(list(schedules["parts_verification"](context))) == 2  # type: ignore[operator, call-overload, arg-type]


def test_verification_makes_damaged_artifacts_anew(running: Line) -> None:
    store, root = running.benchmark.store, Path(running.benchmark.store.root)
    head = store.read_head(("parts", "small", "memory_bank"), "bolt")
    assert head is not None
    state = root / store.artifact("memory_bank", head["version"]).at("state.safetensors")
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    running.set("automation", {"mode": "eager", "verify": "0 4 * * 0"})
    schedule = next(s for s in running.definitions.schedules or () if s.name == "parts_verification")
    context = dg.build_schedule_context(
        instance=running.instance, scheduled_execution_time=datetime.datetime(2026, 1, 4, 4, tzinfo=datetime.UTC)
    )
    requests = {each.partition_key: each for each in schedule(context)}  # type: ignore[operator, union-attr]
    job = running.definitions.resolve_job_def("parts_category")
    assert job.execute_in_process(
        instance=running.instance, partition_key="bolt", run_config=requests["bolt"].run_config
    ).success
    assert state.read_bytes() == whole


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"production": {"gatekeeper": "big"}}, "production.gatekeeper"),
        ({"production": {"margin": -1}}, "production.margin"),
        ({"production": {"settles": 1}}, "production.settles"),
    ],
)
def test_faults_of_the_production_section_are_told(line: Line, section: dict[str, Any], says: str) -> None:
    line.tree["datasets"]["parts"].update(section)
    with pytest.raises(ConfigError, match=says):
        line.reload()


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"mode": "always"}, "automation.mode"),
        ({"nightly": "at two"}, "no cron time"),
        ({"timezone": "Berlin"}, "unknown time zone"),
    ],
)
def test_faults_of_the_automation_section_are_told(line: Line, section: dict[str, Any], says: str) -> None:
    line.tree["automation"] = section
    with pytest.raises(ConfigError, match=says):
        line.reload()


def test_admitted_images_that_are_dated_in_the_future_stay(running: Line) -> None:
    def indexed() -> set[str]:
        head = running.benchmark.store.read_head(("parts", "image_index"), "bolt")
        assert head is not None
        artifact = running.benchmark.store.artifact("image_index", head["version"])
        return {row["path"] for row in running.benchmark.store.read_table(artifact.at("index.parquet")).to_pylist()}

    before = indexed()
    future = time.time() + 365 * 86_400
    for path in sorted((running.images / "bolt/train/good").iterdir())[:4]:
        os.utime(path, (future, future))
    running.land("bolt", "new.png", 7000)
    # At once: a run that would do without them refuses.
    running.ahead = 0
    job = running.definitions.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        asset_selection=[dg.AssetKey(["parts", "image_index"])],
        partition_key="bolt",
        instance=running.instance,
        raise_on_error=False,
    )
    [failure] = result.filter_events(lambda event: event.is_step_failure)
    assert "4 files that it was indexed from are on their way" in str(failure.step_failure_data.error)
    assert indexed() == before
    # When they rest by the file system's own clock, they are as admitted as before.
    assert running.index(running.tick()) == ["bolt"]
    assert indexed() == before | {"bolt/train/good/new.png"}
    head = running.benchmark.store.read_head(("parts", "image_index"), "bolt")
    problems = running.benchmark.store.read_json(
        running.benchmark.store.artifact("image_index", head["version"]).at("problems.json")
    )
    assert len([each for each in problems if "in the future" in each["message"]]) == 4
    assert not running.tick().run_requests
