"""Every command where its images or its store are missing, a file, or may not be read: told by name, no trace."""

import builtins
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from ad_assets.cli import main
from ad_assets.config.load import load_config
from ad_assets.defs.runs import open_instance
from ad_assets.production.store_identity import adopt_store
from tests.support.bench_graph import config_tree, write_dataset

LANE = ("line", "small", "bolt")
COMMANDS = {
    "materialize": ("materialize",),
    "status": ("status",),
    "doctor": ("doctor",),
    "predict": ("predict", "--dataset", "parts", "--category", "bolt", "x.png"),
    "latency": ("latency", "parts", "--category", "bolt"),
    "history": ("history", *LANE),
    "promote": ("promote", *LANE, "--reason", "x"),
    "rollback": ("rollback", *LANE, "--reason", "x"),
    "quarantine": ("quarantine", "line"),
    "reject": ("quarantine", "line", "bolt", "--reject", "000.png"),
    "check": ("data", "check"),
    "describe": ("data", "describe"),
    "maps": ("export", "maps", "parts", "small", "--layout", "mvtec_ad", "--out", "out"),
    "leaderboard": ("export", "leaderboard", "--format", "csv", "--out", "out.csv"),
    "gc": ("gc",),
}
OF_A_LINE = ("history", "promote", "rollback", "quarantine", "reject")
# What does without the images, without a store, or may begin with an empty one.
AT_EASE = {"images": (), "store": ("check", "describe")}
BEGINS = ("materialize", "status", "doctor", "gc", "check", "describe")


def missing(place: Path) -> None:
    """Nothing lies there."""


def a_file(place: Path) -> None:
    """A file lies there."""
    place.write_text("no folder")


def empty(place: Path) -> None:
    """An empty folder lies there."""
    place.mkdir()


@contextmanager
def denied(place: Path) -> Iterator[None]:
    """Whoever runs this may not look into a folder: as the system says it, which lets root look everywhere."""

    def inside(path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and Path(os.fspath(path)).is_relative_to(place)

    def refuses(real: Callable[..., Any], *, itself: bool = True) -> Callable[..., Any]:
        def called(path: Any, *args: Any, **options: Any) -> Any:
            if inside(path) and (itself or str(path) != str(place)):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *args, **options)

        return called

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", refuses(os.scandir))
        patch.setattr(os, "stat", refuses(os.stat, itself=False))
        patch.setattr(io, "open", refuses(io.open))
        patch.setattr(builtins, "open", refuses(builtins.open))
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark file with a dataset and a line on the same images; the line knows its store."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "images", ["bolt"])
    shutil.copy(tmp_path / "images/bolt/train/good/000.png", tmp_path / "x.png")
    tree = config_tree(tmp_path)
    del tree["datasets"]["parts"]["detectors"]["full"]
    tree["datasets"]["line"] = {**tree["datasets"]["parts"], "production": {"settle_seconds": 0}}
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(tree))
    benchmark = load_config("bench.yaml", environ={})
    adopt_store(benchmark.datasets["line"], benchmark.store, open_instance("bench.yaml"))
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *call: str) -> tuple[int, str]:
    """The exit status of a command, and all that it says."""
    try:
        status = main([*call, "--config", "bench.yaml"])
    except SystemExit as error:
        status = int(str(error.code))
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def faults(capsys: pytest.CaptureFixture[str], place: Path, commands: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """What is wrong about what commands say of a place that they cannot use."""
    wrong = {}
    for name, call in commands.items():
        status, text = told(capsys, *call)
        if status not in (1, 2) or str(place) not in text or "Traceback" in text:
            wrong[name] = f"{status}: {text[-600:]}"
    return wrong


@pytest.mark.parametrize("which", ["images", "store"])
@pytest.mark.parametrize("becomes", [missing, a_file])
def test_a_place_that_is_no_folder_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], which: str, becomes: Callable[[Path], None]
) -> None:
    place = folder / which
    shutil.rmtree(place)
    becomes(place)
    new = which == "store" and becomes is missing  # as of a first run: only a line knows better
    names = OF_A_LINE if new else [name for name in COMMANDS if name not in AT_EASE[which]]
    assert faults(capsys, place, {name: COMMANDS[name] for name in names}) == {}
    assert becomes is a_file or not place.exists()


@pytest.mark.parametrize("which", ["images", "store"])
def test_a_place_that_may_not_be_read_is_named(folder: Path, capsys: pytest.CaptureFixture[str], which: str) -> None:
    names = [name for name in COMMANDS if name not in AT_EASE[which]]
    with denied(folder / which):
        assert faults(capsys, folder / which, {name: COMMANDS[name] for name in names}) == {}


def test_an_empty_store_is_named_by_whoever_needs_what_it_lacks(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = folder / "store"
    shutil.rmtree(store)
    empty(store)
    names = [name for name in COMMANDS if name not in (*BEGINS, "maps", "leaderboard")]
    assert faults(capsys, store, {name: COMMANDS[name] for name in names}) == {}
    for name in ("maps", "leaderboard"):
        status, text = told(capsys, *COMMANDS[name])
        assert status == 1
        assert "first run: ad-assets materialize" in text
    for name in BEGINS[1:]:
        assert told(capsys, *COMMANDS[name])[0] == 0, name
