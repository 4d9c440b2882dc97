"""A dataset's folder on any fsspec file system: one recursive listing, and reads.

Readers see relative posix paths only, so the same reader runs on a local folder and on ``s3://bucket/prefix``.

Results are stored under the hash of an image's bytes. So images and masks named by an index are read by
`read_image_bytes` and `read_mask_bytes`, which refuse bytes that are not those that were indexed.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ad_assets.datasets.base import DatasetError, FileStamp
from ad_assets.datasets.listing import Listing, holds_file, is_clutter, is_within, outermost, subfolders, walk_local
from ad_assets.datasets.truncation import is_whole
from ad_assets.settings.home import without_tilde
from ad_assets.store.local import write_whole
from ad_assets.store.retry import find_files, retried
from ad_assets.store.s3_objects import read_whole
from ad_assets_runtime.identity import content_id, content_of, joint_id
from ad_assets_runtime.images import ImageError

_SHOWN = 12  # digits of a hash in messages
_REMEDY = "index it again with ad-assets materialize; if that finds nothing to do, with --force"


class ImageFiles:
    """The files under a root.

    Args:
        root: local folder (``~`` allowed) or fsspec URL.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._fs, folder = url_to_fs(root)
        self._folder = str(folder).rstrip("/")

    @property
    def requests_at_once(self) -> int:
        """How many threads read files together: more than a disk needs where each read crosses a network."""
        return 1 if self._is_local else 16

    def listing(self, parts: Iterable[str] | None = None) -> Listing:
        """Every file below the root, in one walk; or of some parts of it alone, whatever lies beside them.

        Args:
            parts: relative paths of files and folders; those that are not there are left out. None: all.

        Raises:
            DatasetError: the root does not exist, is no folder, may not be read, or holds no file.
            StorageError: the storage does not answer.
        """
        own = None if parts is None else outermost(parts)
        walk = partial(walk_local, Path(self._folder), own) if self._is_local else partial(self._walk_remote, own)
        # A file may be renamed or a folder removed during the listing.
        try:
            listing = retried(walk, self.root, also=(FileNotFoundError,))
        except PermissionError as error:
            raise self._unusable(f"may not be read ({error}): grant read permission, or name another folder") from error
        if not listing and parts is not None:
            self.listing()  # raises where there is nothing at all
        elif not listing:
            raise self._unusable(f"{self._state()}: put the images there, or name their folder")
        return listing

    def subfolders(self, folder: str = "") -> list[str] | None:
        """Names of the folders in a folder, without clutter, in any order; None: not told without a walk.

        Args:
            folder: relative to the root.

        Raises:
            OSError: it is not there, or cannot be listed.
        """
        return subfolders(Path(self._folder, folder)) if self._is_local else None

    def any_file(self, folder: str, wanted: Callable[[str], bool]) -> bool:
        """Whether some file below a folder of a local root is wanted; looks no further than the first.

        Args:
            folder: relative to the root.
            wanted: asked of paths relative to the root.

        Raises:
            OSError: a folder cannot be listed.
        """
        return holds_file(Path(self._folder, folder), f"{folder}/", wanted)

    def _state(self) -> str:
        if not self._fs.exists(self._folder):
            return "does not exist"
        return "is a file" if self._is_local and Path(self._folder).is_file() else "is empty"

    def _unusable(self, why: str) -> DatasetError:
        remedy = "in the benchmark file or with --set datasets.<name>.root=/path"
        relative = "://" not in self.root and not without_tilde(self.root).is_absolute()
        looked = f"; it was looked for in {str(Path.cwd())!r}" if relative else ""
        return DatasetError(f"the dataset folder {self.root!r} {why} {remedy}{looked}", [])

    def read(self, path: str) -> bytes:
        """All bytes of one file.

        Raises:
            OSError: it cannot be read; `StorageError` if the storage does not answer.
        """
        return self._cat(path)

    def write_new(self, path: str, data: bytes) -> None:
        """Write a file whole, so that no reader sees a part of it; a file of the same content is left as it is.

        Args:
            path: relative to the root; folders are made.
            data: its content.

        Raises:
            FileExistsError: another file lies there.
            OSError: it cannot be written.
        """
        name = f"{self._folder}/{path}"
        if self._fs.exists(name):
            if self._fs.cat_file(name) != data:
                raise FileExistsError(f"{path} is there, with another content")
        elif self._is_local:
            write_whole(Path(name), data)
        else:
            retried(lambda: self._fs.pipe_file(name, data), f"{self.root.rstrip('/')}/{path}")

    def remove(self, path: str, sha256: str) -> bool:
        """Delete a file if its content is still the one that is meant; returns whether it did."""
        name = f"{self._folder}/{path}"
        try:
            same = content_id(self._fs.cat_file(name)) == sha256
        except FileNotFoundError:
            return False
        if same:
            self._fs.rm_file(name)
        return same

    def relative(self, path: str) -> str | None:
        """An absolute path or URL, relative to the root as in listings; None if it is not below the root.

        Args:
            path: need not exist.
        """
        path = path.replace("\\", "/")
        for root in (self.root, f"file://{self._folder}", self._folder, os.path.realpath(self._folder)):
            below = path.removeprefix(root.rstrip("/") + "/")
            if below != path:
                return posixpath.normpath(below)
        if not self._is_local or "://" in path:
            return None
        # The path may reach the root through a link.
        whole = without_tilde(path)
        folder = os.path.realpath(whole.parent)
        root = os.path.realpath(self._folder)
        return posixpath.relpath(f"{folder}/{whole.name}", root) if f"{folder}/".startswith(f"{root}/") else None

    def is_whole(self, path: str, size: int) -> bool:
        """Whether a file ends as its format declares; see `ad_assets.datasets.truncation`.

        Args:
            path: relative to the root.
            size: of the file, in bytes.
        """
        return is_whole(lambda start, end: self._cat(path, start=start, end=end), size)

    def _cat(self, path: str, **part: int) -> bytes:
        """A whole file or a part of it."""
        name = f"{self._folder}/{path}"
        where = f"{self.root.rstrip('/')}/{path}"
        data: bytes = retried(lambda: self._fs.cat_file(name, **part) if part else read_whole(self._fs, name)[0], where)
        return data

    @property
    def _is_local(self) -> bool:
        return isinstance(self._fs, LocalFileSystem)

    def _walk_remote(self, parts: Sequence[str] | None) -> Listing:
        self._fs.invalidate_cache()  # a sensor lists repeatedly and must see new files
        files: dict[str, FileStamp] = {}
        passed_over: set[str] = set()
        # One listing has a thousand files: many folders are sooner found in that of all.
        few = parts is not None and len(parts) <= self.requests_at_once
        many = set() if few else set(parts or ())
        for name, info in self._find_remote(parts if parts is not None and few else ("",)).items():
            path = name[len(self._folder) :].lstrip("/")
            if many and not is_within(path, many):
                continue
            # Object stores represent an empty folder by a zero-byte key that ends in a slash.
            if info.get("type") != "file" or not path or path.endswith("/"):
                continue
            names = path.split("/")
            clutter = next((level for level, name in enumerate(names) if is_clutter(name)), None)
            if clutter is not None:
                passed_over.add("/".join(names[: clutter + 1]))
                continue
            files[path] = FileStamp.of_remote(info)
        return Listing(files, passed_over)

    def _find_remote(self, parts: Sequence[str]) -> dict[str, dict[str, Any]]:
        with ThreadPoolExecutor(self.requests_at_once) as pool:
            found = pool.map(lambda part: find_files(self._fs, f"{self._folder}/{part}".rstrip("/")), parts)
            return {name: info for each in found for name, info in each.items()}


class ChangedFileError(ImageError):
    """A file differs from what was indexed; the message names it and the remedy."""


def read_image_bytes(files: ImageFiles, row: Mapping[str, Any]) -> bytes:
    """The bytes of an image.

    Args:
        files: files of its dataset.
        row: its row of the image index.

    Raises:
        ChangedFileError: the file changed since it was indexed, or is gone.
        OSError: it cannot be read; `StorageError` if the storage does not answer.
    """
    return _read(files, [row["path"]], row["image_id"])[0]


def read_mask_bytes(files: ImageFiles, row: Mapping[str, Any]) -> list[bytes]:
    """The bytes of the masks of an image, in the order of its row; errors as `read_image_bytes`."""
    return _read(files, row["mask_paths"], row["mask_id"])


def _read(files: ImageFiles, paths: Sequence[str], indexed: str) -> list[bytes]:
    contents, indexed = [], content_of(indexed)
    for path in paths:
        try:
            contents.append(files.read(path))
        except FileNotFoundError:
            raise ChangedFileError(path, f"is gone since it was indexed: put it back, or {_REMEDY}") from None
    read = joint_id([content_id(data) for data in contents])
    if read != indexed:
        others = "" if len(paths) == 1 else f" (or one of the {len(paths)} masks of its image)"
        was = f"sha256 {indexed[:_SHOWN] or 'none'}, now {read[:_SHOWN] or 'none'}"
        raise ChangedFileError(", ".join(paths[:1]), f"changed since it was indexed{others}: {was}; {_REMEDY}")
    return contents
