"""The categories of a dataset: fixed for a published dataset, live where folders are added and removed."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import overload

from ad_assets.config.benchmark import Dataset
from ad_assets.datasets import ImageFiles, Reader
from ad_assets.datasets.names import CATEGORY_KEY
from ad_assets.store.store import ArtifactStore

# One listing of the folder serves a whole tick or plan.
REMEMBERED_SECONDS = 5.0


class LiveCategories(Sequence[str]):
    """The categories that a dataset's folder holds now; the last known ones while it cannot be read.

    Args:
        dataset: name of the dataset, and of its dynamic partitions.
        reader: lists the folder.
    """

    def __init__(self, dataset: str, reader: Reader) -> None:
        self.dataset = dataset
        self.unseen = ""  # why the last listing failed: no root, an empty one, a wrong row of a manifest
        self._reader = reader
        self._known: tuple[str, ...] = ()
        self._looked = -REMEMBERED_SECONDS

    def now(self) -> tuple[str, ...]:
        """The categories, from a listing at most `REMEMBERED_SECONDS` old."""
        if time.monotonic() - self._looked >= REMEMBERED_SECONDS:
            try:
                self._known, self.unseen = tuple(self._reader.categories()), ""
            except (ValueError, OSError) as error:
                self.unseen = str(error)
            self._looked = time.monotonic()
        return self._known

    def gone(self, known: Iterable[str]) -> list[str]:
        """Those of some categories that are seen to be gone: the root is there, and their folders are not."""
        missing = set(known) - set(self.now())
        return gone(self._reader, missing) if missing and not self.unseen else []

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        return self.now()[place]

    def __len__(self) -> int:
        return len(self.now())

    def __iter__(self) -> Iterator[str]:
        return iter(self.now())


class StoredCategories(tuple[str, ...]):
    """The categories of a dataset whose folder cannot be read: those that the store knows.

    `unseen` says why.
    """

    unseen: str

    @classmethod
    def of(cls, store: ArtifactStore, dataset: str, unseen: str) -> StoredCategories:
        """Those that have an image index in a store."""
        paths = (PurePosixPath(file.path) for file in store.files(f"heads/{dataset}/image_index"))
        found = cls(sorted({path.stem for path in paths if CATEGORY_KEY.fullmatch(path.stem)}))
        found.unseen = unseen
        return found


def categories_of(dataset: Dataset, store: ArtifactStore | None = None) -> Sequence[str]:
    """The categories of a dataset.

    Args:
        dataset: the dataset.
        store: whose categories are taken where the folder cannot be read; None: an error is raised then.

    Raises:
        ValueError: the folder is missing or empty, and there is no store.
        OSError: it cannot be read, and there is no store.
    """
    if dataset.production:
        return LiveCategories(dataset.name, dataset.reader)
    try:
        return tuple(dataset.reader.categories())
    except (ValueError, OSError) as error:
        if store is None:
            raise
        return StoredCategories.of(store, dataset.name, str(error))


def why_unseen(partitions: Sequence[str] | None) -> str:
    """Why the folder that categories come from cannot be read; empty: it can."""
    if isinstance(partitions, LiveCategories):
        partitions.now()
        return partitions.unseen
    return partitions.unseen if isinstance(partitions, StoredCategories) else ""


def gone(reader: Reader, missing: Collection[str]) -> list[str]:
    """Those of some categories without images whose folders are not there, while the root is; sorted."""
    try:
        listing = ImageFiles(reader.root).listing()
    except (ValueError, OSError):
        return []
    return sorted(name for name in missing if not reader.stands(name, listing))
