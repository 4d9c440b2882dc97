"""What people decided stands until it is taken back by name, and is never taken for absent."""

from pathlib import Path

import pytest

from ad_assets.production.champion_history import (
    ChampionCandidate,
    ChampionChange,
    History,
    history_path,
    read_history,
    update_history,
)
from ad_assets.production.lasting_records import DamagedRecordError
from ad_assets.production.review_decisions import decide, decisions_path, read_admissions, read_decisions
from ad_assets.store.store import ArtifactStore

FIRST, SECOND, THIRD = ("a" * 64, "b" * 64, "c" * 64)


def test_all_leaves_alone_what_was_decided(tmp_path: Path) -> None:
    store = ArtifactStore(root=str(tmp_path))
    decide(store, "parts", "bolt", [FIRST, SECOND], "reject")
    held = [FIRST, SECOND, THIRD]
    assert decide(store, "parts", "bolt", held, "admit", undecided_only=True) == {THIRD: None}
    assert read_decisions(store, "parts", "bolt") == {FIRST: "reject", SECOND: "reject", THIRD: "admit"}
    assert decide(store, "parts", "bolt", [FIRST], "admit") == {FIRST: "reject"}
    assert read_decisions(store, "parts", "bolt")[FIRST] == "admit"


def test_ledger_entries_of_earlier_releases_stay(tmp_path: Path) -> None:
    store = ArtifactStore(root=str(tmp_path))
    old = {"state": "s", "score_maps": "m", "metrics": "x", "settings": {}, "truth": "t", "numbers": {"aupro_0.30": 1}}
    entry = {"candidate": old, "when": "2026-01-01T00:00:00+00:00", "action": "promoted", "reason": "the first"}
    store.write_json(history_path("parts", "small", "bolt"), {"entries": [entry], "refused": []})
    newer = ChampionCandidate("n", "m", "x", {}, "t", {})

    def promote(history: History) -> History:
        return history.with_champion(newer, "promoted", "")

    update_history(store, "parts", "small", "bolt", promote)
    states = [each.candidate.state for each in read_history(store, "parts", "small", "bolt").entries]
    assert states == ["s", "n"]


@pytest.mark.parametrize("content", [b"", b'{"a', b"[]", b'{"%s": "Reject"}' % FIRST.encode(), b'{"x.png": "reject"}'])
def test_damaged_decisions_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    store = ArtifactStore(root=str(tmp_path))
    path = decisions_path("parts", "bolt")
    store.write_bytes(path, content)
    for use in (read_decisions, lambda *place: decide(*place, [FIRST], "admit")):
        with pytest.raises(DamagedRecordError, match=r"decisions/parts/bolt\.json cannot be read.*from a backup"):
            use(store, "parts", "bolt")
    assert store.read_bytes(path) == content


@pytest.mark.parametrize("content", [b"", b'{"admitted": [], "held": {"x": 1}}'])
def test_damaged_admissions_and_ledgers_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    store = ArtifactStore(root=str(tmp_path))
    store.write_bytes("admissions/parts/bolt.json", content)
    with pytest.raises(DamagedRecordError, match=r"admissions/parts/bolt\.json"):
        read_admissions(store, "parts", "bolt")
    store.write_bytes(history_path("parts", "small", "bolt"), b'{"entries": [{}], "refused": []}')
    with pytest.raises(DamagedRecordError, match=r"champions/parts/small/bolt\.json.*entries\.0"):
        read_history(store, "parts", "small", "bolt")


@pytest.mark.parametrize("lacking", ["admitted", "held"])
def test_admissions_that_lack_a_key_are_damaged(tmp_path: Path, lacking: str) -> None:
    store = ArtifactStore(root=str(tmp_path))
    whole = {"admitted": [FIRST], "held": {}}
    store.write_json("admissions/parts/bolt.json", whole)
    assert read_admissions(store, "parts", "bolt").admitted == (FIRST,)
    store.write_json("admissions/parts/bolt.json", {key: whole[key] for key in whole if key != lacking})
    with pytest.raises(DamagedRecordError, match=rf"admissions/parts/bolt\.json cannot be read \({lacking}: .*backup"):
        read_admissions(store, "parts", "bolt")


@pytest.mark.parametrize(
    "lacking", ["entries", "refused", "entries.0.when", "entries.0.candidate.state", "entries.0.candidate.numbers"]
)
def test_champion_histories_that_lack_a_key_are_damaged(tmp_path: Path, lacking: str) -> None:
    store = ArtifactStore(root=str(tmp_path))
    entry = ChampionChange(
        ChampionCandidate("s", "m", "x", {}, "t", {}), "2026-01-01T00:00:00+00:00", "promoted", "the first"
    )
    update_history(store, "parts", "small", "bolt", lambda _: History((entry,), ()))
    path = history_path("parts", "small", "bolt")
    tree = store.read_json(path)
    *parents, key = lacking.split(".")
    node = tree
    for parent in parents:
        node = node[int(parent) if parent.isdigit() else parent]
    del node[key]
    store.write_json(path, tree)
    with pytest.raises(DamagedRecordError, match=rf"champions/parts/small/bolt\.json cannot be read \({lacking}: "):
        read_history(store, "parts", "small", "bolt")
