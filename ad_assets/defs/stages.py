"""One mechanism for every asset: an address, a build, a head.

A `Stage` says what an asset reads and how its address follows from that. Materializing a partition works out the
address from the heads of what it reads; if the artifact with that address is in the store it is found, else it is
built; then the head of the partition points to it. So a knob put back, a crashed run started again and a second
detector on the same features cost nothing, and a plain "Materialize all" computes only what is new.

The address is the asset's Dagster data version and the fingerprint of `Stage.config` its code version, hence Dagster's
own stale marks follow the same arithmetic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import dagster as dg

from ad_assets.benchmark import fingerprint
from ad_assets.datasets.images import ROOM
from ad_assets.defs.attempts import attempted
from ad_assets.defs.progress import Progress
from ad_assets.defs.provenance import MADE_OF, contents_of, is_outdated, made_of
from resources.compute import Compute
from resources.contents import Contents
from resources.layout import MARKER
from resources.records import recall, write_record
from resources.store import HEAD, Artifact, ArtifactStore

FORCE_TAG = "ad_assets/force"
VERIFY_TAG = "ad_assets/verify"
GPU = "gpu"  # the pool of stages that use the accelerator

Key = tuple[str, ...]
Slot = tuple[Key, str | None]
Parts = dict[str, str]


@dataclass(frozen=True)
class Head:
    """Which artifact an asset's partition is now.

    Args:
        version: its address: the Dagster data version.
        parts: fingerprints of what it was made from. The image index and features name theirs so that a stage
            downstream depends only on the parts it reads: ``train``, ``test``, ``truth``.
        code_version: the stage's code version when it was materialized.
        contents: of the artifact, as `contents_of` tells them.
        made_of: the contents of what it was made of.
    """

    version: str
    parts: Parts
    code_version: str
    contents: str = field(default="", compare=False)
    made_of: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Upstream:
    """The heads that a partition of a stage reads."""

    heads: Mapping[Slot, Head]
    partition: str | None

    def of(self, stage: Stage, partition: str | None = None) -> Head:
        """The head of an upstream stage: same partition unless another is named."""
        return self.heads[stage.key, partition or self.partition]

    def all(self, stage: Stage) -> dict[str, Head]:
        """The heads of all materialized partitions of an upstream stage, by partition."""
        return {partition: head for (key, partition), head in self.heads.items() if key == stage.key and partition}


@dataclass
class Work:
    """What a build gets: inputs, tools, and where its files go."""

    stage: Stage
    upstream: Upstream
    store: ArtifactStore
    compute: Compute
    progress: Progress
    artifact: Artifact
    force: bool = False

    @property
    def partition(self) -> str:
        """The category being built."""
        if self.upstream.partition is None:
            raise ValueError(f"{self.stage.name} is not partitioned")
        return self.upstream.partition

    def input(self, stage: Stage, partition: str | None = None) -> Artifact:
        """The artifact of an upstream stage."""
        return self.store.artifact(stage.kind, self.upstream.of(stage, partition).version)


Build = Callable[[Work], dict[str, Any]]


@dataclass(frozen=True)
class Check:
    """A question that each materialization of an asset answers, an asset check in the UI.

    Args:
        name: its name.
        description: what passes.
        blocking: whether nothing downstream runs on what failed it.
    """

    name: str
    description: str
    blocking: bool = False


@dataclass(frozen=True)
class Verdict:
    """The answer to a `Check`: whether it passed, and for people why."""

    check: str
    passed: bool
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What is said of a materialization, found or built: answers to the stage's checks, and metadata."""

    verdicts: tuple[Verdict, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Stage:
    """One asset of the graph.

    Args:
        key: asset key.
        kind: what the artifact is in the field's words; also its folder in the store.
        config: exactly the values that the stage reads; their fingerprint is the code version.
        deps: the stages it reads.
        address: from the heads of what it reads to its own parts.
        build: makes the artifact; returns metadata (JSON values) for people.
        scan: of a root, in place of `address` and `build`: looks at the world and returns both answers. Its last
            argument asks it to believe no change stamp.
        partitions: the categories; None for an asset over all categories. `LiveCategories` come and go.
        checks: what each materialization is asked.
        judge: answers `checks`, and does what follows from the answers; called whether the artifact was built or found.
        beside: paths of files elsewhere in the store that an artifact rests on, which are told and made anew like its
            own.
        admit: refuses, by an error, a store that the stage must not run on.
        pool: the Dagster pool whose slots it takes, on machines that have what the pool stands for.
        group: group in the UI.
        kinds: marks in the UI.
        description: one paragraph for the UI.
    """

    key: Key
    kind: str
    config: Mapping[str, Any]
    deps: tuple[Stage, ...]
    partitions: Sequence[str] | None
    group: str
    kinds: frozenset[str]
    description: str
    categories: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    address: Callable[[Upstream], Parts] | None = None
    build: Build | None = None
    scan: Callable[[str, ArtifactStore, Progress, bool], tuple[Parts, Build]] | None = None
    checks: tuple[Check, ...] = ()
    judge: Callable[[Work], Judgement] | None = None
    beside: Callable[[Artifact], Sequence[str]] | None = None
    pool: str | None = None
    admit: Callable[[ArtifactStore, dg.DagsterInstance], None] | None = None

    @property
    def name(self) -> str:
        """The key as people read it."""
        return "/".join(self.key)

    @property
    def code_version(self) -> str:
        """Fingerprint of what the stage reads from the benchmark file, and of its method's version."""
        return fingerprint({**self.config, **({"categories": self.categories} if self.categories else {})})

    def slots(self, partition: str | None) -> list[Slot]:
        """The asset partitions that one partition of this stage reads."""
        if self.partitions is not None:
            return [(dep.key, partition) for dep in self.deps]
        return [(dep.key, category) for dep in self.deps for category in dep.partitions or (None,)]

    def made_of(self, upstream: Upstream) -> dict[str, str]:
        """The contents of what one partition reads now."""
        kinds = {dep.key: dep.kind for dep in self.deps}
        inputs = ((kinds[key], head.version, head.contents) for (key, _), head in upstream.heads.items())
        return made_of(inputs, jointly=self.partitions is None)

    def make_head(self, partition: str | None, parts: Parts) -> Head:
        """The head with these parts; its version covers them and what is read for this partition."""
        read = fingerprint({**self.config, **self.categories.get(partition or "", {})})
        return Head(fingerprint({"code": read, **parts}), parts, self.code_version)


class HeadReader(Protocol):
    """What tells heads: a store, or a look at one."""

    def read_head(self, key: Sequence[str], partition: str | None) -> dict[str, Any] | None:
        """What an asset's partition is now, or None."""


def read_head(store: HeadReader, key: Key, partition: str | None) -> Head | None:
    """What an asset's partition is now, or None."""
    return as_head(store.read_head(key, partition))


def as_head(stored: Mapping[str, Any] | None) -> Head | None:
    """A head as it is stored, with what else is told there left out."""
    if not stored:
        return None
    contents, sources = stored.get("contents", ""), stored.get(MADE_OF, {})
    return Head(stored["version"], stored["parts"], stored["code_version"], contents, sources)


def stored_head(head: Head, files: Mapping[str, int], blocked: Sequence[str] = ()) -> dict[str, Any]:
    """A head as it is stored.

    Args:
        head: the head.
        files: path -> size of all that the artifact consists of, so that a look can tell what is damaged.
        blocked: the blocking checks that did not pass.
    """
    return {**asdict(head), "files": dict(files), **({"blocked": list(blocked)} if blocked else {})}


def planned_head(
    stage: Stage, partition: str | None, store: HeadReader, memory: dict[Slot, Head | None]
) -> Head | None:
    """What an asset's partition would be under the current benchmark file and the current image index.

    Args:
        stage: the asset.
        partition: its category.
        store: where the heads of the roots are read.
        memory: answers so far; share one dict between calls.

    Returns:
        None where an image index was never made.
    """
    slot = (stage.key, partition)
    if slot not in memory:
        if stage.address is None:
            memory[slot] = read_head(store, stage.key, partition)
        else:
            by_key = {dep.key: dep for dep in stage.deps}
            heads = {s: planned_head(by_key[s[0]], s[1], store, memory) for s in stage.slots(partition)}
            known = {s: head for s, head in heads.items() if head}
            complete = len(known) == len(heads) if stage.partitions is not None else bool(known)
            memory[slot] = stage.make_head(partition, stage.address(Upstream(known, partition))) if complete else None
    return memory[slot]


class UpstreamError(dg.Failure):
    """What the asset reads is not there, or is not what the benchmark file says."""


def current_upstream(stage: Stage, partition: str | None, store: HeadReader) -> tuple[Upstream, list[str]]:
    """The heads that a partition would read now, and what an asset over all categories has to leave out.

    Raises:
        UpstreamError: something it reads is missing or was made under another setting.
    """
    by_key = {dep.key: dep for dep in stage.deps}
    heads: dict[Slot, Head] = {}
    left_out: list[str] = []
    memory: dict[Slot, Head | None] = {}
    for key, category in stage.slots(partition):
        head = read_head(store, key, category)
        place = f"{'/'.join(key)}{f' [{category}]' if category else ''}"
        if stage.partitions is None and category is not None:
            # Rows of different settings never stand side by side in one leaderboard.
            if head and head == planned_head(by_key[key], category, store, memory):
                heads[key, category] = head
            else:
                left_out.append(f"{place}: {'out of date' if head else 'not materialized'}")
        elif head is None:
            raise UpstreamError(f"{place} is not materialized: materialize it first, or select it as well")
        elif head.code_version != by_key[key].code_version:
            raise UpstreamError(
                f"{place} was made under another setting of the benchmark file: materialize it first, or select it "
                "as well"
            )
        else:
            heads[key, category] = head
    if not heads and stage.deps:
        raise UpstreamError(f"{stage.name} has nothing to read: {'; '.join(left_out[:5])}")
    return Upstream(heads, partition), left_out


def materialize(
    stage: Stage,
    partition: str | None,
    store: ArtifactStore,
    compute: Compute,
    log: Any,
    *,
    force: bool = False,
    verify: bool = False,
    again: bool = False,
) -> dg.MaterializeResult[Any]:
    """Find or build one asset partition and point its head at it.

    Args:
        stage: the asset.
        partition: its category.
        store: where artifacts and heads lie.
        compute: what builds run on.
        log: where progress is told.
        force: believe no change stamp, and build even what is there.
        verify: believe no change stamp and no marker: read what is there, and build what is damaged again.
        again: this repeats what failed a moment ago, and is no attempt of its own.

    Raises:
        UpstreamError: something it reads is missing or was made under another setting.
    """
    ROOM.limit(compute.memory_gb)
    upstream, left_out = current_upstream(stage, partition, store)
    progress = Progress(log, f"{stage.name}{f' [{partition}]' if partition else ''}")
    started = time.perf_counter()
    parts, build = _address(stage, upstream, store, progress, verify=verify or force)
    head = stage.make_head(partition, parts)
    artifact = store.artifact(stage.kind, head.version)
    sources = stage.made_of(upstream)
    damaged = None if force else artifact.damaged(deep=verify)
    if damaged:
        _clear_away(damaged, artifact, progress)
    record = artifact.record() if damaged == [] else {}
    found = damaged == [] and not is_outdated(record.get(MADE_OF, {}), sources)
    if damaged == [] and not found:
        # All of it: no build shall take a part of it for what an interrupted one has left.
        progress.done("what it was made of was made anew and differs")
        store.delete([artifact.at(MARKER), *(file.path for file in store.files(artifact.path))])
    work = Work(stage, upstream, store, compute, progress, artifact, force)
    if not found:
        with attempted(store, stage.key, partition, head.version, again=again):
            metadata = build(work)
            seconds = time.perf_counter() - started
            told = {"asset": stage.name, "metadata": metadata, "seconds": seconds, MADE_OF: sources}
            record = artifact.commit(told, _beside(stage, artifact))
    elif verify and "files" not in record:
        record = artifact.commit(record, _beside(stage, artifact))  # from before there were checksums
    metadata = record["metadata"]
    judgement = stage.judge(work) if stage.judge else Judgement()
    blocking = {check.name for check in stage.checks if check.blocking}
    blocked = [verdict.check for verdict in judgement.verdicts if not verdict.passed and verdict.check in blocking]
    head = replace(head, contents=contents_of(record), made_of=record.get(MADE_OF, {}))
    before = read_head(store, stage.key, partition)
    sizes = artifact.sizes(record)
    store.write_head(stage.key, partition, stored_head(head, sizes, blocked))
    if before and before.version == head.version and before.contents != head.contents:
        _tell_lanes(stage, partition, store, head, sizes)
    seconds = time.perf_counter() - started
    progress.done("found, nothing to compute" if found else f"built in {seconds:.1f} s")
    metadata = {
        **metadata,
        **judgement.metadata,
        **({"left_out": "; ".join(left_out)} if left_out else {}),
        **({"were_damaged": "; ".join(damaged[:20])} if damaged else {}),
    }
    return dg.MaterializeResult(
        data_version=dg.DataVersion(head.version),
        metadata={
            **{name: _for_people(value) for name, value in metadata.items()},
            "reused": dg.MetadataValue.bool(found),
            "stage_seconds": dg.MetadataValue.float(seconds),
        },
        check_results=[
            dg.AssetCheckResult(
                passed=verdict.passed,
                check_name=verdict.check,
                severity=dg.AssetCheckSeverity.ERROR if verdict.check in blocking else dg.AssetCheckSeverity.WARN,
                metadata={name: _for_people(value) for name, value in verdict.metadata.items()},
            )
            for verdict in judgement.verdicts
        ],
    )


def _tell_lanes(
    stage: Stage, partition: str | None, store: ArtifactStore, head: Head, sizes: Mapping[str, int]
) -> None:
    """Lanes that share an artifact which was made anew see by their own heads what of theirs is out of date."""
    for file in store.files(f"heads/{stage.key[0]}"):
        *_, kind, name = file.path.split("/")
        other = recall(store, file.path, *HEAD) if kind == stage.kind and name == f"{partition or '_'}.json" else None
        if other and other["version"] == head.version:
            told = {"files": dict(sizes), "contents": head.contents, MADE_OF: dict(head.made_of)}
            write_record(store, file.path, {**other, **told})


def _beside(stage: Stage, artifact: Artifact) -> dict[str, int]:
    """Path -> size of what an artifact rests on elsewhere in the store."""
    contents = Contents(artifact.store, whole=False)
    sizes = {path: contents.size(path) for path in (stage.beside(artifact) if stage.beside else ())}
    return {path: size for path, size in sizes.items() if size is not None}


def _clear_away(damaged: Sequence[str], artifact: Artifact, progress: Progress) -> None:
    """Delete what is damaged, so that no build takes it for what an interrupted one has left."""
    progress.done(f"damaged or gone, made anew: {'; '.join(damaged[:5])}{' ...' if len(damaged) > 5 else ''}")
    # The record first: the artifact is absent until all of it is there again.
    artifact.store.delete([artifact.at(MARKER), *damaged])


def _address(
    stage: Stage, upstream: Upstream, store: ArtifactStore, progress: Progress, *, verify: bool
) -> tuple[Parts, Build]:
    if stage.scan and upstream.partition is not None:
        return stage.scan(upstream.partition, store, progress, verify)
    if stage.address is None or stage.build is None:
        raise TypeError(f"{stage.name}: a stage has either a scan, or an address and a build")
    return stage.address(upstream), stage.build


def _for_people(value: Any) -> Any:
    """A JSON value as Dagster metadata; ``{"md": ...}``, ``{"path": ...}`` choose how the UI shows it."""
    if isinstance(value, dict) and set(value) == {"md"}:
        return dg.MetadataValue.md(value["md"])
    if isinstance(value, dict) and set(value) == {"path"}:
        return dg.MetadataValue.path(value["path"])
    return value
