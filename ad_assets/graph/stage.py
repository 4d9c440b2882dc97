"""One mechanism for every asset: an address, a build, a head.

A `Stage` says what an asset reads and how its address follows from that. Materializing a partition works out the
address from the heads of what it reads; if the artifact with that address is in the store it is found, else it is
built; then the head of the partition points to it. So a knob put back, a crashed run started again and a second
detector on the same features cost nothing, and a plain "Materialize all" computes only what is new.

The address is the asset's Dagster data version and the fingerprint of its settings its code version, hence Dagster's
own stale marks follow the same arithmetic. A build gets its settings from `Work.settings` and nowhere else, so no value
of the benchmark file can change what is made without changing where it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from ad_assets.config.benchmark import Detector, fingerprint, json_values
from ad_assets.graph.progress import Progress
from ad_assets.graph.provenance import MADE_OF, contents_of, made_of
from ad_assets.methods import Method
from ad_assets.methods.base import Stage as MethodStage
from ad_assets.settings.compute import Compute
from ad_assets.settings.extract import Extract
from ad_assets.store.layout import MARKER
from ad_assets.store.store import Artifact, ArtifactStore

if TYPE_CHECKING:
    from ad_assets.production.store_identity import Instance

GPU = "gpu"  # the pool of stages that use the accelerator

Key = tuple[str, ...]
Slot = tuple[Key, str | None]
Parts = dict[str, str]


class StageError(Exception):
    """An asset cannot be made, for a permanent reason that the message explains."""


@dataclass(frozen=True)
class Head:
    """Which artifact an asset's partition is now.

    Args:
        version: its address: the Dagster data version.
        parts: fingerprints of what it was made from. The image index and features name theirs so that a stage
            downstream depends only on the parts it reads: ``train``, ``test``, ``truth``.
        code_version: the stage's code version when it was materialized.
        contents: fingerprint of the contents of the artifact, see `contents_of`.
        made_of: the contents of what it was made of.
        settings: what it was made under, as JSON values: for people, and to say what has changed since.
        read: of an asset over all categories: category -> fingerprint of what it read there, see `Stage.read_of`.
    """

    version: str
    parts: Parts
    code_version: str
    contents: str = field(default="", compare=False)
    made_of: Mapping[str, str] = field(default_factory=dict, compare=False)
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)
    read: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> Head | None:
        """A head from its record, with what else is recorded there left out."""
        if not record:
            return None
        contents, sources = record.get("contents", ""), record.get(MADE_OF, {})
        settings, read = record.get("settings", {}), record.get("read", {})  # records of earlier releases have none
        return cls(record["version"], record["parts"], record["code_version"], contents, sources, settings, read)

    def record(self, files: Mapping[str, int], blocked: Sequence[str] = ()) -> dict[str, Any]:
        """The head as it is stored.

        Args:
            files: path -> size of all that the artifact consists of, so that damage can be seen from names and sizes.
            blocked: the blocking checks that did not pass.
        """
        return {**asdict(self), "files": dict(files), **({"blocked": list(blocked)} if blocked else {})}


@dataclass(frozen=True)
class Upstream:
    """The heads that a partition of a stage reads.

    Args:
        heads: by asset partition.
        partition: its category; None for an asset over all categories.
        left_out: what an asset over all categories does not read, with the reasons.
    """

    heads: Mapping[Slot, Head]
    partition: str | None
    left_out: tuple[str, ...] = ()

    def of(self, stage: Stage, partition: str | None = None) -> Head:
        """The head of an upstream stage: of the same partition unless another is named or it has none."""
        return self.heads[stage.key, partition or (self.partition if stage.partitions is not None else None)]

    def all(self, stage: Stage) -> dict[str, Head]:
        """The heads of all materialized partitions of an upstream stage, by partition."""
        return {partition: head for (key, partition), head in self.heads.items() if key == stage.key and partition}


@dataclass(frozen=True)
class StageSettings:
    """What a stage reads of the benchmark file. Every value is part of the address of what it makes.

    A value at its default is left out of the address, so that what was made before there was such a setting is found.

    Args:
        version: of the code of the stage.
    """

    version: int

    def address(self) -> dict[str, Any]:
        """The values that the address covers, as JSON values."""
        values: dict[str, Any] = {}
        for each in fields(self):
            default = each.default if each.default_factory is MISSING else each.default_factory()
            value = getattr(self, each.name)
            if default is MISSING or value != default:
                values[each.name] = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        return values

    def apart_from(self, shared: StageSettings) -> dict[str, Any]:
        """The values of a category that differ from those of the others, as JSON values."""
        own, of_all = self.address(), shared.address()
        return {key: own.get(key) for key in own.keys() | of_all.keys() if own.get(key) != of_all.get(key)}

    def _with_version(self, values: dict[str, Any]) -> dict[str, Any]:
        """Values that have the ``version`` of a method or reader, with that of the stage added."""
        # Up to version 3 of a stage it was left out, and artifacts made then must stay found.
        return {**values, **({"stage_version": self.version} if self.version > 3 else {})}


@dataclass(frozen=True)
class MethodSettings(StageSettings):
    """Settings of a stage that runs a method, which may differ from category to category.

    Args:
        method: the configured method; its fields for the stage `reads` are part of the address. Those of earlier stages
            are part of the addresses of these.
        reads: which of its fields the stage reads.
    """

    method: Method[Any]
    reads: MethodStage

    def address(self) -> dict[str, Any]:
        """As `StageSettings.address`."""
        values = {name: value for name, value in super().address().items() if name not in ("method", "reads")}
        return self._with_version({**values, **self.of_method()})

    def apart_from(self, shared: StageSettings) -> dict[str, Any]:
        """As `StageSettings.apart_from`, with all fields of the method that the stage reads."""
        return {**super().apart_from(shared), **self.of_method()}

    def of_method(self) -> dict[str, Any]:
        """The fields of the method that the stage reads, with its name and version."""
        return self.method.stage_config(self.reads)


@dataclass
class Work:
    """What a build gets: inputs, tools, and where its files go.

    `before` is what the asset partition was when the build began.
    """

    stage: Stage
    upstream: Upstream
    store: ArtifactStore
    compute: Compute
    progress: Progress
    artifact: Artifact
    before: Head | None
    force: bool = False
    verify: bool = False
    extract: Extract = field(default_factory=Extract)

    @property
    def settings(self) -> Any:
        """The settings of the stage for what is being built, as its module declares them."""
        return self.stage.settings_for(self.upstream.partition)

    @property
    def partition(self) -> str:
        """The category being built."""
        if self.upstream.partition is None:
            raise ValueError(f"{self.stage.name} is not partitioned")
        return self.upstream.partition

    def input(self, stage: Stage, partition: str | None = None) -> Artifact:
        """The artifact of an upstream stage."""
        head = self.upstream.of(stage, partition)
        artifact = self.store.artifact(stage.kind, head.version)
        known = self.store.known_record(artifact.at(MARKER))
        if known is not None and contents_of(known) != head.contents:
            self.store.forget_record(artifact.at(MARKER))  # another process made it anew since
        return artifact


Build = Callable[[Work], dict[str, Any]]
AfterHead = Callable[[Head], None]


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
class CheckResult:
    """Result of a `Check`, with metadata that explains it."""

    check: str
    passed: bool
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckReport:
    """What is said of a materialization, found or built: answers to the stage's checks, and metadata."""

    check_results: tuple[CheckResult, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Stage:
    """One asset of the graph.

    Args:
        key: asset key.
        kind: what the artifact is in the field's words; also its folder in the store.
        settings: what it reads of the benchmark file; their fingerprint is the code version.
        deps: the stages it reads.
        address: from the heads of what it reads to its own parts.
        build: makes the artifact; returns metadata (JSON values) for people.
        scan: of a root, in place of `address` and `build`: reads a folder and returns its parts, the build, and what to
            do once the head points to what it saw, given that head. Its last argument asks it to trust no change stamp.
        partitions: the categories; None for an asset over all categories. `LiveCategories` come and go.
        optional: of an asset with partitions, the assets of each lane that it reads where they are up to date, and
            goes without otherwise: a failed lane keeps no other from being shown. One over all goes without categories.
        paced: of an asset over all categories, that it waits for those that go on changing for a time only.
        checks: what each materialization is asked.
        answer_checks: answers `checks`, and does what follows from the answers; called whether the artifact was built
            or found.
        must_rebuild: whether an undamaged artifact is to be built again all the same, asked where all is verified.
        shared_files: paths of files elsewhere in the store that an artifact rests on; damage to them is reported and
            repaired as that of its own files.
        check_store: refuses, by an error, a store that the stage must not run on.
        gated: of a root with a gate: the partitions that have ever passed it. What others are was made before there was
            one, and is made again.
        pool: the Dagster pool whose slots it takes, on machines that have what the pool stands for.
        group: group in the UI.
        kinds: marks in the UI.
        description: one paragraph for the UI.
        own_settings: the settings of categories that differ from `settings`.
    """

    key: Key
    kind: str
    settings: StageSettings
    deps: tuple[Stage, ...]
    partitions: Sequence[str] | None
    group: str
    kinds: frozenset[str]
    description: str
    own_settings: Mapping[str, StageSettings] = field(default_factory=dict)
    address: Callable[[Upstream], Parts] | None = None
    build: Build | None = None
    scan: Callable[[str, ArtifactStore, Progress, bool], tuple[Parts, Build, AfterHead]] | None = None
    checks: tuple[Check, ...] = ()
    answer_checks: Callable[[Work], CheckReport] | None = None
    must_rebuild: Callable[[Artifact], bool] | None = None
    shared_files: Callable[[Artifact], Sequence[str]] | None = None
    pool: str | None = None
    check_store: Callable[[ArtifactStore, Instance], None] | None = None
    optional: tuple[frozenset[Key], ...] = ()
    paced: bool = False
    gated: Callable[[ArtifactStore], Collection[str]] | None = None

    @property
    def name(self) -> str:
        """The key as people read it."""
        return "/".join(self.key)

    @cached_property
    def code_version(self) -> str:
        """Fingerprint of what the stage reads from the benchmark file, and of its method's version."""
        own = {category: settings.apart_from(self.settings) for category, settings in self.own_settings.items()}
        return fingerprint({**self.settings.address(), **({"categories": own} if own else {})})

    def settings_for(self, partition: str | None) -> StageSettings:
        """The settings of one partition."""
        return self.own_settings.get(partition or "", self.settings)

    @cached_property
    def turn(self) -> int:
        """How often what lies above it turns from single categories to all of them, or back: runs go turn by turn."""
        turns = (dep.turn + ((dep.partitions is None) != (self.partitions is None)) for dep in self.deps)
        return max(turns, default=0)

    def slots(self, partition: str | None) -> list[Slot]:
        """The asset partitions that one partition of this stage reads."""
        if self.partitions is not None:
            return [(dep.key, partition if dep.partitions is not None else None) for dep in self.deps]
        return [(dep.key, category) for dep in self.deps for category in dep.partitions or (None,)]

    def may_lack(self, read: Slot) -> bool:
        """Whether it is made without one of the asset partitions that it reads where that is not up to date."""
        return read[1] is not None if self.partitions is None else any(read[0] in lane for lane in self.optional)

    def has_lane(self, keys: Collection[Key]) -> bool:
        """Whether some assets are enough of what is optional: all of a lane, if there are lanes."""
        return not self.optional or any(lane <= set(keys) for lane in self.optional)

    def made_of(self, upstream: Upstream) -> dict[str, str]:
        """The contents of what one partition reads now; of a study's heads, those that this stage would read."""
        kinds = {dep.key: dep.kind for dep in self.deps}
        # Features by their extractor: those of an image are the same whatever other images there are.
        inputs = (
            (kinds[key], head.code_version if kinds[key] == "features" else head.version, head.contents)
            for (key, _), head in upstream.heads.items()
            if key in kinds
        )
        return made_of(inputs, jointly=self.partitions is None)

    def read_of(self, heads: Mapping[Slot, Head], categories: Collection[str] | None = None) -> dict[str, str]:
        """Category -> a fingerprint of the heads that are read of it; empty for an asset of one category.

        By it a look at one category tells whether a leaderboard shows that as it is, and asks for no other. What is
        read that has no categories itself stands under the empty name.

        Args:
            heads: what is read, by asset partition.
            categories: those to tell of, the empty name always; None: all.
        """
        if self.partitions is not None:
            return {}
        found: dict[str, list[list[str]]] = {}
        for (key, category), head in heads.items():
            if categories is None or category is None or category in categories:
                found.setdefault(category or "", []).append([*key, head.version, head.contents])
        return {category: fingerprint(sorted(read))[:16] for category, read in found.items()}

    def make_head(self, partition: str | None, parts: Parts) -> Head:
        """The head with these parts; its version covers them and what is read for this partition."""
        settings, code = self.settings_of(partition)
        return Head(fingerprint({"code": code, **parts}), parts, self.code_version, settings=settings)

    def settings_of(self, partition: str | None) -> tuple[Mapping[str, Any], str]:
        """The settings of a partition as JSON values, and their fingerprint."""
        return self._addresses.get(partition or "", self._addresses[""])

    @cached_property
    def _addresses(self) -> dict[str, tuple[dict[str, Any], str]]:
        """The settings of categories that have their own; under the empty name those of all others."""
        each = {**self.own_settings, "": self.settings}
        addresses = {category: settings.address() for category, settings in each.items()}
        return {category: (json_values(values), fingerprint(values)) for category, values in addresses.items()}

    def head_of(self, upstream: Upstream) -> Head:
        """The head that a partition has if it is made from some heads.

        Raises:
            TypeError: the stage reads a folder, not other stages.
        """
        if self.address is None:
            raise TypeError(f"{self.name} has no address that follows from what it reads")
        return self.make_head(upstream.partition, self.address(upstream))


LaneSettings = TypeVar("LaneSettings", bound=MethodSettings)


def settings_of_lane(
    detector: Detector, settings: Callable[[Method[Any]], LaneSettings]
) -> tuple[LaneSettings, dict[str, LaneSettings]]:
    """The settings of a stage by the method of its lane, and those of the categories that differ.

    Raises:
        TypeError: the lane is an ensemble, which has no method.
    """
    shared = settings(detector.method_for(""))
    own = {category: settings(method) for category, method in detector.categories.items()}
    return shared, {name: each for name, each in own.items() if each.address() != shared.address()}


def read_head(store: ArtifactStore, key: Key, partition: str | None) -> Head | None:
    """What an asset's partition is now, or None."""
    return Head.of(store.read_head(key, partition))
