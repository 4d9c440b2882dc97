"""The versions of an image index: small files that only grow in number, and what follows from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ad_assets.production.landing_history import (
    IndexedImage,
    changes_between,
    changes_of,
    images_of,
    read_landings,
    record_version,
)
from ad_assets.production.lasting_records import DamagedRecordError
from ad_assets.store.store import ArtifactStore

PLACE = ("parts", "bolt")


def image_of(row: dict[str, Any]) -> IndexedImage:
    own = (row["image_id"], row["path"], row["split"], row["label"], row["defect_type"])
    return IndexedImage(*own, bool(row.get("held_out")))


def row(name: str, split: str = "train", label: int | None = 0, **columns: Any) -> dict[str, Any]:
    defect = "dent" if label else ""
    image = {"image_id": name[0], "path": f"bolt/{split}/{name}", "split": split, "label": label}
    return {**image, "defect_type": defect, **columns}


def recorded(store: ArtifactStore, versions: Sequence[list[dict[str, Any]]], *, kept: bool = True) -> None:
    """Record versions one after the other; where they are not kept, earlier indexes are gone, as `gc` leaves it."""
    for number, rows in enumerate(versions):
        indexes = {f"v{each}": known for each, known in enumerate(versions[:number])} if kept else {}
        record_version(store, *PLACE, f"v{number}", rows, indexes.get)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(root=str(tmp_path))


ROLES = (("train", 0), ("test", 0), ("test", 1))


@pytest.mark.parametrize("kept", [True, False])
def test_every_version_follows_from_the_files_with_or_without_the_indexes(store: ArtifactStore, kept: bool) -> None:
    random = np.random.default_rng(5)
    rows = [row(name, *role) for name in "abcd" for role in ROLES]
    versions = [[each for each in rows if random.random() < 0.5] for _ in range(20)]
    recorded(store, versions, kept=kept)
    landings = read_landings(store, *PLACE)
    assert len(landings) == len(versions)
    for number, held in enumerate(versions, start=1):
        assert images_of(landings[:number]) == set(map(image_of, held))


def test_a_landing_writes_its_own_images_alone_and_an_index_that_stays_writes_nothing(store: ArtifactStore) -> None:
    many = [row(f"{chr(97 + number // 10)}{number}.png", image_id=f"{number}") for number in range(200)]
    recorded(store, [many, [*many, row("z.png")]])
    record_version(store, *PLACE, "v1", [], lambda _: None)
    sizes = {file.path.rpartition("/")[2]: file.size for file in store.files("landings")}
    assert set(sizes) == {"000001.json", "000002.json", "latest.json"}
    assert sizes["000002.json"] < 500 < sizes["000001.json"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([row("a")], [row("a"), row("b")], (["b"], [], [])),
        ([row("a"), row("b")], [row("a")], ([], ["b"], [])),
        ([row("a")], [row("a", "test", 1)], ([], [], [("train", "test, dent")])),
        ([row("a", "test", 0)], [row("a", "test", None)], ([], [], [("test, nominal", "test, unlabelled")])),
        ([row("a")], [row("a", "test", 0, held_out=True)], ([], [], [("train", "test, held out")])),
        ([row("a.png")], [row("a.jpg")], ([], [], [("train", "train")])),  # renamed
    ],
)
def test_images_are_told_apart_by_content(before: Any, after: Any, said: Any) -> None:
    changes = changes_between(map(image_of, before), map(image_of, after))
    names = [[image.name for image in images] for images in (changes.added, changes.removed)]
    assert (*names, [(old.role, new.role) for old, new in changes.changed]) == said


def test_a_version_that_comes_back_is_another_landing(store: ArtifactStore) -> None:
    for index, rows in (("v0", [row("a")]), ("v1", []), ("v0", [row("a")])):
        record_version(store, *PLACE, index, rows, lambda _: None)
    landings = read_landings(store, *PLACE)
    assert [landing.index for landing in landings] == ["v0", "v1", "v0"]
    assert [image.name for image in changes_of(landings[2]).added] == ["a"]


def test_what_was_appended_before_a_crash_or_by_another_run_is_followed_on(store: ArtifactStore) -> None:
    recorded(store, [[row("a")]])
    latest = store.read_bytes("landings/parts/bolt/latest.json")
    record_version(store, *PLACE, "v1", [row("a"), row("b")], lambda _: None)
    store.write_bytes("landings/parts/bolt/latest.json", latest)  # as a run leaves it that is cut off before this file
    record_version(store, *PLACE, "v2", [row("c")], lambda _: None)
    landings = read_landings(store, *PLACE)
    assert [landing.index for landing in landings] == ["v0", "v1", "v2"]
    assert {image.name for image in images_of(landings)} == {"c"}
    store.delete(["landings/parts/bolt/latest.json"])
    record_version(store, *PLACE, "v2", [row("c")], lambda _: None)
    assert len(read_landings(store, *PLACE)) == 3


def test_a_lost_or_damaged_entry_is_named(store: ArtifactStore) -> None:
    recorded(store, [[row("a")], [row("b")]])
    store.write_bytes("landings/parts/bolt/000002.json", b'{"when": ""}')
    with pytest.raises(DamagedRecordError, match=r"000002\.json cannot be read"):
        read_landings(store, *PLACE)
    store.delete(["landings/parts/bolt/000001.json"])
    with pytest.raises(DamagedRecordError, match=r"000001\.json is missing"):
        read_landings(store, *PLACE)
