"""The option ``groups``: lots, days, folders that are left out and held out together, from paths or from a manifest."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ad_assets.datasets.base import DatasetError
from ad_assets.datasets.index import ImageIndex, build_index
from ad_assets.datasets.readers.folder import FolderReader
from ad_assets.graph.stages.image_index import index_parts
from tests.support.trees import write_image

IMAGES = ("train/good/lot_1/a.png", "train/good/lot_1/b.png", "train/good/lot_22/a.png", "train/good/c.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (*IMAGES, "test/good/lot_3/a.png"):
        write_image(tmp_path / "bolt" / name)
    rows = [f"bolt/{name},train,good,{group}" for name, group in zip(IMAGES, ("x", "x", "y", ""), strict=True)]
    text = "\n".join(["image_path,split,label,group", *rows])
    (tmp_path / "images.csv").write_text(text)
    (tmp_path / "plural.csv").write_text(text.replace("group", "groups"))
    return tmp_path


def indexed(root: Path, **options: Any) -> ImageIndex:
    return build_index(FolderReader(root=str(root), category="bolt", **options), "bolt")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"groups": r"lot_(\d+)"}, ["3", "", "1", "1", "22"]),
        ({"groups": "lot_(2)"}, ["", "", "", "", "2"]),
        (
            {"groups": "folder"},
            ["bolt/test/good/lot_3", "bolt/train/good", *["bolt/train/good/lot_1"] * 2, "bolt/train/good/lot_22"],
        ),
        ({"groups": "column", "manifest": "images.csv"}, ["", "x", "x", "y"]),
    ],
)
def test_images_are_in_the_groups_of_their_paths_or_of_the_manifest(
    root: Path, options: dict[str, Any], expected: list[str]
) -> None:
    index = indexed(root, **options)
    assert index.table.column("group").to_pylist() == expected
    alone = sum(
        not group for group, row in zip(expected, index.table.to_pylist(), strict=True) if row["split"] == "train"
    )
    told = [problem.message for problem in index.problems if "in no group" in problem.message]
    assert bool(told) == bool(alone)


def test_a_pattern_finds_the_group_of_an_image_anywhere(root: Path) -> None:
    for groups, group in ((r"lot_(\d+)", "7"), ("folder", ""), (None, "")):
        assert FolderReader(root=str(root), category="bolt", groups=groups).group_in("/inbox/lot_7/a.png") == group


def test_an_index_without_groups_is_what_it_was(root: Path) -> None:
    plain = indexed(root)
    assert "group" not in plain.table.column_names
    assert "groups" not in index_parts(plain)
    lots, folders = (index_parts(indexed(root, groups=groups)) for groups in (r"lot_(\d+)", "folder"))
    assert lots["groups"] != folders["groups"]
    before = index_parts(plain)
    assert all(parts[part] == before[part] for parts in (lots, folders) for part in ("train", "test", "truth"))
    assert "groups" not in FolderReader(root=str(root)).index_config()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("lot_(", "groups.*is no pattern.*or write folder or column"),
        ("folders", "groups.*has one .* this has 0; or folder, column"),
        ("(a)(b)", "groups.*this has 2"),
        ("column", "groups: column is the column group of a manifest, and there is none"),
        ("", "groups"),
    ],
)
def test_a_wrong_option_is_named(root: Path, groups: str, message: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        FolderReader(root=str(root), groups=groups)


def test_a_manifest_without_the_column_is_named_with_a_near_miss(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"lacks the column group, .* is it 'groups'\? Rename it"):
        indexed(root, groups="column", manifest="plural.csv")
    assert "group" not in indexed(root, manifest="images.csv").table.column_names  # as ever, unless it is asked for
