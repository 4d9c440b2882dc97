"""Sizes of the files in a store at one time, which reveal truncated and missing files without reading them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ad_assets.store.layout import ARTIFACTS, artifact_folder
from ad_assets.store.retry import retried
from ad_assets.store.shard_format import packed_folder

if TYPE_CHECKING:
    from ad_assets.store.store import ArtifactStore


class Contents:
    """Sizes by path: from each file on a local disk, from listings of an object store and of shards.

    Args:
        store: the store.
        whole: list all artifacts at once, for callers that need most of them; else each artifact when it is needed.
    """

    def __init__(self, store: ArtifactStore, *, whole: bool = True) -> None:
        self.store, self._whole = store, whole
        self._folder = str(store.local_path("")) if store.is_local else ""
        self._listed: dict[str, dict[str, int]] = {}

    def size(self, path: str) -> int | None:
        """The size of a file in bytes; None where there is none."""
        if self._folder and not packed_folder(path):
            name = f"{self._folder}/{path}"  # as text: there are 100,000 of them
            return retried(partial(_size, name), name)
        prefix = self._prefix(path)
        if prefix not in self._listed:
            self._listed[prefix] = {file.path: file.size for file in self.store.files(prefix)}
        return self._listed[prefix].get(path)

    def prefetch(self, paths: Iterable[str]) -> None:
        """From an object store, list at once what is asked for soon: all artifacts if one request does, else theirs."""
        if self.store.is_local:
            return
        prefixes = {self._prefix(path) for path in paths} - self._listed.keys()
        folders = {prefix for prefix in prefixes if prefix.startswith(f"{ARTIFACTS}/")}
        if len(folders) > 1 and (few := self.store.few_files(ARTIFACTS)) is not None:
            prefixes -= folders
            self._whole, self._listed[ARTIFACTS] = True, {file.path: file.size for file in few}
        found = self.store.each(self.store.files, sorted(prefixes))
        for prefix, files in zip(sorted(prefixes), found, strict=True):
            self._listed[prefix] = {file.path: file.size for file in files}

    def damage(self, sizes: Mapping[str, int]) -> str:
        """A message about the first file whose size differs from the one given; empty where none does."""
        for path, size in sizes.items():
            actual = self.size(path)
            if actual != size:
                name = path.removeprefix(f"{artifact_folder(path)}/")
                return f"{name} is gone" if actual is None else f"{name} is damaged ({actual:,} bytes of {size:,})"
        return ""

    def _prefix(self, path: str) -> str:
        folder = artifact_folder(path)
        if folder:
            return ARTIFACTS if self._whole else folder
        return "/".join(path.split("/")[:2])  # features/<extractor>


def head_damage(contents: Contents, head: Mapping[str, Any] | None) -> str:
    """A message about the first file of a head's list that is damaged or missing; empty for none, or without a list."""
    return contents.damage(head.get("files", {})) if head else ""


def _size(local_path: str) -> int | None:
    try:
        return os.stat(local_path).st_size  # noqa: PTH116 - faster than Path.stat, for 100,000 files at a time
    except (FileNotFoundError, NotADirectoryError):
        return None
