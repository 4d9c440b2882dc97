"""``ad-assets data``: what is said of sound, broken and missing folders, with and without a benchmark file."""

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from ad_assets.cli import main
from tests.support.bench_graph import config_tree
from tests.support.trees import campus_tree, mvtec_tree, write_image

SEEN = "      images are 12 x 10, lite0 looks at 100 % of them, one cell is 1.5 x 1.2 camera pixels"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for category in ("bolt", "nut"):
        mvtec_tree(tmp_path / "images", category)
    path = tmp_path / "bench.yaml"
    path.write_text(yaml.safe_dump(config_tree(tmp_path), sort_keys=False))
    return path


def data(command: str, *arguments: str) -> int:
    return main(["data", command, *arguments])


def test_sound_datasets_are_ok_and_nothing_is_stored(config: Path, capsys: Any) -> None:
    assert data("check", "--config", str(config)) == 0
    out = capsys.readouterr()
    assert out.out.splitlines() == [
        f"parts (reader folder, {config.parent}/images)",
        "ok    bolt: 4 train, 2 good and 4 anomalous test images",
        SEEN,
        "ok    nut: 4 train, 2 good and 4 anomalous test images",
        SEEN,
        "2 of 2 categories are sound",
    ]
    assert not (config.parent / "store").exists()
    assert data("check", "parts", "--config", str(config), "--category", "nut") == 0
    assert "bolt" not in capsys.readouterr().out


def test_a_folder_needs_no_benchmark_file(config: Path, capsys: Any) -> None:
    root = str(config.parent / "images")
    assert data("check", "--reader", "folder", "--root", root) == 0
    assert "2 of 2 categories are sound" in capsys.readouterr().out
    assert data("check", "--reader", "mvtec_ad", "--root", root, "--category", "bottle") == 1
    assert "no images; the folder holds bolt, nut" in capsys.readouterr().out


def test_what_a_crop_hides_is_a_warning_and_no_fault(config: Path, capsys: Any) -> None:
    cropped = ("--set", "extractors.lite0.resize=72", "--set", "extractors.lite0.crop=64")
    assert data("check", "--config", str(config), "--category", "nut", *cropped) == 0
    out = capsys.readouterr().out
    assert "images are 12 x 10, lite0 looks at 66 % of them, one cell is 1.1 x 1.1 camera pixels" in out
    assert "warning  extractor lite0: 34 % of the picture is never looked at" in out


def test_broken_files_fail_their_category_with_every_problem(config: Path, capsys: Any) -> None:
    bolt = config.parent / "images/bolt"
    (bolt / "train/good/000.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    (bolt / "ground_truth/crack/000_mask.png").unlink()
    (bolt / "train/good/again.png").write_bytes((bolt / "train/good/001.png").read_bytes())
    assert data("check", "--config", str(config)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "FAIL  bolt: 4 train, 2 good and 3 anomalous test images"  # those that are sound
    assert lines[2] == SEEN
    assert lines[3].startswith("      error  bolt/test/crack/000.png: has no mask: expected ground_truth/crack")
    assert lines[4].startswith("      error  bolt/train/good/000.png: not an image of a known format")
    assert lines[5].startswith("      warning  bolt/train/good/again.png: the same image as bolt/train/good/001.png")
    assert lines[6].startswith("ok    nut")
    assert lines[-1] == "1 of 2 categories are sound"
    # A benchmark file that leaves bad files out is not failed by them, but they are told.
    assert data("check", "--config", str(config), "--set", "datasets.parts.on_problem=skip") == 0
    out = capsys.readouterr().out
    assert "ok    bolt" in out
    assert "error  bolt/train/good/000.png" in out


def test_long_lists_are_capped_and_a_category_without_images_is_told(config: Path, capsys: Any) -> None:
    train = config.parent / "images/bolt/train/good"
    for number in range(30):
        (train / f"{number:03d}.png").write_text("no image")
    assert data("check", "--config", str(config), "--category", "bolt") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "FAIL  bolt: cannot be indexed"
    assert lines[22] == "      ... and 11 more"
    assert lines[23:] == ["0 of 1 categories are sound"]


def test_a_missing_root_says_where_to_get_it_and_what_belongs_there(tmp_path: Path, capsys: Any) -> None:
    assert data("check", "--reader", "mvtec_ad", "--root", str(tmp_path / "gone")) == 1
    out = capsys.readouterr().out
    assert f"FAIL  mvtec_ad: the dataset folder '{tmp_path}/gone' does not exist" in out
    assert "where to get it: https://www.mvtec.com/company/research/datasets/mvtec-ad" in out
    assert "        <category>/train/good/NAME.png" in out
    assert out.endswith("nothing could be checked\n")
    assert data("describe", "--reader", "folder", "--root", str(tmp_path / "gone")) == 1
    assert "        <category>/train/good/NAME.png" in capsys.readouterr().out
    # Of a blind dataset, the folder of the other one.
    blind = ["--config", "mvtec_ad_blind", "mvtec_mix"]
    assert data("check", *blind) == 1
    assert "where to get it: https://www.mvtec.com" in capsys.readouterr().out


def test_what_measuring_needs_is_a_warning(tmp_path: Path, capsys: Any) -> None:
    mvtec_tree(tmp_path / "images", "good_only", defects=())
    mvtec_tree(tmp_path / "images", "unmasked")
    for mask in (tmp_path / "images/unmasked/ground_truth").rglob("*.png"):
        mask.unlink()
    assert data("check", "--reader", "folder", "--root", str(tmp_path / "images")) == 0
    out = capsys.readouterr().out
    assert "warning  good_only: no anomalous test images: no AUROC is defined" in out
    assert "warning  unmasked: no masks: pixel metrics are not defined" in out


def test_packed_datasets_are_unpacked_and_checked(tmp_path: Path, capsys: Any) -> None:
    source, root = campus_tree(tmp_path / "source"), tmp_path / "root"
    call = ["--reader", "mstc", "--root", str(root), "--set", f"source={source}", "--set", "check_counts=false"]
    (source / "testing/test_frame_mask/01_0014.npy").write_bytes(b"no array")
    assert data("check", *call) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "left out  scene_13: has no test clips, so that it cannot be measured"
    assert lines[2] == "FAIL  scene_01: cannot be indexed"
    assert f"{source}/testing/test_frame_mask/01_0014.npy: cannot be read as an array of numbers" in lines[3]
    assert lines[4] == "ok    scene_02: 2 train, 1 good and 1 anomalous test images"
    assert data("check", *call, "--category", "scene_13") == 2
    assert "scene_13 is left out: it has no test clips" in capsys.readouterr().err


def test_names_are_only_printed(tmp_path: Path, capsys: Any) -> None:
    folder = mvtec_tree(tmp_path / "images", "bolt", defects=("=1+1", "dent\x1b[31m"))
    (folder / "train/good/\x1b]0;title\x07.png").write_text("no image")
    for command, *more in (["check"], ["describe", "--out", str(tmp_path / "out")]):
        data(command, "--reader", "folder", "--root", str(tmp_path / "images"), *more)
        out = capsys.readouterr().out
        assert "\\x1b" in out
        assert out.replace("\n", "").isprintable()
    with (tmp_path / "out/folder.csv").open() as file:
        [row] = csv.DictReader(file)
    assert row["defect_types"] == "'=1+1 2; dent\\x1b[31m 2"


def test_categories_are_described_with_numbers_and_pictures(config: Path, capsys: Any) -> None:
    write_image(config.parent / "images/bolt/train/good/wide.jpg", (40, 10))
    folder = config.parent / "overview"
    assert data("describe", "--config", str(config), "--out", str(folder)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [
        *("category", "train", "test", "good", "test", "anomalous", "defect", "types", "kinds", "size", "modes", "MB"),
        *("mask", "share", "%", "problems"),
    ]
    assert lines[2].startswith("bolt      5      2          4               crack 2, dirt 2  –      12..40 x 10  RGB")
    assert lines[3].split()[-4:] == ["0.0", "12", "(12..12)", "0"]
    assert lines[4:] == [f"written: {folder}/parts.csv", f"written: {folder}/parts.png"]
    with (folder / "parts.csv").open() as file:
        bolt, nut = csv.DictReader(file)
    assert (bolt["train"], bolt["width_max"], nut["width_max"]) == ("5", "40", "12")
    assert float(nut["mask_share_mean"]) == 0.125  # 15 of 120 pixels
    with Image.open(folder / "parts.png") as sheet:
        assert (sheet.width, sheet.height) == (8 * 166, 2 * 184)  # names and counts, 3 nominal, 4 anomalous


def test_what_cannot_be_described_is_told(config: Path, capsys: Any) -> None:
    for path in (config.parent / "images/bolt/train/good").iterdir():
        path.unlink()
    assert data("describe", "--config", str(config)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "FAIL  bolt: cannot be indexed"
    assert "no training images" in lines[2]
    assert lines[-1].startswith("nut")


def test_what_lies_beside_the_categories_fails_the_check_by_name(
    config: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ad_assets.datasets import ImageFiles

    images = config.parent / "images"
    for name in ("nut (copy)/train/good", "screw/Training/good", "notes", "bolt/train/good/@eaDir"):
        write_image(images / name / "x.png")
    (images / "gone").symlink_to("/nowhere/gone")
    looks = []
    listing = ImageFiles.listing
    monkeypatch.setattr(ImageFiles, "listing", lambda files, *parts: looks.append(1) or listing(files, *parts))
    assert data("check", "--config", str(config)) == 1
    out = capsys.readouterr().out
    assert "FAIL  gone: cannot be indexed" in out
    assert "FAIL  nut (copy): cannot be indexed" in out
    assert "its name cannot be a category's (letters, digits, _ and - only, 100 characters" in out
    assert "FAIL  screw/Training: cannot be indexed" in out
    assert "is it train?" in out
    assert "left out  notes: 1 image (x.png) not read" in out
    assert "passed over beside images: @eaDir 1" in out
    assert "2 of 5 categories are sound" in out
    assert len(looks) <= 2  # however many categories there are


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["other"], "has no dataset 'other'; it has: parts"),
        (["--category", "screw"], "dataset parts has no category 'screw'; it has: bolt, nut"),
        (["--root", "/data"], "--root goes with --reader"),
        (["--reader", "folder"], "leave out the dataset and --config"),
    ],
)
def test_a_wrong_call_is_explained(config: Path, capsys: Any, arguments: list[str], message: str) -> None:
    assert data("check", "--config", str(config), *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reader", "fodler"], "unknown value 'fodler'; choose from: blind, btad, cifar10_one_class"),
        (["--reader", "folder"], "datasets.folder.root: is required"),
        (["--reader", "mtd", "--root", "/x", "--set", "seed=-1"], "datasets.mtd.seed: "),
        (["--reader", "mtd", "--root", "/x", "--set", "seed"], "write it as option=value"),
    ],
)
def test_a_wrong_reader_is_explained(capsys: Any, arguments: list[str], message: str) -> None:
    assert data("check", *arguments) == 2
    assert message in capsys.readouterr().err
