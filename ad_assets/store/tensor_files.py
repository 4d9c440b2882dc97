"""Safetensors files on a local disk, memory-mapped, and the text notes in their headers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ad_assets.store.checksums import KEY, tensors_checksum

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch import dtype as TorchType  # noqa: N812 - it names a type

_NAMES = {  # of the format, in its order of types; complex numbers and those of 8 bits are not stored
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
}
_RANKS = list(_NAMES.values())
_VERIFIED: dict[Path, tuple[int, ...]] = {}  # file -> stamp of the content that this process has verified


def unwritten_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], list[memoryview]]:
    """The header of a safetensors file of some tensors, and their bytes in its order, of which nothing is copied.

    The order is that of the library's own files: wide types first, by name within a type.
    """
    import torch

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    order = sorted(ready, key=lambda name: (-_RANKS.index(_name_of(ready[name])), name))
    header, parts, first = {}, [], 0
    for name in order:
        tensor, last = ready[name], first + ready[name].nbytes
        shape, offsets = list(tensor.shape), [first, last]
        header[name] = {"dtype": _name_of(tensor), "shape": shape, "data_offsets": offsets}
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
        first = last
    return header, parts


def _name_of(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    return _NAMES[kind]


def torch_types() -> dict[str, TorchType]:
    """Names of the format -> torch's types."""
    import torch

    return {name: getattr(torch, kind) for kind, name in _NAMES.items()}


def map_tensors(path: Path, *, notes_only: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The memory-mapped tensors of a file and the notes in its header."""
    from safetensors import safe_open

    # Opened twice, since safetensors reports every failure to open a file as a missing one.
    with path.open("rb"), safe_open(path, framework="pt") as file:
        tensors = {} if notes_only else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, dict(file.metadata() or {})


def verify(local_path: Path, path: str) -> None:
    """Verify the checksum of a file, once per process and content.

    Args:
        local_path: the file.
        path: its path in the store, which the checksum covers.

    Raises:
        DamagedError: the checksum does not match.
    """
    with local_path.open("rb") as file:
        status = os.fstat(file.fileno())
        stamp = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        if _VERIFIED.get(local_path) != stamp:
            tensors_checksum(path, file)
            _VERIFIED[local_path] = stamp


def checksum_of(local_path: Path, path: str) -> str:
    """The checksum of a file, read to its end; arguments and errors as `verify`."""
    with local_path.open("rb") as file:
        return tensors_checksum(path, file)


def notes_of(data: bytes) -> dict[str, str]:
    """All notes in the header of a tensor file's bytes."""
    return dict(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {}))


def without_checksum(notes: dict[str, str]) -> dict[str, str]:
    """The notes without the checksum."""
    return {name: note for name, note in notes.items() if name != KEY}
