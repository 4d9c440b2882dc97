"""The artifact store: files addressed by the fingerprint of what they were made from, on any fsspec file system.

Layout under the root (a local folder or ``s3://bucket/prefix``)::

    features/<extractor>/shards/<unique>.safetensors   features of images, shared by all datasets and detectors
    features/<extractor>/<ab>/<image_id>.safetensors   where those of one image lie in a file of their own, and the
                                                       path by which they are read wherever they lie
    artifacts/<kind>/<version>/...                     one folder per artifact; artifact.json is written last, and of
                                                       an object store holds its small files
    heads/<asset key>/<partition>.json                 the present version of an asset's partition

Files are complete or absent (`ad_assets.store.files`), and an artifact exists once its ``artifact.json`` does. Since
disks and people change files too, everything read is compared with its checksum (`ad_assets.store.checksums`),
memory-mapped files when a process first reads them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from ad_assets.store.artifact import Artifact
from ad_assets.store.checksums import (
    KEY,
    CorruptArtifactError,
    DamagedError,
    plain_checksum,
    sealed_tensors,
    tensors_checksum,
)
from ad_assets.store.files import MissingFileError, StoredFile, stamp_of
from ad_assets.store.heads import HEAD, Heads
from ad_assets.store.layout import ARTIFACTS, TENSORS, artifact_folder
from ad_assets.store.local import write_whole
from ad_assets.store.records import recall
from ad_assets.store.remembering_store import RememberingStore, WrittenFile
from ad_assets.store.retry import retried
from ad_assets.store.small_files import MOST_A_FILE
from ad_assets.store.tensor_files import (
    checksum_of,
    map_tensors,
    notes_of,
    unwritten_tensors,
    verify,
    without_checksum,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from ad_assets.store.shard_format import PackedFile

__all__ = ["HEAD", "Artifact", "ArtifactStore", "CorruptArtifactError", "MissingFileError", "StoredFile"]

_HEADER = 4096  # bytes that hold the header of a tensor file with a dozen tensors
_LOG = logging.getLogger(__name__)


class ArtifactStore(RememberingStore):
    """Reads and writes tensors, tables, JSON and bytes by path relative to the root.

    Raises:
        FileNotFoundError: a path to read does not exist.
        CorruptArtifactError: it exists and is damaged.
        NoSpaceError: the disk is full.
        StorageError: the storage does not answer in several tries.
    """

    _heads: Heads | None = PrivateAttr(default=None)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file in one step."""
        self._put(path, [data], plain_checksum(path, data) if artifact_folder(path) else "")

    def put_file(self, path: str, parts: Sequence[bytes | memoryview]) -> str:
        """As `PackedStore.put_file`."""
        return self._put(path, parts, "")

    def _put(self, path: str, parts: Sequence[bytes | memoryview], checksum: str) -> str:
        """Write a file; returns the stamp that a listing gives for it, empty where that is not known."""
        fs, base = self.opened
        location, stamp, data = self.location(path), "", b""
        if self.is_local:
            # Another process may remove the empty folder between its creation and the write.
            passing = (FileNotFoundError, FileExistsError)
            stamp = stamp_of(retried(lambda: write_whole(Path(base, path), *parts), location, also=passing))
        else:
            data = b"".join(parts)
            answer = retried(lambda: fs.pipe_file(f"{base}/{path}", data), location)
            # Of an object written in parts s3fs does not say it: such a file counts as that of another process.
            stamp = answer.get("ETag", "") if isinstance(answer, dict) else ""
        if artifact_folder(path):
            self.note_written(path, WrittenFile(sum(map(len, parts)), checksum, stamp), data)
        self.wrote_single(path)
        return stamp

    def _write_value(self, path: str, data: bytes) -> None:
        """Write a file that this project alone reads: in an object store, a small one of an artifact in its record."""
        if self.is_local or not artifact_folder(path) or len(data) > MOST_A_FILE:
            self.write_bytes(path, data)
        else:
            self.let_wait(path, data)

    def read_bytes(self, path: str) -> bytes:
        """Read a whole file; a file of an artifact is verified by the checksum in its record."""
        folder = artifact_folder(path)
        return Artifact(self, folder).read(path) if folder else self.fetch(path)

    def write_json(self, path: str, value: object) -> None:
        """Write a JSON value; NaN and infinities are refused."""
        self._write_value(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode())

    def read_json(self, path: str) -> Any:
        """Read a JSON value."""
        data = self.read_bytes(path)
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self.corrupt(path, error) from error

    def write_text(self, path: str, text: str) -> None:
        """Write UTF-8 text."""
        self._write_value(path, text.encode())

    def read_text(self, path: str) -> str:
        """Read UTF-8 text."""
        try:
            return self.read_bytes(path).decode()
        except UnicodeDecodeError as error:
            raise self.corrupt(path, error) from error

    def write_table(self, path: str, table: pa.Table) -> None:
        """Write a Parquet table."""
        import pyarrow as pa
        from pyarrow import parquet

        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink)
        self._write_value(path, sink.getvalue().to_pybytes())

    def read_table(self, path: str) -> pa.Table:
        """Read a Parquet table."""
        import pyarrow as pa
        from pyarrow import parquet

        data = self.read_bytes(path)
        try:
            return parquet.ParquetFile(pa.BufferReader(data)).read()  # read_table imports pandas
        except (pa.ArrowException, OSError) as error:  # of bytes at hand: no disk is to blame
            raise self.corrupt(path, error) from error

    def write_tensors(self, path: str, tensors: dict[str, Tensor], notes: dict[str, str] | None = None) -> None:
        """Write named tensors as safetensors, with small text notes in the header.

        They are not copied on a local disk, so that tensors beyond main memory, in mapped files, can be stored.
        """
        header, parts = unwritten_tensors(tensors)
        start, checksum = sealed_tensors(path, header, notes or {}, parts)
        self._put(path, [start, *parts], checksum)

    def read_tensors(self, path: str) -> dict[str, Tensor]:
        """Read named tensors; on a local disk they are memory-mapped and loaded when used."""
        return self.read_many_tensors([path])[0]

    def _read_single_tensors(self, path: str) -> dict[str, Tensor]:
        if not self.is_local:
            return self.read_noted_tensors(path)[0]
        local_path = self.local_path(path)
        with self._named_errors(path):
            retried(lambda: verify(local_path, path), self.location(path))
            tensors, _ = retried(lambda: map_tensors(local_path), self.location(path))
        return tensors

    def read_noted_tensors(self, path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Named tensors and the text notes of the same file, in one read, since another process may replace it."""
        known = self.known_file(path)
        return self._parsed(path, self.fetch(path) if known is None else known)

    def _parsed(self, path: str, data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
        from safetensors.torch import load

        with self._named_errors(path):
            tensors_checksum(path, BytesIO(data))
            return load(data), without_checksum(notes_of(data))

    @contextmanager
    def _named_errors(self, path: str) -> Iterator[None]:
        """Raise the store's errors for a missing and for a damaged tensor file."""
        from safetensors import SafetensorError

        try:
            yield
        except FileNotFoundError as error:
            raise self._missing(path) from error
        except (SafetensorError, DamagedError) as error:
            raise self.corrupt(path, error) from error

    def holds_tensors(self, path: str) -> bool:
        """Whether an intact tensor file exists, as after an interrupted build; a damaged one is deleted."""
        try:
            self.checksum(path)
        except FileNotFoundError:
            return False
        except CorruptArtifactError as error:
            _LOG.warning("%s", error)
            self.delete([path])
            return False
        return True

    def read_many_tensors(self, paths: Sequence[str]) -> list[dict[str, Tensor]]:
        """Read several tensor files concurrently, in order, to hide the latency of object stores."""
        return self.each_packed(paths, self._packed_tensors, self._read_single_tensors)

    def _packed_tensors(self, files: Sequence[PackedFile]) -> list[dict[str, Tensor]]:
        if self.is_local:
            return [self._of_local(file, self._mapped.tensors) for file in files]
        return [self._parsed(file.path, data)[0] for file, data in zip(files, self.packed_bytes(files), strict=True)]

    def read_notes(self, path: str) -> dict[str, str]:
        """The text notes in the header of a tensor file; tensors are neither read nor verified."""
        return self.read_many_notes([path])[0]

    def read_many_notes(self, paths: Sequence[str]) -> list[dict[str, str]]:
        """As `read_notes` of several files, in order; of an object store concurrently, to hide its latency."""
        return self.each_packed(
            paths,
            lambda files: [dict(file.notes) for file in files],  # the header of the shard has them: nothing is read
            lambda path: without_checksum(self._all_notes(path)),
        )

    def _all_notes(self, path: str) -> dict[str, str]:
        fs, base = self.opened

        def header() -> bytes:
            # The first 8 bytes give the length of the JSON header (safetensors format), which seldom is longer.
            start: bytes = fs.cat_file(f"{base}/{path}", start=0, end=_HEADER)
            end = 8 + int.from_bytes(start[:8], "little")
            return start if end <= len(start) else start + bytes(fs.cat_file(f"{base}/{path}", start=_HEADER, end=end))

        with self._named_errors(path):
            if self.is_local:
                return retried(lambda: map_tensors(Path(base, path), notes_only=True), self.location(path))[1]
            return notes_of(retried(header, self.location(path)))

    # -- checksums -----------------------------------------------------------------------------------------------

    def checksum(self, path: str) -> str:
        """The checksum of a file, which is read completely.

        Raises:
            CorruptArtifactError: a tensor file is damaged, or was written for another path.
        """
        from safetensors.torch import load

        if not path.endswith(TENSORS):
            return plain_checksum(path, self.fetch(path))
        with self._named_errors(path):
            # Loaded or mapped too, which checks the length of files without a checksum.
            if not self.is_local or self.shard_of(path):
                data = self.fetch(path)
                load(data)
                return tensors_checksum(path, BytesIO(data))
            local_path = self.local_path(path)
            retried(lambda: map_tensors(local_path, notes_only=True), self.location(path))
            return retried(lambda: checksum_of(local_path, path), self.location(path))

    def stated_checksum(self, path: str) -> str:
        """The checksum in the header of a tensor file, whose tensors are not read; of other files as `checksum`."""
        return (self._all_notes(path).get(KEY) if path.endswith(TENSORS) else None) or self.checksum(path)

    # -- records, artifacts and heads ----------------------------------------------------------------------------

    def artifact(self, kind: str, version: str) -> Artifact:
        """The artifact of a kind and fingerprint, whether or not it exists."""
        return Artifact(self, f"{ARTIFACTS}/{kind}/{version}")

    @property
    def heads(self) -> Heads:
        """The heads in it."""
        if self._heads is None:
            self._heads = Heads(self)
        return self._heads

    def head_path(self, key: Sequence[str], partition: str | None) -> str:
        """Path of the head of an asset's partition."""
        return "/".join(["heads", *key, f"{partition or '_'}.json"])

    def read_head(self, key: Sequence[str], partition: str | None) -> dict[str, Any] | None:
        """The head of an asset's partition; None if it was never materialized, or the head is damaged."""
        return recall(self, self.head_path(key, partition), *HEAD)

    @contextmanager
    def valid_content(self, path: str) -> Iterator[None]:
        """Report errors of the block, which parses the content of a file, as damage of that file."""
        try:
            yield
        except CorruptArtifactError:
            raise
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else error
            raise self.corrupt(path, why) from error
