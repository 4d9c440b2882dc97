"""Checksums that detect damaged files and copies of other files: each covers content and path.

A tensor file has its checksum in the metadata of its header, a record (a small JSON object) under the key `KEY`; those
of other files of an artifact are in the artifact's record. XXH3, 128 bits: against accidents, not attackers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import xxhash

KEY = "checksum"
_ALIGNMENT = 8  # bytes, of the tensors in a safetensors file
_CHUNK = 1 << 22  # bytes
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))  # json.dumps would make one at each call


class DamagedError(ValueError):
    """Stored content is damaged; the message says how that was detected."""


class CorruptArtifactError(ValueError):
    """A file in the store is damaged; the message names it and the remedy."""


def plain_checksum(path: str, data: bytes) -> str:
    """The checksum of any file."""
    return _digest(path, data)


def sealed_record(path: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a JSON object with its checksum under `KEY`."""
    return {**record, KEY: _digest(path, _canonical(record))}


def opened_record(path: str, stored: object) -> dict[str, Any]:
    """The JSON object without its checksum, which is verified unless the object is an older one that has none.

    Raises:
        DamagedError: it is not an object, or its checksum does not match.
    """
    if not isinstance(stored, dict):
        raise DamagedError("it is not a JSON object")
    record = {name: value for name, value in stored.items() if name != KEY}
    if KEY in stored and stored[KEY] != _digest(path, _canonical(record)):
        raise DamagedError("its checksum does not match")
    return record


def sealed_tensors(
    path: str, header: Mapping[str, Any], notes: Mapping[str, str], parts: Iterable[bytes | memoryview]
) -> tuple[bytes, str]:
    """What stands before the tensors in a safetensors file, with the checksum in its header, and that checksum.

    Args:
        path: of the file in the store.
        header: of the tensors, by name.
        notes: text that the header holds as well.
        parts: the bytes of the tensors, in the order of the header.
    """
    digest = _tensor_hash(path, {**header, "__metadata__": dict(notes)})
    for part in parts:
        digest.update(part)
    checksum = digest.hexdigest()
    raw = json.dumps({"__metadata__": {**notes, KEY: checksum}, **header}, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    return len(raw).to_bytes(8, "little") + raw, checksum


def tensors_checksum(path: str, file: BinaryIO) -> str:
    """The checksum of an open tensor file, read to its end; for one without its own, that of `plain_checksum`.

    Raises:
        DamagedError: its own checksum does not match, or it has no header.
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
    # Metadata may be in any order, so its values are hashed and not its bytes.
    notes = {name: note for name, note in header.get("__metadata__", {}).items() if name != KEY}
    return _hashed(path, _canonical({**header, "__metadata__": notes}))


def _canonical(value: object) -> bytes:
    return _CANONICAL.encode(value).encode()


def _hashed(path: str, data: bytes) -> Any:
    digest = xxhash.xxh3_128(path.encode())
    digest.update(b"\0")
    digest.update(data)
    return digest


def _digest(path: str, data: bytes) -> str:
    return str(_hashed(path, data).hexdigest())
