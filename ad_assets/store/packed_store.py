"""A store whose files below some folders lie packed in shards, where they are found, read and deleted as single files.

Which shards hold what is told by a listing of them and their headers: whoever writes adds a shard of its own, so that
two writers never meet. What is read of headers is kept in a snapshot that saves requests and decides nothing. A file of
its own hides one that is packed. What a listing no longer has is looked for again once, since another process may have
packed it anew meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, TypeVar

from pydantic import PrivateAttr

from ad_assets.store.checksums import DamagedError
from ad_assets.store.files import FileStore, StoredFile
from ad_assets.store.layout import PACKED
from ad_assets.store.retry import retried
from ad_assets.store.shard_format import (
    PackedFile,
    Unpacked,
    generation_of,
    header_end,
    is_shard,
    new_shard,
    packed_files,
    packed_folder,
    shard_parts,
)
from ad_assets.store.shard_packing import pack_anew
from ad_assets.store.shard_reads import MappedShards, cut, spans
from ad_assets.store.shard_snapshot import read_headers, write_headers

T = TypeVar("T")
SNAPSHOT = 2  # headers that are worth a snapshot, which takes a request as each of them does
HEADER = 32 << 10  # bytes that hold the header of most shards
LOOKED = 60.0  # seconds for which an absent file counts as absent, where only `exists` is asked
_LOG = logging.getLogger(__name__)


@dataclass
class Folder:
    """What a folder held when it was listed last.

    Args:
        single: paths of files of their own.
        packed: path -> the packed file that counts.
        shards: path -> all files in it.
        when: `time.monotonic` of the listing.
    """

    single: set[str] = field(default_factory=set)
    packed: dict[str, PackedFile] = field(default_factory=dict)
    shards: dict[str, list[PackedFile]] = field(default_factory=dict)
    when: float = 0.0

    def has(self, path: str) -> bool:
        """Whether there is a file at a path."""
        return path in self.single or path in self.packed

    def counted(self, path: str) -> PackedFile | None:
        """The packed file at a path, unless a file of its own hides it."""
        return None if path in self.single else self.packed.get(path)

    def add(self, shard: str, files: list[PackedFile]) -> None:
        """Take a shard in."""
        self.shards[shard] = files
        for file in files:
            other = self.packed.get(file.path)
            if other is None or other.rank < file.rank:
                self.packed[file.path] = file


class PackedStore(FileStore):
    """Reads, lists and deletes packed files by the paths of single ones, and writes shards."""

    _folders: dict[str, Folder] = PrivateAttr(default_factory=dict)
    _headers: dict[str, tuple[str, list[PackedFile]]] = PrivateAttr(default_factory=dict)
    _unnoted: set[str] = PrivateAttr(default_factory=set)  # shards that this process wrote, in no snapshot as yet
    _packing: Any = PrivateAttr(default_factory=RLock)
    _mapped: MappedShards = PrivateAttr(default_factory=MappedShards)

    def put_file(self, path: str, parts: Sequence[bytes | memoryview]) -> str:
        """Write a file in one step; returns the stamp that a listing gives for it, empty where that is not known."""
        raise NotImplementedError

    # -- what there is -------------------------------------------------------------------------------------------

    def files(self, prefix: str = "", *, temporary: bool = False) -> list[StoredFile]:
        """As `FileStore.files`, of packed files as of others; of shards those alone that cannot be read."""
        parts = prefix.split("/")
        if prefix and parts[0] != PACKED:
            return super().files(prefix, temporary=temporary)
        folder = "/".join(parts[:2])
        listed = super().files(folder, temporary=temporary)
        by_folder: dict[str, list[StoredFile]] = defaultdict(list)
        for file in listed:
            own = file.path.split("/", 2)
            if len(own) == 3 and own[0] == PACKED:
                by_folder["/".join(own[:2])].append(file)
        if prefix and folder not in by_folder:
            by_folder[folder] = []
        found = [file for file in listed if not is_shard(file.path)]
        for name, own_files in by_folder.items():
            state = self._take_in(name, own_files)
            found += [file for file in own_files if is_shard(file.path) and file.path not in state.shards]
            found += [_stored(file) for path, file in state.packed.items() if path not in state.single]
        if prefix != folder:
            found = [file for file in found if f"{file.path}/".startswith(f"{prefix.rstrip('/')}/")]
        return sorted(found, key=lambda file: file.path)

    @property
    def packing(self) -> RLock:
        """Held by the thread that packs anew: of two that pack the same, each would write what the other drops."""
        return self._packing

    def single_bytes(self, path: str) -> bytes:
        """The bytes of a file of its own."""
        return FileStore.fetch_stamped(self, path)[0]

    def delete_files(self, paths: Iterable[str]) -> None:
        """Delete shards, and files of their own, whatever is packed at their paths."""
        super().delete(paths)

    def exists(self, path: str) -> bool:
        """As `FileStore.exists`; of packed files that another process wrote within a minute it may not know."""
        folder = packed_folder(path)
        if folder:
            state = self._folders.get(folder)
            if state is None or (not state.has(path) and time.monotonic() - state.when > LOOKED):
                state = self.look(folder)
            if state.counted(path):
                return True
            if super().exists(path):
                return True
            return path in state.single and self.look(folder).counted(path) is not None
        return super().exists(path)

    def _packed_among(self, paths: Iterable[str]) -> dict[str, PackedFile]:
        """Path -> packed file of those of some paths that are packed; folders that lack one are listed once."""
        known = [(packed_folder(path), path) for path in dict.fromkeys(paths)]
        states = {
            folder: self._folders.get(folder) or self.look(folder) for folder in {each for each, _ in known} - {""}
        }
        for folder in {each for each, path in known if each and not states[each].has(path)}:
            states[folder] = self.look(folder)
        found = {path: states[folder].counted(path) for folder, path in known if folder}
        return {path: file for path, file in found.items() if file}

    def look(self, folder: str) -> Folder:
        """List a folder anew."""
        return self._take_in(folder, FileStore.files(self, folder))

    def _take_in(self, folder: str, listed: Sequence[StoredFile]) -> Folder:
        """What a folder holds by a listing of it; headers that are not known are read."""
        shards = [file for file in listed if is_shard(file.path)]
        unknown = [file for file in shards if self._headers.get(file.path, ("",))[0] != _stamp(file)]
        snapshot = not self.is_local and len(unknown) >= SNAPSHOT
        if snapshot:
            self._headers |= read_headers(self, folder, {file.path: _stamp(file) for file in unknown})
            unknown = [file for file in unknown if self._headers.get(file.path, ("",))[0] != _stamp(file)]
        for file, found in zip(unknown, self.each(self._read_header, unknown), strict=True):
            if found is None:
                self._headers.pop(file.path, None)
            else:
                self._headers[file.path] = _stamp(file), found
        if snapshot and len(unknown) >= max(SNAPSHOT, len(shards) // 10):
            write_headers(
                self, folder, {file.path: self._headers[file.path] for file in shards if file.path in self._headers}
            )
        state = Folder(when=time.monotonic())
        for file in shards:
            if file.path in self._headers:
                state.add(file.path, self._headers[file.path][1])
        state.single = {file.path for file in listed if packed_folder(file.path)}
        self._folders[folder] = state
        return state

    def _read_header(self, file: StoredFile) -> list[PackedFile] | None:
        """The files in a shard; None with a warning where it has no header, or is gone."""
        try:
            start = self._part(file.path, 0, HEADER)
            if header_end(start) > len(start):
                start += self._part(file.path, len(start), min(header_end(start), file.size))
            return packed_files(file.path, start, file.size, file.changed)
        except FileNotFoundError:
            return None
        except DamagedError as error:
            _LOG.warning("%s is damaged (%s); what it held counts as absent", self.location(file.path), error)
            return None

    # -- reads ---------------------------------------------------------------------------------------------------

    def fetch_stamped(self, path: str) -> tuple[bytes, str]:
        """As `FileStore.fetch_stamped`; of packed files without a stamp."""
        if not packed_folder(path):
            return super().fetch_stamped(path)
        [found] = self.each_packed([path], self.packed_bytes, lambda path: FileStore.fetch_stamped(self, path))
        return found if isinstance(found, tuple) else (found, "")

    def shard_of(self, path: str) -> str:
        """The shard in which a file lies, as far as this process knows; empty: in none."""
        return next((file.shard for file in self._packed_among([path]).values()), "") if packed_folder(path) else ""

    def each_packed(
        self, paths: Sequence[str], read: Callable[[list[PackedFile]], list[T]], other: Callable[[str], T | Any]
    ) -> list[T | Any]:
        """What some paths hold, in order: packed files by one call of `read`, others each by `other`.

        Raises:
            FileNotFoundError: one is not there.
            CorruptArtifactError: one is damaged.
        """
        unique = list(dict.fromkeys(paths))
        for last in (False, True):
            packed = self._packed_among(unique)
            rest = [path for path in unique if path not in packed]
            try:
                found = dict(zip(packed, read(list(packed.values())), strict=True))
                found |= dict(zip(rest, self.each(other, rest, threads=self.requests_at_once), strict=True))
                break
            except FileNotFoundError:
                if last:
                    raise
                # Another process has packed these, or packed them anew.
                for folder in {packed_folder(path) for path in unique} - {""}:
                    self.look(folder)
        return [found[path] for path in paths]

    def packed_bytes(self, files: Sequence[PackedFile]) -> list[bytes]:
        """The present bytes of packed files, not verified; neighbours in one request."""
        if self.is_local:
            return [bytes(self._of_local(file, self._mapped.bytes_of)[0]) for file in files]

        def read(span: tuple[str, int, int, list[PackedFile]]) -> Mapping[str, bytes]:
            return cut(span, self._part(span[0], span[1], span[2]))

        found = {path: data for own in self.each(read, spans(files)) for path, data in own.items()}
        return [found[file.path] for file in files]

    def _of_local(self, file: PackedFile, read: Callable[..., T]) -> T:
        local_path = self.local_path(file.shard)
        try:
            return retried(lambda: read(local_path, file), self.location(file.shard))
        except DamagedError as error:
            raise self.corrupt(file.path, f"{error}; it lies in {file.shard}") from error

    def _part(self, path: str, first: int, last: int) -> bytes:
        """Some bytes of a file."""
        if self.is_local:

            def read() -> bytes:
                with self.local_path(path).open("rb") as file:
                    file.seek(first)
                    return file.read(last - first)

            return retried(read, self.location(path))
        fs, base = self.opened
        return bytes(retried(lambda: fs.cat_file(f"{base}/{path}", start=first, end=last), self.location(path)))

    # -- writes --------------------------------------------------------------------------------------------------

    def next_generation(self, folder: str, paths: Collection[str]) -> int:
        """Of a shard whose files count rather than those that any shard of a folder has at these paths now."""
        packed = self.look(folder).packed  # those that a file of its own hides, too
        return 1 + max((generation_of(packed[path].shard) for path in paths if path in packed), default=-1)

    def write_shard(self, folder: str, files: Sequence[Unpacked], generation: int) -> None:
        """Write a new shard."""
        shard = new_shard(folder, generation)
        ordered = sorted(files, key=lambda file: file.path)
        parts, places = shard_parts(shard, ordered)
        length = sum(map(len, parts))
        stamp = self.put_file(shard, parts)
        now = time.time()
        found = [
            PackedFile(file.path, shard, start, size, True, file.notes, now)
            for file, (start, size) in zip(ordered, places, strict=True)
        ]
        self._headers[shard] = f"{stamp} {length}", found
        self._unnoted.add(shard)
        if folder in self._folders:
            self._folders[folder].add(shard, found)

    def note_headers(self, folder: str) -> None:
        """Leave the headers of shards that this process wrote, once they are many, for those who look next."""
        state = self._folders.get(folder)
        own = self._unnoted & (state.shards.keys() if state else set())
        if self.is_local or state is None or len(own) < max(SNAPSHOT, len(state.shards) // 10):
            return
        write_headers(self, folder, {shard: self._headers[shard] for shard in state.shards if shard in self._headers})
        self._unnoted -= own

    def wrote_single(self, path: str) -> None:
        """Note that a file of its own was written."""
        if (folder := packed_folder(path)) in self._folders:
            self._folders[folder].single.add(path)

    def delete(self, paths: Iterable[str]) -> None:
        """As `FileStore.delete`; what else a shard holds is packed anew before the shard goes."""
        listed = list(paths)
        folders: dict[str, set[str]] = defaultdict(set)
        for path in listed:
            if folder := packed_folder(path):
                folders[folder].add(path)
        super().delete(path for path in listed if not packed_folder(path))
        for folder, gone in sorted(folders.items()):
            self._delete_in(folder, gone)

    def _delete_in(self, folder: str, gone: set[str]) -> None:
        with self.packing:
            state = self.look(folder)
            super().delete(sorted(gone & state.single))
            state.single -= gone
            held = [shard for shard, files in state.shards.items() if any(file.path in gone for file in files)]
            if held:
                pack_anew(self, folder, held, gone)


def _stored(file: PackedFile) -> StoredFile:
    return StoredFile(file.path, file.size, file.changed, f"{file.shard}:{file.start}")


def _stamp(file: StoredFile) -> str:
    return f"{file.stamp} {file.size}"
