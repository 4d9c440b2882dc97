"""What a look at many categories asks of the store, counted: it must not grow with what did not change."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import pytest
from dagster._core.definitions.automation_condition_sensor_definition import MAX_ENTITIES

from ad_assets.datasets import ImageFiles
from ad_assets.defs import conditions
from ad_assets.defs.plan import DATA_VERSION_TAG
from ad_assets.production.store_identity import adopt_store
from tests.support.living_graph import LivingGraph

FEW, MANY = 3, 30


class CountingFileSystem:
    """A file system that counts what is asked of it, by the name of the request, and the paths that were read."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.requests: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()

    def find(self, path: str, **named: Any) -> Any:
        """One listing, as an object store gives it."""
        self.requests["find"] += 1
        return self._inner.find(path, **named)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def counted(path: str, *options: Any, **named: Any) -> Any:
            self.requests[name] += 1
            if name == "cat_file":
                self.reads[path] += 1
            return value(path, *options, **named)

        return counted


def counted(graph: LivingGraph, act: Callable[[], Any]) -> tuple[Any, CountingFileSystem]:
    """What an act answers, and what it asked of the store."""
    store = graph.benchmark.store
    inner, base = store.opened
    counting = CountingFileSystem(inner)
    with patch.object(store, "opened", (counting, base)):
        return act(), counting


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Roots of images, and the parts of them that were asked for, in the order in which they were listed."""
    seen: list[str] = []
    listing = ImageFiles.listing

    def noted(files: ImageFiles, parts: Any = None) -> Any:
        parts = None if parts is None else sorted(parts)
        seen.append(files.root if parts is None else ",".join(parts))
        return listing(files, parts)

    monkeypatch.setattr(ImageFiles, "listing", noted)
    return seen


def current(folder: Path, categories: int, *, recorded: bool = False) -> LivingGraph:
    graph = LivingGraph(folder, dg.DagsterInstance.ephemeral(), categories)
    graph.make_current(recorded=recorded)
    adopt_store(graph.benchmark.datasets["parts"], graph.benchmark.store, graph.instance)
    return graph


@pytest.mark.parametrize("categories", [FEW, MANY])
def test_a_tick_of_the_sensor_lists_once_and_reads_what_changed(
    tmp_path: Path, listings: list[str], categories: int
) -> None:
    graph = current(tmp_path, categories)
    first, store = counted(graph, lambda: graph.tick(None))
    # The store's identity, and what was indexed, once; where people decided, and where they gave feedback.
    assert store.requests == {"cat_file": categories + 1, "find": 2}
    listings.clear()
    second, store = counted(graph, lambda: graph.tick(first.cursor))
    assert (store.requests, len(listings)) == ({"cat_file": 1, "find": 2}, 1)
    graph.land(graph.images / "c001" / "train" / "good" / "new.png")
    third, store = counted(graph, lambda: graph.tick(second.cursor))
    assert [request.partition_key for request in third.run_requests or ()] == ["c001"]
    assert store.requests == {"cat_file": 2, "find": 2}


@pytest.mark.parametrize("categories", [FEW, MANY])
def test_an_evaluation_lists_once_and_reads_what_changed(tmp_path: Path, listings: list[str], categories: int) -> None:
    graph = current(tmp_path, categories)
    (asked, cursor), store = counted(graph, lambda: graph.evaluate(None))
    assert not asked
    assert store.requests["find"] == 2  # heads; at first which categories have passed the gate
    assert max(store.reads.values()) == 1
    assert len(store.reads) == len(graph.benchmark.store.files("heads"))
    listings.clear()
    (asked, cursor), store = counted(graph, lambda: graph.evaluate(cursor))
    assert not asked
    assert store.requests == {"find": 1}
    assert not listings
    graph.index_again("c001")
    (asked, _), store = counted(graph, lambda: graph.evaluate(cursor))
    assert asked.keys() == {"c001"}
    assert store.requests == {"find": 2, "cat_file": 1}  # what was begun too, since something is due


@pytest.mark.parametrize("categories", [FEW, MANY])
def test_a_look_at_one_category_reads_no_other(tmp_path: Path, categories: int) -> None:
    graph = current(tmp_path, categories, recorded=True)
    graph.reload()
    steps, store = counted(graph, lambda: graph.plan(categories=["c001"]))
    assert not steps
    names = {Path(path).stem for path in store.reads if "/heads/" in path}
    assert names == {"c001", "_"}
    assert store.requests["find"] <= 1  # which categories have passed the gate
    graph.index_again("c001")
    assert ("parts/leaderboard", None) in graph.plan(categories=["c001"])
    assert not graph.plan(categories=["c002"])  # it is shown as it is
    assert {category for _, category in graph.plan()} == {"c001", None}


def test_the_definitions_list_no_images(tmp_path: Path, listings: list[str]) -> None:
    graph = current(tmp_path, FEW)
    listings.clear()
    graph.reload()
    del graph.tree["datasets"]["parts"]["production"]
    graph.reload()
    assert [len(stage.partitions or ()) for stage in graph.stages][:2] == [FEW, FEW]
    assert not listings


def test_the_status_of_one_category_reads_no_head_twice(tmp_path: Path, listings: list[str]) -> None:
    requests = {}
    for categories in (FEW, MANY):
        graph = current(tmp_path / str(categories), categories)
        listings.clear()
        _, store = counted(graph, lambda graph=graph: graph.plan(categories=["c001"]))
        assert max(store.reads.values()) == 1
        requests[categories] = {name: n for name, n in store.requests.items() if name != "cat_file"}
        assert listings == ["c001"]
    assert requests[FEW] == requests[MANY]


def test_a_plan_asks_dagster_no_more_of_many_categories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Counter[int]()

    def plan(categories: int) -> None:
        graph = current(tmp_path / str(categories), categories, recorded=True)
        storage = graph.instance.event_log_storage
        connect = storage.index_connection
        monkeypatch.setattr(storage, "index_connection", lambda: asked.update([categories]) or connect())
        assert graph.plan() == {}

    plan(FEW)
    plan(MANY)
    assert 0 < asked[FEW] == asked[MANY]


def test_what_dagster_has_not_on_record_is_reused(tmp_path: Path) -> None:
    graph = current(tmp_path, FEW, recorded=True)
    graph.index_again("c001")
    below = {slot for slot in graph.plan() if slot[1] == "c001"}
    assert len(below) > FEW
    assert ("parts/image_index", "c001") not in below
    graph.set("datasets.parts.detectors.sheets.sheets", 7)
    kinds = ("template_set", "score_maps", "metrics", "synthetic_anomalies", "champion")
    lane = {f"parts/sheets/{kind}" for kind in kinds}
    assert {name for name, category in graph.plan() if category == "c000"} == {*lane, "parts/category_report"}
    graph.set("datasets.parts.detectors.sheets.sheets", 10)
    assert {slot for slot in graph.plan() if slot[1] == "c001"} == below
    features = dg.AssetKey(["parts", "features", "lite0"])
    graph.instance.wipe_assets([features])
    assert graph.plan()["parts/features/lite0", "c000"] == "reuse"
    elsewhere = dg.AssetMaterialization(features, partition="c000", tags={DATA_VERSION_TAG: "made by another instance"})
    graph.instance.report_runless_asset_event(elsewhere)
    assert graph.plan()["parts/features/lite0", "c000"] == "reuse"


def test_more_assets_than_a_sensor_may_have_are_spread_over_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert conditions.MOST_ASSETS == MAX_ENTITIES
    monkeypatch.setattr(conditions, "MOST_ASSETS", 8)
    graph = current(tmp_path, FEW)
    repository = graph.definitions.get_repository_def()
    sensors = [name for name in (each.name for each in repository.sensor_defs) if conditions.SENSOR in name]
    assert sensors == [conditions.SENSOR, f"{conditions.SENSOR}_2", f"{conditions.SENSOR}_3"]
    targets = [repository.get_sensor_def(name).asset_selection.resolve(repository.asset_graph) for name in sensors]
    assert max(map(len, targets)) == 8
    assert sum(map(len, targets)) == len(set[dg.AssetKey]().union(*targets)) == len(graph.stages)
    graph.set("datasets.parts.detectors.small.coreset_ratio", 0.2)
    asked = [graph.evaluate(None, name)[0] for name in sensors]
    by_sensor = [set[str]().union(*each.values()) for each in asked]
    assert "parts/small/memory_bank" in by_sensor[0]
    for names, target in zip(by_sensor, targets, strict=True):
        assert names <= {key.to_user_string() for key in target}


def test_datasets_stay_together_where_a_sensor_has_room_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "MOST_ASSETS", 5)
    keys = [
        dg.AssetKey([name, str(number)]) for name, count in (("a", 3), ("b", 3), ("c", 12)) for number in range(count)
    ]
    parts = conditions._spread(keys)
    assert [[key.path[0] for key in part] for part in parts] == [["a"] * 3, ["b"] * 3, ["c"] * 5, ["c"] * 5, ["c"] * 2]
    assert [key for part in parts for key in part] == keys
