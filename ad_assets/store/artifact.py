"""One artifact of the store: a folder of files, and the record that marks it complete and holds their checksums."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ad_assets.store.checksums import CorruptArtifactError, plain_checksum
from ad_assets.store.contents import Contents
from ad_assets.store.layout import MARKER, TENSORS, is_recorded
from ad_assets.store.records import encoded, read_record, write_record

if TYPE_CHECKING:
    from ad_assets.store.store import ArtifactStore

MOST_COMMITS = 5  # attempts, while another process that builds the same artifact keeps replacing files
PAUSES = (0.1, 0.4, 0.0)  # seconds before a file that does not match is read again, since it may be being replaced


@dataclass(frozen=True)
class WrittenFile:
    """A file written by this process: size in bytes, checksum, and its stamp where known after writing."""

    size: int
    checksum: str
    stamp: str


@dataclass(frozen=True)
class Artifact:
    """A folder of files, which exists once it is committed."""

    store: ArtifactStore
    path: str

    @property
    def version(self) -> str:
        """Its address, the last part of its path."""
        return self.path.rpartition("/")[2]

    def at(self, name: str) -> str:
        """The store path of one file of the artifact."""
        return f"{self.path}/{name}"

    def exists(self) -> bool:
        """Whether the artifact was committed."""
        return self.store.exists(self.at(MARKER))

    def record(self) -> dict[str, Any]:
        """The record written at the commit, read now.

        Raises:
            CorruptArtifactError: the record is damaged, or belongs to another artifact.
        """
        record = read_record(self.store, self.at(MARKER))
        self.store.remember_record(self.at(MARKER), record)
        return record

    def facts(self) -> Mapping[str, Any]:
        """What its record says of it for people, as this process last read or wrote it.

        Raises:
            FileNotFoundError: there is no such artifact.
            CorruptArtifactError: as `record`.
        """
        facts: Mapping[str, Any] = (self.store.remembered_record(self.at(MARKER)) or self.record())["metadata"]
        return facts

    def commit(self, record: Mapping[str, Any], beside: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Mark the artifact complete with a record of its facts and files; returns that record.

        Args:
            record: facts about it, JSON values.
            beside: path -> size of files elsewhere in the store that it depends on.
        """
        written = self.store.written(self.path)
        files = {path: [file.size, file.checksum] for path, file in written.items() if is_recorded(path)}
        for _ in range(MOST_COMMITS):
            files_by_name = {self._name(path): entry for path, entry in sorted(files.items())}
            complete = {**record, "files": files_by_name, **({"beside": dict(beside)} if beside else {})}
            write_record(self.store, self.at(MARKER), complete)
            # Listed after the record is written: of several processes that build the same artifact, the last one to
            # write the record sees the final files.
            seen = self._files(written)
            if seen == files:
                break
            files = seen
        self.store.remember_record(self.at(MARKER), complete)
        return complete

    def sound_tensors(self) -> set[str]:
        """Paths of the intact tensor files in its folder, as after an interrupted build; damaged ones are deleted."""
        paths = [file.path for file in self.store.files(self.path) if file.path.endswith(TENSORS)]
        return {
            path for path, sound in zip(paths, self.store.each(self.store.holds_tensors, paths), strict=True) if sound
        }

    def sizes(self, record: Mapping[str, Any]) -> dict[str, int]:
        """Path -> size of every file that the artifact contains or depends on; empty for records without a list."""
        if "files" not in record:
            return {}
        return {
            self.at(MARKER): len(encoded(self.at(MARKER), record)),
            **{self.at(name): size for name, (size, _) in record["files"].items()},
            **record.get("beside", {}),
        }

    def damaged(self, *, deep: bool = False) -> list[str] | None:
        """Paths of files that are damaged or missing; None where the artifact does not exist.

        Args:
            deep: compare checksums of every byte, not only names and sizes.
        """
        listed = {file.path: file.size for file in self.store.files(self.path)}
        if self.at(MARKER) not in listed:
            return None
        try:
            record = self.record()
        except (CorruptArtifactError, FileNotFoundError):
            return [self.at(MARKER)]
        if "files" not in record:
            # Older artifacts have no checksums: only unreadable files can be detected.
            return [path for path in listed if not self._readable(path)] if deep else []
        beside = Contents(self.store, whole=False)
        sizes = self.sizes(record)
        actual = {path: listed.get(path) if path.startswith(f"{self.path}/") else beside.size(path) for path in sizes}
        bad = [path for path, size in sizes.items() if actual[path] != size]
        whole = [path for path in sizes if path not in bad and path != self.at(MARKER)]
        return bad + (self._changed(whole, record) if deep else [])

    def is_sound(self) -> bool:
        """Whether the artifact exists and all its checksums match."""
        return self.damaged(deep=True) == []

    def read(self, path: str) -> bytes:
        """The bytes of one of its files, verified by checksum.

        Raises:
            CorruptArtifactError: the checksum does not match.
        """
        for pause in PAUSES:
            data = self.store.fetch(path)
            entry = self.store.remembered_record(self.at(MARKER)).get("files", {}).get(self._name(path))
            if entry is None or entry[1] == plain_checksum(path, data):
                return data
            time.sleep(pause)
            self.store.forget_record(self.at(MARKER))
        raise self.store.corrupt(path, "it is not what the record of its artifact says")

    def _name(self, path: str) -> str:
        return path.removeprefix(f"{self.path}/")

    def _files(self, written: Mapping[str, WrittenFile]) -> dict[str, list[Any]]:
        """Path -> size and checksum of its present files; files that this process did not write are read."""
        files: dict[str, list[Any]] = {}
        for file in self.store.files(self.path):
            if not is_recorded(file.path):
                continue
            written_here = written.get(file.path)
            try:
                unseen = written_here is None or written_here.stamp != file.stamp
                checksum = (
                    self.store.stated_checksum(file.path) if written_here is None or unseen else written_here.checksum
                )
            except FileNotFoundError:
                continue
            files[file.path] = [file.size, checksum]
        return files

    def _changed(self, paths: Iterable[str], record: Mapping[str, Any]) -> list[str]:
        recorded = {self.at(name): checksum for name, (_, checksum) in record["files"].items()}

        def has_changed(path: str) -> bool:
            try:
                checksum = self.store.checksum(path)
            except (CorruptArtifactError, FileNotFoundError):
                return True
            return recorded.get(path, checksum) != checksum

        paths = list(paths)
        changed = self.store.each(has_changed, paths, threads=4)
        return [path for path, differs in zip(paths, changed, strict=True) if differs]

    def _readable(self, path: str) -> bool:
        store = self.store
        readers = {".json": store.read_json, ".parquet": store.read_table, TENSORS: store.checksum}
        read = readers.get(PurePosixPath(path).suffix)
        try:
            if read:
                read(path)
        except CorruptArtifactError:
            return False
        except FileNotFoundError:  # a checkpoint that another process removed when it finished
            pass
        return True
