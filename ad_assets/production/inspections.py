"""Inspections: what a champion said of an image, one row each, kept for good since no run can make them again.

They lie in Parquet files below ``inspections/<dataset>/<category>/``. Every append writes one new file, whole, so any
number of processes may append at once without a lock. Its name holds the times of its first and last row, so that
reading some time opens nothing else. `compact` merges small files into a new one and then deletes them: a reader or a
second process that sees both drops the repeated rows, since no image has two inspections of one source at one
microsecond.

The bytes of recently inspected images lie beside, below ``inspected/``, for a limited time.
"""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from ad_assets.store.store import ArtifactStore, CorruptArtifactError, StoredFile
from ad_assets_runtime.defect_regions import DefectRegion
from ad_assets_runtime.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    import pyarrow as pa

Source = Literal["predict", "library", "landed", "line"]
MOST_READ = 10_000  # rows, unless more are asked for
SMALL_ROWS, LARGE_ROWS = 4096, 65_536  # files of fewer rows are merged, up to so many
MOST_SMALL_FILES = 64
_TRIES = 5
_TIME = "%Y%m%dT%H%M%S%fZ"
_NAME = re.compile(r"(\d{8}T\d{12}Z)-(\d{8}T\d{12}Z)-(\d+)-[0-9a-f]{12}\.parquet")
_REMEDY = "it holds inspections that cannot be made again: restore it from a backup, or delete it to go on without them"


@dataclass(frozen=True)
class Inspection:
    """One inspected image.

    Args:
        image_id: its id as in an image index; `content_of` gives the sha256 of its file.
        path: where it lay, for people.
        time: when it was scored, UTC.
        source: ``predict`` (the command), ``library`` (a Python call), ``landed`` (new in the watched folder) or
            ``line`` (a line's computer).
        champion: address of the fitted state that scored it.
        score: raw image score; higher is more anomalous.
        threshold: what the decision compared it with; None where there is none.
        p_value: conformal p-value of the score; None without nominal scores.
        anomalous: the decision; None without a threshold.
        regions: where its map is above the pixel threshold, in pixels of the whole image.
        brightness: mean grey of the whole image, 0..255; None in inspections of earlier releases.
        contrast: likewise, of `ad_assets_runtime.appearance`.
    """

    image_id: str
    path: str
    time: datetime.datetime
    source: Source
    champion: str
    score: float
    threshold: float | None = None
    p_value: float | None = None
    anomalous: bool | None = None
    regions: tuple[DefectRegion, ...] = ()
    brightness: float | None = None
    contrast: float | None = None


@dataclass(frozen=True)
class InspectionFile:
    """One Parquet file of inspections: its path, the times of its first and last row, its number of rows."""

    path: str
    first: datetime.datetime
    last: datetime.datetime
    rows: int


@dataclass(frozen=True)
class KeptImage:
    """The bytes of an inspected image in the store: path, id, size in bytes, time of writing (seconds since 1970)."""

    path: str
    image_id: str
    anomalous: bool
    size: int
    changed: float


def append(store: ArtifactStore, dataset: str, category: str, inspections: Sequence[Inspection]) -> None:
    """Add inspections of one category, in one new file.

    Raises:
        OSError: the store cannot be written; nothing was added.
    """
    if inspections:
        _write(store, dataset, category, sorted(inspections, key=_order))


def append_batch(
    store: ArtifactStore, dataset: str, category: str, inspections: Sequence[Inspection], name: str
) -> None:
    """As `append`, of a batch that may be handed in twice; the second time it replaces itself.

    Args:
        store: where to.
        dataset: the dataset.
        category: its category.
        inspections: the batch, oldest first.
        name: of the batch, as this module names files, without suffix.

    Raises:
        OSError: the store cannot be written; nothing was added.
        ValueError: it has another name than its rows.
    """
    path = f"{inspections_folder(dataset, category)}/{name}.parquet"
    file = _file(path)
    times = [row.time for row in inspections]
    if file is None or (file.first, file.last, file.rows) != (min(times), max(times), len(times)):
        raise ValueError("the name of the batch is not that of its rows")
    store.write_bytes(path, _table_bytes(inspections))


def read(
    store: ArtifactStore,
    dataset: str,
    category: str,
    *,
    since: datetime.datetime | None = None,
    until: datetime.datetime | None = None,
    most: int = MOST_READ,
) -> list[Inspection]:
    """The inspections of a category, oldest first.

    Args:
        store: where they lie.
        dataset: the dataset.
        category: its category.
        since: none before this time.
        until: only those before this time.
        most: of more than so many the newest.

    Raises:
        CorruptArtifactError: a file that holds some of them is damaged.
    """
    for attempt in range(_TRIES):
        wanted = [
            file
            for file in files(store, dataset, category)
            if (since is None or file.last >= since) and (until is None or file.first < until)
        ]
        try:
            return _newest(store, wanted, since, until, most)
        except FileNotFoundError:  # merged since it was listed
            if attempt == _TRIES - 1:
                raise
    raise AssertionError


def files(store: ArtifactStore, dataset: str, category: str) -> list[InspectionFile]:
    """The files of a category, by the times of their first rows; opens none."""
    listed = store.files(inspections_folder(dataset, category))
    return [file for each in listed if (file := _file(each.path))]


def all_files(store: ArtifactStore, dataset: str) -> dict[str, list[InspectionFile]]:
    """Category -> its files, of a dataset, from one listing."""
    found: dict[str, list[InspectionFile]] = {}
    for file in store.files(f"inspections/{dataset}"):
        if inspection_file := _file(file.path):
            found.setdefault(PurePosixPath(file.path).parent.name, []).append(inspection_file)
    return found


def compact(store: ArtifactStore, dataset: str, category: str) -> None:
    """Merge small files of a category where it has many. Any number of processes may do so at once.

    Raises:
        CorruptArtifactError: one of them is damaged; nothing was changed.
    """
    small = [file for file in files(store, dataset, category) if file.rows < SMALL_ROWS]
    if len(small) <= MOST_SMALL_FILES:
        return
    merged: list[InspectionFile] = []
    for file in small:
        if merged and sum(each.rows for each in merged) + file.rows > LARGE_ROWS:
            break
        merged.append(file)
    try:
        rows = {_identity(row): row for file in merged for row in _read_file(store, file.path)}
    except FileNotFoundError:  # another process has just merged them
        return
    _write(store, dataset, category, sorted(rows.values(), key=_order))
    store.delete(file.path for file in merged)


def inspections_folder(dataset: str, category: str) -> str:
    """Folder in the store of the inspections of a category."""
    return f"inspections/{dataset}/{category}"


# The bytes of inspected images


def keep_image(
    store: ArtifactStore, dataset: str, category: str, image_id: str, name: str, data: bytes, *, anomalous: bool
) -> None:
    """Keep the bytes of an inspected image.

    Args:
        store: where to.
        dataset: the dataset.
        category: its category.
        image_id: id of the image.
        name: its file name, of which the suffix is kept.
        data: the bytes of its file.
        anomalous: the decision; such images are kept longer.

    Raises:
        OSError: the store cannot be written.
    """
    suffix = PurePosixPath(name.lower()).suffix
    suffix = suffix if suffix in IMAGE_SUFFIXES else ""
    verdict = "anomalous" if anomalous else "nominal"
    path = f"{kept_folder(dataset, category)}/{verdict}/{image_id}{suffix}"
    if not store.exists(path):
        store.write_bytes(path, data)


def kept_images(store: ArtifactStore, dataset: str, category: str) -> list[KeptImage]:
    """The inspected images of a category whose bytes are kept, in the order in which they may go: nominal ones first,
    of each kind the oldest first."""
    found = [kept for file in store.files(kept_folder(dataset, category)) if (kept := _kept(file))]
    return sorted(found, key=lambda kept: (kept.anomalous, kept.changed, kept.path))


def all_kept_images(store: ArtifactStore) -> list[KeptImage]:
    """The inspected images of all datasets whose bytes are kept."""
    return [kept for file in store.files("inspected") if (kept := _kept(file))]


def read_kept_image(store: ArtifactStore, kept: KeptImage) -> bytes:
    """The bytes of a kept image.

    Raises:
        FileNotFoundError: it has gone since.
        CorruptArtifactError: they are not those of the image.
    """
    from ad_assets_runtime.identity import content_id, content_of

    data = store.fetch(kept.path)
    if content_id(data) != content_of(kept.image_id):
        raise store.corrupt(kept.path, "its content is not the image's", "delete it, and give the image's own file")
    return data


def kept_folder(dataset: str, category: str) -> str:
    """Folder in the store of the kept images of a category."""
    return f"inspected/{dataset}/{category}"


def _kept(file: StoredFile) -> KeptImage | None:
    path = PurePosixPath(file.path)
    if path.parent.name not in ("anomalous", "nominal") or path.name.startswith("."):
        return None
    image_id = path.name.partition(".")[0]
    return KeptImage(file.path, image_id, path.parent.name == "anomalous", file.size, file.changed)


# Rows and files


def _newest(
    store: ArtifactStore,
    wanted: Iterable[InspectionFile],
    since: datetime.datetime | None,
    until: datetime.datetime | None,
    most: int,
) -> list[Inspection]:
    rows: dict[Any, Inspection] = {}
    oldest: datetime.datetime | None = None  # no earlier row is asked for
    for file in sorted(wanted, key=lambda file: file.last, reverse=True):
        if oldest is not None and file.last < oldest:
            break
        rows |= {
            _identity(row): row
            for row in _read_file(store, file.path)
            if (since is None or row.time >= since) and (until is None or row.time < until)
        }
        if len(rows) >= most > 0:
            oldest = sorted(row.time for row in rows.values())[-most]
    return sorted(rows.values(), key=_order)[-most:] if most > 0 else []


def _file(path: str) -> InspectionFile | None:
    match = _NAME.fullmatch(PurePosixPath(path).name)
    return InspectionFile(path, _time(match[1]), _time(match[2]), int(match[3])) if match else None


def _identity(row: Inspection) -> tuple[Any, ...]:
    return row.time, row.image_id, row.source, row.champion


def _order(row: Inspection) -> tuple[Any, ...]:
    return row.time, row.image_id


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.strptime(text, _TIME).replace(tzinfo=datetime.UTC)


def region_type() -> pa.DataType:
    """The Parquet type of a `DefectRegion`."""
    import pyarrow as pa

    numbers = pa.list_(pa.int32()), pa.int64(), pa.float64(), pa.list_(pa.float64())
    return pa.struct(list(zip(("box", "area", "peak", "centroid"), numbers, strict=True)))


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("image_id", pa.string()),
            ("path", pa.string()),
            ("time", pa.timestamp("us", tz="UTC")),
            ("source", pa.string()),
            ("champion", pa.string()),
            ("score", pa.float64()),
            ("threshold", pa.float64()),
            ("p_value", pa.float64()),
            ("anomalous", pa.bool_()),
            ("regions", pa.list_(region_type())),
            ("brightness", pa.float64()),
            ("contrast", pa.float64()),
        ]
    )


def _write(store: ArtifactStore, dataset: str, category: str, rows: Sequence[Inspection]) -> None:
    first, last = (row.time.astimezone(datetime.UTC).strftime(_TIME) for row in (rows[0], rows[-1]))
    name = f"{first}-{last}-{len(rows)}-{uuid.uuid4().hex[:12]}.parquet"
    store.write_bytes(f"{inspections_folder(dataset, category)}/{name}", _table_bytes(rows))


def _table_bytes(rows: Sequence[Inspection]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=_schema())
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _read_file(store: ArtifactStore, path: str) -> list[Inspection]:
    import pyarrow as pa
    from pyarrow import parquet

    data = store.fetch(path)
    try:
        table = parquet.read_table(pa.BufferReader(data), page_checksum_verification=True)
        return [_inspection(row) for row in table.to_pylist()]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CorruptArtifactError(f"{store.location(path)} is damaged ({error}): {_REMEDY}") from error


def _inspection(row: dict[str, Any]) -> Inspection:
    regions = (
        DefectRegion(tuple(each["box"]), each["area"], each["peak"], tuple(each["centroid"]))
        for each in row["regions"] or ()
    )
    return Inspection(**{**row, "regions": tuple(regions)})
