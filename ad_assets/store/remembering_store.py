"""A store that remembers the artifacts that this process wrote, or read from an object store.

What lies at an address never changes but by a build of the same again. So what this process has is what the record says
for as long as it has that record, and need not be read again. Small files wait here for the record in which they lie.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import PrivateAttr

from ad_assets.store.layout import ARTIFACTS, MARKER, artifact_folder, is_recorded
from ad_assets.store.memory import Memory
from ad_assets.store.packed_store import PackedStore
from ad_assets.store.records import read_record
from ad_assets.store.small_files import SMALL, bytes_of

T = TypeVar("T")

RECORDS_BYTES, FILES_BYTES = 64 << 20, 128 << 20  # that this process remembers of records, and of other files
LISTED_SECONDS = 120.0  # for which an artifact that a listing did not have counts as absent: else it is built twice


@dataclass(frozen=True)
class WrittenFile:
    """A file written by this process: size in bytes, checksum, and its stamp where known after writing."""

    size: int
    checksum: str
    stamp: str


class RememberingStore(PackedStore):
    """Knows the records and files of artifacts that this process wrote or read, and in which folders nothing lay."""

    _records: Memory[dict[str, Any]] = PrivateAttr(default_factory=lambda: Memory(RECORDS_BYTES))
    # Of files of artifacts in an object store: checksum and content.
    _remembered: Memory[tuple[str, bytes]] = PrivateAttr(default_factory=lambda: Memory(FILES_BYTES))
    _waiting: dict[str, bytes] = PrivateAttr(default_factory=dict)  # small files, until the record is written
    _empty: set[str] = PrivateAttr(default_factory=set)  # folders of artifacts in which nothing lay when listed last
    _artifacts: tuple[float, set[str] | None] = PrivateAttr(default=(-LISTED_SECONDS, None))
    _written: dict[str, WrittenFile] = PrivateAttr(default_factory=dict)

    def remembered_record(self, path: str) -> Mapping[str, Any]:
        """The record of an artifact, cached; empty where there is none yet."""
        found = self._records.find(path)
        if found is None:
            try:
                found = read_record(self, path)
            except FileNotFoundError:
                return {}
            self.remember_record(path, found)
        return found

    def known_record(self, path: str) -> Mapping[str, Any] | None:
        """The record of an artifact as this process last read or wrote it; None where it is to be read."""
        return self._records.find(path)

    def remember_record(self, path: str, record: Mapping[str, Any]) -> None:
        """Keep the record of an artifact in the cache."""
        self._empty.discard(path.rpartition("/")[0])
        self._note_folder(path)
        self._records.keep(path, dict(record), bytes_of(record))

    def forget_record(self, path: str) -> None:
        """Drop the record of an artifact from the cache."""
        self._records.forget(path)

    def written(self, folder: str) -> tuple[dict[str, WrittenFile], dict[str, bytes]]:
        """Path -> files that this object wrote into the folder of an artifact since the last call; and its small files
        that wait for the record, with their content."""
        return _taken(self._written, folder), _taken(self._waiting, folder)

    def note_empty(self, folder: str, *, empty: bool) -> None:
        """Note whether nothing lies in the folder of an artifact: then what lies there later was written since."""
        (self._empty.add if empty else self._empty.discard)(folder)

    def is_absent(self, folder: str) -> bool:
        """Whether nothing lay in the folder of an artifact when all artifacts of an object store were listed lately.

        They are listed by this if one request does, and once for all that a run asks for.
        """
        if not self.is_on_s3:
            return False
        when, folders = self._artifacts
        if time.monotonic() - when >= LISTED_SECONDS:
            files = self.few_files(ARTIFACTS)
            folders = None if files is None else {found for file in files if (found := artifact_folder(file.path))}
            # Where they are too many for one request now, they will be later.
            self._artifacts = time.monotonic() if files is not None else math.inf, folders
        return folders is not None and folder not in folders and self.known_record(f"{folder}/{MARKER}") is None

    def was_empty(self, folder: str) -> bool:
        """Whether that was noted and no record written since."""
        return folder in self._empty

    def let_wait(self, path: str, data: bytes) -> None:
        """Take a small file of an artifact that is to lie in the record."""
        self._waiting[path] = data

    def note_written(self, path: str, file: WrittenFile, data: bytes) -> None:
        """Note a file of an artifact that was written; of an object store with its content."""
        self._written[path] = file
        self._waiting.pop(path, None)
        self._note_folder(path)
        self.remember_file(path, file.checksum, data)

    def _note_folder(self, path: str) -> None:
        folder, listed = artifact_folder(path), self._artifacts[1]
        if folder and listed is not None:
            listed.add(folder)

    def own_files(self, folder: str) -> dict[str, int]:
        """Path -> size of files that this object wrote into the folder of an artifact since its last record."""
        own = {path: file.size for path, file in list(self._written.items()) if path.startswith(f"{folder}/")}
        waiting = {path: len(data) for path, data in list(self._waiting.items()) if path.startswith(f"{folder}/")}
        return own | waiting

    def known_file(self, path: str) -> bytes | None:
        """A file of an artifact in an object store as this process has it, if that is what the record says or will say.

        None where it is to be read.
        """
        if path in self._waiting:
            return self._waiting[path]
        checksum, content = self._remembered.find(path) or ("", b"")
        folder = artifact_folder(path)
        if not checksum or not folder or not is_recorded(path):
            return None
        written = self._written.get(path)
        record = self._records.find(f"{folder}/{MARKER}") or {}
        _, recorded = record.get("files", {}).get(path.removeprefix(f"{folder}/"), (0, ""))
        return content if checksum == (written.checksum if written else recorded) else None

    def remember_file(self, path: str, checksum: str, data: bytes) -> None:
        """Keep a file of an artifact in an object store in memory, if there is room for it."""
        if not self.is_local and checksum and is_recorded(path):
            self._remembered.keep(path, (checksum, data), len(data))

    def exists(self, path: str) -> bool:
        """As `PackedStore.exists`; a file of an artifact may lie in the record, which tells all of an object store."""
        folder = artifact_folder(path)
        if not folder or not is_recorded(path):
            return super().exists(path)
        if self.is_local:
            name = path.removeprefix(f"{folder}/")
            return super().exists(path) or name in self.remembered_record(f"{folder}/{MARKER}").get(SMALL, ())
        if path in self._waiting or path in self._written:
            return True
        files = self.remembered_record(f"{folder}/{MARKER}").get("files")
        return super().exists(path) if files is None else path.removeprefix(f"{folder}/") in files

    def delete(self, paths: Iterable[str]) -> None:
        """As `PackedStore.delete`; with the record of an artifact go the small files in it, and those that wait."""
        listed = list(paths)
        super().delete(listed)
        for path in listed:
            self._written.pop(path, None)
            self._remembered.forget(path)
            self._records.forget(path)
            if path.endswith(f"/{MARKER}") and (folder := artifact_folder(path)):
                _taken(self._waiting, folder)


def _taken(files: dict[str, T], folder: str) -> dict[str, T]:
    """Those below a folder, which are taken out."""
    return {path: files.pop(path) for path in list(files) if path.startswith(f"{folder}/")}
