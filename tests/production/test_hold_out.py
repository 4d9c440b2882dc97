"""The hold-out of a watched category: who is kept for judging, and what never changes that."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ad_assets.config.benchmark import Production
from ad_assets.datasets.base import IMAGE_INDEX_SCHEMA
from ad_assets.datasets.index import ImageIndex
from ad_assets.production.hold_out import AUTOMATIC_SHARE, hold_out, stated
from ad_assets.production.review_decisions import decide, read_admissions
from ad_assets.store.store import ArtifactStore

PLACE = ("parts", "bolt")


def row(number: int, split: str = "train", label: int = 0, **more: Any) -> dict[str, Any]:
    image = hashlib.sha256(str(number).encode()).hexdigest()
    common = {"defect_type": "good", "anomaly_kind": "", "mask_paths": [], "mask_saturations": [], "mask_id": ""}
    size = {"width": 4, "height": 4, "mode": "RGB", "bytes": 9}
    return {
        "image_id": image,
        "path": f"{split}/{number}.png",
        "split": split,
        "label": label,
        **common,
        **size,
        **more,
    }


def index_of(rows: list[dict[str, Any]]) -> ImageIndex:
    schema = IMAGE_INDEX_SCHEMA
    if any("group" in each for each in rows) and "group" not in schema.names:
        schema = schema.append(pa.field("group", pa.string()))
    return ImageIndex(rows, schema, (), {})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(root=str(tmp_path / "store"))


def held(store: ArtifactStore, rows: list[dict[str, Any]], held_out: Any = "auto") -> set[str]:
    """The ids of the images that are held out, after checking that train and test share none."""
    found = hold_out(index_of(rows), Production(held_out=held_out), store, *PLACE).table.to_pylist()
    chosen = {each["image_id"] for each in found if each.get("held_out")}
    assert chosen.isdisjoint(each["image_id"] for each in found if each["split"] == "train")
    assert {each["image_id"] for each in found if each["split"] == "test"} >= chosen
    assert len(found) == len(rows)
    if chosen:
        assert found == sorted(found, key=lambda each: (each["split"], each["path"]))
    return chosen


def test_a_share_of_the_images_is_held_out_whatever_their_order_and_names(store: ArtifactStore) -> None:
    rows = [row(number) for number in range(300)]
    chosen = held(store, rows)
    assert len(chosen) == 60
    shuffled = [{**each, "path": f"other/{each['image_id']}"} for each in reversed(rows)]
    assert held(store, shuffled) == chosen


def test_a_growing_set_keeps_its_own_and_a_larger_share_holds_that_of_a_smaller_one(store: ArtifactStore) -> None:
    rows = [row(number) for number in range(200)]
    before: set[str] = set()
    earlier: set[str] = set()
    for most in (12, 40, 200):
        chosen = held(store, rows[:most])
        assert chosen & earlier == before
        before, earlier = chosen, {each["image_id"] for each in rows[:most]}
    assert len(before) == 19
    assert held(store, rows, 0.05) < before < held(store, rows, 0.5)
    assert held(store, rows, "auto") == held(store, rows, 0.5)  # what is settled stays


def test_what_began_without_test_images_goes_on_when_they_come(store: ArtifactStore) -> None:
    rows = [row(number) for number in range(40)]
    chosen = held(store, rows)
    assert chosen
    settled = read_admissions(store, *PLACE).hold_out
    assert settled is not None
    assert settled.share == AUTOMATIC_SHARE
    assert held(store, [*rows, row(1000, "test")]) == chosen
    assert held(store, rows, 0) == set()  # the setting is stronger
    assert held(store, [*rows, row(1000, "test")]) == chosen


@pytest.mark.parametrize(
    "rows",
    [
        [*(row(number) for number in range(40)), row(1000, "test")],  # nominal test images
        [row(number) for number in range(9)],  # too few to spare one
        [row(number, group="one lot") for number in range(40)],  # nothing would be left, or nothing held out
    ],
)
def test_nothing_is_held_out_and_the_index_is_as_it_was(store: ArtifactStore, rows: list[dict[str, Any]]) -> None:
    index = index_of(rows)
    for held_out in ("auto", 0):
        assert hold_out(index, Production(held_out=held_out), store, *PLACE) is index


def test_anomalous_test_images_alone_are_nothing_to_judge_by(store: ArtifactStore) -> None:
    assert held(store, [*(row(number) for number in range(40)), row(1000, "test", 1)])


def test_groups_are_held_out_together(store: ArtifactStore) -> None:
    rows = [row(number, group=f"lot {number // 4}") for number in range(80)]
    chosen = held(store, rows)
    assert len(chosen) == 16
    assert {each["group"] for each in rows if each["image_id"] in chosen}.isdisjoint(
        each["group"] for each in rows if each["image_id"] not in chosen
    )


def test_what_a_person_admitted_is_learnt(store: ArtifactStore) -> None:
    rows = [row(number) for number in range(40)]
    chosen = sorted(held(store, rows))
    decide(store, *PLACE, chosen[:2], "admit")
    decide(store, *PLACE, chosen[2:3], "reject")  # the gate leaves it out before
    assert held(store, rows) == set(chosen[2:])


def test_the_index_says_how_many() -> None:
    rows = [row(1), row(2), {**row(3, "test"), "held_out": True}, row(4, "test", 1)]
    assert stated(rows) == "1 of 3 nominal images are held out for judging, by content hash"
    assert not stated(rows[:2])
