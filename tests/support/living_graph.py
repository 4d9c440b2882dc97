"""A production dataset of many categories, three lanes each, where everything is current and nothing was computed.

Images are a few pixels and their index is made up; heads, artifacts and Dagster's events are what runs would have left:
addresses come from the stages' own functions.
"""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from PIL import Image
from sqlalchemy import text

from ad_assets.config.benchmark import fingerprint
from ad_assets.datasets import ImageFiles
from ad_assets.defs.conditions import SENSOR
from ad_assets.defs.landing_sensor import Watch
from ad_assets.graph.stage import Head, Slot, Stage, Upstream
from ad_assets.graph.stages.image_index import stamps_of, stamps_path
from ad_assets.production.review_decisions import update_admissions
from ad_assets.store.layout import MARKER
from ad_assets.store.records import write_record
from tests.support.bench_graph import Bench

TRAIN, TEST = 20, 5
DETECTORS = {
    "small": {"method": "patchcore", "extractor": "lite0", "pooling": "concat", "coreset_ratio": 0.1},
    "gauss": {"method": "padim", "extractor": "lite0"},
    "sheets": {"method": "hetmm", "extractor": "lite0", "sheets": 10, "windows": [5, 3]},
}


class LivingGraph(Bench):
    """The dataset `parts` with categories ``c000``, ``c001``, ...; `make_current` before anything is asked of it."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance, categories: int) -> None:
        self.names = [f"c{number:03}" for number in range(categories)]
        self._now = 0.0
        for name in self.names:
            for number in range(TRAIN):
                self.land(folder / "images" / name / "train" / "good" / f"{number:03}.png")
            for number in range(TEST):
                self.land(folder / "images" / name / "test" / ("spot" if number % 2 else "good") / f"{number:03}.png")
        super().__init__(folder, instance)
        self.tree["datasets"]["parts"] |= {"detectors": copy.deepcopy(DETECTORS), "production": {"settle_seconds": 1}}
        self.tree["automation"] = {"mode": "eager"}
        self.reload()

    def land(self, path: Path) -> None:
        """A small image, whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_PIXELS)
        self._now = path.stat().st_mtime + 60

    def tick(self, cursor: str | None) -> dg.SensorResult:
        """A look of the sensor, a minute after the last image."""
        dataset = self.benchmark.datasets["parts"]
        assert dataset.production is not None
        return Watch(dataset, dataset.production, self.benchmark.store, self.instance, self._now).look(cursor)

    def evaluate(self, cursor: str | None, sensor_name: str = SENSOR) -> tuple[dict[str, set[str]], str | None]:
        """What a sensor of the conditions asks for, category -> assets, and its next cursor."""
        sensor = self.definitions.get_repository_def().get_sensor_def(sensor_name)
        context = dg.build_sensor_context(
            self.instance, cursor=cursor, repository_def=self.definitions.get_repository_def()
        )
        asked: dict[str, set[str]] = {}
        result = sensor.evaluate_tick(context)
        for request in result.run_requests or ():
            if request.asset_graph_subset:
                for slot in request.asset_graph_subset.iterate_asset_partitions():
                    asked.setdefault(slot.partition_key or "", set()).add(slot.asset_key.to_user_string())
            else:
                keys = {key.to_user_string() for key in request.asset_selection or ()}
                asked.setdefault(request.partition_key or "", set()).update(keys)
        return asked, result.cursor

    def make_current(self, *, recorded: bool = True) -> None:
        """Leave in the store what runs of everything would, and unless `recorded` is false in the instance too.

        Dagster's events of all categories but the first are copied in its SQLite file: it takes 20 ms to report one.
        """
        heads: dict[Slot, Head] = {}
        pointers: dict[Slot, int] = {}
        self.index_stamps(self.names)
        for name in self.names:
            update_admissions(self.benchmark.store, "parts", name, lambda before: replace(before, admitted=("a" * 64,)))
        for stage in self.stages:
            for partition in self.names if stage.partitions is not None else [None]:
                head = self._head(stage, partition, heads)
                heads[stage.key, partition] = head
                stored = {"version": head.version, "parts": head.parts, "code_version": head.code_version}
                stored["read"] = stage.read_of({slot: heads[slot] for slot in stage.slots(partition)})
                self.benchmark.store.heads.write(self.benchmark.store.head_path(stage.key, partition), stored)
                marker = self.benchmark.store.artifact(stage.kind, head.version).at(MARKER)
                write_record(self.benchmark.store, marker, {"asset": stage.name, "metadata": {}, "files": {}})
                if recorded and partition in (None, self.names[0]):
                    pointers[stage.key, partition] = self._report(stage, partition, heads, pointers)
            if recorded and stage.partitions is not None:
                self._copy_events(stage, heads, pointers)

    def _copy_events(self, stage: Stage, heads: dict[Slot, Head], pointers: dict[Slot, int]) -> None:
        """Record the materializations of an asset for the other categories, as that of the first."""
        first, storage = self.names[0], self.instance.event_log_storage
        assert isinstance(storage, SqlEventLogStorage)
        read = [stage.key, *(dep.key for dep in stage.deps if dep.partitions is not None)]
        with storage.index_connection() as connection:

            def rows_of(table: str, column: str) -> list[dict[str, Any]]:
                found = connection.execute(text(f"SELECT * FROM {table} WHERE {column} = {pointers[stage.key, first]}"))  # noqa: S608 - names of ours
                return [dict(row) for row in found.mappings()]

            [event], tags = rows_of("event_logs", "id"), rows_of("asset_event_tags", "event_id")
            copies: dict[str, list[dict[str, Any]]] = {"event_logs": [], "asset_event_tags": []}
            for number, name in enumerate(self.names[1:], start=1):
                renamed = {f'"{first}"': f'"{name}"'} | {
                    heads[key, first].version: heads[key, name].version for key in read
                }
                pointers[stage.key, name] = event["id"] + number
                own = {"id": event["id"] + number, "partition": name, "event": _replaced(event["event"], renamed)}
                copies["event_logs"].append({**event, **own})
                for tag in tags:
                    changed = {"event_id": own["id"], "value": _replaced(tag["value"], renamed)}
                    copies["asset_event_tags"].append(
                        {name: value for name, value in {**tag, **changed}.items() if name != "id"}
                    )
            for table, rows in copies.items():
                if rows:
                    columns = list(rows[0])
                    values = ", ".join(f":{column}" for column in columns)
                    names = ", ".join(f'"{column}"' for column in columns)
                    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), rows)  # noqa: S608

    def index_stamps(self, categories: list[str]) -> None:
        """Leave the stamps that indexing some categories as they are now would."""
        reader = self.benchmark.datasets["parts"].reader
        listing = ImageFiles(reader.root).listing()
        assigned = reader.assign(sorted(listing))
        for name in categories:
            stamps = stamps_of(assigned[name], listing, reader.tables(name))
            self.benchmark.store.write_json(stamps_path("parts", name), stamps)

    def index_again(self, category: str) -> None:
        """Leave an image index with other training images, as a run that takes new ones up does."""
        [stage] = [stage for stage in self.stages if stage.kind == "image_index"]
        stored = self.benchmark.store.read_head(stage.key, category)
        assert stored is not None
        parts = {**stored["parts"], "train": "others", "all": "others"}
        head = stage.make_head(category, parts)
        self.benchmark.store.heads.write(
            self.benchmark.store.head_path(stage.key, category), {**stored, "version": head.version, "parts": parts}
        )
        self.benchmark.store.artifact(stage.kind, head.version).commit({"asset": stage.name, "metadata": {}})
        self._report(stage, category, {(stage.key, category): head}, {})

    def _head(self, stage: Stage, partition: str | None, heads: dict[Slot, Head]) -> Head:
        if stage.address is None:
            parts = {name: fingerprint([partition, name]) for name in ("train", "test", "truth", "all")}
            return stage.make_head(partition, parts)
        read = {slot: heads[slot] for slot in stage.slots(partition)}
        return stage.make_head(partition, stage.address(Upstream(read, partition)))

    def _report(self, stage: Stage, partition: str | None, heads: dict[Slot, Head], pointers: dict[Slot, int]) -> int:
        """A materialization with the provenance that Dagster writes of one; returns its storage id."""
        key, head = dg.AssetKey(list(stage.key)), heads[stage.key, partition]
        tags = {DATA_VERSION_TAG: head.version, CODE_VERSION_TAG: head.code_version}
        for dep, versions in _inputs(stage, partition, heads):
            dep_key = dg.AssetKey(list(dep.key))
            # Dagster hashes the versions of several partitions together.
            several = hashlib.sha256("".join(versions).encode()).hexdigest()
            tags[get_input_data_version_tag(dep_key)] = versions[0] if len(versions) == 1 else several
            last = max(pointers[slot] for slot in stage.slots(partition) if slot[0] == dep.key)
            tags[get_input_event_pointer_tag(dep_key)] = str(last)
        self.instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition, tags=tags))
        return self.instance.event_log_storage.get_maximum_record_id() or 0


def _replaced(value: str, renamed: dict[str, str]) -> str:
    for old, new in renamed.items():
        value = value.replace(old, new)
    return value


def _inputs(stage: Stage, partition: str | None, heads: dict[Slot, Head]) -> Iterator[tuple[Stage, list[str]]]:
    for dep in stage.deps:
        yield dep, [heads[slot].version for slot in stage.slots(partition) if slot[0] == dep.key]


def _small_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "png")
    return buffer.getvalue()


_PIXELS = _small_png()
