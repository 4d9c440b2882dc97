"""Materializes one asset partition: finds or builds its artifact, and points its head to it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ad_assets.graph.build_attempts import attempted
from ad_assets.graph.graph import Graph
from ad_assets.graph.out_of_memory import build_within_memory
from ad_assets.graph.progress import Progress
from ad_assets.graph.provenance import MADE_OF, contents_of, is_outdated
from ad_assets.graph.stage import (
    GPU,
    AfterHead,
    Build,
    CheckReport,
    CheckResult,
    Head,
    Parts,
    Stage,
    Upstream,
    Work,
)
from ad_assets.settings.compute import Compute
from ad_assets.settings.device_lease import current_lease
from ad_assets.settings.extract import Extract
from ad_assets.store.contents import Contents
from ad_assets.store.layout import MARKER
from ad_assets.store.records import recall, write_record
from ad_assets.store.store import HEAD, Artifact, ArtifactStore
from ad_assets_runtime.images import ROOM

IN_PROCESS = Extract()


@dataclass(frozen=True)
class Materialized:
    """The outcome of materializing one asset partition.

    Args:
        head: what it is now.
        found: whether its artifact was in the store.
        seconds: that finding or building it took.
        check_results: answers to the checks of its stage.
        metadata: JSON values for people; ``{"md": ...}`` and ``{"path": ...}`` choose how they are shown.
    """

    head: Head
    found: bool
    seconds: float
    check_results: tuple[CheckResult, ...]
    metadata: Mapping[str, Any]


def materialize(
    stage: Stage,
    partition: str | None,
    store: ArtifactStore,
    compute: Compute,
    log: Any,
    *,
    extract: Extract = IN_PROCESS,
    force: bool = False,
    verify: bool = False,
    again: bool = False,
) -> Materialized:
    """Find or build one asset partition and point its head at it.

    Args:
        stage: the asset.
        partition: its category.
        store: where artifacts and heads lie.
        compute: what builds run on.
        log: where progress is reported.
        extract: where images pass the backbones.
        force: trust no change stamp, and build even what is there.
        verify: trust no change stamp and no record: read what is there, and build what is damaged again.
        again: this repeats a build that failed in the same run, and does not count as another attempt.

    Raises:
        UpstreamError: something it reads is missing or was made under another setting.
    """
    ROOM.limit(compute.memory_gb)
    upstream = Graph([stage], store).upstream((stage.key, partition))
    head_path = store.head_path(stage.key, partition)
    seen = store.heads.seen(head_path)
    progress = Progress(log, f"{stage.name}{f' [{partition}]' if partition else ''}")
    started = time.perf_counter()
    parts, build, after_head = _address(stage, upstream, store, progress, verify=verify or force)
    head = stage.make_head(partition, parts)
    artifact = store.artifact(stage.kind, head.version)
    sources = stage.made_of(upstream)
    damaged = None if force else artifact.damaged(deep=verify)
    if damaged:
        _clear_away(damaged, artifact, progress)
    record = dict(store.remembered_record(artifact.at(MARKER))) if damaged == [] else {}
    outdated = damaged == [] and is_outdated(record.get(MADE_OF, {}), sources)
    renewed = damaged == [] and verify and stage.must_rebuild is not None and stage.must_rebuild(artifact)
    found = damaged == [] and not outdated and not renewed
    if outdated:
        # All of it: a build would take what is left for that of an interrupted one.
        progress.note("what it was made of was made anew and differs")
        store.delete([artifact.at(MARKER), *(file.path for file in store.files(artifact.path))])
    before = store.heads.opened(head_path, seen[0])
    work = Work(stage, upstream, store, compute, progress, artifact, Head.of(before), force, verify, extract)
    if not found:
        with attempted(store, stage.key, partition, head.version, again=again):
            metadata = build_within_memory(build, work)
            seconds = time.perf_counter() - started
            made = {"asset": stage.name, "metadata": metadata, "seconds": seconds, MADE_OF: sources}
            record = artifact.commit(made, _shared_files(stage, artifact))
    elif verify and "files" not in record:
        record = artifact.commit(record, _shared_files(stage, artifact))  # from before there were checksums
    metadata = record["metadata"]
    report = stage.answer_checks(work) if stage.answer_checks else CheckReport()
    blocking = {check.name for check in stage.checks if check.blocking}
    blocked = [result.check for result in report.check_results if not result.passed and result.check in blocking]
    read = stage.read_of(upstream.heads)
    head = replace(head, contents=contents_of(record), made_of=record.get(MADE_OF, {}), read=read)
    sizes = artifact.sizes(record)
    replaced = Head.of(store.heads.replace(head_path, head.record(sizes, blocked), seen))
    if replaced and replaced.version == head.version and replaced.contents != head.contents:
        _renew_shared_heads(stage, partition, store, head, sizes)
    if after_head:
        after_head(head)
    seconds = time.perf_counter() - started
    progress.done("found, nothing to compute" if found else f"built in {seconds:.1f} s")
    held = current_lease() if stage.pool == GPU and not found else None
    metadata = {
        **metadata,
        **({"gpu": str(held)} if held else {}),
        **report.metadata,
        **({"left_out": "; ".join(upstream.left_out)} if upstream.left_out else {}),
        **({"were_damaged": "; ".join(damaged[:20])} if damaged else {}),
    }
    return Materialized(head, found, seconds, report.check_results, metadata)


def _renew_shared_heads(
    stage: Stage, partition: str | None, store: ArtifactStore, head: Head, sizes: Mapping[str, int]
) -> None:
    """Renew the heads of other lanes that share a rebuilt artifact: what was made of the old one is out of date."""
    for file in store.files(f"heads/{stage.key[0]}"):
        *_, kind, name = file.path.split("/")
        other = recall(store, file.path, *HEAD) if kind == stage.kind and name == f"{partition or '_'}.json" else None
        if other and other["version"] == head.version:
            renewed = {"files": dict(sizes), "contents": head.contents, MADE_OF: dict(head.made_of)}
            write_record(store, file.path, {**other, **renewed})


def _shared_files(stage: Stage, artifact: Artifact) -> dict[str, int]:
    """Path -> size of what an artifact rests on elsewhere in the store."""
    contents = Contents(artifact.store, whole=False)
    sizes = {path: contents.size(path) for path in (stage.shared_files(artifact) if stage.shared_files else ())}
    return {path: size for path, size in sizes.items() if size is not None}


def _clear_away(damaged: Sequence[str], artifact: Artifact, progress: Progress) -> None:
    """Delete what is damaged: a build would take it for what an interrupted one has left."""
    progress.done(f"damaged or gone, made anew: {'; '.join(damaged[:5])}{' ...' if len(damaged) > 5 else ''}")
    # The record first: the artifact is absent until all of it is there again.
    artifact.store.delete([artifact.at(MARKER), *damaged])


def _address(
    stage: Stage, upstream: Upstream, store: ArtifactStore, progress: Progress, *, verify: bool
) -> tuple[Parts, Build, AfterHead | None]:
    if stage.scan and upstream.partition is not None:
        return stage.scan(upstream.partition, store, progress, verify)
    if stage.address is None or stage.build is None:
        raise TypeError(f"{stage.name}: a stage has either a scan, or an address and a build")
    return stage.address(upstream), stage.build, None
