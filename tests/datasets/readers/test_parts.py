"""What is asked of one category is told of its own folders alone, and is what a listing of everything tells."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ad_assets.datasets import READERS, ImageFiles, build_index
from ad_assets.datasets.base import DatasetError, Problem, Reader
from ad_assets.datasets.index import list_categories
from tests.support import trees


def messy(root: Path) -> Path:
    """Categories beside what is none: other names, empty folders, links, clutter, files in wrong places."""
    for name in ("bolt", "nut", "bolt2"):
        trees.mvtec_tree(root, name)
    for path in (
        "loose.png",
        "bad name/train/good/0.png",
        "notes/readme.png",
        "bolt/other/1.png",
        "nut/test/godo/1.png",
    ):
        trees.write_image(root / path)
    trees.write_image(root / "only_tests" / "TEST" / " Ok " / "deep" / "0.png")
    trees.write_image(root / "only_bad" / "train" / "bad" / "0.png")
    trees.write_image(root / "misses" / "test" / "godo" / "0.png")
    for path in ("texts/train/good/notes.txt", "clutter/train/good/.hidden.png", "clutter/train/@eaDir/0.png"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    (root / "empty" / "train" / "good").mkdir(parents=True)
    (root / "bolt" / "train" / "good" / "Thumbs.db").write_bytes(b"x")
    (root / "bolt" / "train" / "good" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "gone_part").mkdir()
    (root / "gone_part" / "train").symlink_to(root / "nowhere")
    (root / "gone").symlink_to(root / "nowhere")
    (root / "linked").symlink_to(root / "nut")
    (root / "bolt" / "train" / "good" / "up").symlink_to(root)
    trees.write_mask(root / "roi" / "bolt.png")
    trees.write_mask(root / "nut" / "roi.png")
    return root


def everything_of(reader: Reader, category: str) -> tuple[list[str], tuple[Problem, ...]] | str:
    return outcome(reader, category, ImageFiles(reader.root).listing())


def outcome(reader: Reader, category: str, listing: object) -> tuple[list[str], tuple[Problem, ...]] | str:
    try:
        index = build_index(reader, category, listing=listing)
    except DatasetError as error:
        return str(error)
    assert index.rows == index.table.to_pylist()
    return index.rows, index.problems


@pytest.fixture
def bucket() -> Iterator[Any]:
    memory = fsspec.filesystem("memory")
    yield memory
    if memory.exists("/bucket"):
        memory.rm("/bucket", recursive=True)


OPTIONS = [
    {},
    {"roi": "roi/{category}.png"},
    {"roi": {"nut": "nut/roi.png"}, "groups": "folder"},
    {"roi": "{category}/train/good/000.png"},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("remote", [False, True])
def test_a_category_of_a_folder_is_what_a_listing_of_everything_tells(tmp_path, bucket, options, remote):
    root = str(messy(tmp_path / "images"))
    if remote:
        for path in ImageFiles(root).listing():
            if (tmp_path / "images" / path).is_file():
                bucket.pipe(f"/bucket/{path}", (tmp_path / "images" / path).read_bytes())
        root = "memory://bucket"
    reader = READERS["folder"](root=root, on_problem="skip", **options)
    by_all = sorted(reader.assign(list(ImageFiles(root).listing())))
    assert reader.categories() == by_all
    assert {"bolt", "bolt2", "nut", "linked", "only_tests"} == set(by_all)
    for category in (*by_all, "gone", "empty", "only_bad", "never", "gone_part"):
        alone = outcome(reader, category, list_categories(reader, [category]))
        assert alone == everything_of(reader, category), category


def test_where_the_root_is_a_category_or_one_has_the_name_of_a_split_all_is_listed(tmp_path):
    for name in ("test", "bolt"):
        trees.mvtec_tree(tmp_path / "split", name)
    trees.mvtec_tree(tmp_path, "flat")
    trees.mvtec_tree(tmp_path / "both", ".")
    trees.mvtec_tree(tmp_path / "both", "bolt")
    for name in ("split", "flat", "both"):
        reader = READERS["folder"](root=str(tmp_path / name), on_problem="skip")
        by_all = sorted(reader.assign(list(ImageFiles(reader.root).listing())))
        assert reader.categories() == by_all
        for category in by_all:
            assert outcome(reader, category, None) == everything_of(reader, category), (name, category)


PUBLISHED = {
    "mvtec_ad": lambda root: [trees.mvtec_tree(root, name) for name in ("bottle", "cable")],
    "mvtec_loco": lambda root: [trees.loco_tree(root, name) for name in ("pushpins", "juice_bottle")],
    "btad": trees.btad_tree,
    "mvtec_3d_rgb": lambda root: [trees.mvtec_3d_tree(root, name) for name in ("bagel", "carrot")],
    "mvtec_ad_2": lambda root: [trees.mvtec_ad_2_tree(root, name) for name in ("vial", "can")],
    "visa": trees.visa_tree,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_category_of_a_published_layout_too(tmp_path, name):
    PUBLISHED[name](tmp_path)
    reader = READERS[name](root=str(tmp_path), on_problem="skip", check_counts=False)
    categories = sorted(reader.assign(list(ImageFiles(reader.root).listing())))
    assert len(categories) > 1
    for category in categories:
        listing = list_categories(reader, [category])
        assert 0 < len(listing) < len(ImageFiles(reader.root).listing())
        assert outcome(reader, category, listing) == everything_of(reader, category)
    assert list(list_categories(reader, categories)) == list(
        ImageFiles(reader.root).listing(
            [part for c in categories for part in (*reader.parts_of([c]), *reader.tables(c))]
        )
    )


def test_a_category_of_a_manifest_is_the_folders_that_its_rows_name(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "c/1.png"):
        trees.write_image(tmp_path / name)
    rows = [("a/1.png", "train", "good", "bolt"), ("b/1.png", "test", "good", "bolt"), ("c/1.png", "train", "0", "nut")]
    rows += [("c/lost.png", "train", "good", "nut")]
    trees.write_table(tmp_path / "list.csv", [("image_path", "split", "label", "category"), *rows])
    reader = READERS["folder"](root=str(tmp_path), manifest="list.csv", on_problem="skip")
    assert list(list_categories(reader, ["bolt"])) == ["a/1.png", "a/2.png", "b/1.png", "list.csv"]
    for category in ("bolt", "nut", "never"):
        assert outcome(reader, category, None) == everything_of(reader, category)
    trees.write_table(tmp_path / "list.csv", [("image_path", "split", "label"), ("loose.png", "train", "good")])
    assert reader.parts_of([reader.root.rpartition("/")[2]]) is None
    (tmp_path / "list.csv").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"manifest list\.csv"):
        build_index(reader, "bolt")


def test_a_missing_or_empty_root_is_told_of_a_part_as_of_all(tmp_path):
    for root in (tmp_path / "missing", tmp_path):
        reader = READERS["folder"](root=str(root))
        for act in (lambda r=reader: list_categories(r, ["bolt"]), reader.categories):
            with pytest.raises(ValueError, match="does not exist" if root.name == "missing" else "is empty"):
                act()


def test_categories_are_found_without_listing_their_images(tmp_path, monkeypatch):
    messy(tmp_path)
    monkeypatch.setattr(ImageFiles, "listing", lambda *_: pytest.fail("a whole listing"))
    assert READERS["folder"](root=str(tmp_path)).categories() == ["bolt", "bolt2", "linked", "nut", "only_tests"]


def test_one_part_is_listed_as_a_whole_walk_lists_it(tmp_path):
    files = ImageFiles(str(messy(tmp_path)))
    whole = files.listing()
    for part in ("bolt", "bolt/train", "bolt/train/good/gone.png", "gone", "linked/test", "roi/bolt.png", "loose.png"):
        listed = files.listing([part])
        assert listed == {path: stamp for path, stamp in whole.items() if path == part or path.startswith(f"{part}/")}
        inside = [path for path in whole.passed_over if path.startswith(f"{part}/")]
        assert list(listed.passed_over) == inside
    assert files.listing(["never", "bolt/train/good/up/bolt", "clutter/train/@eaDir", ".x"]) == {}
    assert list(files.listing(["bolt", "bolt/train", "bolt2"])) == [
        path for path in whole if path.startswith(("bolt/", "bolt2/"))
    ]
    shutil.rmtree(tmp_path / "bolt2")
    assert files.listing(["bolt2"]) == {}
