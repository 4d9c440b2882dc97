"""A table instead of folder names: what it may look like, and every way in which it can be wrong."""

import io
import os
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ad_assets.datasets import Candidate, DatasetError, build_index
from ad_assets.datasets.readers.folder import FolderReader
from tests.support.trees import mvtec_tree, write_image, write_mask, write_table

HEAD = ["image_path", "split", "label", "category", "defect_type", "mask_path"]
ROWS = [
    ["pictures/1.png", "train", "good", "01", "", ""],
    ["pictures/2.png", "test", "0", "01", "", ""],
    ["pictures/sub/3.jpg", "test", "anomalous", "01", "scratch", "masks/3.png"],
    ["pictures/4.png", "train", "normal", "cap", "", ""],
    ["pictures/5.png", "test", "1", "cap", "", ""],
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images in folders that say nothing, and a table that says it all."""
    root = tmp_path / "line"
    for path, *_ in ROWS:
        write_image(root / path)
    write_image(root / "pictures" / "unlisted.png")
    write_mask(root / "masks" / "3.png")
    write_table(root / "images.csv", [HEAD, *ROWS])
    return root


def read(root: Path, **options: object) -> FolderReader:
    return FolderReader(root=str(root), **{"manifest": "images.csv", **options})


def test_the_table_decides_and_not_the_folders(root: Path) -> None:
    reader = read(root)
    assert reader.categories() == ["01", "cap"]
    assert reader.tables("cap") == ("images.csv",)
    index = build_index(reader, "01")
    assert index.problems == ()
    told = ("path", "split", "label", "defect_type", "mask_paths")
    assert [tuple(row[key] for key in told) for row in index.table.to_pylist()] == [
        ("pictures/2.png", "test", 0, "good", []),
        ("pictures/sub/3.jpg", "test", 1, "scratch", ["masks/3.png"]),
        ("pictures/1.png", "train", 0, "good", []),
    ]
    assert build_index(reader, "cap").problems == ()  # no mask in the whole category: none is missed
    mvtec_tree(root, "bottle")
    assert reader.categories() == ["01", "cap"]
    assert FolderReader(root=str(root)).categories() == ["bottle"]


def test_columns_that_may_be_left_out(root: Path) -> None:
    write_table(root / "images.csv", [HEAD[:3], *(row[:3] for row in ROWS)])
    assert read(root).categories() == ["line"]
    assert read(root, category="cap").categories() == ["cap"]
    paths = [row[0] for row in ROWS]
    assert Candidate("pictures/5.png", "test", 1, "anomaly") in read(root).assign(paths)["line"]


def test_tables_as_data_frames_write_them(root: Path) -> None:
    # What anomalib makes: a number beside the word, NaN for nothing, an unnamed column of row numbers.
    nan = float("nan")
    rows = [
        ["0", ".\\pictures\\1.png", "good", 0.0, "train", nan, None],
        ["1", "pictures/2.png", "good", 0.0, "test", nan, None],
        ["2", "pictures/sub/3.jpg", "scratch", 1.0, "test", nan, "masks/3.png"],
    ]
    names = ["", "image_path", "label", "label_index", "split", "category", "mask_path"]
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pa.table(columns), root / "images.parquet")
    lines = [",".join("" if cell is None or cell is nan else str(cell) for cell in row) for row in rows]
    (root / "bom.csv").write_text("\n".join([",".join(names), *lines]), encoding="utf-8-sig")
    for manifest in ("images.parquet", "bom.csv"):
        reader = read(root, manifest=manifest)
        assert reader.categories() == ["line"]
        found = {row["path"]: row for row in build_index(reader, "line").table.to_pylist()}
        assert set(found) == {"pictures/1.png", "pictures/2.png", "pictures/sub/3.jpg"}
        assert found["pictures/sub/3.jpg"]["defect_type"] == "scratch"
        assert found["pictures/sub/3.jpg"]["mask_paths"] == ["masks/3.png"]


def test_a_table_elsewhere_counts_by_its_content(root: Path) -> None:
    inside = build_index(read(root), "01").table
    outside = root.parent / "images.csv"
    outside.write_bytes((root / "images.csv").read_bytes())
    memory = fsspec.filesystem("memory")
    memory.pipe("/lists/images.csv", outside.read_bytes())
    try:
        configs = []
        for manifest in (str(outside), "../images.csv", "memory://lists/images.csv"):
            reader = read(root, manifest=manifest)
            assert reader.tables("01") == ()
            assert build_index(reader, "01").table == inside
            configs.append(reader.index_config())
        assert configs[0] == configs[1] == configs[2] != read(root).index_config()
        write_table(outside, [HEAD, *ROWS[:3]])
        assert read(root, manifest=str(outside)).index_config() != configs[0]
    finally:
        memory.rm("/lists", recursive=True)
    assert "manifest" not in FolderReader(root=str(root)).index_config()  # indexes of older versions stay known


def test_the_order_of_rows_is_nothing(root: Path) -> None:
    before = build_index(read(root), "01").table
    write_table(root / "images.csv", [HEAD, *ROWS[::-1]])
    assert build_index(read(root), "01").table == before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ["pictures/2.png", "val", "0", "01", "", ""],
            r"images\.csv row 7: its split is 'val', expected train or test",
        ),
        (["pictures/2.png", "test", "2", "01", "", ""], r"images\.csv row 7: its label is '2', expected 0 or good"),
        (["pictures/2.png", "test", "", "01", "", ""], r"images\.csv row 7: its label is ''"),
        (["pictures/2.png", "test"], r"images\.csv row 7: its label is ''"),
        (["", "test", "0", "01", "", ""], r"images\.csv row 7: names no image"),
        (["x.png", "test", "0", "my parts", "", ""], r"row 7: its category 'my parts' cannot be a key"),
        (["x.png", "train", "1", "01", "", ""], r"row 7: an anomalous image in train"),
        (["x.png", "test", "1", "01", "good", ""], r"row 7: an anomalous image of the defect type 'good'"),
        (["./pictures/2.png", "test", "0", "01", "", ""], r"row 7: names pictures/2\.png as images\.csv row 3 does"),
    ],
)
def test_wrong_rows_are_told_by_number(root: Path, row: list[str], message: str) -> None:
    write_table(root / "images.csv", [HEAD, *ROWS, row])
    for ask in (read(root).categories, lambda: build_index(read(root, on_problem="skip"), "01")):
        with pytest.raises(DatasetError, match=message) as failure:
            ask()
        assert len(failure.value.problems) == 1


def test_all_wrong_rows_are_told_together(root: Path) -> None:
    write_table(root / "images.csv", [HEAD, *([f"{i}.png", "train", "?"] for i in range(5))])
    with pytest.raises(DatasetError) as failure:
        read(root).categories()
    assert len(failure.value.problems) == 5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images.csv", b"image_path;split;label\n", r"lacks image_path, split, label: its columns are image_path;s"),
        ("images.csv", b"image_path,split,label\n", r"images\.csv: has no rows"),
        (
            "images.csv",
            b"image_path;split;label\na;b;c\n",
            r"lacks image_path, split, label: its columns are image_path;s",
        ),
        ("images.csv", b"image_path,label\na.png,0\n", r"images\.csv: lacks split: its columns are image_path, label"),
        ("images.csv", b"", r"images\.csv: lacks image_path, split, label: it has no rows"),
        ("images.csv", b"image_path,split,label\n\xff\xfe,test,0\n", r"images\.csv: is not a CSV table in UTF-8"),
        ("images.csv", b'image_path,split,label\n"a,test,0\n', r"images\.csv: is not a CSV table in UTF-8"),
        ("images.parquet", b"PAR1", r"images\.parquet: is not a Parquet table"),
        ("gone.csv", None, r"gone\.csv: cannot be read: paths are relative to the dataset's root"),
        ("/gone/images.csv", None, r"/gone/images\.csv: cannot be read"),
    ],
)
def test_what_is_no_table_is_told(root: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (root / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read(root, manifest=name).categories()


def test_rows_without_their_files_are_problems_of_images(root: Path) -> None:
    more = [["pictures/gone.png", "test", "0", "01"], ["pictures/unlisted.png", "test", "ko", "01"]]
    write_table(root / "images.csv", [HEAD, *ROWS, *more])
    (root / "masks" / "3.png").unlink()
    with pytest.raises(DatasetError) as failure:
        build_index(read(root), "01")
    assert [str(problem) for problem in failure.value.problems] == [
        "pictures/gone.png: named in images.csv row 7, but no such file is under the root",
        "pictures/sub/3.jpg: has no mask: masks/3.png (images.csv row 4) is not under the root",
    ]
    index = build_index(read(root, on_problem="skip"), "01")
    assert {row["path"] for row in index.table.to_pylist()} == {
        "pictures/1.png",
        "pictures/2.png",
        "pictures/unlisted.png",
    }
    assert [str(problem) for problem in index.problems if problem.severity == "warning"] == [
        "pictures/unlisted.png: has no mask: images.csv row 8 names none; pixel metrics leave it out"
    ]


def test_files_that_the_table_names_are_checked_as_all_are(root: Path) -> None:
    write_image(root / "pictures" / "0.png", content="a copy")
    write_image(root / "pictures" / "2.png", content="a copy")
    write_table(root / "images.csv", [HEAD, ["pictures/0.png", "train", "0", "01"], *ROWS])
    write_mask(root / "masks" / "3.png", size=(3, 4))
    with pytest.raises(DatasetError) as failure:
        build_index(read(root), "01")
    told = {problem.path: problem.message for problem in failure.value.problems}
    assert told.keys() == {"pictures/0.png", "masks/3.png"}
    assert "is the test image pictures/2.png" in told["pictures/0.png"]


def test_a_table_is_read_from_any_file_system() -> None:
    memory = fsspec.filesystem("memory")
    try:
        from PIL import Image

        for number in range(2):
            buffer = io.BytesIO()
            Image.new("L", (4, 4), number).save(buffer, "PNG")
            memory.pipe(f"/bucket/line/{number}.png", buffer.getvalue())
        memory.pipe("/bucket/line/images.csv", b"image_path,split,label\n0.png,train,0\n1.png,test,1\n")
        index = build_index(FolderReader(root="memory://bucket/line", manifest="images.csv"), "line")
        assert index.table["label"].to_pylist() == [1, 0]
    finally:
        memory.rm("/bucket", recursive=True)


def test_absolute_paths_below_the_root_are_made_relative(root: Path) -> None:
    before = build_index(read(root), "01").table
    link = root.parent / "link"
    link.symlink_to(root)
    for base in (str(root), str(link), f"file://{root}", f"{root}/./"):
        rows = [[f"{base}/{row[0]}", *row[1:5], f"{base}/{row[5]}" if row[5] else ""] for row in ROWS]
        write_table(root / "images.csv", [HEAD, *rows])
        assert build_index(read(root), "01").table == before
    for path in ("/elsewhere/1.png", "C:\\images\\1.png", "~nobody/1.png", "s3://bucket/1.png"):
        write_table(root / "images.csv", [HEAD, *ROWS, [path, "test", "0", "01", "", ""]])
        with pytest.raises(DatasetError, match=r"row 7: .*is absolute and not below the root"):
            read(root).categories()


@pytest.mark.parametrize(
    ("column", "message"),
    [("mask", None), ("Mask Path", "is it mask_path"), ("maskpath", "is it mask_path"), ("catgory", "is it category")],
)
def test_columns_are_known_in_any_case_and_near_misses_refused(root: Path, column: str, message: str | None) -> None:
    head = ["IMAGE_PATH", " Split", "Label", column]
    write_table(root / "images.csv", [head, ["pictures/1.png", "Train ", "OK", ""]])
    if message is None:
        assert read(root).categories() == ["line"]
        return
    with pytest.raises(DatasetError, match=message):
        read(root).categories()


def test_mutated_tables_are_read_or_refused_by_name(root: Path) -> None:
    # AD_ASSETS_FUZZ=20000 asks for more.
    columns = list(map(list, zip(*ROWS, strict=True)))
    parquet.write_table(pa.table(dict(zip(HEAD, columns, strict=True))), root / "images.parquet")
    originals = {name: (root / name).read_bytes() for name in ("images.csv", "images.parquet")}
    odd = [b"\0", b"\xff\xfe", b"\r\n", b'"', b",", b"Train", b"goods", b"nan", b"../", b"/abs/", b"C:\\", b"9" * 5000]
    odd += [b"\n", b"\xe4", b"\xef\xbb\xbf", b"s3://x/", b"=cmd", b"~/"]
    rng, told = np.random.default_rng(15), list[tuple[str, str]]()
    for number in range(int(os.environ.get("AD_ASSETS_FUZZ", "2000"))):
        name = "images.parquet" if number % 4 == 0 else "images.csv"
        data = bytearray(originals[name])
        for _ in range(rng.integers(1, 6)):
            place, cut = int(rng.integers(len(data) + 1)), int(rng.choice((0, 1, 20, 60)))
            again = bytes(data[max(0, place - 80) : place]) * int(rng.integers(1, 40))
            data[place : place + cut] = (rng.bytes(1), odd[rng.integers(len(odd))], b"", again)[rng.integers(4)]
        (root / name).write_bytes(data)
        started = time.process_time()
        try:
            reader = read(root, manifest=name)
            for category in reader.categories():
                reader.check_names(category, list(reader.assign(["pictures/1.png"])), [])
        except DatasetError as error:
            told.append((name, str(error)))
        assert time.process_time() - started < 2
    assert len(told) > 100
    assert all(name in message and len(message) < 2000 for name, message in told)
