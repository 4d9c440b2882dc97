"""The versions of a category's image index: which images each one added and removed, one small file a version.

Files are numbered from 1 and never change, so that a landing costs its own images, however many there were before. What
a version held follows from all files up to it, without the index itself, which `gc` deletes once another took its
place.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from ad_assets.production.lasting_records import DamagedRecordError, LastingRecord
from ad_assets.store.compare_and_swap import ABSENT
from ad_assets.store.records import recall, write_record
from ad_assets.store.store import ArtifactStore

KEPT = ("image_id", "path", "split", "label", "defect_type", "held_out")  # columns of an image index; not all have all
Values = tuple[str, str, str, int | None, str, bool]
LATEST = "latest.json"  # number and address of the last version; follows from the other files


@dataclass(frozen=True)
class IndexedImage:
    """What the history keeps of a row of an image index; the columns have the meaning that they have there."""

    image_id: str
    path: str
    split: str
    label: int | None
    defect_type: str
    held_out: bool = False

    @property
    def values(self) -> Values:
        """Its fields."""
        return self.image_id, self.path, self.split, self.label, self.defect_type, self.held_out

    @property
    def name(self) -> str:
        """The file name."""
        return PurePosixPath(self.path).name

    @property
    def role(self) -> str:
        """Split and label in words.

        >>> IndexedImage("", "bolt/test/dent/1.png", "test", 1, "dent").role
        'test, dent'
        """
        label = {0: "nominal", None: "unlabelled"}.get(self.label, self.defect_type or "anomalous")
        return self.split if self.split == "train" else f"{self.split}, {'held out' if self.held_out else label}"


Images = frozenset[IndexedImage]


@dataclass(frozen=True)
class Landing:
    """One version of an image index.

    Args:
        when: time (ISO 8601, UTC) at which it became the index.
        index: its address.
        added: rows that the version before did not have. An image whose path, split or label changed is among these
            with its new row and among `removed` with its old one.
        removed: rows of the version before that it does not have.
    """

    when: str
    index: str
    added: tuple[IndexedImage, ...]
    removed: tuple[IndexedImage, ...]


_LANDINGS: LastingRecord[Landing] = LastingRecord(
    Landing, lambda: Landing("", "", (), ()), "which images a version of an image index added and removed"
)


@dataclass(frozen=True)
class Changes:
    """How the images of two versions differ, by content, each list sorted by path.

    Args:
        added: images that only the later one has.
        removed: images that only the earlier one has.
        changed: rows of the same image in both, earlier and later, with another path, split or label.
    """

    added: tuple[IndexedImage, ...]
    removed: tuple[IndexedImage, ...]
    changed: tuple[tuple[IndexedImage, IndexedImage], ...]


def record_version(
    store: ArtifactStore,
    dataset: str,
    category: str,
    index: str,
    rows: Iterable[Mapping[str, Any]],
    rows_of: Callable[[str], Iterable[Mapping[str, Any]] | None],
    when: str = "",
    last_version: tuple[int, str] | None = None,
) -> None:
    """Append a version of an image index, unless it is the last one already.

    Args:
        store: the store of the history.
        dataset: its dataset.
        category: its category.
        index: its address.
        rows: its rows.
        rows_of: reads the rows of an earlier version by its address; None where the store has it no more.
        when: time (ISO 8601, UTC); empty: now.
        last_version: what `latest_version` said a moment ago: another run may have appended since.

    Raises:
        DamagedRecordError: an earlier entry is needed and cannot be read.
    """
    if last_version is None or last_version[1] == index:  # else what follows tells whether it still is the last
        last_version = latest_version(store, dataset, category)
    number, last = before = last_version
    when = when or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    while last != index:
        earlier = rows_of(last) if last else []
        # As tuples: of a hundred thousand images, most are the same.
        if earlier is None:
            old = {image.values for image in images_of(read_landings(store, dataset, category)[:number])}
        else:
            old = set(map(_values_of, earlier))
        new = set(map(_values_of, rows))
        added, removed = (_sorted(IndexedImage(*each) for each in those) for those in (new - old, old - new))
        landing = Landing(when, index, added, removed)
        number += 1
        # Another run may have appended meanwhile: then this version follows on that one.
        path = _path(dataset, category, number)
        last = _LANDINGS.update(store, path, partial(_first, landing), seen=ABSENT).index
    if (number, last) != before:
        write_record(store, f"{_folder(dataset, category)}/{LATEST}", {"number": number, "index": last})


def read_landings(store: ArtifactStore, dataset: str, category: str) -> list[Landing]:
    """All versions of the image index of a category, oldest first: number 1 is the first.

    Raises:
        DamagedRecordError: an entry is missing or cannot be read.
    """
    numbers = _numbers(store, dataset, category)
    missing = set(range(1, max(numbers, default=0) + 1)).difference(numbers)
    if missing:
        gone = store.location(_path(dataset, category, min(missing)))
        raise DamagedRecordError(f"{gone} is missing: what later versions held is unknown without it; restore it")
    paths = [_path(dataset, category, number) for number in sorted(numbers)]
    with ThreadPoolExecutor(max_workers=1 if store.is_local else 16) as pool:
        return list(pool.map(lambda path: _LANDINGS.read(store, path), paths))


def images_of(landings: Sequence[Landing]) -> Images:
    """The rows of the index after some versions, counted from the first."""
    images: set[IndexedImage] = set()
    for landing in landings:
        images.difference_update(landing.removed)
        images.update(landing.added)
    return frozenset(images)


def changes_between(before: Iterable[IndexedImage], after: Iterable[IndexedImage]) -> Changes:
    """How two sets of rows differ."""
    old, new = _by_id(before), _by_id(after)
    added = _sorted(row for image_id in new.keys() - old.keys() for row in new[image_id])
    removed = _sorted(row for image_id in old.keys() - new.keys() for row in old[image_id])
    changed = []
    for image_id in old.keys() & new.keys():
        gone, come = (_sorted(set(one[image_id]) - set(other[image_id])) for one, other in ((old, new), (new, old)))
        if gone or come:  # of several rows of one image, a row may only have gone or only have come
            changed.append(((gone or _sorted(old[image_id]))[0], (come or _sorted(new[image_id]))[0]))
    return Changes(added, removed, tuple(sorted(changed, key=lambda pair: (pair[1].path, pair[0].path))))


def changes_of(landing: Landing) -> Changes:
    """What one version changed."""
    return changes_between(landing.removed, landing.added)


def _values_of(row: Mapping[str, Any]) -> Values:
    held_out = bool(row.get("held_out", False))
    return row["image_id"], row["path"], row["split"], row["label"], row["defect_type"], held_out


def _first(own: Landing, known: Landing) -> Landing:
    return known if known.index else own


def _by_id(rows: Iterable[IndexedImage]) -> dict[str, list[IndexedImage]]:
    found: dict[str, list[IndexedImage]] = {}
    for row in rows:
        found.setdefault(row.image_id, []).append(row)
    return found


def _sorted(rows: Iterable[IndexedImage]) -> tuple[IndexedImage, ...]:
    return tuple(sorted(rows, key=lambda row: (row.split, row.path)))


def latest_version(store: ArtifactStore, dataset: str, category: str) -> tuple[int, str]:
    """Number and address of the last version; 0 and empty before the first."""
    record = recall(store, f"{_folder(dataset, category)}/{LATEST}", "number", "index")
    if record:
        return record["number"], record["index"]
    number = max(_numbers(store, dataset, category), default=0)
    return number, _LANDINGS.read(store, _path(dataset, category, number)).index if number else ""


def _numbers(store: ArtifactStore, dataset: str, category: str) -> set[int]:
    folder = _folder(dataset, category)
    stems = (PurePosixPath(file.path) for file in store.files(folder))
    return {int(path.stem) for path in stems if str(path.parent) == folder and path.stem.isdecimal()}


def _folder(dataset: str, category: str) -> str:
    return f"landings/{dataset}/{category}"


def _path(dataset: str, category: str, number: int) -> str:
    return f"{_folder(dataset, category)}/{number:06}.json"
