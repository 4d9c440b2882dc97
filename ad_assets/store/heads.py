"""Heads of asset partitions: read when a build begins, and replaced on condition that they are what they were.

What this process wrote to S3 it knows by the ETag that the write returned, and a listing tells what there is not. Both
save requests for as long as a run takes that a process has to itself. Whether another wrote meanwhile is told when a
head is replaced, which is one conditional write, and whenever all heads are listed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ad_assets.store.checksums import opened_record
from ad_assets.store.compare_and_swap import ABSENT, Seen
from ad_assets.store.records import encoded, opened_or_none, recall

if TYPE_CHECKING:
    from ad_assets.store.store import ArtifactStore

HEAD = ("version", "parts", "code_version")  # what a head must have
KNOWN_SECONDS = 600.0  # for which what this process wrote, or did not find in a listing, is not asked for again


class Heads:
    """The heads of a store."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._own: dict[str, tuple[str, bytes, float]] = {}  # path -> ETag, content, and when it was written
        self._listed: Mapping[str, str] = {}
        self._listed_at = -KNOWN_SECONDS

    def seen(self, path: str) -> Seen:
        """Content and ETag of a head as this process knows them, or as they are now."""
        stamp, data, when = self._own.get(path, ("", b"", -KNOWN_SECONDS))
        if time.monotonic() - when < KNOWN_SECONDS:
            return data, stamp
        if path not in self._listed and time.monotonic() - self._listed_at < KNOWN_SECONDS:
            return ABSENT
        return self._store.seen(path)

    def opened(self, path: str, data: bytes | None) -> dict[str, Any] | None:
        """A head from its content; None where there is none, or with a logged warning where it is damaged."""
        return opened_or_none(self._store, path, data, HEAD)

    def recent(self, path: str) -> dict[str, Any] | None:
        """The head at a path if this process wrote it lately to S3; else None."""
        stamp, _, when = self._own.get(path, ("", b"", -KNOWN_SECONDS))
        return self.written(path, stamp) if time.monotonic() - when < KNOWN_SECONDS else None

    def written(self, path: str, stamp: str) -> dict[str, Any] | None:
        """The head at a path if this process wrote what lies there on S3 with a stamp; else None."""
        own, data, _ = self._own.get(path, ("", b"", 0.0))
        return opened_record(path, json.loads(data)) if own and own == stamp else None

    def note_listed(self, stamps: Mapping[str, str]) -> None:
        """Note which heads a listing of all of them on S3 had, with their ETags."""
        self._listed, self._listed_at = stamps, time.monotonic()
        self._own = {path: own for path, own in self._own.items() if stamps.get(path) == own[0]}

    def write(self, path: str, head: Mapping[str, Any]) -> None:
        """Write a head, whatever is there."""
        data = encoded(path, head)
        self._keep(path, self._store.put_file(path, [data]), data)

    def replace(self, path: str, head: Mapping[str, Any], seen: Seen) -> dict[str, Any] | None:
        """Write a head in place of what was seen, or of what is there by now.

        Returns:
            The head before.
        """
        if not self._store.is_on_s3:
            before = recall(self._store, path, *HEAD)
            self.write(path, head)
            return before
        data = encoded(path, head)
        replaced: bytes | None = None

        def changed(content: bytes | None) -> bytes:
            nonlocal replaced
            replaced = content
            return data

        self._keep(path, self._store.update(path, changed, seen=seen), data)
        return self.opened(path, replaced)

    def _keep(self, path: str, stamp: str, data: bytes) -> None:
        if stamp and self._store.is_on_s3:
            self._own[path] = stamp, data, time.monotonic()
