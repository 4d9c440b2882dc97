"""Checksums that tell a whole file from a damaged one, and from a copy of another: each covers the file's path.

A tensor file carries its own in the notes of its header, a record (a small JSON object) under a key of its own; what
other files of an artifact have is kept in the artifact's record. XXH3, 128 bits: against accidents, not attackers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

import xxhash

KEY = "checksum"
_UNKNOWN = "0" * 32
_CHUNK = 1 << 22  # bytes


class DamagedError(ValueError):
    """What was stored is not what was written there; the message says how that is seen."""


class CorruptArtifactError(ValueError):
    """The same of a file in a store; the message names it and the remedy."""


def plain_checksum(path: str, data: bytes) -> str:
    """The checksum of any file."""
    return _digest(path, data)


def sealed_record(path: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its checksum."""
    return {**record, KEY: _digest(path, _canonical(record))}


def opened_record(path: str, stored: object) -> dict[str, Any]:
    """The JSON object without its checksum; one that was written before there were any is taken as it is.

    Raises:
        DamagedError: it is another one.
    """
    if not isinstance(stored, dict):
        raise DamagedError("it is not a JSON object")
    record = {name: value for name, value in stored.items() if name != KEY}
    if KEY in stored and stored[KEY] != _digest(path, _canonical(record)):
        raise DamagedError("its checksum does not match")
    return record


def unsealed_notes(notes: Mapping[str, str]) -> dict[str, str]:
    """Notes for the header of a tensor file, with room for the checksum that `seal_tensors` fills in."""
    return {**notes, KEY: _UNKNOWN}


def seal_tensors(path: str, data: bytes) -> tuple[bytes, str]:
    """The bytes of a tensor file (safetensors) with its checksum in the header, and that checksum."""
    length = 8 + int.from_bytes(data[:8], "little")
    header = data[8:length]
    digest = _tensor_hash(path, _header(header))
    digest.update(memoryview(data)[length:])
    checksum = digest.hexdigest()
    sealed = header.replace(f'"{KEY}":"{_UNKNOWN}"'.encode(), f'"{KEY}":"{checksum}"'.encode())
    return b"".join((data[:8], sealed, memoryview(data)[length:])), checksum


def tensors_checksum(path: str, file: BinaryIO) -> str:
    """The checksum of an open tensor file, read to its end; of one that carries none, as of any file.

    Raises:
        DamagedError: it carries another one, or has no header.
    """
    start = file.read(8)
    raw = file.read(min(int.from_bytes(start, "little"), _CHUNK * 16))
    header = _header(raw)
    expected = header.get("__metadata__", {}).get(KEY)
    digest = _tensor_hash(path, header) if expected else _hashed(path, start + raw)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    checksum = str(digest.hexdigest())
    if expected and checksum != expected:
        raise DamagedError("its checksum does not match")
    return checksum


def _header(raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DamagedError("it has no header of a tensor file") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise DamagedError("it has no header of a tensor file")
    return header


def _tensor_hash(path: str, header: Mapping[str, Any]) -> Any:
    # The notes come in any order: what they say counts, not their bytes.
    notes = {name: note for name, note in header.get("__metadata__", {}).items() if name != KEY}
    return _hashed(path, _canonical({**header, "__metadata__": notes}))


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _hashed(path: str, data: bytes) -> Any:
    digest = xxhash.xxh3_128(path.encode())
    digest.update(b"\0")
    digest.update(data)
    return digest


def _digest(path: str, data: bytes) -> str:
    return str(_hashed(path, data).hexdigest())
