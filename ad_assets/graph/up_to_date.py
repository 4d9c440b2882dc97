"""Decides which asset partitions are out of date, reading only the store; used by the automation conditions.

Dagster's own marks look one level down, stop at a hundred partitions on an edge, and compare with the last tick rather
than with what is stored. Here an asset partition is current when its head is the one that the current benchmark file
and the current image index give, all the way down. That is a state, not an event: an update that lands while nobody
looks is seen at the next look, and a rebuild with an equal result changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ad_assets.graph.build_attempts import ATTEMPT, MOST_ATTEMPTS, attempt_path
from ad_assets.graph.categories import LiveCategories
from ad_assets.graph.provenance import is_outdated
from ad_assets.graph.stage import Head, Key, Slot, Stage, Upstream, as_head, planned_head
from ad_assets.store.contents import Contents, head_damage
from ad_assets.store.records import read_record, warn
from ad_assets.store.store import HEAD, ArtifactStore, CorruptArtifactError

LOOK_SECONDS = 600.0  # between two looks of automation at the sizes of all files, which cost more than one at all heads


class StoredHeads:
    """All heads and attempts on record, by one listing a look; what did not change is not read again."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._read: dict[str, tuple[str, Any]] = {}
        self._now: dict[str, str] = {}
        self._damaged: set[str] = set()

    def look(self, slots: Iterable[Slot] = ()) -> None:
        """List again; from an object store, read at once what is new of some heads, else when they are asked for."""
        self._now = {file.path: file.stamp for prefix in ("heads", "attempts") for file in self._store.files(prefix)}
        self._read = {path: known for path, known in self._read.items() if self._now.get(path) == known[0]}
        self._damaged &= self._read.keys()
        if self._store.is_local:
            return
        paths = {self._store.head_path(*slot) for slot in slots}
        with ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(self.read, sorted(paths & self._now.keys() - self._read.keys())))

    def read(self, path: str) -> Any:
        """The record at a path; None where there is none, or a damaged one."""
        stamp = self._now.get(path)
        if stamp is None:
            return None
        known = self._read.get(path)
        if known is None or known[0] != stamp:
            try:
                known = stamp, read_record(self._store, path, *(HEAD if path.startswith("heads/") else ATTEMPT))
            except FileNotFoundError:  # replaced or removed since the listing
                return None
            except CorruptArtifactError as error:
                warn(error)
                known = stamp, None
                self._damaged.add(path)
            self._read[path] = known
        return known[1]

    def read_head(self, key: Sequence[str], partition: str | None) -> dict[str, Any] | None:
        """As `ArtifactStore.read_head`."""
        head: dict[str, Any] | None = self.read(self._store.head_path(key, partition))
        return head

    def has_damaged_head(self, slot: Slot) -> bool:
        """Whether an asset partition has a head that cannot be read."""
        path = self._store.head_path(*slot)
        self.read(path)
        return path in self._damaged

    def stamp(self, slot: Slot) -> str | None:
        """What changes when the head of an asset partition is written; None where there is none."""
        return self._now.get(self._store.head_path(*slot))


class UpToDate:
    """Looks at a store on behalf of automation.

    Args:
        stages: all stages, upstream first.
        store: their store.
    """

    def __init__(self, stages: Sequence[Stage], store: ArtifactStore) -> None:
        self._stages = {stage.key: stage for stage in stages}
        self._store = store
        self._heads = StoredHeads(store)
        self._damaged: dict[Slot, str | None] = {}
        self._looked = -LOOK_SECONDS
        self._planned: dict[Slot, Head | None] = {}
        self._due: dict[Slot, bool] = {}
        self._outdated: dict[Slot, bool] = {}

    def look(self) -> None:
        """See the store as it is now."""
        self._heads.look(self._slots())
        # As long as something is damaged each look sees whether it is mended: a head may come back as it was.
        if self._damaged or time.monotonic() - self._looked >= LOOK_SECONDS:
            contents = Contents(self._store)
            self._damaged = {
                slot: self._heads.stamp(slot)
                for slot in self._slots()
                if head_damage(contents, self._heads.read_head(*slot))
            }
            self._looked = time.monotonic()
        self._planned = {}
        self._due = {}
        self._outdated = {}

    def _slots(self) -> Iterator[Slot]:
        return ((stage.key, name) for stage in self._stages.values() for name in stage.partitions or (None,))

    def is_current(self, key: Key, partition: str | None) -> bool:
        """Whether an asset partition is what it would be, and its files are there."""
        slot = key, partition
        head, planned = self._head(slot), self._plan(slot)
        damaged = slot in self._damaged and self._damaged[slot] == self._heads.stamp(slot)
        return head is not None and head == planned and not damaged and not self._is_outdated(slot, head)

    def _is_outdated(self, slot: Slot, head: Head) -> bool:
        if slot not in self._outdated:
            stage = self._stages[slot[0]]
            read = stage.slots(slot[1]) if head.made_of else []
            known = {each: found for each in read if (found := self._head(each))}
            if stage.partitions is None:  # what a run would leave out
                known = {each: found for each, found in known.items() if found == self._plan(each)}
            self._outdated[slot] = is_outdated(head.made_of, stage.made_of(Upstream(known, slot[1])))
        return self._outdated[slot]

    def is_due(self, key: Key, partition: str | None) -> bool:
        """Whether an asset partition should materialize: it is not current, and all it reads is or is due itself.

        What failed stays as it is until what it would be made from changes; so does what was cut off `MOST_ATTEMPTS`
        times, and what lies below a blocking check that did not pass.
        """
        slot = key, partition
        if slot not in self._due:
            self._due[slot] = self._decide(slot)
        return self._due[slot]

    def _decide(self, slot: Slot) -> bool:
        stage, partition = self._stages[slot[0]], slot[1]
        if self.is_current(*slot):
            return False
        if isinstance(stage.partitions, LiveCategories) and stage.address is None and self._head(slot) is None:
            # The sensor that watches its folder knows when the first images are whole; it does not look at heads.
            return self._heads.has_damaged_head(slot)
        if stage.partitions is None:
            # Categories that failed are left out; those that are due come first.
            slots = stage.slots(None)
            gathered = [s for s in slots if s[1] is not None]
            ready = not any(self.is_due(*s) for s in slots) and all(self.is_current(*s) for s in slots if s[1] is None)
            if not ready or (gathered and not any(self.is_current(*s) for s in gathered)):
                return False
        elif not all(self._serves(s) for s in stage.slots(partition)):
            return False
        planned = self._plan(slot)
        attempt: Mapping[str, Any] | None = self._heads.read(attempt_path(*slot))
        if not attempt or not planned or attempt["version"] != planned.version:
            return True
        return not attempt["error"] and attempt["count"] < MOST_ATTEMPTS

    def _serves(self, slot: Slot) -> bool:
        """Whether what reads an asset partition may run: it is current and passed its checks, or is due before."""
        stored = self._heads.read_head(*slot)
        if self.is_current(*slot):
            return not (stored or {}).get("blocked")
        return self.is_due(*slot)

    def _head(self, slot: Slot) -> Head | None:
        return as_head(self._heads.read_head(*slot))

    def _plan(self, slot: Slot) -> Head | None:
        if slot in self._planned:
            return self._planned[slot]
        stage, partition = self._stages[slot[0]], slot[1]
        if stage.address is None:
            head = self._head(slot)
            planned = head if head and head.code_version == stage.code_version else None
        elif stage.partitions is None:
            # As a run would gather it: rows of different settings never stand side by side.
            known = {s: head for s in stage.slots(None) if self.is_current(*s) and (head := self._head(s))}
            planned = stage.make_head(None, stage.address(Upstream(known, None))) if known else None
        else:
            planned = planned_head(stage, partition, self._heads, self._planned)
        self._planned[slot] = planned
        return planned
