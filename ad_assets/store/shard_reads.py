"""Reads of files in shards: memory-mapped on a local disk, neighbours in one request of an object store."""

from __future__ import annotations

import json
import mmap
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from ad_assets.store.checksums import DamagedError, tensors_checksum
from ad_assets.store.shard_format import PackedFile, header_end
from ad_assets.store.tensor_files import torch_types

if TYPE_CHECKING:
    from torch import Tensor

GAP = 1 << 20  # bytes between neighbours that cost less to read than another request, at 30 ms and 100 MB/s
MOST_A_REQUEST = 32 << 20
MAPPED = 64  # shards that stay mapped
Stamp = tuple[int, int, int, int]


class MappedShards:
    """Local shards, mapped when one of their files is read first, and again when they are not what they were.

    Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._maps: OrderedDict[str, tuple[Stamp, mmap.mmap]] = OrderedDict()
        self._verified: dict[tuple[str, int], Stamp] = {}

    def bytes_of(self, local_path: Path, file: PackedFile) -> tuple[memoryview, Stamp]:
        """The present bytes of a packed file, in mapped memory, and a stamp of its shard.

        Raises:
            FileNotFoundError: there is no such shard.
            DamagedError: it is shorter than it was.
        """
        name = str(local_path)
        status = os.stat(name)  # noqa: PTH116 - of each read
        stamp = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        with self._lock:
            known, mapped = self._maps.get(name, (None, None))
            if mapped is None or known != stamp:
                if status.st_size < file.start + file.size:
                    raise DamagedError("its shard is too short")
                with local_path.open("rb") as opened:
                    # A private copy: who changes a tensor changes no file.
                    mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
                self._maps[name] = stamp, mapped
                while len(self._maps) > MAPPED:
                    self._maps.popitem(last=False)  # tensors keep their own
            self._maps.move_to_end(name)
        if len(mapped) < file.start + file.size:
            raise DamagedError("its shard is too short")
        return memoryview(mapped)[file.start : file.start + file.size], stamp

    def tensors(self, local_path: Path, file: PackedFile) -> dict[str, Tensor]:
        """The mapped tensors of a packed file, verified when this process first reads it.

        Raises:
            FileNotFoundError: as `bytes_of`.
            DamagedError: as `bytes_of`, or the checksum does not match.
        """
        view, stamp = self.bytes_of(local_path, file)
        key = str(local_path), file.start
        if self._verified.get(key) != stamp:
            tensors_checksum(file.path, BytesIO(view))
            self._verified[key] = stamp
        return tensors_in(view)


def tensors_in(view: memoryview) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file, which are not copied where they are aligned.

    Raises:
        DamagedError: it is none.
    """
    import torch

    types, end = torch_types(), header_end(bytes(view[:8]))
    try:
        header: dict[str, Any] = json.loads(bytes(view[8:end]))
        header.pop("__metadata__", None)
        found = {}
        for name, entry in header.items():
            dtype, (first, last) = types[entry["dtype"]], entry["data_offsets"]
            part = view[end + first : end + last]
            if len(part) != last - first:
                raise DamagedError("it is too short")
            flat = torch.frombuffer(part, dtype=dtype) if part else torch.empty(0, dtype=dtype)
            if flat.data_ptr() % dtype.itemsize:
                flat = flat.clone()
            found[name] = flat.reshape(entry["shape"])
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise DamagedError(f"it cannot be read as tensors: {error}") from error
    return found


def spans(files: Sequence[PackedFile]) -> list[tuple[str, int, int, list[PackedFile]]]:
    """Shard, first and last byte, and files of the fewest requests that read some files without long gaps."""
    found: list[tuple[str, int, int, list[PackedFile]]] = []
    for file in sorted(files, key=_place):
        end = file.start + file.size
        if found:
            shard, first, last, own = found[-1]
            if shard == file.shard and file.start - last <= GAP and end - first <= MOST_A_REQUEST:
                found[-1] = shard, first, max(last, end), [*own, file]
                continue
        found.append((file.shard, file.start, end, [file]))
    return found


def cut(span: tuple[str, int, int, list[PackedFile]], data: bytes) -> Mapping[str, bytes]:
    """Path -> bytes of the files of one of `spans`, from what was read of it."""
    _, first, _, files = span
    return {file.path: data[file.start - first : file.start - first + file.size] for file in files}


def _place(file: PackedFile) -> tuple[str, int]:
    return file.shard, file.start
