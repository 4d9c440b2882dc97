"""Shards: safetensors files that hold whole files of tensors, one a tensor of bytes by the file's name.

A packed file keeps its path, bytes and checksum, so that nothing that names it changes when it is packed, and any
reader of safetensors can take it out again. Names of shards are unique and begin with a generation: of two shards that
hold the same file, the one of the later generation counts. A shard is never changed once it is written.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ad_assets.store.checksums import KEY, DamagedError, plain_checksum
from ad_assets.store.layout import PACKED, SHARDS, TENSORS

SHARD = 8 << 20  # bytes of files from which on a shard is written
NOTES = "notes"  # of all packed files, as JSON by name, in the metadata of the header
_ALIGNMENT = 8  # bytes, of the files in a shard and of the tensors in these


@dataclass(frozen=True)
class PackedFile:
    """A file in a shard.

    Args:
        path: of the file in the store, as if it were a file of its own.
        shard: path of the shard.
        start: its first byte in the shard.
        size: bytes, as far as the shard has them.
        whole: whether the shard has all of them.
        notes: those of its own header, without its checksum.
        changed: when the shard was written, seconds since 1970.
    """

    path: str
    shard: str
    start: int
    size: int
    whole: bool
    notes: Mapping[str, str]
    changed: float

    @property
    def rank(self) -> tuple[int, str]:
        """By which the one that counts is told of several: the last."""
        return generation_of(self.shard), self.shard


@dataclass(frozen=True)
class Unpacked:
    """A file to be packed: its path, its bytes in parts, and the notes of its header without its checksum."""

    path: str
    parts: Sequence[bytes | memoryview]
    notes: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.parts))


def packed_folder(path: str) -> str:
    """The folder whose shards may hold the file of a path, ``features/<extractor>``; empty: it is never packed."""
    parts = path.split("/", 3)
    return "/".join(parts[:2]) if len(parts) == 4 and parts[0] == PACKED and parts[2] != SHARDS else ""


def is_shard(path: str) -> bool:
    """Whether a path is that of a complete shard."""
    parts = path.split("/")
    named = len(parts) == 4 and parts[0] == PACKED and parts[2] == SHARDS
    return named and parts[3].endswith(TENSORS) and parts[3].partition("-")[0].isdigit()


def new_shard(folder: str, generation: int) -> str:
    """A path that no other process uses."""
    return f"{folder}/{SHARDS}/{generation:04d}-{uuid.uuid4().hex}{TENSORS}"


def generation_of(shard: str) -> int:
    """The generation in the name of a shard."""
    return int(shard.rpartition("/")[2].partition("-")[0])


def shard_parts(shard: str, files: Sequence[Unpacked]) -> tuple[list[bytes | memoryview], list[tuple[int, int]]]:
    """The bytes of a shard, in parts that are not copied, and the start and size of each file in it."""
    folder = shard.rpartition(f"/{SHARDS}/")[0]
    header: dict[str, Any] = {}
    first = 0
    for file in files:
        name, last = file.path.removeprefix(f"{folder}/"), first + file.size
        header[name] = {"dtype": "U8", "shape": [file.size], "data_offsets": [first, last]}
        first = last
    notes = json.dumps({file.path.removeprefix(f"{folder}/"): dict(file.notes) for file in files})
    metadata = {NOTES: notes, KEY: _header_checksum(shard, header, notes)}
    raw = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    start = len(raw).to_bytes(8, "little") + raw
    places = [(len(start) + each["data_offsets"][0], each["shape"][0]) for each in header.values()]
    return [start, *(part for file in files for part in file.parts)], places


def _header_checksum(shard: str, header: Mapping[str, Any], notes: str) -> str:
    """Of all but the packed files, each of which has its own."""
    return plain_checksum(shard, json.dumps([header, notes], sort_keys=True).encode())


def header_end(start: bytes) -> int:
    """Where the header of a tensor file ends, from its first eight bytes."""
    return 8 + int.from_bytes(start[:8], "little")


def packed_files(shard: str, start: bytes, length: int, changed: float) -> list[PackedFile]:
    """The files in a shard.

    Args:
        shard: its path.
        start: its first bytes, all of its header at least.
        length: its size in bytes.
        changed: see `PackedFile`.

    Raises:
        DamagedError: the header cannot be read.
    """
    folder, end = shard.rpartition(f"/{SHARDS}/")[0], header_end(start)
    if not 8 < end <= len(start):
        raise DamagedError("it has no header of a tensor file")
    try:
        header = json.loads(start[8:end])
        metadata = header.pop("__metadata__")
        sound = metadata[KEY] == _header_checksum(shard, header, metadata[NOTES])
        notes = json.loads(metadata[NOTES])
        found = []
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            size = max(0, min(last, length - end) - first)
            own = {str(key): str(value) for key, value in notes[name].items()}
            found.append(PackedFile(f"{folder}/{name}", shard, end + first, size, size == last - first, own, changed))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError("it has no header of a shard") from error
    if not sound:
        raise DamagedError("the checksum of its header does not match")
    return found
