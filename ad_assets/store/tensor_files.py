"""Tensor files (safetensors) of a local disk, mapped into memory, and what their headers say."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ad_assets.store.checksums import KEY, tensors_checksum

if TYPE_CHECKING:
    from torch import Tensor

_VERIFIED: dict[
    Path, tuple[int, ...]
] = {}  # file -> stamp of the content that this process has compared with its checksum


def map_tensors(path: Path, *, notes_only: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, mapped until they are used, and the notes in its header."""
    from safetensors import safe_open

    # Opened twice: safetensors takes whatever keeps it from opening a file for its absence.
    with path.open("rb"), safe_open(path, framework="pt") as file:
        tensors = {} if notes_only else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, dict(file.metadata() or {})


def verify(place: Path, path: str) -> None:
    """Compare a file with the checksum that it carries, unless this process has done so since it was written.

    Args:
        place: the file.
        path: what the checksum takes for its place.

    Raises:
        DamagedError: it is another one.
    """
    with place.open("rb") as file:
        status = os.fstat(file.fileno())
        stamp = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        if _VERIFIED.get(place) != stamp:
            tensors_checksum(path, file)
            _VERIFIED[place] = stamp


def checksum_of(place: Path, path: str) -> str:
    """The checksum of a file, read to its end; arguments and errors as `verify`."""
    with place.open("rb") as file:
        return tensors_checksum(path, file)


def notes_of(data: bytes) -> dict[str, str]:
    """All notes in the header of the bytes of a tensor file."""
    return dict(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {}))


def without_checksum(notes: dict[str, str]) -> dict[str, str]:
    """The notes that were given when the file was written."""
    return {name: note for name, note in notes.items() if name != KEY}
