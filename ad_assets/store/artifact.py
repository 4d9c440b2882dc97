"""One artifact of the store: a folder of files, and the record that makes it exist and vouches for them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ad_assets.store.checksums import CorruptArtifactError, plain_checksum
from ad_assets.store.contents import Contents
from ad_assets.store.layout import MARKER, TENSORS, is_recorded
from ad_assets.store.records import encoded, read_record, write_record

if TYPE_CHECKING:
    from ad_assets.store.store import ArtifactStore

MOST_LOOKS = 5  # at files that another process, which builds the same, goes on replacing
PAUSES = (0.1, 0.4, 0.0)  # seconds, after which a file that does not match is read again: it may be being replaced


@dataclass(frozen=True)
class WrittenFile:
    """A file as a process wrote it: size in bytes, checksum, and its stamp where the file system tells it at once."""

    size: int
    checksum: str
    stamp: str


@dataclass(frozen=True)
class Artifact:
    """A folder of files that counts as existing once it is committed."""

    store: ArtifactStore
    path: str

    def at(self, name: str) -> str:
        """The store path of one file of the artifact."""
        return f"{self.path}/{name}"

    def exists(self) -> bool:
        """Whether the artifact was committed."""
        return self.store.exists(self.at(MARKER))

    def record(self) -> dict[str, Any]:
        """What was recorded at the commit.

        Raises:
            CorruptArtifactError: the record is damaged, or that of another artifact.
        """
        return read_record(self.store, self.at(MARKER))

    def commit(self, record: Mapping[str, Any], beside: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Make the artifact exist, with a record of what it is and of its files; returns that record.

        Args:
            record: what it is, JSON values.
            beside: path -> size of files elsewhere in the store that it rests on.
        """
        written = self.store.written(self.path)
        files = {path: [file.size, file.checksum] for path, file in written.items() if is_recorded(path)}
        for _ in range(MOST_LOOKS):
            told = {self._name(path): entry for path, entry in sorted(files.items())}
            complete = {**record, "files": told, **({"beside": dict(beside)} if beside else {})}
            write_record(self.store, self.at(MARKER), complete)
            self.store.forget_record(self.at(MARKER))
            # After the record: of several processes that build the same, the last to write one sees all files at rest.
            seen = self._files(written)
            if seen == files:
                break
            files = seen
        return complete

    def sizes(self, record: Mapping[str, Any]) -> dict[str, int]:
        """Path -> size of every file that the artifact consists of or rests on; empty if the record is an old one."""
        if "files" not in record:
            return {}
        return {
            self.at(MARKER): len(encoded(self.at(MARKER), record)),
            **{self.at(name): size for name, (size, _) in record["files"].items()},
            **record.get("beside", {}),
        }

    def damaged(self, *, deep: bool = False) -> list[str] | None:
        """Paths of files that are damaged or gone; None where the artifact does not exist.

        Args:
            deep: read and compare every byte, not only names and sizes.
        """
        listed = {file.path: file.size for file in self.store.files(self.path)}
        if self.at(MARKER) not in listed:
            return None
        try:
            record = self.record()
        except (CorruptArtifactError, FileNotFoundError):
            return [self.at(MARKER)]
        if "files" not in record:
            # Made before there were checksums: only what cannot be read back can be told.
            return [path for path in listed if not self._readable(path)] if deep else []
        beside = Contents(self.store, whole=False)
        sizes = self.sizes(record)
        found = {path: listed.get(path) if path.startswith(f"{self.path}/") else beside.size(path) for path in sizes}
        bad = [path for path, size in sizes.items() if found[path] != size]
        whole = [path for path in sizes if path not in bad and path != self.at(MARKER)]
        return bad + (self._changed(whole, record) if deep else [])

    def is_sound(self) -> bool:
        """Whether the artifact exists and every byte of it is as it was recorded."""
        return self.damaged(deep=True) == []

    def read(self, path: str) -> bytes:
        """The bytes of one of its files, compared with its record.

        Raises:
            CorruptArtifactError: they are not those that were recorded.
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
        """Path -> size and checksum of the files that lie there now; what this process did not write is read."""
        files: dict[str, list[Any]] = {}
        for file in self.store.files(self.path):
            if not is_recorded(file.path):
                continue
            own = written.get(file.path)
            try:
                unseen = own is None or own.stamp != file.stamp
                checksum = self.store.stated_checksum(file.path) if own is None or unseen else own.checksum
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
        with ThreadPoolExecutor(max_workers=4 if self.store.is_local else 16) as pool:
            return [path for path, changed in zip(paths, pool.map(has_changed, paths), strict=True) if changed]

    def _readable(self, path: str) -> bool:
        store = self.store
        readers = {".json": store.read_json, ".parquet": store.read_table, TENSORS: store.checksum}
        read = readers.get(PurePosixPath(path).suffix)
        try:
            if read:
                read(path)
        except CorruptArtifactError:
            return False
        except FileNotFoundError:  # a checkpoint of another process, which has finished
            pass
        return True
