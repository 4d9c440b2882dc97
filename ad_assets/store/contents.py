"""Names and sizes of what lies in a store, as of one look: files that are cut or gone are told without reading any."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ad_assets.store.layout import ARTIFACTS, artifact_folder
from ad_assets.store.retry import retried

if TYPE_CHECKING:
    from ad_assets.store.store import ArtifactStore


class Contents:
    """A local disk is asked for each file, an object store for a listing: of all artifacts, or of each one by itself.

    Args:
        store: the store.
        whole: whether most artifacts will be asked for.
    """

    def __init__(self, store: ArtifactStore, *, whole: bool = True) -> None:
        self.store, self._whole = store, whole
        self._listed: dict[str, dict[str, int]] = {}

    def size(self, path: str) -> int | None:
        """The size of a file in bytes; None where there is none."""
        if self.store.is_local:
            place = self.store.local_path(path)
            return retried(lambda: _size(place), str(place))
        prefix = self._prefix(path)
        if prefix not in self._listed:
            self._listed[prefix] = {file.path: file.size for file in self.store.files(prefix)}
        return self._listed[prefix].get(path)

    def damage(self, sizes: Mapping[str, int]) -> str:
        """The first of some files that has not its size, in words; empty where all have."""
        for path, size in sizes.items():
            found = self.size(path)
            if found != size:
                name = path.removeprefix(f"{artifact_folder(path)}/")
                return f"{name} is gone" if found is None else f"{name} is damaged ({found:,} bytes of {size:,})"
        return ""

    def _prefix(self, path: str) -> str:
        folder = artifact_folder(path)
        if folder:
            return ARTIFACTS if self._whole else folder
        return "/".join(path.split("/")[:2])  # features/<extractor>


def head_damage(contents: Contents, head: Mapping[str, Any] | None) -> str:
    """What of the files that a head lists is damaged or gone, in words; empty where nothing is, or none are listed."""
    return contents.damage(head.get("files", {})) if head else ""


def _size(place: Path) -> int | None:
    try:
        return os.stat(place).st_size  # noqa: PTH116 - a hundred thousand of these are one look
    except (FileNotFoundError, NotADirectoryError):
        return None
