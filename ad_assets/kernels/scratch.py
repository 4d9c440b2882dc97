"""Tensors in temporary files that the system maps into memory: what main memory need not hold at once.

A file has no name once it is open, so nothing of it is left when the process ends, however it ends. Its pages count as
the system's cache: they are written to the disk and dropped where memory runs short.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ad_assets.kernels.budget import BudgetError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IN_MEMORY = ("tmpfs", "ramfs")  # file systems whose files lie in main memory


def mapped(shape: tuple[int, ...], dtype: torch.dtype, what: str) -> Tensor:
    """A tensor of zeros in a temporary file, in `scratch_folder`.

    Args:
        shape: of the tensor.
        dtype: of its values.
        what: is kept there, for the error.

    Raises:
        BudgetError: the disk has no room for it.
    """
    import torch

    size = math.prod(shape) * dtype.itemsize
    if not size:
        return torch.zeros(shape, dtype=dtype)
    with tempfile.TemporaryFile(dir=scratch_folder(), prefix="ad_assets-") as file:
        try:
            # Room is taken now: on a full disk a write to a mapped page would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise BudgetError(
                f"{what} need {1e-9 * size:.3g} GB on disk, {scratch_folder()} has {1e-9 * free_bytes():.3g} GB: set "
                "the environment variable TMPDIR to a folder on a larger disk, or raise compute.memory_gb if this "
                "machine has more"
            ) from error
        return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=dtype).view(shape)


def scratch_folder() -> Path:
    """Where temporary files lie: the system's folder for them, or what TMPDIR names."""
    return Path(tempfile.gettempdir())


def free_bytes() -> int:
    """Bytes that the disk of `scratch_folder` has left."""
    return shutil.disk_usage(scratch_folder()).free


def lies_in_memory() -> bool:
    """Whether files in `scratch_folder` lie in main memory, so that they save none of it (Linux)."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    folder = scratch_folder().resolve()
    kinds = {Path(mount): kind for _, mount, kind, *_ in map(str.split, mounts)}
    holder = next((parent for parent in (folder, *folder.parents) if parent in kinds), None)
    return holder is not None and kinds[holder] in IN_MEMORY
