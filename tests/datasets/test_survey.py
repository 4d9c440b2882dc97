"""What is found in folders of images, however they are arranged; what names do not tell is refused, never guessed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ad_assets.datasets import DatasetError
from ad_assets.datasets.survey import Survey, survey
from tests.support.bench_graph import write_image

GREY = np.full((16, 24, 3), 120, np.uint8)
MASK = np.zeros((16, 24), np.uint8)
MASK[4:8, 4:8] = 255


def written(root: Path, *paths: str) -> str:
    for number, path in enumerate(paths):
        is_mask = "mask" in path
        write_image(root / path, MASK if is_mask else GREY + np.uint8(number))
    return str(root)


def labels(found: Survey) -> dict[str, tuple[str, str, str, str]]:
    """Image -> category, split, defect type, mask."""
    return {
        each.path: (category, each.split, each.defect_type, "".join(each.masks))
        for category, images in found.images.items()
        for each in images
    }


def test_the_layout_of_mvtec_needs_no_manifest(tmp_path: Path) -> None:
    found = survey(written(tmp_path, "bolt/train/good/0.png", "bolt/test/scratch/1.png"))
    assert found.layout == "mvtec"
    assert labels(found) == {
        "bolt/train/good/0.png": ("bolt", "train", "good", ""),
        "bolt/test/scratch/1.png": ("bolt", "test", "scratch", ""),
    }


def test_the_last_fifth_of_good_images_is_tested_where_there_are_ten(tmp_path: Path) -> None:
    found = survey(written(tmp_path / "my parts", *(f"{i:02}.png" for i in range(11)), "sub/0.png"))
    told = labels(found)
    assert found.layout == "good"
    assert {path for path, (_, split, _, _) in told.items() if split == "test"} == {"09.png", "10.png"}
    assert told["00.png"][0] == "my_parts"
    assert told["sub/0.png"][:2] == ("sub", "train")


def test_folders_beside_one_of_good_images_are_defects(tmp_path: Path) -> None:
    paths = ["a/OK/0.png", "a/dent/1.png", "b/good/2.png", "b/x/y/3.png", "stray.png", "c/4.png"]
    found = survey(written(tmp_path, *paths))
    assert found.layout == "folders"
    assert labels(found) == {
        "a/OK/0.png": ("a", "train", "good", ""),
        "a/dent/1.png": ("a", "test", "dent", ""),
        "b/good/2.png": ("b", "train", "good", ""),
        "b/x/y/3.png": ("b", "test", "x", ""),
    }
    assert sorted(problem.path for problem in found.left_out) == ["c/4.png", "stray.png"]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a/0.png", "a/0_mask.png"),
        ("a/0.jpg", "a/0-GT.png"),
        ("a/images/0.png", "a/masks/0.png"),
        ("a/0.png", "a/masks/0_mask.png"),
        ("a/images/lot/0.png", "a/ground_truth/lot/0.png"),
    ],
)
def test_masks_beside_images_say_which_are_anomalous(tmp_path: Path, image: str, mask: str) -> None:
    root = written(tmp_path, image.replace("0", "1"), image)
    write_image(tmp_path / mask, MASK)
    found = survey(root)
    assert found.layout == "masks"
    told = labels(found)
    assert {path: (split, mask) for path, (_, split, _, mask) in told.items()} == {
        image.replace("0", "1"): ("train", ""),
        image: ("test", mask),
    }
    assert {category for category, *_ in told.values()} == {"a_lot" if "lot" in image else "a"}


def test_an_empty_mask_marks_a_good_image_and_grey_edges_are_declared(tmp_path: Path) -> None:
    """As in Magnetic Tile Defects: `.png` is the mask of the `.jpg` of the same name."""
    for name, level in (("0", 0), ("1", 255)):
        write_image(tmp_path / f"{name}.jpg", GREY)
        mask = MASK.copy()
        mask[4:8, 4:8] = level
        mask[4, 4] = min(level, 90)
        write_image(tmp_path / f"{name}.png", mask)
    found = survey(str(tmp_path))
    assert {path: (split, mask) for path, (_, split, _, mask) in labels(found).items()} == {
        "0.jpg": ("train", ""),
        "1.jpg": ("test", "1.png"),
    }
    assert found.mask_values == "128-255"


def test_folders_of_defects_alone_are_types_of_one_part_and_unmarked_images_among_them_are_unclear(
    tmp_path: Path,
) -> None:
    written(tmp_path, "free/Imgs/0.png", "crack/Imgs/1.jpg", "crack/Imgs/1_mask.png", "uneven/2.png", "uneven/3.png")
    write_image(tmp_path / "uneven" / "2_mask.png", MASK)
    write_image(tmp_path / "crack" / "Imgs" / "1_mask.png", MASK)
    found = survey(str(tmp_path))
    assert labels(found) == {
        "free/Imgs/0.png": (tmp_path.name, "train", "good", ""),
        "crack/Imgs/1.jpg": (tmp_path.name, "test", "crack", "crack/Imgs/1_mask.png"),
        "uneven/2.png": (tmp_path.name, "test", "uneven", "uneven/2_mask.png"),
    }
    assert [problem.path for problem in found.left_out] == ["uneven/3.png"]


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["train/0.png", "test/1.png"], "no image in <category>/train/good"),
        (["bolt/training/good/0.png"], "no image in <category>/train/good"),
        (["bad/0.png", "other/1.png"], "names say bad"),
        (["goods/0.png"], "names say goods"),
        (["ok_1.png", "2.png"], "names say good or ok of some"),
        (["1_ng.png", "2.png"], "names say ng"),
        (["0.png", "0_mask.png"], "each of 1 image"),
    ],
)
def test_what_names_do_not_tell_is_refused(tmp_path: Path, paths: list[str], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        survey(written(tmp_path, *paths))


def test_a_mask_that_contradicts_its_folder_or_cannot_be_read_leaves_its_image_out(tmp_path: Path) -> None:
    root = written(tmp_path, "good/0.png", "good/1.png", "good/1_mask.png", "dent/2.png")
    (tmp_path / "dent" / "2_mask.png").write_bytes(b"no image")
    found = survey(root)
    assert labels(found) == {"good/0.png": (tmp_path.name, "train", "good", "")}
    assert {problem.path for problem in found.left_out} == {"good/1.png", "dent/2_mask.png"}


def test_looks_tell_sizes_depth_and_borders_that_show_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(4):
        pixels = np.zeros((64, 96), np.uint16)
        pixels[:, 48:] = random.integers(0, 4000, (64, 48))
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{number}.png")
    (tmp_path / "a" / "9.png").write_bytes(b"no image")
    looks = survey(str(tmp_path)).looks["a"]
    assert (looks.opened, looks.sizes, looks.bit_depth) == (4, {(64, 96)}, 12)
    assert looks.still == pytest.approx((0, 0, 0, 0.5))
    assert [problem.path for problem in looks.unreadable] == ["a/9.png"]
