"""Inspections are appended by many at once, read by time, merged, and none is lost or told twice."""

from __future__ import annotations

import datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from ad_assets.production import inspections
from ad_assets.production.inspections import Inspection, append, compact, files, read
from ad_assets.store.store import ArtifactStore, CorruptArtifactError
from ad_assets_runtime.defect_regions import DefectRegion
from tests.support.forked import Forked

START = datetime.datetime(2026, 3, 29, 0, 30, tzinfo=datetime.UTC)


def inspection(number: int, **values: object) -> Inspection:
    """One of a series, a minute apart."""
    time = START + datetime.timedelta(minutes=number, microseconds=number)
    return Inspection(f"{number:064x}", f"inbox/{number}.png", time, "predict", "state", float(number), **values)  # type: ignore[arg-type]


def put(store: ArtifactStore, *numbers: int) -> None:
    append(store, "parts", "bolt", [inspection(number) for number in numbers])


def scores(store: ArtifactStore, **wanted: object) -> list[int]:
    return [int(row.score) for row in read(store, "parts", "bolt", **wanted)]  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(root=str(tmp_path / "store"))


def test_what_was_appended_is_read_whole(store: ArtifactStore) -> None:
    region = DefectRegion((1, 2, 5, 4), 7, 3.5, (2.5, 2.75))
    rows = [
        inspection(1, threshold=2.0, p_value=0.25, anomalous=False),
        inspection(2, anomalous=True, regions=(region, region), brightness=97.5, contrast=12.25),
    ]
    assert read(store, "parts", "bolt") == []
    append(store, "parts", "bolt", rows[::-1])
    assert read(store, "parts", "bolt") == rows
    assert read(store, "parts", "nut") == []


def test_files_of_releases_without_image_statistics_are_read_and_merged(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = pa.schema([field for field in inspections._schema() if field.name not in ("brightness", "contrast")])
    with monkeypatch.context() as earlier:
        earlier.setattr(inspections, "_schema", lambda: old)
        put(store, 1)
    append(store, "parts", "bolt", [inspection(2, brightness=97.5, contrast=12.25)])
    before = read(store, "parts", "bolt")
    assert [(row.brightness, row.contrast) for row in before] == [(None, None), (97.5, 12.25)]
    monkeypatch.setattr(inspections, "MOST_SMALL_FILES", 1)
    compact(store, "parts", "bolt")
    assert len(files(store, "parts", "bolt")) == 1
    assert read(store, "parts", "bolt") == before


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6]),
        ({"most": 3}, [4, 5, 6]),
        ({"most": 0}, []),
        ({"since": inspection(3).time}, [3, 4, 5, 6]),
        ({"until": inspection(3).time}, [0, 1, 2]),
        ({"since": inspection(2).time, "until": inspection(5).time, "most": 2}, [3, 4]),
        ({"since": inspection(9).time}, []),
    ],
)
def test_reading_is_by_time_and_bounded(store: ArtifactStore, wanted: dict[str, object], found: list[int]) -> None:
    put(store, 0, 6)  # spans the others
    put(store, 5, 4)
    put(store, 1, 2, 3)
    assert scores(store, **wanted) == found


def test_a_bounded_read_opens_no_file_that_it_does_not_need(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        put(store, number)
    opened: list[str] = []
    fetch = ArtifactStore.fetch
    monkeypatch.setattr(ArtifactStore, "fetch", lambda self, path: opened.append(path) or fetch(self, path))  # type: ignore[func-returns-value]
    assert scores(store, most=2) == [18, 19]
    assert len(opened) == 2


def test_merging_changes_nothing_that_is_read(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspections, "MOST_SMALL_FILES", 5)
    for number in range(6):
        put(store, number)
    compact(store, "parts", "bolt")
    assert len(files(store, "parts", "bolt")) == 1
    assert scores(store) == list(range(6))
    # Another process was merging the same files: both results, and a file that is still there, count once.
    put(store, *range(6))
    put(store, 3)
    assert scores(store) == list(range(6))
    assert scores(store, most=4) == [2, 3, 4, 5]


def test_a_file_merged_since_it_was_listed_is_looked_for_again(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspections, "MOST_SMALL_FILES", 1)
    put(store, 1)
    put(store, 2)
    listed, merged = inspections.files, []

    def list_then_merge(*place: object) -> list[inspections.InspectionFile]:
        found = listed(*place)  # type: ignore[arg-type]
        if not merged:
            merged.append(True)
            compact(store, "parts", "bolt")
        return found

    monkeypatch.setattr(inspections, "files", list_then_merge)
    assert scores(store) == [1, 2]


def _append_many(root: str, first: int) -> int:
    store = ArtifactStore(root=root)
    inspections.MOST_SMALL_FILES = 4
    for number in range(first, first + 20):
        put(store, number)
        compact(store, "parts", "bolt")
    return 0


def test_several_processes_append_and_merge_at_once(store: ArtifactStore, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    processes = [Forked(partial(_append_many, store.root, 100 * n), log) for n in range(3)]
    assert [process.wait() for process in processes] == [0] * 3, log.read_text(encoding="utf-8")
    assert scores(store) == [100 * n + number for n in range(3) for number in range(20)]


def test_a_damaged_file_is_named_and_never_read_as_something_else(store: ArtifactStore) -> None:
    put(store, *range(50))
    [file] = files(store, "parts", "bolt")
    path = store.local_path(file.path)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtifactError, match=r"inspections/parts/bolt/.*is damaged.*restore it from a backup"):
        read(store, "parts", "bolt")
