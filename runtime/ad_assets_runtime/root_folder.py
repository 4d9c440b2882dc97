"""Reads and writes files below a local folder or an ``s3://`` prefix; local files are written whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any, Protocol


class RootFolder(Protocol):
    """Files by paths relative to a root.

    Attributes:
        name: of the root, in messages.
    """

    name: str

    def list(self, prefix: str) -> dict[str, str]:
        """Path -> stamp that changes with the file, of all below a prefix; empty where there is none.

        Raises:
            OSError: the root itself cannot be reached.
        """
        ...

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        ...

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole.

        Raises:
            OSError: it cannot be written.
        """
        ...


def open_root(root: str | Path) -> RootFolder:
    """The files below a local folder or an ``s3://bucket/prefix`` (or another address that fsspec knows)."""
    text = str(root)
    return RemoteFolder(text) if "://" in text else LocalFolder(Path(text))


class LocalFolder:
    """A folder of this computer, or a share."""

    def __init__(self, root: Path) -> None:
        self._root, self.name = root, str(root)

    def list(self, prefix: str) -> dict[str, str]:
        """See `RootFolder.list`."""
        if not self._root.is_dir():
            raise FileNotFoundError(f"{self._root} is not there, as of a share that is not mounted")
        found = {}
        for folder, _, names in os.walk(self._root / prefix):
            for name in names:
                path = Path(folder, name)
                try:
                    status = path.stat()
                except FileNotFoundError:  # replaced just now
                    continue
                stamp = f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"
                found[path.relative_to(self._root).as_posix()] = stamp
        return found

    def read(self, path: str) -> bytes:
        """See `RootFolder.read`."""
        return (self._root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """See `RootFolder.write`."""
        write_whole(self._root / path, data)


class RemoteFolder:
    """A prefix of an object store, by fsspec."""

    def __init__(self, root: str) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise OSError(f"{root}: pip install 'ad-assets-runtime[s3]'") from error
        try:
            # A cached listing would hide what has been promoted since.
            self._fs, base = fsspec.core.url_to_fs(root, use_listings_cache=False)
        except ImportError as error:
            raise OSError(f"{root}: pip install 'ad-assets-runtime[s3]' ({error})") from error
        self._base, self.name = str(base).rstrip("/"), root

    def list(self, prefix: str) -> dict[str, str]:
        """See `RootFolder.list`."""
        listing: dict[str, Any] = self._fs.find(f"{self._base}/{prefix}".rstrip("/"), detail=True)
        return {path[len(self._base) + 1 :]: _stamp(info) for path, info in listing.items()}

    def read(self, path: str) -> bytes:
        """See `RootFolder.read`."""
        return bytes(self._fs.cat_file(f"{self._base}/{path}"))

    def write(self, path: str, data: bytes) -> None:
        """See `RootFolder.write`."""
        self._fs.pipe_file(f"{self._base}/{path}", data)


def write_whole(path: Path, data: bytes) -> None:
    """Write a local file under another name, then rename it: nobody sees a part of it, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _stamp(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or f"{info.get('LastModified', info.get('mtime'))}-{info['size']}")
