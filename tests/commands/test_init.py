"""``ad-assets init`` as a new user meets it: what it says of each kind of folder, and the file that it writes."""

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from ad_assets.cli import main
from ad_assets.commands.first_file import frame_for
from ad_assets.config.load import load_config
from tests.support.bench_graph import draw_image, write_dataset, write_image
from tests.support.places import REPOSITORY


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_flat(root: Path, images: int = 20) -> None:
    for number in range(images):
        write_image(root / f"{number:03}.png", draw_image(number))


def test_an_mvtec_folder_is_read_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(folder / "images")
    assert main(["init", "images"]) == 0
    out = capsys.readouterr().out
    assert "bolt: 6 good to learn, 3 good and 3 anomalous to test (spot; 3 with masks); 64 x 64, RGB" in out
    assert "ok    dataset parts: 2 categories, 24 images" in out
    assert "next:  ad-assets materialize --config parts.yaml" in out
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == ["images", "parts.yaml"]
    dataset = load_config(folder / "parts.yaml").datasets["parts"]
    assert dataset.reader.root == str(folder / "images") or dataset.reader.root == "images"
    assert list(dataset.detectors) == ["patchcore"]


def test_a_flat_folder_of_good_images_gets_a_manifest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_flat(folder / "flat")
    assert main(["init", "flat", "-o", "line7.yaml"]) == 0
    out = capsys.readouterr().out
    assert "images alone, all taken for good" in out
    assert "16 good to learn, 4 good and 0 anomalous to test" in out
    rows = list(csv.DictReader((folder / "line7.csv").open()))
    assert [row["split"] for row in rows] == ["train"] * 16 + ["test"] * 4
    assert yaml.safe_load((folder / "line7.yaml").read_text())["datasets"]["line7"]["manifest"] == "../line7.csv"


def test_masks_beside_images_are_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_flat(folder / "masked")
    clean, spoilt = draw_image(3), draw_image(3, defect=True)
    write_image(folder / "masked" / "003.png", spoilt)
    write_image(folder / "masked" / "003_mask.png", np.uint8(255) * (clean != spoilt).any(axis=2))
    assert main(["init", "masked"]) == 0
    assert "16 good to learn, 3 good and 1 anomalous to test (defect; 1 with masks)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("made", "status", "said"),
    [
        ("nothing", 2, "does not exist: name a folder of images"),
        ("empty", 2, "is empty: put the images there, or name their folder"),
        ("file", 2, "is a file: name the folder that holds the images, such as"),
        ("texts", 1, "holds no image: 2 files (0.txt, 1.txt)"),
        ("broken", 1, "none of 2 images that were opened can be read"),
    ],
)
def test_a_folder_without_images_is_refused_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], made: str, status: int, said: str
) -> None:
    if made == "file":
        (folder / "it").write_text("text")
    elif made != "nothing":
        (folder / "it").mkdir()
    for number in range(2) if made in ("texts", "broken") else ():
        (folder / "it" / f"{number}.{'txt' if made == 'texts' else 'png'}").write_text("text")
    assert main(["init", "it"]) == status
    assert said in capsys.readouterr().err
    assert not (folder / "parts.yaml").exists()


@pytest.mark.parametrize("name", ["parts.yaml", "parts.csv"])
def test_nothing_is_overwritten(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    write_flat(folder / "flat", 2)
    (folder / name).write_text("mine")
    assert main(["init", "flat"]) == 2
    assert f"{name} exists, and init overwrites nothing" in capsys.readouterr().err
    assert (folder / name).read_text() == "mine"
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("sizes", "height", "width", "tiled"),
    [
        ([(64, 64)], 256, 256, False),
        ([(480, 640)], 256, 336, False),
        ([(1200, 1600)], 512, 688, False),
        ([(3000, 4000)], 3008, 4000, True),
        ([(480, 640), (640, 480)], 256, 256, False),
        ([(100, 3000)], 96, 3008, False),
    ],
)
def test_cells_of_the_finest_map_are_small(sizes: list[tuple[int, int]], height: int, width: int, tiled: bool) -> None:
    frame = frame_for(frozenset(sizes))
    assert (frame.height, frame.width, frame.tiled) == (height, width, tiled)
    assert all(8 * max(high / frame.height, wide / frame.width) <= 33 for high, wide in sizes)


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    """The variables of a shell that finds `ad-assets`, with a home of its own."""
    command = folder / "bin" / "ad-assets"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ad_assets.cli "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "DAGSTER_HOME": str(folder / "home"), "PYTHONPATH": str(REPOSITORY)}


@pytest.mark.slow
def test_from_a_folder_of_good_images_to_the_first_decision_in_five_minutes(
    folder: Path, environment: dict[str, str]
) -> None:
    """The script of the README, as a person runs it."""
    write_flat(folder / "images", 24)
    write_image(folder / "new.png", draw_image(99, defect=True))
    script = shutil.copy(REPOSITORY / "docs" / "first_decision.sh", folder)
    started = time.monotonic()
    done = subprocess.run(
        ["sh", script, "images", "new.png"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "new.png" in done.stdout
    assert "anomalous" in done.stdout.splitlines()[-1]
    assert (folder / "decisions" / "report.html").is_file()
    assert time.monotonic() - started < 300


@pytest.mark.slow
def test_what_a_new_user_tries_first_ends_as_it_should(folder: Path, environment: dict[str, str]) -> None:
    write_dataset(folder / "images")
    script = [sys.executable, str(REPOSITORY / "docs" / "ten_things.py"), "images"]
    done = subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for told in ("did you mean 'coreset_ratio'?", "did you mean 'bolt'?", "a corrupt image"):
        assert told in done.stdout
