"""One artifact of the store: a folder of files, and the record that marks it complete and holds their checksums."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ad_assets.store.checksums import CorruptArtifactError, DamagedError, plain_checksum
from ad_assets.store.contents import Contents
from ad_assets.store.layout import MARKER, TENSORS, is_recorded
from ad_assets.store.records import encoded, read_record, write_record
from ad_assets.store.remembering_store import WrittenFile
from ad_assets.store.small_files import SMALL, fitted, unpacked

if TYPE_CHECKING:
    from ad_assets.store.store import ArtifactStore

MOST_COMMITS = 5  # attempts, while another process that builds the same artifact keeps replacing files
PAUSES = (0.1, 0.4, 0.0)  # seconds before a file that does not match is read again, since it may be being replaced


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
        if self.store.is_local:
            return self.store.exists(self.at(MARKER))
        try:
            self.record()  # of an object store by the same one request, and most who ask read on
        except FileNotFoundError:
            return False
        except CorruptArtifactError:
            return True
        return True

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
        written, waiting = self.store.written(self.path)
        small = fitted({self._name(path): data for path, data in waiting.items()})
        for path, data in waiting.items():
            if self._name(path) not in small:
                self.store.write_bytes(path, data)
        written |= self.store.written(self.path)[0]
        in_record = {name: [len(waiting[self.at(name)]), self._checksum(name, waiting)] for name in small}
        files = {self._name(path): [file.size, file.checksum] for path, file in written.items() if is_recorded(path)}
        # Where nothing lay before the build, and no other process has committed since, all is what was written.
        alone = self.store.was_empty(self.path) and self.store.is_on_s3
        for _ in range(MOST_COMMITS):
            complete = {
                **record,
                "files": dict(sorted({**files, **in_record}.items())),
                **({SMALL: small} if small else {}),
                **({"beside": dict(beside)} if beside else {}),
            }
            if alone:
                if self.store.create(self.at(MARKER), encoded(self.at(MARKER), complete)):
                    break
                alone = False
            write_record(self.store, self.at(MARKER), complete)
            # Listed after the record is written: of several processes that build the same artifact, the last one to
            # write the record sees the final files.
            seen = self._files(written)
            if seen == files:
                break
            files = seen
        self.store.remember_record(self.at(MARKER), complete)
        return complete

    def _checksum(self, name: str, waiting: Mapping[str, bytes]) -> str:
        return plain_checksum(self.at(name), waiting[self.at(name)])

    def sound_tensors(self) -> set[str]:
        """Paths of the intact tensor files in its folder, as after an interrupted build; damaged ones are deleted."""
        paths = [path for path in self.present_files() if path.endswith(TENSORS)]
        return {
            path for path, sound in zip(paths, self.store.each(self.store.holds_tensors, paths), strict=True) if sound
        }

    def present_files(self) -> dict[str, int]:
        """Path -> size of the files in its folder while it is built, from memory where nothing lay there before."""
        if self.store.was_empty(self.path):
            return self.store.own_files(self.path)
        return {file.path: file.size for file in self.store.files(self.path)} | self.store.own_files(self.path)

    def sizes(self, record: Mapping[str, Any]) -> dict[str, int]:
        """Path -> size of every file that the artifact consists of or depends on; empty for records without a list.

        Small files that lie in the record are not among them.
        """
        if "files" not in record:
            return {}
        return {
            self.at(MARKER): len(encoded(self.at(MARKER), record)),
            **{self.at(name): size for name, (size, _) in record["files"].items() if name not in record.get(SMALL, {})},
            **record.get("beside", {}),
        }

    def damaged(self, *, deep: bool = False) -> list[str] | None:
        """Paths of files that are damaged or missing; None where the artifact does not exist.

        Args:
            deep: compare checksums of every byte, not only names and sizes.
        """
        absent = self.store.is_absent(self.path)
        listed = {} if absent else {file.path: file.size for file in self.store.files(self.path)}
        self.store.note_empty(self.path, empty=not listed)
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
        known = self.store.known_file(path)
        if known is not None:
            return known
        for pause in PAUSES:
            try:
                data = self._content(path)
            except FileNotFoundError:
                if self.store.is_local or not pause or self.store.known_record(self.at(MARKER)) is None:
                    raise
                # A record that was read earlier may have been replaced by one that holds the file.
                self.store.forget_record(self.at(MARKER))
                continue
            entry = self.store.remembered_record(self.at(MARKER)).get("files", {}).get(self._name(path))
            if entry is None or entry[1] == plain_checksum(path, data):
                if entry:
                    self.store.remember_file(path, entry[1], data)
                return data
            time.sleep(pause)
            self.store.forget_record(self.at(MARKER))
        raise self.store.corrupt(path, "it is not what the record of its artifact says")

    def _content(self, path: str) -> bytes:
        """The bytes of one of its files, which may lie in the record."""
        if not self.store.is_local:
            small = self._small(path)
            return self.store.fetch(path) if small is None else small
        try:
            return self.store.fetch(path)
        except FileNotFoundError:  # a copy of an object store has it in the record
            small = self._small(path)
            if small is None:
                raise
            return small

    def _small(self, path: str) -> bytes | None:
        """The bytes of one of its files that lies in the record; None where it does not."""
        text = self.store.remembered_record(self.at(MARKER)).get(SMALL, {}).get(self._name(path))
        try:
            return None if text is None else unpacked(text)
        except DamagedError as error:
            raise self.store.corrupt(path, error) from error

    def is_small(self, path: str) -> bool:
        """Whether one of its files lies in the record."""
        return self._name(path) in self.store.remembered_record(self.at(MARKER)).get(SMALL, ())

    def _name(self, path: str) -> str:
        return path.removeprefix(f"{self.path}/")

    def _files(self, written: Mapping[str, WrittenFile]) -> dict[str, list[Any]]:
        """Name -> size and checksum of its present files; files that this process did not write are read."""
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
            files[self._name(file.path)] = [file.size, checksum]
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
