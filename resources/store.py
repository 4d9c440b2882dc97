"""The artifact store: files addressed by the fingerprint of what they were made from, on any fsspec file system.

Layout under the root (a local folder or ``s3://bucket/prefix``)::

    features/<extractor>/<ab>/<image_id>.safetensors   one file an image, shared by all datasets and detectors
    artifacts/<kind>/<version>/...                     one folder an artifact; artifact.json is written last
    heads/<asset key>/<partition>.json                 which version an asset's partition has now

A file is complete or absent: local files are written under a temporary name and renamed, object stores put whole
objects. An artifact exists once its ``artifact.json`` does. Every request is made again while it fails for a reason
that may pass (`ad_assets.storage`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import fsspec
from pydantic import Field, PrivateAttr, field_validator

from ad_assets.settings import Settings, without_password, without_secrets
from ad_assets.storage import find_files, retried
from resources.disk import map_tensors, prune_empty_folders, write_whole
from resources.exchange import Change, SwapFile

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

MARKER = "artifact.json"


class CorruptArtifactError(ValueError):
    """A stored file cannot be read back; the message names it and the remedy."""


@dataclass(frozen=True)
class StoredFile:
    """One file of a listing: path relative to the root, size in bytes, change time in seconds, stamp of its content."""

    path: str
    size: int
    changed: float
    stamp: str = ""


class ArtifactStore(Settings):
    """Reads and writes tensors, tables, JSON and bytes by path relative to the root.

    Raises:
        FileNotFoundError: a path to read does not exist.
        CorruptArtifactError: it exists but cannot be read.
        NoSpaceError: there is no room for what is written.
        StorageError: the store does not answer, whatever the number of tries.
    """

    root: str = Field(default=".ad_assets", min_length=1, description="local folder or s3://bucket/prefix")
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="options of the fsspec file system, such as endpoint_url; no secrets",
    )

    @field_validator("root")
    @classmethod
    def _no_password(cls, root: str) -> str:
        return without_password(root)

    @field_validator("storage_options")
    @classmethod
    def _no_secrets(cls, options: dict[str, Any]) -> dict[str, Any]:
        return without_secrets(options)

    _fs: Any = PrivateAttr(default=None)
    _base: str = PrivateAttr(default="")
    _bytes_written: int = PrivateAttr(default=0)
    _bytes_read: int = PrivateAttr(default=0)

    def _open(self) -> tuple[Any, str]:
        if self._fs is None:
            options = dict(self.storage_options)
            if "://" in self.root and not self.root.startswith("file://"):
                # A cached listing would hide what another process has written.
                options.setdefault("use_listings_cache", False)
            fs, base = fsspec.core.url_to_fs(self.root, **options)
            self._base = base.rstrip("/")
            self._fs = fs  # last: another thread takes it for a sign that all is set
        return self._fs, self._base

    @property
    def is_local(self) -> bool:
        """Whether files lie in a local folder."""
        fs, _ = self._open()
        return "file" in (fs.protocol if isinstance(fs.protocol, (tuple, list)) else (fs.protocol,))

    @property
    def bytes_written(self) -> int:
        """Bytes written through this object."""
        return self._bytes_written

    @property
    def bytes_read(self) -> int:
        """Bytes read through this object."""
        return self._bytes_read

    def location(self, path: str) -> str:
        """The full path or URL of a stored path, for people and for error messages."""
        return f"{self.root.rstrip('/')}/{path}"

    # -- whole files ---------------------------------------------------------------------------------------------

    def exists(self, path: str) -> bool:
        """Whether a complete file lies at `path`."""
        fs, base = self._open()
        try:
            # Not isfile, which takes a request that failed for a file that is absent.
            info = retried(lambda: fs.info(f"{base}/{path}"), self.location(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return bool(info["type"] == "file")

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file in one step."""
        fs, base = self._open()
        place = self.location(path)
        if self.is_local:
            # Absent is a folder that another process has emptied and removed since it was made.
            retried(lambda: write_whole(Path(base, path), data), place, also=(FileNotFoundError, FileExistsError))
        else:
            retried(lambda: fs.pipe_file(f"{base}/{path}", data), place)
        self._bytes_written += len(data)

    def read_bytes(self, path: str) -> bytes:
        """Read a whole file."""
        fs, base = self._open()
        try:
            data: bytes = retried(lambda: fs.cat_file(f"{base}/{path}"), self.location(path))
        except FileNotFoundError as error:
            raise self._missing(path) from error
        self._bytes_read += len(data)
        return data

    def write_json(self, path: str, value: object) -> None:
        """Write a JSON value; NaN and infinities are refused."""
        self.write_bytes(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode())

    def read_json(self, path: str) -> Any:
        """Read a JSON value."""
        data = self.read_bytes(path)
        try:
            return json.loads(data)
        except ValueError as error:
            raise self._corrupt(path, error) from error

    def update(self, path: str, change: Change) -> None:
        """Replace a file by what `change` makes of it; of several processes that do so at once, none undoes another.

        Args:
            path: the file.
            change: from the content, None where there is no file, to the new one. Called again on what another process
                has written meanwhile; the same content is not written.

        Raises:
            StorageError: others were faster for too long, or the file system cannot write on a condition.
        """
        self._bytes_written += SwapFile(*self._open(), path, self.location(path)).update(change)

    def can_update(self, path: str) -> bool:
        """Whether the store keeps two who update a file apart; tries it, and leaves a file at `path`."""
        return SwapFile(*self._open(), path, self.location(path)).try_conditions()

    def write_text(self, path: str, text: str) -> None:
        """Write UTF-8 text."""
        self.write_bytes(path, text.encode())

    def read_text(self, path: str) -> str:
        """Read UTF-8 text."""
        return self.read_bytes(path).decode()

    def write_table(self, path: str, table: pa.Table) -> None:
        """Write a Parquet table."""
        import pyarrow as pa
        from pyarrow import parquet

        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink)
        self.write_bytes(path, sink.getvalue().to_pybytes())

    def read_table(self, path: str) -> pa.Table:
        """Read a Parquet table."""
        import pyarrow as pa
        from pyarrow import parquet

        data = self.read_bytes(path)
        try:
            return parquet.read_table(pa.BufferReader(data))
        except pa.ArrowInvalid as error:
            raise self._corrupt(path, error) from error

    def write_tensors(self, path: str, tensors: dict[str, Tensor], notes: dict[str, str] | None = None) -> None:
        """Write named tensors as safetensors, with small text notes in the header."""
        from safetensors.torch import save

        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self.write_bytes(path, save(ready, metadata=notes))

    def read_tensors(self, path: str) -> dict[str, Tensor]:
        """Read named tensors; on a local disk they are mapped, not copied, until used."""
        if not self.is_local:
            return self.read_noted_tensors(path)[0]
        with self._told_apart(path):
            tensors, _ = retried(lambda: map_tensors(Path(self._open()[1], path)), self.location(path))
        self._bytes_read += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        return tensors

    def read_noted_tensors(self, path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Named tensors with the notes of the same file, read at once: another process may replace it meanwhile."""
        from safetensors.torch import load

        with self._told_apart(path):
            data = self.read_bytes(path)
            return load(data), _notes(data)

    @contextmanager
    def _told_apart(self, path: str) -> Iterator[None]:
        """A tensor file that is missing and one that is damaged are two errors."""
        from safetensors import SafetensorError

        try:
            yield
        except FileNotFoundError as error:
            raise self._missing(path) from error
        except SafetensorError as error:
            raise self._corrupt(path, error) from error

    def check_tensors(self, path: str) -> None:
        """Read every byte of a tensor file, which `read_tensors` leaves to whoever uses them."""
        for tensor in self.read_tensors(path).values():
            tensor.clone()

    def read_many_tensors(self, paths: Sequence[str]) -> list[dict[str, Tensor]]:
        """Read several tensor files at once, in order; hides the latency of an object store."""
        if len(paths) == 1:
            return [self.read_tensors(paths[0])]
        with ThreadPoolExecutor(max_workers=2 if self.is_local else 16) as pool:
            return list(pool.map(self.read_tensors, paths))

    def read_notes(self, path: str) -> dict[str, str]:
        """The text notes in the header of a tensor file; the tensors are not read from a local disk."""
        fs, base = self._open()

        def header() -> bytes:
            # The first 8 bytes give the length of the JSON header (safetensors format).
            length: bytes = fs.cat_file(f"{base}/{path}", start=0, end=8)
            return length + bytes(fs.cat_file(f"{base}/{path}", start=8, end=8 + int.from_bytes(length, "little")))

        with self._told_apart(path):
            if self.is_local:
                return retried(lambda: map_tensors(Path(base, path), notes_only=True), self.location(path))[1]
            return _notes(retried(header, self.location(path)))

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files; absent ones are passed over, and emptied local folders go too."""
        fs, base = self._open()
        for path in paths:
            try:
                retried(partial(fs.rm_file, f"{base}/{path}"), self.location(path))
            except FileNotFoundError:
                continue
            if self.is_local:
                prune_empty_folders(Path(base, path).parent, Path(base))

    def files(self, prefix: str = "") -> list[StoredFile]:
        """All files under a prefix (temporary ones too), sorted by path, from one listing."""
        fs, base = self._open()
        start = f"{base}/{prefix}".rstrip("/")
        listing = retried(lambda: find_files(fs, start), self.location(prefix))
        found = [
            StoredFile(path[len(base) + 1 :], int(info["size"]), _changed(info), _stamp(info))
            for path, info in listing.items()
        ]
        return sorted(found, key=lambda file: file.path)

    def usage(self, prefix: str = "") -> int:
        """Bytes stored under a prefix."""
        return sum(file.size for file in self.files(prefix))

    # -- artifacts and heads -------------------------------------------------------------------------------------

    def artifact(self, kind: str, version: str) -> Artifact:
        """The artifact of one kind with one fingerprint, present or not."""
        return Artifact(self, f"artifacts/{kind}/{version}")

    def head_path(self, key: Sequence[str], partition: str | None) -> str:
        """Where the head of an asset's partition lies."""
        return "/".join(["heads", *key, f"{partition or '_'}.json"])

    def read_head(self, key: Sequence[str], partition: str | None) -> dict[str, Any] | None:
        """What an asset's partition is now, or None when it was never materialized."""
        try:
            head: dict[str, Any] = self.read_json(self.head_path(key, partition))
        except FileNotFoundError:
            return None
        return head

    def write_head(self, key: Sequence[str], partition: str | None, head: dict[str, Any]) -> None:
        """Record what an asset's partition is now."""
        self.write_json(self.head_path(key, partition), head)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _missing(self, path: str) -> FileNotFoundError:
        return FileNotFoundError(f"{self.location(path)} is not in the store: materialize again with --force")

    def _corrupt(self, path: str, error: Exception) -> CorruptArtifactError:
        return CorruptArtifactError(f"{self.location(path)} cannot be read ({error}): materialize again with --force")


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

    def damaged(self) -> bool:
        """Whether a file of the artifact cannot be read back; reads them all."""
        readers = {
            ".json": self.store.read_json,
            ".parquet": self.store.read_table,
            ".safetensors": self.store.check_tensors,
        }
        for file in self.store.files(self.path):
            read = readers.get(PurePosixPath(file.path).suffix)
            try:
                if read:
                    read(file.path)
            except CorruptArtifactError:
                return True
            except FileNotFoundError:  # a checkpoint of another process, which has finished
                continue
        return False

    def commit(self, record: dict[str, Any]) -> None:
        """Make the artifact exist, with a record of what it is."""
        self.store.write_json(self.at(MARKER), record)

    def record(self) -> dict[str, Any]:
        """What was recorded at the commit."""
        record: dict[str, Any] = self.store.read_json(self.at(MARKER))
        return record


def _notes(data: bytes) -> dict[str, str]:
    return dict(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {}))


def _changed(info: dict[str, Any]) -> float:
    value = info.get("mtime", info.get("LastModified", 0))
    return float(value.timestamp()) if hasattr(value, "timestamp") else float(value)


def _stamp(info: dict[str, Any]) -> str:
    # A file is replaced, never written again: locally by another inode.
    return str(info.get("ETag") or f"{info.get('ino')}-{info.get('mtime')}-{info['size']}")
