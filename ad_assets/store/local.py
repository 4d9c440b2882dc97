"""Atomic writes to a local disk or network share, and removal of emptied folders."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from ad_assets.interrupts import when_interrupted
from ad_assets.store.retry import retried

TEMPORARY = ".tmp"


class NoSpaceError(OSError):
    """The disk or a quota is full; the message gives the free space and the remedy."""


def write_whole(target: Path, *parts: bytes | memoryview) -> os.stat_result:
    """Write a file under a temporary name and rename it, so that no reader ever sees less than all of its parts.

    Returns:
        Its stat result, by which a later replacement can be detected.

    Raises:
        FileNotFoundError: another process removed the empty folder at the same time.
        NoSpaceError: the disk is full.
        OSError: another failure; an earlier file is kept, and no temporary file is left.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with when_interrupted(lambda: temporary.unlink(missing_ok=True)):
            with temporary.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
                status = os.fstat(file.fileno())
            temporary.replace(target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(error, target, sum(map(len, parts))) from error
        raise
    return status


def _no_space(error: OSError, target: Path, size: int) -> NoSpaceError:
    free = shutil.disk_usage(next(folder for folder in target.absolute().parents if folder.exists())).free
    return NoSpaceError(
        f"{target} ({size / 1e6:,.1f} MB) cannot be written: {error.strerror}, {free / 1e6:,.1f} MB are free there. "
        "Free space, remove unreferenced files (ad-assets gc --delete), or set another store.root; then run again: "
        "finished work is kept"
    )


def walk_files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Path and stat result of every file below a folder, in any order, or of the one file that lies there.

    fsspec asks five times as much of a file. Folders that go while others are listed count as never there.

    Raises:
        OSError: a folder cannot be listed; `StorageError` if that may pass and did not in several tries.
    """
    try:
        # Folder by folder: a walk over thousands would hardly get through in one go.
        files, below = retried(partial(_listed, folder), folder)
    except NotADirectoryError:
        with suppress(FileNotFoundError):
            yield folder, os.stat(folder)  # noqa: PTH116 - as those of all others
        return
    except FileNotFoundError:
        return
    yield from files
    for each in below:
        yield from walk_files(each)


def _listed(folder: str) -> tuple[list[tuple[str, os.stat_result]], list[str]]:
    files, below = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            else:
                with suppress(FileNotFoundError):  # removed just now, or a link without target
                    files.append((entry.path, entry.stat()))
    return files, below


def prune_empty_folders(folder: Path, top: Path) -> None:
    """Remove a folder and its parents below `top`, as far as they are empty."""
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
