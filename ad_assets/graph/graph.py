"""What each asset partition is, what it would be, and what is out of date: read from the stages and the store alone.

An asset partition is current when its head is the one that follows from the benchmark file and the image index, all
the way down. That is a state, not an event: an update between two looks is seen at the next one, and a rebuild with an
equal result changes nothing. Plans, automation, builds, tables and predictions all ask the `Graph`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from ad_assets.graph.build_attempts import ATTEMPT, MOST_ATTEMPTS, attempt_path
from ad_assets.graph.categories import LiveCategories
from ad_assets.graph.provenance import is_outdated
from ad_assets.graph.setting_changes import setting_changes
from ad_assets.graph.stage import Head, Key, Slot, Stage, StageError, Upstream
from ad_assets.store.contents import Contents, head_damage
from ad_assets.store.layout import MARKER
from ad_assets.store.record_snapshot import Stamped, read_snapshot, write_snapshot
from ad_assets.store.records import read_stamped_record, warn
from ad_assets.store.store import HEAD, Artifact, ArtifactStore, CorruptArtifactError

# Seconds between two looks of automation at the sizes of all files, which cost more than one at all heads.
DAMAGE_SECONDS = 600.0
# Heads of an object store that are read one by one: so many, and a share of all that makes the snapshot too large.
FEW, FEW_PERCENT = 4, 2
REMADE = "what it was made of was made anew"
FROM_SOMETHING_ELSE = "made from something else"


class UpstreamError(StageError):
    """What the asset reads is not there, or is not what the benchmark file says."""


class _Records:
    """Heads and attempts of a store. Each is read once; after `refresh`, again if its listing says that it changed."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._read: dict[str, tuple[str, Any]] = {}
        self._exact: dict[str, Stamped] = {}  # heads with the stamps of what was read
        self._stamps: dict[str, str] | None = None
        self._asked_attempts = False
        self.damaged: set[str] = set()

    def refresh(self, slots: Iterable[Slot], *, note: bool = False) -> bool:
        """List all heads; from an object store, read at once the new ones of some, else as they are needed.

        Attempts are listed too once any was asked for: most who look at heads never do.

        Args:
            slots: whose heads.
            note: leave the snapshot with all of them, else only where it lacks many.

        Returns:
            Whether any record was written or removed since the last listing.
        """
        before = self._stamps
        listed = self._store.each(self._store.files, ("heads", "attempts") if self._asked_attempts else ("heads",))
        self._stamps = {file.path: file.stamp for files in listed for file in files}
        self._read = {path: known for path, known in self._read.items() if self._stamps.get(path) == known[0]}
        self.damaged &= self._read.keys()
        if not self._store.is_local:
            heads = {file.path: file.stamp for file in listed[0]}
            self._store.heads.note_listed(heads)
            paths = {self._store.head_path(*slot) for slot in slots}
            self._read_new(sorted(paths & heads.keys() - self._read.keys()), heads, note)
        return self._stamps != before

    def _read_new(self, paths: Sequence[str], stamps: Mapping[str, str], note: bool) -> None:
        """Read some heads: those that this process wrote from memory, others from the snapshot if they are many."""
        if not paths:
            return
        own = {path: head for path, stamp in stamps.items() if (head := self._store.heads.written(path, stamp))}
        others = [path for path in paths if path not in own]
        many = len(others) > max(FEW, len(stamps) * FEW_PERCENT // 100)
        # A snapshot that is left anew has the heads of other assets too.
        known = {path: read for path, read in self._exact.items() if stamps.get(path) == read[0]}
        lacking = note and stamps.keys() - own.keys() - known.keys()
        found = read_snapshot(self._store, "heads", stamps) if many or lacking else {}
        self._exact |= found | {path: (stamps[path], head) for path, head in own.items()}
        self._read = {**found, **{path: self._exact[path] for path in own}, **self._read}
        self._store.each(self.read, [path for path in others if path not in self._read])
        unknown = len(set(others) - found.keys())
        if (note and stamps.keys() - found.keys()) or (many and unknown > max(FEW, len(found) // 10)):
            exact = {path: read for path, read in self._exact.items() if stamps.get(path) == read[0]}
            write_snapshot(self._store, "heads", exact)

    def forget(self) -> None:
        """Read whatever is asked for anew; nothing is listed."""
        self._read, self._stamps = {}, None
        self.damaged = set()

    def prefetch(self, slots: Iterable[Slot]) -> None:
        """From an object store, read some heads at once."""
        if not self._store.is_local:
            paths = dict.fromkeys(self._store.head_path(*slot) for slot in slots)
            self._store.each(self.read, [path for path in paths if not self._is_own(path)])

    def _is_own(self, path: str) -> bool:
        """Whether this process wrote a head lately: where nothing was listed, it counts as what is there."""
        if self._stamps is not None or path in self._read:
            return path in self._read
        if head := self._store.heads.recent(path):
            self._read[path] = "", head
        return head is not None

    def read(self, path: str) -> Any:
        """The record at a path; None where there is none, or a damaged one."""
        if not self._asked_attempts and path.startswith("attempts/"):
            self._asked_attempts = True
            if self._stamps is not None:
                self._stamps |= {file.path: file.stamp for file in self._store.files("attempts")}
        stamp = self.stamp(path)
        if stamp is None:
            return None
        if not (self._is_own(path) if stamp == "" else self._read.get(path, (None,))[0] == stamp):
            record = None
            try:
                names = HEAD if path.startswith("heads/") else ATTEMPT
                exact, record = read_stamped_record(self._store, path, *names)
                # It may have been replaced since it was listed.
                if exact and names is HEAD:
                    self._exact[path] = exact, record
            except FileNotFoundError:
                pass
            except CorruptArtifactError as error:
                warn(error)
                self.damaged.add(path)
            self._read[path] = stamp, record
        return self._read[path][1]

    @property
    def are_listed(self) -> bool:
        """Whether all records were listed, so that it is known which there are."""
        return self._stamps is not None

    def stamp(self, path: str) -> str | None:
        """What changes when a record is written; None: it is not listed. Empty: nothing was listed."""
        return "" if self._stamps is None else self._stamps.get(path)


class Graph:
    """The assets of a benchmark on a store. What was read is not read again until `refresh`.

    Args:
        stages: stages; what they read belongs to the graph too.
        store: where heads and artifacts lie.
    """

    def __init__(self, stages: Iterable[Stage], store: ArtifactStore) -> None:
        self.stages = closure(stages)
        self._roots: dict[Key, set[Key]] = {}
        for key, stage in self.stages.items():
            self._roots[key] = {root for dep in stage.deps for root in self._roots[dep.key]} or {key}
        self.store = store
        self._records = _Records(store)
        self._contents = Contents(store, whole=False)
        self._damage: dict[Slot, tuple[str | None, str]] = {}
        self._gated: dict[Key, set[str]] = {}
        self._checked = -DAMAGE_SECONDS
        self._waiting: dict[Slot, float] = {}
        self._looked: list[Slot] = []
        self._asked: frozenset[str] | None = None
        self._forget()

    def refresh(self, categories: Collection[str] | None = None) -> None:
        """Look at the store again, by one listing of heads, and now and then one of all files.

        Args:
            categories: the partitions that will be asked for; None: all. Of some, an asset over all categories counts
                as current when it shows these as they are.
        """
        slots = list(self.slots(categories))
        self._asked = None if categories is None else frozenset(categories)
        if self._asked is not None and self.store.is_local:
            self._records.forget()  # a few heads are sooner read than all are listed
            changed = True
        else:
            changed = self._records.refresh(chain(slots, self._gathered(slots)))
        changed |= slots != self._looked or bool(self._damage)
        # While something is damaged, check every time: a repair may restore the same head.
        if self._damage or time.monotonic() - self._checked >= DAMAGE_SECONDS:
            self._contents = Contents(self.store, whole=categories is None)
            self._contents.prefetch(path for slot in slots for path in (self._stored(slot) or {}).get("files", ()))
            found = ((slot, self._damage_now(slot)) for slot in slots)
            self._damage = {slot: (self._stamp(slot), damage) for slot, damage in found if damage}
            self._checked = time.monotonic()
        # Of heads that are as they were the same follows, at least where nothing was amiss.
        if changed or self._damage or any(self._stale.values()) or any(self._due.values()):
            self._forget()
        self._looked = slots

    def _gathered(self, slots: Iterable[Slot]) -> Iterator[Slot]:
        """What assets over all categories read, of the categories that are asked for."""
        for key, name in slots:
            if name is None:
                yield from (read for read in self.stages[key].slots(None) if self._is_asked(read[1]))

    def _is_asked(self, category: str | None) -> bool:
        return self._asked is None or category is None or category in self._asked

    def refresh_heads(self) -> None:
        """Look at all heads again, at no files; an object store gets them in one object, for the next process."""
        self._records.refresh(self.slots(), note=True)
        self._forget()

    def _forget(self) -> None:
        self._heads: dict[Slot, Head | None] = {}
        self._planned: dict[Slot, Head | None] = {}
        self._expected: dict[Slot, Head | None] = {}
        self._faults: dict[Slot, dict[Slot, str]] = {}
        self._stale: dict[Slot, str] = {}
        self._due: dict[Slot, bool] = {}
        self._awaited: dict[Slot, bool] = {}
        self._listed: set[Key] = set()

    def slots(self, categories: Collection[str] | None = None) -> Iterator[Slot]:
        """All asset partitions, upstream first; those of an asset over all categories, and of some categories."""
        for stage in self.stages.values():
            for partition in stage.partitions if stage.partitions is not None else (None,):
                if categories is None or partition is None or partition in categories:
                    yield stage.key, partition

    def below(self, keys: Iterable[Key]) -> set[Key]:
        """Some assets and all that read them."""
        found = set(keys)
        for stage in self.stages.values():
            if any(dep.key in found for dep in stage.deps):
                found.add(stage.key)
        return found

    # What is

    def head(self, slot: Slot) -> Head | None:
        """What an asset partition is now; None where it was never made, or its head is damaged."""
        if slot not in self._heads:
            self._heads[slot] = Head.of(self._stored(slot))
        return self._heads[slot]

    def _stored(self, slot: Slot) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self._records.read(self.store.head_path(*slot))
        return found

    def _stamp(self, slot: Slot) -> str | None:
        return self._records.stamp(self.store.head_path(*slot))

    def has_damaged_head(self, slot: Slot) -> bool:
        """Whether an asset partition has a head that cannot be read."""
        self._stored(slot)
        return self.store.head_path(*slot) in self._records.damaged

    def damage(self, slot: Slot) -> str:
        """What of its files was damaged or gone when `refresh` last looked at files, in words; empty: nothing was."""
        stamp, damage = self._damage.get(slot, (None, ""))
        return damage if stamp == self._stamp(slot) else ""

    def _damage_now(self, slot: Slot) -> str:
        stored = self._stored(slot)
        if stored is None:
            return ""
        exists = "files" in stored or self.has_artifact(slot[0], stored["version"])
        return head_damage(self._contents, stored) if exists else "its artifact is gone"

    def has_artifact(self, key: Key, version: str) -> bool:
        """Whether the store holds an artifact of an asset."""
        return self._contents.size(self.store.artifact(self.stages[key].kind, version).at(MARKER)) is not None

    # What would be

    def planned(self, slot: Slot) -> Head | None:
        """What an asset partition would be once all that it reads is up to date; None without an image index."""
        if slot not in self._planned:
            stage, partition = self.stages[slot[0]], slot[1]
            if stage.address is None:
                self._planned[slot] = self.head(slot)
            else:
                reads = stage.slots(partition)
                heads = {read: head for read in reads if (head := self.planned(read))}
                needed = [] if stage.partitions is None else [read for read in reads if not stage.may_lack(read)]
                complete = bool(heads) and heads.keys() >= set(needed)
                self._planned[slot] = stage.head_of(Upstream(heads, partition)) if complete else None
        return self._planned[slot]

    def expected(self, slot: Slot) -> Head | None:
        """What an asset partition should be now; None where that is unknown before something else has run.

        An asset over all categories is to be made of those that are as expected: rows of different settings never
        stand side by side. One of optional lanes is so too.
        """
        if slot not in self._expected:
            self._expected[slot] = self._find_expected(slot)
        return self._expected[slot]

    def _find_expected(self, slot: Slot) -> Head | None:
        stage, partition = self.stages[slot[0]], slot[1]
        if stage.partitions is None:
            heads = self.readable(slot)
            return stage.head_of(Upstream(heads, None)) if heads else None
        if not all(self._has_settings((root, partition)) for root in self._roots[stage.key]):
            return None
        if stage.optional:
            heads = self.readable(slot)
            lacks = [read for read in stage.slots(partition) if read not in heads and not stage.may_lack(read)]
            enough = not lacks and stage.has_lane({key for key, _ in heads})
            return stage.head_of(Upstream(heads, partition)) if enough else None
        if stage.turn == 0:
            return self.planned(slot)
        # Below an asset over all categories: made of what that one is to be made of now.
        heads = {read: head for read in stage.slots(partition) if (head := self.expected(read))}
        return stage.head_of(Upstream(heads, partition)) if len(heads) == len(stage.slots(partition)) else None

    def _has_settings(self, slot: Slot) -> bool:
        """Whether an asset partition was made under the settings that its asset has now."""
        head = self.head(slot)
        return head is not None and head.code_version == self.stages[slot[0]].code_version

    def artifact(self, slot: Slot) -> Artifact | None:
        """The artifact that an asset partition should be, whatever its head says; None where it was not made."""
        expected = self.expected(slot)
        if expected is None or not self.has_artifact(slot[0], expected.version):
            return None
        return self.store.artifact(self.stages[slot[0]].kind, expected.version)

    # What a run would read

    def readable(self, slot: Slot) -> dict[Slot, Head]:
        """The heads, of those that an asset partition reads, that a run of it would read."""
        faults = self.faults(slot)
        reads = self.stages[slot[0]].slots(slot[1])
        return {read: head for read in reads if read not in faults and (head := self.head(read))}

    def faults(self, slot: Slot) -> Mapping[Slot, str]:
        """What a run of an asset partition could not read, each with the reason."""
        if slot not in self._faults:
            self._faults[slot] = self._faults_of(slot, self.stages[slot[0]].slots(slot[1]))
        return self._faults[slot]

    def _faults_of(self, slot: Slot, reads: Iterable[Slot]) -> dict[Slot, str]:
        stage, partition = self.stages[slot[0]], slot[1]
        faults: dict[Slot, str] = {}
        for read in reads:
            head = self.head(read)
            if head is None:
                faults[read] = "is not materialized"
            elif (read[1] != partition or stage.may_lack(read)) and head != self.expected(read):
                faults[read] = "is out of date"
            elif not self._has_settings(read):
                faults[read] = "was made under another setting of the benchmark file"
        return faults

    def upstream(self, slot: Slot) -> Upstream:
        """What a run of an asset partition reads now; one over all categories leaves out those with faults.

        Raises:
            UpstreamError: something it reads is missing or was made under another setting.
        """
        stage, partition = self.stages[slot[0]], slot[1]
        if partition is None and not (self.store.is_local or self._records.are_listed):
            self._records.refresh(self.slots())  # it reads most heads: those of this process are known by their ETags
        else:
            # What is optional is compared with what it should be, which follows from all above it.
            above = (key for key, each in self.stages.items() if stage.optional and each.partitions is not None)
            self._records.prefetch(dict.fromkeys([*stage.slots(partition), *((key, partition) for key in above)]))
        left_out = []
        for read, fault in self.faults(slot).items():
            key, category = read
            message = f"{'/'.join(key)}{f' [{category}]' if category else ''} {fault}"
            if not stage.may_lack(read):
                raise UpstreamError(f"{message}: materialize it first, or select it as well")
            left_out.append(message)
        heads = self.readable(slot)
        if stage.deps and not (heads and stage.has_lane({key for key, _ in heads})):
            raise UpstreamError(f"{stage.name} has nothing to read: {'; '.join(left_out[:5])}")
        return Upstream(heads, partition, tuple(left_out))

    # What is stale

    def stale_reason(self, slot: Slot) -> str:
        """Why an asset partition is not what it should be, in words; empty where it is. Its files count as whole."""
        if slot not in self._stale:
            self._stale[slot] = self._stale_reason(slot)
        return self._stale[slot]

    def _stale_reason(self, slot: Slot) -> str:
        stage, head = self.stages[slot[0]], self.head(slot)
        if head is None:
            return "its head is damaged" if self.has_damaged_head(slot) else "not in this store"
        if head.code_version != stage.code_version:
            changed = setting_changes(head.settings, stage.settings_of(slot[1])[0])
            return f"made under another setting{f': {changed}' if changed else ''}"
        if slot[1] is None and self._asked is not None and head.read:
            return "" if self._shows_asked(slot, head) else FROM_SOMETHING_ELSE
        if head != self.expected(slot):
            return FROM_SOMETHING_ELSE
        if slot[1] is not None and not self._is_gated(stage, slot[1]):
            return "made before its dataset had a section production"
        heads = self.readable(slot) if head.made_of else {}
        return REMADE if is_outdated(head.made_of, stage.made_of(Upstream(heads, slot[1]))) else ""

    def _shows_asked(self, slot: Slot, head: Head) -> bool:
        """Whether an asset over all categories was made of what there is now of those that are asked for."""
        stage = self.stages[slot[0]]
        reads = [read for read in stage.slots(None) if self._is_asked(read[1])]
        faults = self._faults_of(slot, reads)
        now = {read: found for read in reads if read not in faults and (found := self.head(read))}
        before = {category: read for category, read in head.read.items() if self._is_asked(category or None)}
        return stage.read_of(now, self._asked) == before

    def _is_gated(self, stage: Stage, partition: str) -> bool:
        if stage.gated is None:
            return True
        known = self._gated.setdefault(stage.key, set())
        if partition not in known and stage.key not in self._listed:  # what has passed it once has for good
            known.update(stage.gated(self.store))
            self._listed.add(stage.key)
        return partition in known

    def absence_reason(self, slot: Slot) -> str:
        """Why what an asset partition should be cannot be read from the store, in words; empty where it can."""
        return self.stale_reason(slot) or ("" if self.artifact(slot) else "its artifact is gone")

    def is_current(self, slot: Slot) -> bool:
        """Whether an asset partition is what it should be, and its files are there."""
        return not self.stale_reason(slot) and not self.damage(slot)

    def is_due(self, slot: Slot) -> bool:
        """Whether an asset partition should materialize: it is not current, and all it reads is or is due itself.

        What failed stays as it is until what it would be made from changes; so does what was cut off `MOST_ATTEMPTS`
        times, and what lies below a blocking check that did not pass.
        """
        if slot not in self._due:
            self._due[slot] = not self.is_current(slot) and self._is_ready(slot) and not self._has_failed(slot)
        return self._due[slot]

    def is_overdue(self, slot: Slot, seconds: float) -> bool:
        """Whether a paced asset, which has not been current for so long, waits no longer for categories that are due.

        Where images land all day some category always is. It is then made of those that are up to date. Time counts
        from the first call that finds it not current.
        """
        stage = self.stages[slot[0]]
        if not stage.paced or self.is_current(slot):
            self._waiting.pop(slot, None)
            return False
        waits = time.monotonic() - self._waiting.setdefault(slot, time.monotonic())
        if waits < seconds or self._has_failed(slot) or not self.readable(slot):
            return False
        whole = [read for read in stage.slots(slot[1]) if not stage.may_lack(read)]
        return not any(read in self.faults(slot) or self.is_overdue(read, seconds) for read in whole)

    def _is_ready(self, slot: Slot) -> bool:
        """Whether a run of an asset partition could read what it should read."""
        stage, partition = self.stages[slot[0]], slot[1]
        if isinstance(stage.partitions, LiveCategories) and stage.address is None and self.head(slot) is None:
            # The sensor that watches its folder starts the first run, once the images are complete.
            return self.has_damaged_head(slot)
        reads = stage.slots(partition)
        if stage.partitions is not None:
            lanes = [read for read in reads if stage.may_lack(read)]
            others = all(self._serves(read) for read in reads if not stage.may_lack(read))
            if not lanes or not others:
                return others
            served = {key for key, category in lanes if self._serves((key, category))}
            return stage.has_lane(served) and all(self._serves(read) or not self._is_awaited(read) for read in lanes)
        # Categories that failed are left out; those that are due come first.
        gathered = [read for read in reads if read[1] is not None]
        whole = [read for read in reads if read[1] is None]
        return (
            not any(map(self.is_due, reads))
            and all(map(self.is_current, whole))
            and (not gathered or any(map(self.is_current, gathered)))
        )

    def _serves(self, slot: Slot) -> bool:
        """Whether what reads an asset partition may run: it is current and passed its checks, or is due before."""
        return not (self._stored(slot) or {}).get("blocked") if self.is_current(slot) else self.is_due(slot)

    def _is_awaited(self, slot: Slot) -> bool:
        """Whether an asset partition will be made anew, once what lies above it is."""
        if slot not in self._awaited:
            reads = self.stages[slot[0]].slots(slot[1])
            self._awaited[slot] = not self.is_current(slot) and (self.is_due(slot) or any(map(self._is_awaited, reads)))
        return self._awaited[slot]

    def _has_failed(self, slot: Slot) -> bool:
        """Whether builds of what an asset partition would be failed, or were cut off so often that none is begun."""
        expected: Head | None = self.expected(slot)
        attempt: Mapping[str, Any] | None = self._records.read(attempt_path(*slot))
        if not attempt or not expected or attempt["version"] != expected.version:
            return False
        return bool(attempt["error"]) or attempt["count"] >= MOST_ATTEMPTS


def closure(stages: Iterable[Stage]) -> dict[Key, Stage]:
    """Some stages with all that they read, by key, upstream first."""
    found: dict[Key, Stage] = {}
    for stage in stages:
        if stage.key not in found:
            found |= {**closure(stage.deps), stage.key: stage}
    return found
