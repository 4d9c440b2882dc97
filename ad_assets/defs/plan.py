"""What is stale, why, and what would run: Dagster's stale marks closed over everything downstream.

Dagster marks one level at a time and cannot see new files in a folder; a plan adds both. A step of a plan may still
cost nothing: whether an artifact is already in the store is known beforehand and said.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dagster as dg
from dagster._core.definitions.data_version import StaleStatus
from dagster._core.loader import LoadingContext

from ad_assets.config.benchmark import Benchmark
from ad_assets.defs.stale_status import StaleMarks
from ad_assets.graph.provenance import is_outdated
from ad_assets.graph.stage import (
    Head,
    HeadReader,
    Slot,
    Stage,
    UpstreamError,
    current_upstream,
    planned_head,
    read_head,
)
from ad_assets.graph.stages.comparison import COMPARISONS
from ad_assets.graph.stages.image_index import UNKNOWN, changed_files
from ad_assets.graph.up_to_date import StoredHeads
from ad_assets.store.contents import Contents, head_damage
from ad_assets.store.layout import MARKER
from ad_assets.store.store import ArtifactStore

REMADE = "what it was made of was made anew"
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
    stages: Sequence[Stage],
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    store: ArtifactStore,
    *,
    selected: Collection[dg.AssetKey] | None = None,
    categories: Collection[str] | None = None,
    force: bool = False,
    verify: bool = False,
) -> list[Step]:
    """The steps that bring the selected assets up to date, upstream first.

    Args:
        benchmark: the checked benchmark file.
        stages: all stages, upstream first.
        definitions: the Dagster definitions made from them.
        instance: whose records tell what was materialized.
        store: whose heads tell what is there.
        selected: asset keys to bring up to date, with what they need; None for all.
        categories: only these partitions; None for all.
        force: take every selected asset partition, stale or not.
        verify: the same; what is found sound is not built again.
    """
    graph = definitions.resolve_asset_graph()
    marks = StaleMarks(instance, graph, _Loading(instance), categories)
    needed, below = _wanted(stages, selected)
    chosen = {stage.key for stage in stages if selected is None or dg.AssetKey(list(stage.key)) in selected}
    files = _FileChanges(benchmark, store, categories)
    heads = StoredHeads(store)
    heads.look(_read_slots(stages, categories))
    contents = Contents(store, whole=categories is None)
    memory: dict[Slot, Head | None] = {}
    scanned: set[tuple[str, str | None]] = set()
    steps: dict[Slot, Step] = {}
    for stage in stages:
        if stage.key not in needed | below:
            continue
        for partition in stage.partitions if stage.partitions is not None else (None,):
            if categories is not None and partition is not None and partition not in categories:
                continue
            if stage.key not in needed and _lacks(stage, partition, steps, heads):
                continue
            slot = (stage.key, partition)
            reason = ("forced" if force else "verified" if verify else "") if stage.key in chosen else ""
            reason = reason or (files.reason(stage, partition, heads) if stage.address is None else "")
            reason = reason or next(
                (f"{'/'.join(up[0][1:])} is rebuilt" for up in stage.slots(partition) if up in steps), ""
            )
            reason = reason or _dagster_reason(marks, stage, partition)
            spoilt = head_damage(contents, heads.read_head(*slot))
            remade = _store_reason(stage, partition, heads, contents)
            reason = reason or remade or spoilt
            if not reason:
                continue
            action: Action = "scan" if stage.address is None else "compute"
            dataset = stage.key[0]
            if stage.address is None:
                # What follows an image index that is scanned again can be told only afterwards.
                scanned |= {(dataset, partition), (dataset, None), (COMPARISONS, None)}
            elif (dataset, partition) not in scanned and not force:
                head = planned_head(stage, partition, heads, memory)
                due = (spoilt or remade == REMADE) and head == read_head(heads, *slot)
                if head and _has_artifact(contents, stage, head) and not due:
                    action = "reuse"
            steps[slot] = Step(stage, partition, reason, action)
    return list(steps.values())


class _Loading(LoadingContext):
    """What Dagster's batched record loaders hang on, for the length of one plan."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._loaders: dict[Any, Any] = {}

    @property
    def instance(self) -> dg.DagsterInstance:
        return self._instance

    @property
    def loaders(self) -> dict[Any, Any]:
        return self._loaders


def _read_slots(stages: Sequence[Stage], categories: Collection[str] | None) -> Iterator[Slot]:
    """The asset partitions whose heads a plan may read."""
    for stage in stages:
        if stage.partitions is None:
            yield from [(stage.key, None), *stage.slots(None)]
        else:
            yield from ((stage.key, name) for name in stage.partitions if categories is None or name in categories)


def _wanted(
    stages: Sequence[Stage], selected: Collection[dg.AssetKey] | None
) -> tuple[set[tuple[str, ...]], set[tuple[str, ...]]]:
    """The selected keys with all that they read, and all that reads them."""
    if selected is None:
        return {stage.key for stage in stages}, set()
    by_key = {stage.key: stage for stage in stages}
    chosen = [stage for stage in stages if dg.AssetKey(list(stage.key)) in selected]
    wanted: set[tuple[str, ...]] = set()
    waiting = list(chosen)
    while waiting:
        stage = waiting.pop()
        if stage.key not in wanted:
            wanted.add(stage.key)
            waiting += [by_key[dep.key] for dep in stage.deps]
    below = {stage.key for stage in chosen}
    for stage in stages:
        if any(dep.key in below for dep in stage.deps):
            below.add(stage.key)
    return wanted, below


def _lacks(stage: Stage, partition: str | None, steps: dict[Slot, Step], heads: HeadReader) -> bool:
    """Whether a stage below the selection could not run: it reads what is not there and nobody asked for.

    A report lacks its leaderboard, an ensemble another member. Of categories a leaderboard needs some one.
    """
    by_key = {dep.key: dep for dep in stage.deps}

    def there(slot: Slot) -> bool:
        head = read_head(heads, *slot)
        return slot in steps or (head is not None and head.code_version == by_key[slot[0]].code_version)

    slots = stage.slots(partition)
    gathered = [slot for slot in slots if partition is None and slot[1] is not None]
    required = [slot for slot in slots if slot not in gathered]
    return not all(map(there, required)) or (bool(gathered) and not any(map(there, gathered)))


class _FileChanges:
    """Compares one listing of each dataset with what its image indexes were made from."""

    def __init__(self, benchmark: Benchmark, store: ArtifactStore, categories: Collection[str] | None) -> None:
        self._benchmark = benchmark
        self._store = store
        self._categories = categories
        self._changes: dict[str, dict[str, str]] = {}

    def reason(self, stage: Stage, partition: str | None, heads: HeadReader) -> str:
        name = stage.key[0]
        if name not in self._changes:
            wanted = [each for each in stage.partitions or () if self._categories is None or each in self._categories]
            self._changes[name] = changed_files(self._benchmark.datasets[name], self._store, wanted)
        told = self._changes[name].get(partition or "", "")
        return told if told != UNKNOWN or read_head(heads, stage.key, partition) else ""


def _dagster_reason(marks: StaleMarks, stage: Stage, partition: str | None) -> str:
    key = dg.AssetKey(list(stage.key))
    status = marks.get_status(key, partition)
    if status is StaleStatus.FRESH:
        return ""
    if status is StaleStatus.MISSING:
        return "never materialized"
    causes = marks.get_stale_causes(key, partition)
    return "; ".join(
        dict.fromkeys(
            f"{cause.dependency.asset_key.to_user_string()} {cause.reason}" if cause.dependency else cause.reason
            for cause in causes
        )
    )


def _store_reason(stage: Stage, partition: str | None, heads: StoredHeads, contents: Contents) -> str:
    """Why the store disagrees with Dagster's record, as when another instance wrote to it; empty where it agrees."""
    head = read_head(heads, stage.key, partition)
    if head is None:
        return "its head is damaged" if heads.has_damaged_head((stage.key, partition)) else "not in this store"
    if stage.address is not None:
        try:
            upstream, _ = current_upstream(stage, partition, heads)
        except UpstreamError as error:
            return str(error)
        if head != stage.make_head(partition, stage.address(upstream)):
            return "made from something else"
        if is_outdated(head.made_of, stage.made_of(upstream)):
            return REMADE
    return "" if _has_artifact(contents, stage, head) else "its artifact is gone"


def _has_artifact(contents: Contents, stage: Stage, head: Head) -> bool:
    return contents.size(contents.store.artifact(stage.kind, head.version).at(MARKER)) is not None
