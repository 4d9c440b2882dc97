"""The commands that list the versions of a category's images, on the indexes of a graph."""

import json
import re
import shutil

import pytest

from ad_assets.cli import main
from ad_assets.graph.build import materialize
from ad_assets.production.landing_history import read_landings
from tests.support.bench_graph import Bench, draw_image, write_image


class Quiet:
    def info(self, message: str) -> None:
        """Drop it."""


def index(bench: Bench, name: str = "parts/image_index") -> None:
    [stage] = [stage for stage in bench.stages if stage.name == name]
    materialize(stage, "bolt", bench.benchmark.store, bench.benchmark.compute, Quiet())


@pytest.fixture
def indexed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Three versions of `bolt`: the first images, two more and one less, one moved from training to test images."""
    monkeypatch.setenv("AD_ASSETS_CONFIG", str(bench.folder / "bench.yaml"))
    index(bench)
    index(bench)
    good = bench.images / "bolt" / "train" / "good"
    for number in range(2):
        write_image(good / f"camera{number}.png", draw_image(7000 + number))
    (good / "000.png").unlink()
    index(bench)
    masks = bench.images / "bolt" / "ground_truth" / "spot"
    shutil.copy(masks / "000_mask.png", masks / "missed_mask.png")
    (good / "001.png").rename(bench.images / "bolt" / "test" / "spot" / "missed.png")
    index(bench)
    return bench


def test_history_lists_each_landing_once(indexed: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "history", "parts", "bolt"]) == 0
    first, second, third = (re.split(r" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()[1:])
    assert (first[0], first[2:]) == ("1", ["+6", "+6", "000.png, 001.png, 002.png, ..."])
    assert (second[0], second[2:]) == ("2", ["+2 -1", "camera0.png, camera1.png, 000.png"])
    assert (third[0], third[2:]) == ("3", ["-1", "+1", "missed.png"])
    assert main(["data", "history", "parts", "bolt", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    counts = [(row["version"], row["added"], row["removed"], row["changed"]) for row in rows]
    assert counts == [(1, 12, 0, 0), (2, 2, 1, 0), (3, 0, 0, 1)]


def test_diff_names_images_and_what_became_of_them(indexed: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "diff", "parts", "bolt", "1", "3"]) == 0
    lines = [re.sub(r"[0-9a-f]{12}", "ID", line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "+  ID  bolt/train/good/camera0.png  train",
        "+  ID  bolt/train/good/camera1.png  train",
        "-  ID  bolt/train/good/000.png  train",
        "~  ID  bolt/test/spot/missed.png  train -> test, spot  (was bolt/train/good/001.png)",
        "2 added, 1 removed, 1 changed",
    ]
    assert main(["data", "diff", "parts", "bolt", "1", "3", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["change"] for row in rows] == ["added", "added", "removed", "changed"]
    assert rows[0]["before"] is rows[2]["after"] is None
    assert rows[3]["before"] == {"path": "bolt/train/good/001.png", "role": "train"}
    assert rows[3]["after"] == {"path": "bolt/test/spot/missed.png", "role": "test, spot"}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["diff", "parts", "bolt", "1", "4"], "version 4: parts [bolt] has 1 to 3"),
        (["history", "parts", "nut"], "no recorded version"),
        (["history", "other", "bolt"], "other"),
    ],
)
def test_what_there_is_not_is_said(
    indexed: Bench, capsys: pytest.CaptureFixture[str], call: list[str], said: str
) -> None:
    assert main(["data", *call]) == 2
    assert said in capsys.readouterr().err


def test_in_an_older_store_the_index_that_it_has_is_the_first_version(indexed: Bench) -> None:
    store = indexed.benchmark.store
    store.delete([file.path for file in store.files("landings")])
    write_image(indexed.images / "bolt" / "train" / "good" / "camera9.png", draw_image(7009))
    index(indexed)
    first, second = read_landings(store, "parts", "bolt")
    assert (len(first.added), [image.name for image in second.added]) == (13, ["camera9.png"])


def test_gc_says_what_bisect_can_no_longer_fit(indexed: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    index(indexed, "parts/features/lite0")
    (indexed.images / "bolt" / "train" / "good" / "camera0.png").unlink()
    index(indexed)
    index(indexed, "parts/features/lite0")
    assert main(["gc", "--older-than", "0"]) == 0
    assert "1 of them are features: `bisect` cannot fit versions that had their images" in capsys.readouterr().out
    assert len(read_landings(indexed.benchmark.store, "parts", "bolt")) == 4  # never collected
