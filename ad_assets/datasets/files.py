"""A dataset's folder, wherever fsspec can reach it: one recursive listing, and reads.

Readers see relative posix paths only, so the same reader runs on a local folder and on
``s3://bucket/prefix``.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ad_assets.datasets.base import FileStamp
from ad_assets.storage import find_files, retried

if TYPE_CHECKING:
    from collections.abc import Iterator

# What desktops and archivers leave behind; names with a leading dot are passed over too.
_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_END = 1024  # bytes from the end: cameras append notes of their own after the picture


class ImageFiles:
    """The files under a root.

    Args:
        root: local folder (``~`` allowed) or fsspec URL.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._fs, folder = url_to_fs(root)
        self._folder = str(folder).rstrip("/")

    def listing(self) -> dict[str, FileStamp]:
        """Relative posix path -> size and stamp of every file, in one walk, sorted by path.

        Links are followed. Dotted names, ``Thumbs.db``, ``desktop.ini`` and ``__MACOSX`` are left out.

        Raises:
            ValueError: the root does not exist or holds no file.
            StorageError: its storage does not answer.
        """
        walk = partial(_walk_local, Path(self._folder)) if self._is_local else self._walk_remote
        # Absent is an upload that was renamed, or a folder removed, while it was listed.
        found = retried(lambda: dict(walk()), self.root, also=(FileNotFoundError,))
        if not found:
            state = "is empty" if self._fs.exists(self._folder) else "does not exist"
            raise ValueError(
                f"the dataset folder {self.root!r} {state}: put the images there, or name their folder in "
                "the benchmark file or with --set datasets.<name>.root=/path"
            )
        return dict(sorted(found.items()))

    def read(self, path: str) -> bytes:
        """All bytes of one file.

        Raises:
            OSError: it cannot be read; `StorageError` if its storage does not answer.
        """
        return self._cat(path)

    def is_whole(self, path: str, size: int) -> bool:
        """Whether a file can be complete, by its end: PNG and JPEG say where they end; of others nothing is known.

        Args:
            path: relative to the root.
            size: of the file, in bytes.
        """
        marks = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}
        mark = marks.get(PurePosixPath(path).suffix.lower())
        if mark is None:
            return size > 0
        return mark in self._cat(path, start=max(0, size - _END), end=size)

    def _cat(self, path: str, **part: int) -> bytes:
        name = f"{self._folder}/{path}"
        data: bytes = retried(lambda: self._fs.cat_file(name, **part), f"{self.root.rstrip('/')}/{path}")
        return data

    @property
    def _is_local(self) -> bool:
        return isinstance(self._fs, LocalFileSystem)

    def _walk_remote(self) -> Iterator[tuple[str, FileStamp]]:
        self._fs.invalidate_cache()  # a sensor lists again and again, and must see what is new
        for name, info in find_files(self._fs, self._folder).items():
            path = name[len(self._folder) :].lstrip("/")
            # A zero-byte key that ends in a slash is how object stores draw an empty folder.
            if info.get("type") == "file" and path and not path.endswith("/") and not _is_clutter(path):
                yield path, FileStamp.of_remote(info)


def _is_clutter(path: str) -> bool:
    return any(part.startswith(".") or part.lower() in _CLUTTER for part in path.split("/"))


def _walk_local(
    folder: Path, prefix: str = "", above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[str, FileStamp]]:
    # fsspec neither enters a linked folder nor stamps a linked file by its target; dataset folders are full
    # of links.
    if not folder.is_dir():
        return
    stat = folder.stat()
    if (stat.st_dev, stat.st_ino) in above:  # a link to a folder above: a loop
        return
    above = (*above, (stat.st_dev, stat.st_ino))
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_clutter(entry.name):
                continue
            if entry.is_dir():
                yield from _walk_local(Path(entry.path), f"{prefix}{entry.name}/", above)
            elif entry.is_file():
                yield prefix + entry.name, FileStamp.of_local(entry.stat())
