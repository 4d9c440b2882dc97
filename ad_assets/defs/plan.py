"""What would run to bring assets up to date, in which order and why: what is stale, closed over everything downstream.

Dagster marks staleness one level at a time and cannot see new files in a folder; a plan adds both. A step of a plan may
still cost nothing: whether an artifact is already in the store is known beforehand and reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import dagster as dg

from ad_assets.collector import rare_collection
from ad_assets.config.benchmark import Benchmark
from ad_assets.graph.graph import REMADE, Graph, closure
from ad_assets.graph.stage import Key, Slot, Stage
from ad_assets.graph.stages.image_index import UNKNOWN, changed_files

# Under which Dagster stores the data version of a materialization, and those of the assets that it read.
DATA_VERSION_TAG, INPUT_TAG = "dagster/data_version", "dagster/input_data_version"
Action = Literal["compute", "reuse", "scan"]


@dataclass(frozen=True)
class Step:
    """One asset partition that would run.

    Args:
        stage: the asset.
        partition: its category; None for assets over all categories.
        reason: why, in words.
        action: ``compute``; ``reuse`` when the artifact is in the store already; ``scan`` for an image index.
    """

    stage: Stage
    partition: str | None
    reason: str
    action: Action


@rare_collection()
def plan(
    benchmark: Benchmark,
    graph: Graph,
    instance: dg.DagsterInstance,
    *,
    selected: Collection[Key] | None = None,
    categories: Collection[str] | None = None,
    force: bool = False,
    verify: bool = False,
) -> list[Step]:
    """The steps that bring the selected assets up to date, upstream first.

    Args:
        benchmark: the checked benchmark file.
        graph: all its stages on its store.
        instance: whose records tell what Dagster knows of.
        selected: keys of the assets to bring up to date, with what they need; None for all.
        categories: only these partitions; None for all.
        force: take every selected asset partition, stale or not.
        verify: the same; what is found sound is not built again.
    """
    chosen = graph.stages.keys() if selected is None else graph.stages.keys() & set(selected)
    needed = closure(graph.stages[key] for key in chosen)
    wanted = graph.below(chosen) | needed.keys()
    graph.refresh(categories)
    files = _FileChanges(benchmark, graph, categories)
    recorded = _Recorded(graph, instance, categories)
    unknown: set[Slot] = set()  # what follows an image index that is scanned again can be told only afterwards
    steps: dict[Slot, Step] = {}
    for slot in graph.slots(categories):
        key, partition = slot
        stage = graph.stages[key]
        if key not in wanted or (key not in needed and _lacks(graph, slot, steps)):
            continue
        stale, damage, head = graph.stale_reason(slot), graph.damage(slot), graph.head(slot)
        reasons = (
            ("forced" if force else "verified" if verify else "") if key in chosen else "",
            files.reason(slot) if stage.address is None else "",
            next((f"{'/'.join(read[0][1:])} is rebuilt" for read in stage.slots(partition) if read in steps), ""),
            "" if slot in recorded else "never materialized",
            stale,
            damage,
        )
        reason = next(filter(None, reasons), "") or recorded.other_version(slot)
        if not reason:
            continue
        action: Action = "scan" if stage.address is None else "compute"
        if stage.address is None or any(read in unknown for read in stage.slots(partition)):
            unknown.add(slot)
        elif not force:
            planned = graph.planned(slot)
            rebuilt = (damage or stale == REMADE) and planned == head
            if planned and graph.has_artifact(key, planned.version) and not rebuilt:
                action = "reuse"
        steps[slot] = Step(stage, partition, reason, action)
    return list(steps.values())


def _lacks(graph: Graph, slot: Slot, steps: Collection[Slot]) -> bool:
    """Whether an asset below the selection could not run: it reads what is not there and nobody asked for.

    A report lacks its leaderboard, an ensemble another member. Of categories a leaderboard needs some one, and of lanes
    a category's page.
    """
    absent = graph.faults(slot).keys() - steps
    stage = graph.stages[slot[0]]
    gathered = {read for read in stage.slots(slot[1]) if stage.may_lack(read)}
    if absent - gathered or (gathered and gathered <= absent):
        return True
    return not stage.has_lane({key for key, _ in gathered - absent})


class _FileChanges:
    """Compares one listing of each dataset with what its image indexes were made from."""

    def __init__(self, benchmark: Benchmark, graph: Graph, categories: Collection[str] | None) -> None:
        self._benchmark = benchmark
        self._graph = graph
        self._categories = categories
        self._changes: dict[str, dict[str, str]] = {}

    def reason(self, slot: Slot) -> str:
        name = slot[0][0]
        if name not in self._changes:
            own = self._graph.stages[slot[0]].partitions or ()
            wanted = [each for each in own if self._categories is None or each in self._categories]
            self._changes[name] = changed_files(self._benchmark.datasets[name], self._graph.store, wanted)
        change = self._changes[name].get(slot[1] or "", "")
        return change if change != UNKNOWN or self._graph.head(slot) else ""


class _Recorded:
    """What Dagster knows of asset partitions: the last materialization of each, by two queries an asset.

    Where one category is asked for, by one query an asset, of its materialization alone.
    """

    def __init__(self, graph: Graph, instance: dg.DagsterInstance, categories: Collection[str] | None) -> None:
        self._graph = graph
        self._instance = instance
        self._only = next(iter(categories)) if categories is not None and len(categories) == 1 else None
        self._assets: dict[Key, Mapping[str | None, tuple[int, str | None]]] = {}

    def __contains__(self, slot: Slot) -> bool:
        return slot[1] in self._last(slot[0])

    def other_version(self, slot: Slot) -> str:
        """Why Dagster marks an asset partition `Unsynced` that is what it should be; once it is found, it is not.

        On Dagster's record it is, or was made of, another version, as after features were materialized alone.
        """
        event, version = self._last(slot[0]).get(slot[1], (0, None))
        head = self._graph.head(slot)
        if head is None or version != head.version:
            return "Dagster has another version on record"
        for read in self._graph.stages[slot[0]].slots(slot[1]):
            # Of an asset over all categories Dagster records no version of each that it read.
            newer, now = self._last(read[0]).get(read[1], (0, None)) if read[1] == slot[1] else (0, None)
            if newer > event and now is not None and not self._has_read(slot, read[0], now):
                return f"Dagster has another version of {'/'.join(read[0])} on record"
        return ""

    def _has_read(self, slot: Slot, key: Key, version: str) -> bool:
        """Whether the last materialization of an asset partition read a version of an asset, as far as is recorded."""
        read = self._latest(slot)[1].get(f"{INPUT_TAG}/{'/'.join(key)}", version)
        return read in (version, hashlib.sha256(version.encode()).hexdigest())  # Dagster hashes that of a partition

    def _last(self, key: Key) -> Mapping[str | None, tuple[int, str | None]]:
        """Partition -> number of the event and data version, of the partitions that were materialized."""
        if key not in self._assets:
            single = None if self._graph.stages[key].partitions is None else self._only
            if single is not None or self._graph.stages[key].partitions is None:
                event, tags = self._latest((key, single))
                self._assets[key] = {single: (event, tags.get(DATA_VERSION_TAG))} if event else {}
            else:
                asset, kind = dg.AssetKey(list(key)), dg.DagsterEventType.ASSET_MATERIALIZATION
                log = self._instance.event_log_storage
                versions = log.get_latest_tags_by_partition(asset, kind, [DATA_VERSION_TAG])
                self._assets[key] = {
                    partition: (event, versions.get(partition, {}).get(DATA_VERSION_TAG))
                    for partition, event in log.get_latest_storage_id_by_partition(asset, kind).items()
                }
        return self._assets[key]

    def _latest(self, slot: Slot) -> tuple[int, Mapping[str, str]]:
        """The number of the last materialization of an asset partition, 0 where there is none, and its tags."""
        asset = dg.AssetKey(list(slot[0]))
        only = dg.AssetRecordsFilter(asset, [slot[1]] if slot[1] else None)
        for record in self._instance.fetch_materializations(only, limit=1).records:
            made = record.asset_materialization
            return record.storage_id, (made.tags if made else None) or {}
        return 0, {}
