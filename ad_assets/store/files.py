"""Whole files of a store by path relative to its root, on any fsspec file system.

A file is complete or absent: local files are written under a temporary name and renamed, object stores put whole
objects. Requests that fail for a transient reason are repeated (`ad_assets.store.retry`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import Field, field_validator

from ad_assets.settings.home import known_home
from ad_assets.settings.model import Settings, without_secrets
from ad_assets.store.checksums import CorruptArtifactError
from ad_assets.store.compare_and_swap import Change, Seen, SwapFile
from ad_assets.store.local import TEMPORARY, prune_empty_folders, walk_files
from ad_assets.store.retry import find_files, retried
from ad_assets.store.s3_objects import is_object, is_s3, list_few_objects, read_whole

T = TypeVar("T")
Item = TypeVar("Item")

REMEDY = "`ad-assets materialize --verify` rebuilds it"


class MissingFileError(FileNotFoundError):
    """A file is not in the store; the message names it and the remedy."""


@dataclass(frozen=True)
class StoredFile:
    """One file of a listing: path relative to the root, size in bytes, change time in seconds since 1970, stamp."""

    path: str
    size: int
    changed: float
    stamp: str = ""


DEFAULT_ROOT = ".ad_assets"


class FileStore(Settings):
    """Reads, lists, replaces and deletes files; `ArtifactStore` defines their content."""

    root: str = Field(default=DEFAULT_ROOT, min_length=1, description="local folder or s3://bucket/prefix")
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        examples=[{"endpoint_url": "https://minio.example:9000"}],
        description="options of the fsspec file system, such as endpoint_url; no secrets",
    )

    @field_validator("root")
    @classmethod
    def _of_a_known_home(cls, root: str) -> str:
        return known_home(root)

    @field_validator("storage_options")
    @classmethod
    def _no_secrets(cls, options: dict[str, Any]) -> dict[str, Any]:
        return without_secrets(options)

    @cached_property
    def opened(self) -> tuple[Any, str]:
        """The file system, and the root on it."""
        options = dict(self.storage_options)
        if "://" in self.root and not self.root.startswith("file://"):
            # A cached listing would hide what another process has written.
            options.setdefault("use_listings_cache", False)
        fs, base = fsspec.core.url_to_fs(self.root, **options)
        return fs, base.rstrip("/")

    @cached_property
    def is_local(self) -> bool:
        """Whether files lie in a local folder."""
        fs, _ = self.opened
        return "file" in (fs.protocol if isinstance(fs.protocol, (tuple, list)) else (fs.protocol,))

    @property
    def is_on_s3(self) -> bool:
        """Whether files are objects on S3, which tells them apart by ETags and writes on condition."""
        return is_s3(self.opened[0])

    @property
    def requests_at_once(self) -> int:
        """How many threads read or write files together: two for a disk, more where each request crosses a network."""
        return 2 if self.is_local else 16

    def each(self, act: Callable[[Item], T], items: Iterable[Item], *, threads: int = 1) -> list[T]:
        """What `act` answers to each of some items, in order; of an object store at once, to hide its latency.

        Args:
            act: threads may call it.
            items: paths, mostly.
            threads: on a local disk.
        """
        listed, most = list(items), threads if self.is_local else self.requests_at_once
        if most == 1 or len(listed) < 2:
            return [act(item) for item in listed]
        with ThreadPoolExecutor(min(most, len(listed))) as pool:
            return list(pool.map(act, listed))

    def location(self, path: str) -> str:
        """The full path or URL of a stored path, for messages."""
        return f"{self.root.rstrip('/')}/{path}"

    def exists(self, path: str) -> bool:
        """Whether a complete file lies at `path`."""
        fs, base = self.opened
        if is_s3(fs):
            return retried(lambda: is_object(fs, f"{base}/{path}"), self.location(path))
        try:
            # Not isfile, which returns False when a request fails.
            info = retried(lambda: fs.info(f"{base}/{path}"), self.location(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return bool(info["type"] == "file")

    def local_path(self, path: str) -> Path:
        """The local file of a path in a local store."""
        return Path(self.opened[1], path)

    def fetch(self, path: str) -> bytes:
        """The bytes of a file, without verification."""
        return self.fetch_stamped(path)[0]

    def fetch_stamped(self, path: str) -> tuple[bytes, str]:
        """As `fetch`, with the stamp that a listing of S3 gives for a file of these bytes; empty elsewhere."""
        fs, base = self.opened
        read = (
            partial(_read_local, f"{base}/{path}")
            if isinstance(fs, LocalFileSystem)
            else partial(read_whole, fs, f"{base}/{path}")
        )
        try:
            return retried(read, self.location(path))
        except FileNotFoundError as error:
            raise self._missing(path) from error

    def update(self, path: str, change: Change, *, seen: Seen | None = None) -> str:
        """Change a file atomically, so that no change of several processes is lost.

        Args:
            path: the file.
            change: maps the content, None where there is no file, to the new one; called again if another process wrote
                meanwhile. Unchanged content is not written.
            seen: what is there as far as is known, such as `ABSENT`: saves a request where it is.

        Returns:
            The stamp that a listing of S3 gives for the file; empty elsewhere.

        Raises:
            StorageError: other processes kept writing for too long, or the file system has no conditional writes.
        """
        return SwapFile(*self.opened, path, self.location(path)).update(change, seen=seen)

    def seen(self, path: str) -> Seen:
        """What lies at a path, as `update` takes it."""
        return SwapFile(*self.opened, path, self.location(path)).read()

    def create(self, path: str, data: bytes) -> bool:
        """Write a file if there is none; returns whether it was written. Errors as `update`."""
        return SwapFile(*self.opened, path, self.location(path)).swap(None, None, data) is not None

    def can_update(self, path: str) -> bool:
        """Whether the store keeps two processes that update a file apart; tries it, and leaves a file at `path`."""
        return SwapFile(*self.opened, path, self.location(path)).try_conditions()

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files and local folders that become empty; missing files are ignored."""
        fs, base = self.opened

        def delete(path: str) -> None:
            try:
                retried(partial(fs.rm_file, f"{base}/{path}"), self.location(path))
            except FileNotFoundError:
                return
            if self.is_local:
                prune_empty_folders(Path(base, path).parent, Path(base))

        # The first, which of an artifact is its record, before all others.
        listed = list(paths)
        for path in listed[:1]:
            delete(path)
        self.each(delete, listed[1:])

    def files(self, prefix: str = "", *, temporary: bool = False) -> list[StoredFile]:
        """All files under a prefix, sorted by path, from one listing.

        Args:
            prefix: a folder.
            temporary: also what a killed process left half written, which is nobody's.
        """
        fs, base = self.opened
        start = f"{base}/{prefix}".rstrip("/")
        if isinstance(fs, LocalFileSystem):
            local = (
                StoredFile(path[len(base) + 1 :], status.st_size, status.st_mtime, stamp_of(status))
                for path, status in walk_files(start)
                if temporary or not path.endswith(TEMPORARY)
            )
            return sorted(local, key=lambda file: file.path)
        return self._listed(retried(lambda: find_files(fs, start), self.location(prefix)))

    def few_files(self, prefix: str) -> list[StoredFile] | None:
        """As `files`; None where that would take an object store more than one request."""
        fs, base = self.opened
        if not is_s3(fs):
            return self.files(prefix)
        listing = retried(lambda: list_few_objects(fs, f"{base}/{prefix}"), self.location(prefix))
        return None if listing is None else self._listed(listing)

    def _listed(self, listing: Mapping[str, dict[str, Any]]) -> list[StoredFile]:
        _, base = self.opened
        found = [
            StoredFile(path[len(base) + 1 :], int(info["size"]), _changed(info), _stamp(info))
            for path, info in listing.items()
        ]
        return sorted(found, key=lambda file: file.path)

    def usage(self, prefix: str = "") -> int:
        """Bytes stored under a prefix."""
        return sum(file.size for file in self.files(prefix))

    def corrupt(self, path: str, why: object, remedy: str = "") -> CorruptArtifactError:
        """The error for a damaged file."""
        return CorruptArtifactError(f"{self.location(path)} is damaged ({why}): {remedy or REMEDY}")

    def _missing(self, path: str) -> MissingFileError:
        return MissingFileError(f"{self.location(path)} is not in the store: {REMEDY}")


def _read_local(path: str) -> tuple[bytes, str]:
    # Of small files fsspec, and pathlib too, take longer to open one than it takes to read it: status reads 80,000.
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read(), ""


def _changed(info: dict[str, Any]) -> float:
    value = info.get("mtime", info.get("LastModified", 0))
    return float(value.timestamp()) if hasattr(value, "timestamp") else float(value)


def _stamp(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or f"{info.get('ino')}-{info.get('mtime')}-{info['size']}")


def stamp_of(status: os.stat_result) -> str:
    """The stamp that a listing of a local disk gives for a file."""
    # Files are replaced and never modified, so the inode changes.
    return f"{status.st_ino}-{status.st_mtime}-{status.st_size}"
