"""Random lives of a line, and by name those that once went wrong."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ad_assets.graph.garbage import unreferenced
from ad_assets.graph.graph import Graph
from ad_assets.production.review_decisions import decided_images, reviewed_categories
from ad_assets.store.store import ArtifactStore
from tests.lives.bugs import head_kept
from tests.lives.runner import FailedLifeError, Live, live_through
from tests.lives.schedules import Step, lives


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """Carries out a schedule."""
    with pytest.MonkeyPatch.context() as patch, lives(patch) as carried_out:
        yield carried_out


def test_whatever_happens_to_a_line_what_must_hold_does(live: Live) -> None:
    live_through(live, 60, 20261128)


def test_the_shortest_schedule_that_fails_is_told_with_its_seed() -> None:
    tried: list[list[Step]] = []

    def fragile(schedule: list[Step]) -> None:
        tried.append(schedule)
        if ("collect",) in schedule and "mask" in {step[0] for step in schedule}:
            raise AssertionError("gone")

    with pytest.raises(FailedLifeError) as told:
        live_through(fragile, 1000, 5)
    assert sorted(told.value.shortest) == [("collect",), ("mask", 3)]
    assert str(told.value) == (
        f"seed 5, schedule {told.value.number}: AssertionError: gone\nshortest schedule: {told.value.shortest}"
    )
    tried.clear()
    with pytest.raises(FailedLifeError) as hasty:
        live_through(fragile, 1000, 5, shrink_seconds=1e-9)
    assert hasty.value.number == told.value.number
    assert len(tried) <= hasty.value.number + 3


def test_of_a_bug_in_the_product_a_schedule_is_told_that_shows_it(live: Live) -> None:
    with pytest.MonkeyPatch.context() as patch:
        head_kept(patch)
        with pytest.raises(
            FailedLifeError, match=r"^seed 1, schedule \d+: AssertionError: .+\nshortest schedule: \["
        ) as told:
            live_through(live, 40, 1, shrink_seconds=1)
        with pytest.raises(AssertionError):
            live(told.value.shortest)
    live(told.value.shortest)


@pytest.mark.parametrize(
    "decided", [[], [("wait", 1000), ("tick",), ("decide", "reject", 0)]], ids=["held", "rejected"]
)
def test_an_image_under_two_names_is_held_back_under_both(live: Live, decided: list[Step]) -> None:
    live([("odd", 3), ("odd", 3), *decided])


@pytest.mark.parametrize(
    "schedule",
    [
        [("mask", 3), ("wait", -500), ("set", 0), ("wait", -500)],
        [("odd", 0), ("half", 0), ("half", 0), ("wait", -500), ("wait", -500)],
    ],
    ids=["mask", "images"],
)
def test_what_is_from_the_future_is_taken_once_it_is_past(live: Live, schedule: list[Step]) -> None:
    live(schedule)


def test_a_test_image_that_becomes_a_training_image_passes_the_network_once(live: Live) -> None:
    live([("copy", "test/good", 1, "train/good"), ("replace", "test/good", 1, 0)])


def test_without_an_anomalous_test_image_no_floor_is_judged(live: Live) -> None:
    # Three masks lose their images, and an image of a defect without a mask is reported.
    live(
        [("rename", "test/spot", 0), ("rename", "test/spot", 3), ("rename", "test/spot", 3), ("land", "train/good", 0)]
    )


def test_what_a_killed_process_left_of_a_head_is_no_head(live: Live) -> None:
    live([("copy", "train/good", 0, "train/good"), ("tick", "die half way", 59)])


def test_what_a_killed_process_left_of_a_record_is_collected_and_not_read(tmp_path: Path) -> None:
    store = ArtifactStore(root=str(tmp_path))
    folders = "heads/parts/metrics", "champions/parts/bank", "admissions/parts", "decisions/parts", "feedback/parts"
    left = {f"{folder}/.bolt.json.0123.tmp" for folder in folders}
    for path in left:
        store.write_bytes(path, b"half")
    assert {file.path for file in unreferenced(Graph([], store), older_than=0)} == left
    assert not decided_images(store)
    assert not reviewed_categories(store, "parts")
