"""Images in, results and pictures out: each once, whatever is half-written, broken or cut off."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ad_assets_runtime import watched_folder as module
from ad_assets_runtime.bundle import Bundle, Inspected, open_bundle
from ad_assets_runtime.identity import content_id
from ad_assets_runtime.watched_folder import WatchedFolder
from tests.support.line_bundles import expected, picture, png, write_bundle
from tests.support.line_server import until


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write_bundle(tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


class Watched:
    """A watched folder whose clock the test sets."""

    def __init__(self, folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.recorded = 1000.0, list[Inspected]()
        monkeypatch.setattr(module, "time", self)
        self.images, self.results = folder / "in", folder / "out"
        self.images.mkdir()
        self.folder = WatchedFolder(
            self.images, self.results, lambda: bundle, self.recorded.append, settle_seconds=1, patience_seconds=60
        )

    def monotonic(self) -> float:
        """The clock."""
        return self.now

    def after(self, seconds: float) -> int:
        """Look once, so many seconds later."""
        self.now += seconds
        return self.folder.poll()


@pytest.fixture
def watched(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, bundle, monkeypatch)


def test_an_image_that_rests_is_scored_once_and_moved(watched: Watched) -> None:
    data = png(picture(3))
    (watched.images / "camera").mkdir()
    (watched.images / "camera" / "a.png").write_bytes(data)
    assert [watched.after(0), watched.after(0.5), watched.after(0.6), watched.after(5)] == [0, 0, 1, 0]
    name = f"a-{content_id(data)[:12]}"
    result = json.loads((watched.results / f"{name}.json").read_text())
    assert result["score"] == pytest.approx(expected(picture(3), 60)[1])
    assert (watched.results / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert (watched.results / "done" / f"{name}.png").read_bytes() == data
    assert [image.prediction.name for image in watched.recorded] == ["camera/a.png"]
    assert list(watched.images.rglob("*.png")) == []


def test_what_is_still_written_is_waited_for_and_what_stays_broken_is_put_aside(watched: Watched) -> None:
    data, path = png(picture(3)), watched.images / "a.png"
    watched.after(0)
    for size in (100, 700, 1500):
        path.write_bytes(data[:size])
        assert watched.after(0.8) == 0
    assert watched.after(30) == 0  # at rest, but half of it
    path.write_bytes(data)
    assert [watched.after(0.1), watched.after(1.1)] == [0, 1]
    path.write_bytes(b"no image at all")
    assert [watched.after(0), watched.after(30), watched.after(31)] == [0, 0, 1]
    [failed] = (watched.results / "failed").iterdir()
    assert "not an image" in json.loads((watched.results / f"{failed.stem}.json").read_text())["error"]
    assert len(watched.recorded) == 1


def test_one_name_used_again_gives_results_side_by_side_and_what_was_cut_off_is_done_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = watched.images / "last.png"
    for number in (1, 2):
        path.write_bytes(png(picture(number)))
        watched.after(0)
        watched.after(2)
    assert len(list(watched.results.glob("last-*.json"))) == 2
    path.write_bytes(png(picture(3)))
    watched.after(0)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            watched.after(2)
    assert (path.exists(), len(watched.recorded)) == (True, 2)
    watched.after(2)
    assert (path.exists(), len(watched.recorded)) == (False, 3)
    assert len(list(watched.results.glob("last-*.json"))) == 3


def test_a_stop_finishes_the_image_under_way_and_takes_no_other(watched: Watched) -> None:
    for number in range(3):
        (watched.images / f"{number}.png").write_bytes(png(picture(number)))
    watched.after(0)
    watched.now += 2
    assert watched.folder.poll(lambda: len(watched.recorded) == 1) == 1
    assert [path.name for path in sorted(watched.images.iterdir())] == ["1.png", "2.png"]
    assert (watched.after(2), len(watched.recorded)) == (2, 3)


def test_the_command_watches_until_it_is_stopped_and_records(bundle: Bundle, tmp_path: Path) -> None:
    del bundle
    (tmp_path / "in").mkdir()
    command = [sys.executable, "-m", "ad_assets_runtime", "watch", "bundle", "parts", "bolt", "in", "out"]
    with subprocess.Popen([*command, "--settle", "0.1", "--home", "home"], cwd=tmp_path) as process:
        for number in range(3):
            (tmp_path / "in" / f"{number}.png").write_bytes(png(picture(number)))
            time.sleep(0.05)
        until(lambda: len(list((tmp_path / "out").glob("done/*.png"))) == 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    batches = (tmp_path / "home/outbox/inspections/parts/bolt").glob("*.jsonl")
    assert sum(len(batch.read_text().splitlines()) for batch in batches) == 3
