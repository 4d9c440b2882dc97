"""What would run to bring assets up to date, in which order and why: what is stale, closed over everything downstream.

Dagster marks staleness one level at a time and cannot see new files in a folder; a plan adds both. A step of a plan may
still cost nothing: whether an artifact is already in the store is known beforehand and reported.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import dagster as dg

from ad_assets.config.benchmark import Benchmark
from ad_assets.graph.graph import REMADE, Graph, closure
from ad_assets.graph.stage import Key, Slot, Stage
from ad_assets.graph.stages.comparison import COMPARISONS
from ad_assets.graph.stages.image_index import UNKNOWN, changed_files

DATA_VERSION_TAG = "dagster/data_version"  # under which Dagster stores the data version of a materialization
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
    recorded = _Recorded(instance)
    scanned: set[tuple[str, str | None]] = set()
    steps: dict[Slot, Step] = {}
    for slot in graph.slots(categories):
        key, partition = slot
        stage = graph.stages[key]
        if key not in wanted or (key not in needed and _lacks(graph, slot, steps)):
            continue
        stale, damage, head = graph.stale_reason(slot), graph.damage(slot), graph.head(slot)
        versions = recorded.versions(stage)
        reasons = (
            ("forced" if force else "verified" if verify else "") if key in chosen else "",
            files.reason(slot) if stage.address is None else "",
            next((f"{'/'.join(read[0][1:])} is rebuilt" for read in stage.slots(partition) if read in steps), ""),
            "" if partition in versions else "never materialized",
            stale,
            damage,
            "" if head and versions.get(partition) == head.version else "Dagster has another version on record",
        )
        reason = next(filter(None, reasons), "")
        if not reason:
            continue
        action: Action = "scan" if stage.address is None else "compute"
        dataset = key[0]
        if stage.address is None:
            # What follows an image index that is scanned again can be told only afterwards.
            scanned |= {(dataset, partition), (dataset, None), (COMPARISONS, None)}
        elif (dataset, partition) not in scanned and not force:
            planned = graph.planned(slot)
            rebuilt = (damage or stale == REMADE) and planned == head
            if planned and graph.has_artifact(key, planned.version) and not rebuilt:
                action = "reuse"
        steps[slot] = Step(stage, partition, reason, action)
    return list(steps.values())


def _lacks(graph: Graph, slot: Slot, steps: Collection[Slot]) -> bool:
    """Whether an asset below the selection could not run: it reads what is not there and nobody asked for.

    A report lacks its leaderboard, an ensemble another member. Of categories a leaderboard needs some one.
    """
    absent = graph.faults(slot).keys() - steps
    reads = graph.stages[slot[0]].slots(slot[1])
    gathered = {read for read in reads if read[1] != slot[1]}
    return bool(absent - gathered) or (bool(gathered) and gathered <= absent)


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
    """What Dagster knows of asset partitions, by one query an asset: the data version that it saw last of each."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._versions: dict[Key, Mapping[str | None, str | None]] = {}

    def versions(self, stage: Stage) -> Mapping[str | None, str | None]:
        """Partition -> data version, of those that were materialized."""
        if stage.key not in self._versions:
            self._versions[stage.key] = self._read(stage)
        return self._versions[stage.key]

    def _read(self, stage: Stage) -> Mapping[str | None, str | None]:
        key = dg.AssetKey(list(stage.key))
        if stage.partitions is not None:
            tags = self._instance.event_log_storage.get_latest_tags_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
            )
            return {partition: own.get(DATA_VERSION_TAG) for partition, own in tags.items()}
        event = self._instance.get_latest_materialization_event(key)
        made = event.asset_materialization if event else None
        return {None: (made.tags or {}).get(DATA_VERSION_TAG)} if made else {}
