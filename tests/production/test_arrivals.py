"""Files of a watched folder whose times are wrong: nothing that was indexed vanishes, and what is new settles."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ad_assets.config.benchmark import Dataset, Production
from ad_assets.datasets import FileStamp
from ad_assets.datasets.readers.folder import FolderReader
from ad_assets.production.arrivals import Watched
from ad_assets.store.store import ArtifactStore

NOW = 1_800_000_000.0
YEAR = 365 * 86_400.0
NAMES = [f"part/train/good/{number}.png" for number in range(4)]


@pytest.fixture
def store(tmp_path: Any) -> ArtifactStore:
    return ArtifactStore(root=str(tmp_path / "store"))


def watched(store: ArtifactStore, indexed: dict[str, FileStamp] | None = None) -> Watched:
    """A folder of the category `part`, of which some files were indexed; a new process each time."""
    known = {path: [stamp.size, stamp.stamp] for path, stamp in (indexed or {}).items()}
    dataset = cast(Dataset, SimpleNamespace(name="parts", reader=FolderReader(root="/nowhere")))
    production = Production(settle_seconds=20, patience_seconds=600)
    return Watched(dataset, production, store, lambda category: known if category == "part" else {})


def listing(changed: float, arrived: float | None = None) -> dict[str, FileStamp]:
    return {path: FileStamp(9, f"{path}{changed}{arrived}", changed, arrived) for path in NAMES}


def test_what_was_indexed_as_it_is_rests_whatever_the_clocks_say(store):
    # Of a server whose clock is ahead, of a machine whose clock went back, and a moment after a run took them.
    for changed in (NOW + YEAR, NOW + 1, NOW - 1):
        files = listing(changed, changed)
        arrivals = watched(store, files).look(files, NOW)
        assert set(arrivals.resting) == set(NAMES)
        assert not arrivals.moving


def test_a_time_in_the_future_is_not_believed_where_the_file_system_knows_better(store):
    # A camera whose clock is wrong, or cp -p of its files: the share knows when they came.
    files = listing(NOW + YEAR, NOW - 30)
    arrivals = watched(store).look(files, NOW)
    assert set(arrivals.resting) == set(arrivals.ahead) == set(NAMES)
    [warning, *_] = arrivals.warnings()
    assert (warning.severity, warning.path) == ("warning", NAMES[0])
    assert "dated 2028-01-15 08:00 UTC, in the future" in warning.message
    just_now = watched(store).look(listing(NOW + YEAR, NOW - 5), NOW)
    assert set(just_now.moving) == set(NAMES)
    assert not store.files()  # nothing need be remembered


def test_files_of_the_future_settle_by_being_seen_unchanged(store):
    files = listing(NOW + YEAR, NOW + YEAR)
    assert set(watched(store).look(files, NOW).moving) == set(NAMES)
    assert set(watched(store).look(files, NOW + 19).moving) == set(NAMES)
    written = {NAMES[0]: FileStamp(10, "another", NOW + YEAR, NOW + YEAR)}
    assert set(watched(store).look(files | written, NOW + 21).moving) == {NAMES[0]}
    assert not watched(store).look(files | written, NOW + 41).moving
    # The clock goes back: what was seen after now is as if seen now, and settles again.
    assert set(watched(store).look(files, NOW - YEAR).moving) == set(NAMES)
    assert not watched(store).look(files, NOW - YEAR + 20).moving


def test_a_damaged_memory_of_the_future_makes_files_wait_anew(store):
    files = listing(NOW + YEAR)
    watched(store).look(files, NOW)
    store.write_bytes("arrivals/parts.json", b"")
    assert set(watched(store).look(files, NOW + 30).moving) == set(NAMES)
    assert not watched(store).look(files, NOW + 60).moving


def test_halves_of_the_future_are_waited_for_no_longer_than_others(store, tmp_path):
    whole = tmp_path / NAMES[0]
    whole.parent.mkdir(parents=True)
    whole.write_bytes(b"\x89PNG\r\n\x1a\n of which more is to come")
    dataset = cast(Dataset, SimpleNamespace(name="parts", reader=FolderReader(root=str(tmp_path))))
    look = Watched(dataset, Production(settle_seconds=20, patience_seconds=600), store, lambda _: {})
    files = {NAMES[0]: FileStamp(whole.stat().st_size, "half", NOW + YEAR, NOW + YEAR)}
    look.look(files, NOW)
    for later, expected in ((30, [NAMES[0]]), (601, [])):
        arrivals = look.look(files, NOW + later)
        assert look.incomplete(NAMES, arrivals, "part", NOW + later) == expected
