"""Champions are followed: a promoted bundle takes over once it is whole and scores right here, and not before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ad_assets_runtime import champions as module
from ad_assets_runtime import engines
from ad_assets_runtime.champions import Champions, Follower
from tests.support.line_bundles import PLACE, expected, picture, promote, write_bundle

DATASET, LANE, CATEGORY = PLACE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    promote(tmp_path / "root", "b/one", write_bundle(tmp_path / "root/b/one", colour=60))
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.0)


def colour_of(champions: Champions) -> float:
    """The state of the champion, by the score of a black image."""
    return champions.of(DATASET, CATEGORY).bundle.score(np.zeros((SIDE, SIDE, 3), np.uint8))[1]


SIDE = 16


def test_a_promotion_takes_over_and_a_rollback_needs_the_cache_alone(root: Path, tmp_path: Path) -> None:
    champions = Champions(root, tmp_path / "cache")
    champions.poll()
    assert colour_of(champions) == 60
    first = json.loads((root / f"champion_bundles/{DATASET}/{LANE}/{CATEGORY}.json").read_text())
    promote(root, "b/two", write_bundle(root / "b/two", colour=90))
    champions.poll()
    assert colour_of(champions) == 90
    shutil.rmtree(root / "b/one")
    promote(root, "b/one", first["sha256"])
    champions.poll()
    assert colour_of(champions) == 60
    assert not champions.refused


def test_files_that_bundles_share_lie_elsewhere_and_are_kept_once(root: Path, tmp_path: Path) -> None:
    sha256 = write_bundle(root / "b/two", colour=90)
    (root / "graphs").mkdir()
    shutil.move(root / "b/two/graphs/g.onnx", root / "graphs/shared.onnx")
    champions = Champions(root, tmp_path / "cache")
    champions.poll()
    before = len(list((tmp_path / "cache/files").iterdir()))
    promote(root, "b/two", sha256, shared={"graphs/g.onnx": "graphs/shared.onnx"})
    champions.poll()
    assert colour_of(champions) == 90
    # Of the second only bundle.json, the state and two expected results are new.
    assert len(list((tmp_path / "cache/files").iterdir())) == before + 4


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda b: shutil.rmtree(b), "bundle.json is missing"),
        (lambda b: (b / "states/m0.safetensors").unlink(), "m0.safetensors is missing"),
        (lambda b: (b / "states/m0.safetensors").write_bytes(b"part"), "m0.safetensors has 4 bytes"),
        (lambda b: (b / "bundle.json").write_text("{}"), "not the one that was promoted"),
    ],
)
def test_a_bundle_that_is_half_copied_is_not_served_until_it_is_whole(root, tmp_path, damage, reason) -> None:
    champions = Champions(root, tmp_path / "cache")
    champions.poll()
    sha256 = write_bundle(root / "b/two", colour=90)
    damage(root / "b/two")
    promote(root, "b/two", sha256)
    for _ in range(2):
        champions.poll()
        assert colour_of(champions) == 60
        assert reason in champions.refused[PLACE].reason
    write_bundle(root / "b/two", colour=90)
    champions.poll()
    assert (colour_of(champions), dict(champions.refused)) == (90, {})


def test_a_pointer_to_a_bundle_of_another_category_or_outside_is_refused(root: Path, tmp_path: Path) -> None:
    champions = Champions(root, tmp_path / "cache")
    champions.poll()
    promote(root, "b/nut", write_bundle(root / "b/nut", place=(DATASET, LANE, "nut")))
    champions.poll()
    assert "parts/mean/nut" in champions.refused[PLACE].reason
    for bundle in ("../b/one", "/etc"):
        promote(root, bundle, "0" * 64)
        champions.poll()
        assert "outside of its root" in champions.refused[PLACE].reason
    (root / f"champion_bundles/{DATASET}/{LANE}/{CATEGORY}.json").write_text("[1")
    champions.poll()
    assert "known format" in champions.refused[PLACE].reason
    assert colour_of(champions) == 60


def test_arithmetic_that_is_off_here_is_refused_while_the_old_one_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champions = Champions(root, tmp_path / "cache")
    champions.poll()
    promote(root, "b/two", write_bundle(root / "b/two", colour=90))
    run = engines.OnnxRuntime.run
    monkeypatch.setattr(engines.OnnxRuntime, "run", lambda *a: tuple(each * 1.01 for each in run(*a)))
    champions.poll()
    assert "self-test" in champions.refused[PLACE].reason
    monkeypatch.undo()
    assert champions.served[PLACE].bundle.score(picture(1))[1] == pytest.approx(expected(picture(1), 60)[1])


def test_without_the_root_the_cache_serves_also_after_a_restart(root: Path, tmp_path: Path) -> None:
    champions = Champions(root, tmp_path / "cache")
    champions.poll()
    root.rename(tmp_path / "gone")
    champions.poll()
    assert ("is not there" in champions.fault, colour_of(champions)) == (True, 60)
    again = Champions(root, tmp_path / "cache")
    again.poll()
    assert (colour_of(again), "is not there" in again.fault) == (60, True)
    (tmp_path / "gone").rename(root)
    again.poll()
    assert again.fault == ""


def test_a_follower_takes_a_promotion_within_seconds(root: Path, tmp_path: Path) -> None:
    champions = Champions(root, tmp_path / "cache")
    champions.poll()
    follower = Follower(champions, 0.05)
    follower.start()
    try:
        promote(root, "b/two", write_bundle(root / "b/two", colour=90))
        for _ in range(100):
            if colour_of(champions) == 90:
                break
            follower.join(0.05)
        assert colour_of(champions) == 90
    finally:
        follower.stop()
    assert not follower.is_alive()


def test_lanes_are_told_apart(root: Path, tmp_path: Path) -> None:
    other = (DATASET, "second", CATEGORY)
    promote(root, "b/two", write_bundle(root / "b/two", colour=90, place=other), other)
    champions = Champions(root, tmp_path / "cache")
    champions.poll()
    with pytest.raises(KeyError, match="mean, second"):
        champions.of(DATASET, CATEGORY)
    assert champions.of(DATASET, CATEGORY, "second").bundle.place == other
    with pytest.raises(KeyError, match="no champion of parts"):
        champions.of(DATASET, "nut")


def test_an_object_store_is_followed_too(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    files = s3fs.S3FileSystem(endpoint_url=s3_endpoint)
    files.mkdir("line-bucket")
    champions = Champions("s3://line-bucket/factory", tmp_path / "cache")
    champions.poll()
    assert not champions.served
    local = tmp_path / "local"
    for colour in (60, 90):
        promote(local, f"b/{colour}", write_bundle(local / f"b/{colour}", colour=colour))
        for path in local.rglob("*"):
            if path.is_file():
                files.pipe_file(f"line-bucket/factory/{path.relative_to(local).as_posix()}", path.read_bytes())
        champions.poll()
        assert colour_of(champions) == colour
    assert not champions.fault
