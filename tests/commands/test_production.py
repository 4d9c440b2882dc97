"""What people decide by commands, two of them at once among others."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ad_assets.cli import main
from ad_assets.datasets import KnownFile
from ad_assets.graph.stages.known_files import write_known_files
from ad_assets.production import champion_history
from ad_assets.production.champion_history import (
    BY_HAND,
    PROMOTED,
    ChampionCandidate,
    History,
    KeptOut,
    read_history,
    update_history,
)
from ad_assets.production.review_decisions import Admissions, Held, read_decisions, update_admissions
from ad_assets.store.store import ArtifactStore
from tests.support.bench_graph import Bench

FIRST, SECOND, THIRD = ("a" * 64, "b" * 64, "c" * 64)
LANE = ("parts", "small", "bolt")


def state(name: str) -> ChampionCandidate:
    return ChampionCandidate(name, f"{name} maps", f"{name} metrics", {}, "truth", {"image_auroc": 0.9})


@pytest.fixture
def store(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """Of a line with three images that wait, two earlier champions, and a newest state that is none."""
    monkeypatch.setenv("DAGSTER_HOME", str(bench.folder / "home"))
    monkeypatch.setenv("AD_ASSETS_CONFIG", str(bench.folder / "bench.yaml"))
    bench.set("datasets.parts.production", {})
    store = bench.benchmark.store
    names = {image: Held(f"bolt/train/good/{image[0]}.png", ("odd",), "now") for image in (FIRST, SECOND, THIRD)}
    update_admissions(store, "parts", "bolt", lambda _: Admissions((), names, 0))
    for name in ("one", "two"):
        update_history(store, *LANE, lambda before, name=name: before.with_champion(state(name), PROMOTED, "passed"))
        store.artifact("memory_bank", name).commit({"metadata": {}})
    newest = store.artifact("champion", "v")
    store.write_json(newest.at("candidate.json"), dataclasses.asdict(state("newest")))
    newest.commit({"metadata": {}})
    store.heads.write(
        store.head_path(("parts", "small", "champion"), "bolt"), {"version": "v", "parts": {}, "code_version": ""}
    )
    return store


@pytest.mark.parametrize(
    ("call", "becomes"), [(("promote", *LANE), "newest"), (("rollback", *LANE), "one")], ids=["promote", "rollback"]
)
def test_of_two_who_change_the_champion_at_once_the_second_is_refused(
    store: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    call: tuple[str, ...],
    becomes: str,
) -> None:
    real: Callable[..., Any] = champion_history.update_history

    def second(*arguments: Any) -> History:
        monkeypatch.setattr(champion_history, "update_history", real)
        assert main([*call, "--reason", "first"]) == 0  # between what the second has read and what it writes
        return real(*arguments)

    monkeypatch.setattr(champion_history, "update_history", second)
    assert main([*call, "--reason", "second"]) == 2
    captured = capsys.readouterr()
    assert captured.out == f"champion: {becomes}\n"
    assert "the champion changed meanwhile" in captured.err
    assert "first): see ad-assets history, and decide again" in captured.err
    history = read_history(store, *LANE)
    assert [entry.candidate.state for entry in history.entries] == ["one", "two", becomes]
    assert history.entries[-1].reason == "first"


def test_a_gate_that_promotes_meanwhile_refuses_a_promotion_by_hand(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real: Callable[..., Any] = champion_history.update_history

    def second(*arguments: Any) -> History:
        real(store, *LANE, lambda before: before.with_champion(state("other"), PROMOTED, "passed its gates"))
        return real(*arguments)

    monkeypatch.setattr(champion_history, "update_history", second)
    assert main(["promote", *LANE, "--reason", "mine"]) == 2
    assert "promoted: passed its gates" in capsys.readouterr().err
    assert read_history(store, *LANE).champion == state("other")
    monkeypatch.setattr(champion_history, "update_history", real)
    assert main(["promote", *LANE, "--reason", "mine"]) == 0
    assert read_history(store, *LANE).entries[-1].action == BY_HAND


@pytest.mark.parametrize("given", [("--reject", "a.png", "b.png"), ("--reject", "a.png", "--reject", "b.png")])
def test_all_that_is_rejected_is_whether_in_one_option_or_in_two(store: ArtifactStore, given: tuple[str, ...]) -> None:
    assert main(["quarantine", "parts", "bolt", *given]) == 0
    assert read_decisions(store, "parts", "bolt") == {FIRST: "reject", SECOND: "reject"}


def test_scripts_get_rows(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quarantine", "parts", "bolt", "--reject", "a.png"]) == 0
    capsys.readouterr()
    assert main(["quarantine", "parts", "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert [(row["category"], row["image"], row["reasons"]) for row in held] == [
        ("bolt", SECOND, ["odd"]),
        ("bolt", THIRD, ["odd"]),
    ]
    update_history(store, *LANE, lambda before: dataclasses.replace(before, kept_out=KeptOut("newest", "is behind")))
    assert main(["history", *LANE, "--json"]) == 0
    one, two, newest = json.loads(capsys.readouterr().out)
    assert (one["state"], one["champion"], one["numbers"]) == ("one", False, {"image_auroc": 0.9})
    assert (two["state"], two["champion"], two["reason"]) == ("two", True, "passed")
    assert (newest["state"], newest["action"], newest["reason"]) == ("newest", "kept out", "is behind")


def test_admitting_all_leaves_the_rejected_rejected(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quarantine", "parts", "bolt", "--reject", "a.png"]) == 0
    assert main(["quarantine", "parts", "bolt", "--admit", "all"]) == 0
    assert "1 have an earlier decision" in capsys.readouterr().err
    assert read_decisions(store, "parts", "bolt") == {FIRST: "reject", SECOND: "admit", THIRD: "admit"}


def test_a_held_image_is_found_by_each_of_its_names(
    store: ArtifactStore, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    root = bench.benchmark.datasets["parts"].reader.root
    file = KnownFile(1, "s", FIRST, 8, 8, "RGB", "rule")
    names = ("bolt/train/good/a.png", "bolt/train/good/twin.png", "bolt/test/good/tested.png")
    write_known_files(store, root, "bolt", dict.fromkeys(names, file))
    for name in ("a.png", "twin.png", "bolt/train/good/twin.png", FIRST[:8]):
        assert main(["quarantine", "parts", "bolt", "--admit", name]) == 0
    assert read_decisions(store, "parts", "bolt") == {FIRST: "admit"}
    assert "admitted  bolt/train/good/a.png, bolt/train/good/twin.png" in capsys.readouterr().out
    # As a test image it is not what waits to be trained on.
    assert main(["quarantine", "parts", "bolt", "--admit", "tested.png"]) == 2


def test_a_training_image_is_found_by_each_of_its_names(store: ArtifactStore, bench: Bench) -> None:
    good = bench.images / "bolt/train/good"
    shutil.copy(good / "001.png", good / "twin.png")
    bench.set("datasets.parts.production", {"settle_seconds": 0})
    bench.make(selected=[dg.AssetKey(["parts", "image_index"])], categories=["bolt"])
    image = hashlib.sha256((good / "001.png").read_bytes()).hexdigest()
    for name in ("001.png", "twin.png"):
        assert main(["quarantine", "parts", "bolt", "--reject", name]) == 0
        assert read_decisions(store, "parts", "bolt") == {image: "reject"}


def test_admit_and_reject_in_one_call_are_refused(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as error:
        main(["quarantine", "parts", "bolt", "--reject", "a.png", "--admit", "b.png"])
    assert error.value.code == 2
    assert read_decisions(store, "parts", "bolt") == {}
