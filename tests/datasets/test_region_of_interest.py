"""Regions of interest of a dataset: which file a category has, and what is wrong with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ad_assets.datasets import build_index
from ad_assets.datasets.base import DatasetError
from ad_assets.datasets.readers.blind import BlindReader
from ad_assets.datasets.readers.folder import FolderReader
from ad_assets.datasets.region_of_interest import digest_of, from_png, to_png, without_margin
from ad_assets.graph.stages.image_index import index_parts
from tests.support.trees import mvtec_tree, write_image, write_table

SIZE = (12, 10)  # of the images of a tree: width, height


def draw(root: Path, path: str = "roi/bottle.png", size: tuple[int, int] = SIZE, white: int = 255) -> Path:
    """A mask whose left half is white."""
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[:, : size[0] // 2] = white
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / path)
    return root / path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mvtec_tree(tmp_path)
    return tmp_path


def reader(root: Path, roi: Any = "roi/{category}.png", **options: Any) -> FolderReader:
    return FolderReader(root=str(root), roi=roi, **options)


def test_a_region_is_part_of_the_index_by_its_pixels(root: Path) -> None:
    before = index_parts(build_index(FolderReader(root=str(root)), "bottle"))
    path = draw(root)
    index = build_index(reader(root), "bottle")
    assert index.region is not None
    assert index.region.path == "roi/bottle.png"
    assert index.region.share == 0.5
    assert not index.problems  # the mask is no image that belongs to no category
    parts = index_parts(index)
    assert parts == {**before, "roi": index.region.digest}
    with Image.open(path) as image:
        image.convert("RGB").save(path, compress_level=1)  # other bytes, the same region
    assert index_parts(build_index(reader(root), "bottle")) == parts
    draw(root, white=1)  # not quite white, and of two values all the same
    assert index_parts(build_index(reader(root), "bottle")) == parts
    Image.fromarray(np.full((10, 12), 255, np.uint8)).save(path)
    assert index_parts(build_index(reader(root), "bottle"))["roi"] != parts["roi"]


@pytest.mark.parametrize(
    ("roi", "category", "path"),
    [
        ("roi/{category}.png", "bottle", "roi/bottle.png"),
        ("{category}/roi.png", "bottle", "bottle/roi.png"),
        ("inspected.png", "bottle", "inspected.png"),
        ("./roi//{category}.png", "bottle", "roi/bottle.png"),
        ({"bottle": "b.png"}, "bottle", "b.png"),
        ({"bottle": "b.png"}, "cable", None),
        (None, "bottle", None),
    ],
)
def test_where_the_region_of_a_category_lies(tmp_path: Path, roi: Any, category: str, path: str | None) -> None:
    chosen = reader(tmp_path, roi)
    assert chosen.region_path(category) == path
    assert chosen.tables(category) == ((path,) if path else ())
    assert BlindReader(of=chosen).region_path(category) == path
    assert chosen.has_regions == (roi is not None)
    assert path is None or chosen.is_region(path)
    assert not chosen.is_region("bottle/train/good/000.png")


@pytest.mark.parametrize(
    "roi", ["/roi/x.png", "../x.png", "s3://b/x.png", "C:\\x.png", "", "roi/{name}.png", {"a b": "x.png"}, 3, ["x"]]
)
def test_a_path_that_is_not_below_the_root_is_refused(roi: Any) -> None:
    with pytest.raises(ValidationError):
        reader(Path("/nowhere"), roi)


def test_an_index_without_the_option_has_the_settings_of_before(root: Path) -> None:
    assert not {"roi", "roi_margin"} & FolderReader(root=str(root)).index_config().keys()
    assert reader(root).index_config()["roi"] == "roi/{category}.png"
    assert "roi_margin" not in reader(root).index_config()
    assert reader(root, roi_margin=2).index_config()["roi_margin"] == 2


def test_a_margin_draws_the_region_in_from_its_border_and_not_from_that_of_the_image(root: Path) -> None:
    draw(root)  # columns 0 to 5
    for chosen in (reader(root, roi_margin=2), BlindReader(of=reader(root, roi_margin=2))):
        index = build_index(chosen, "bottle")
        assert index.region is not None
        columns = index.region.inspected.all(axis=0)
        assert columns.tolist() == index.region.inspected.any(axis=0).tolist() == [True] * 4 + [False] * 8
    with pytest.raises(DatasetError, match=r"roi/bottle.png: has no pixel 6 px from its border: make roi_margin"):
        build_index(reader(root, roi_margin=6), "bottle")
    with pytest.raises(ValidationError, match="there is no roi that it could draw in"):
        reader(root, None, roi_margin=2)
    everything = np.ones((4, 5), bool)
    assert without_margin(everything, 3).all()
    corner = np.zeros((9, 9), bool)
    corner[2:, 2:] = True
    assert without_margin(corner, 2).sum() == 25 == without_margin(corner, 2)[4:, 4:].sum()


def _bad(root: Path, case: str) -> None:
    path = root / "roi/bottle.png"
    if case == "missing":
        return
    draw(root)
    if case == "unreadable":
        path.write_bytes(path.read_bytes()[:40])
    elif case == "no image":
        path.write_text("white")
    elif case == "black":
        draw(root, white=0)
    elif case == "size":
        draw(root, size=(10, 12))
    elif case == "grey":
        Image.fromarray(np.arange(120, dtype=np.uint8).reshape(10, 12)).save(path)
    elif case == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize("on_problem", ["fail", "skip"])
@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("missing", "is not there: draw it, white where images are inspected"),
        ("unreadable", "roi/bottle.png"),
        ("no image", "roi/bottle.png"),
        ("empty", "roi/bottle.png"),
        ("black", "is all black, so nothing is inspected"),
        ("size", "is of 10 x 12, the images are of 12 x 10: draw it at their size"),
        ("grey", "mask of 120 values"),
    ],
)
def test_no_index_is_made_with_a_region_that_cannot_be_used(root: Path, case: str, told: str, on_problem: str) -> None:
    _bad(root, case)
    with pytest.raises(DatasetError) as error:
        build_index(reader(root, on_problem=on_problem), "bottle")
    assert told in str(error.value)
    assert "roi/bottle.png" in str(error.value)
    assert "mask_values" not in str(error.value)  # which are of ground truth
    assert len(str(error.value)) < 2000


def test_images_of_another_size_than_the_region_are_errors_by_name(root: Path) -> None:
    draw(root)
    write_image(root / "bottle/train/good/odd.png", (14, 10))
    with pytest.raises(
        DatasetError, match=r"odd.png: is of 14 x 10, the region of interest roi/bottle.png is of 12 x 10"
    ):
        build_index(reader(root), "bottle")
    index = build_index(reader(root, on_problem="skip"), "bottle")
    assert [problem.path for problem in index.problems] == ["bottle/train/good/odd.png"]
    assert "bottle/train/good/odd.png" not in index.table["path"].to_pylist()


def test_a_mask_of_a_region_is_nowhere_taken_for_an_image(root: Path) -> None:
    for roi in ("roi/{category}.png", "{category}/roi.png", "inspected.png", {"bottle": "bottle/roi/b.png"}):
        chosen = reader(root, roi)
        path = chosen.region_path("bottle")
        assert path is not None
        draw(root, path)
        paths = sorted(str(each.relative_to(root)) for each in root.rglob("*.png"))
        assert chosen.misfits(paths) == []
        assert chosen.check_names("bottle", paths, chosen.assign(paths)["bottle"]) == []
        assert path in chosen.paths_by_category(paths)["bottle"]
        assert chosen.categories() == ["bottle"]
        (root / path).unlink()
    (stranger,) = reader(root, {"bottle": "b.png", "cable": "c.png"}).misfits(paths)
    assert str(stranger) == "cable: roi names a region of it, and it has no images"


def test_a_manifest_and_a_root_that_is_a_category_have_regions_too(root: Path) -> None:
    draw(root)
    rows = [[f"bottle/train/good/{i:03d}.png", "train", "0", "bottle"] for i in range(4)]
    write_table(root / "images.csv", [["image_path", "split", "label", "category"], *rows])
    chosen = reader(root, manifest="images.csv")
    assert chosen.tables("bottle") == ("images.csv", "roi/bottle.png")
    index = build_index(chosen, "bottle")
    assert index.region is not None
    assert not index.problems
    flat = reader(root / "bottle", "roi.png")
    draw(root / "bottle", "roi.png")
    index = build_index(flat, "bottle")
    assert index.region is not None
    assert not index.problems


def test_a_region_as_png_comes_back() -> None:
    region = np.random.default_rng(0).random((7, 13)) > 0.5
    again = from_png(to_png(region), "x.png")
    assert np.array_equal(again, region)
    assert digest_of(again) == digest_of(region)
    assert digest_of(region.T) != digest_of(region)
    assert digest_of(np.ones((2, 8), bool)) != digest_of(np.ones((8, 2), bool))
