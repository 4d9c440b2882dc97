"""Everything that can be wrong with a folder, told together; and second scans that open only what changed."""

import hashlib
import json
import os
import threading

import pytest
from PIL import Image

from ad_assets.datasets import IMAGE_INDEX_SCHEMA, DatasetError, ImageFiles, KnownFile, build_index
from ad_assets.datasets.readers.folder import FolderReader
from tests.support.trees import mvtec_tree, write_image, write_mask


@pytest.fixture
def reads(monkeypatch):
    """The paths that were opened, in any thread."""
    opened, lock, read = [], threading.Lock(), ImageFiles.read

    def counted(self, path):
        with lock:
            opened.append(path)
        return read(self, path)

    monkeypatch.setattr(ImageFiles, "read", counted)
    return opened


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_an_index_holds_what_lies_there(tmp_path):
    folder = mvtec_tree(tmp_path)
    write_image(folder / "test" / "crack" / "wide.jpg", size=(31, 7))
    write_mask(folder / "ground_truth" / "crack" / "wide.png", size=(31, 7), empty=True)
    Image.new("L", (12, 10), 7).save(folder / "train" / "good" / "grey.png")
    index = build_index(FolderReader(root=str(tmp_path)), "bottle")
    assert index.table.schema == IMAGE_INDEX_SCHEMA
    assert [(problem.path, problem.severity) for problem in index.problems] == [
        ("bottle/ground_truth/crack/wide.png", "warning")  # legal, and worth a look
    ]
    rows = index.table.to_pylist()
    assert [(row["split"], row["path"]) for row in rows] == sorted((row["split"], row["path"]) for row in rows)
    assert len(rows) == 4 + 1 + 2 + 2 * 2 + 1
    by_path = {row["path"]: row for row in rows}
    wide = by_path["bottle/test/crack/wide.jpg"]
    path = folder / "test" / "crack" / "wide.jpg"
    assert wide == {
        "image_id": hashlib.sha256(path.read_bytes()).hexdigest(),
        "path": "bottle/test/crack/wide.jpg",
        "split": "test",
        "label": 1,
        "defect_type": "crack",
        "anomaly_kind": "",
        "mask_paths": ["bottle/ground_truth/crack/wide.png"],
        "mask_saturations": [],
        "mask_id": hashlib.sha256((folder / "ground_truth" / "crack" / "wide.png").read_bytes()).hexdigest(),
        "width": 31,
        "height": 7,
        "mode": "RGB",
        "bytes": path.stat().st_size,
    }
    assert by_path["bottle/train/good/grey.png"]["mode"] == "L"
    assert by_path["bottle/train/good/000.png"]["mask_paths"] == []
    assert index.files["bottle/ground_truth/crack/wide.png"].area == 0
    assert index.files["bottle/ground_truth/crack/000_mask.png"].area == 15
    assert index.files["bottle/test/crack/000.png"].area is None


def test_an_index_does_not_depend_on_the_listing(tmp_path):
    mvtec_tree(tmp_path)
    reader = FolderReader(root=str(tmp_path))
    listing = ImageFiles(reader.root).listing()
    backwards = dict(reversed(listing.items()))
    assert build_index(reader, "bottle", listing=backwards) == build_index(reader, "bottle", listing=listing)


def test_a_category_may_have_no_test_images_and_no_masks(tmp_path):
    mvtec_tree(tmp_path, good=0, defects=())
    mvtec_tree(tmp_path, "unmasked")
    for mask in (tmp_path / "unmasked" / "ground_truth").rglob("*.png"):
        mask.unlink()
    reader = FolderReader(root=str(tmp_path))
    assert build_index(reader, "bottle").table.num_rows == 4
    unmasked = build_index(reader, "unmasked")
    assert unmasked.problems == ()
    assert not any(unmasked.table["mask_paths"].to_pylist())


def broken_tree(root):
    """One category with many faults; returns path -> part of its message."""
    folder = mvtec_tree(root, train=5, defects=("crack", "dirt"))
    truncate(folder / "train" / "good" / "000.png")
    (folder / "train" / "good" / "001.png").write_text("not an image")
    (folder / "test" / "good" / "000.png").write_bytes((folder / "train" / "good" / "002.png").read_bytes())
    (folder / "ground_truth" / "crack" / "000_mask.png").unlink()
    write_mask(folder / "ground_truth" / "crack" / "001_mask.png", size=(10, 12))
    truncate(folder / "ground_truth" / "dirt" / "000_mask.png")
    write_mask(folder / "ground_truth" / "dirt" / "777_mask.png")
    (folder / "test" / "dirt" / ".hidden.png").write_text("passed over")
    return {
        "bottle/train/good/000.png": "cannot be decoded",
        "bottle/train/good/001.png": "not an image",
        "bottle/train/good/002.png": "is the test image bottle/test/good/000.png",
        "bottle/test/crack/000.png": "has no mask",
        "bottle/ground_truth/crack/001_mask.png": "mask of 10 x 12 for the image bottle/test/crack/001.png of 12",
        "bottle/ground_truth/dirt/000_mask.png": "cannot be decoded",
        "bottle/ground_truth/dirt/777_mask.png": "mask without an image",
    }


def test_all_problems_are_told_together(tmp_path):
    expected = broken_tree(tmp_path)
    with pytest.raises(DatasetError, match="7 problem") as failure:
        build_index(FolderReader(root=str(tmp_path)), "bottle")
    found = {problem.path: problem.message for problem in failure.value.problems}
    assert found.keys() == expected.keys()
    for path, message in expected.items():
        assert message in found[path]
        assert path in str(failure.value)
    assert "on_problem: skip" in str(failure.value)


def test_skipping_leaves_out_the_bad_and_keeps_the_rest(tmp_path):
    expected = broken_tree(tmp_path)
    index = build_index(FolderReader(root=str(tmp_path), on_problem="skip"), "bottle")
    assert {problem.path for problem in index.problems} == expected.keys()
    # The copy that tests is kept, so test sets stay comparable; the one in train goes.
    assert index.table["path"].to_pylist() == [
        "bottle/test/dirt/001.png",
        "bottle/test/good/000.png",
        "bottle/test/good/001.png",
        "bottle/train/good/003.png",
        "bottle/train/good/004.png",
    ]


def test_broken_links_are_errors_and_skipped_on_request(tmp_path):
    folder = mvtec_tree(tmp_path)
    (folder / "train/good/gone.png").symlink_to("/nowhere/gone.png")
    (folder / "test/hole").symlink_to("/nowhere/hole")
    with pytest.raises(DatasetError) as failure:
        build_index(FolderReader(root=str(tmp_path)), "bottle")
    told = {problem.path: problem.message for problem in failure.value.problems}
    assert set(told) == {"bottle/train/good/gone.png", "bottle/test/hole"}
    assert all(message.startswith("a link whose target is gone") for message in told.values())
    index = build_index(FolderReader(root=str(tmp_path), on_problem="skip"), "bottle")
    assert sum(row["split"] == "train" for row in index.table.to_pylist()) == 4


def test_names_that_are_no_text_are_named_with_escapes_and_left_out(tmp_path):
    folder = mvtec_tree(tmp_path) / "train/good"
    for name in (b"\xe4.png", b"a\nb.png", b"-rf.png", b"\x1b[31m.png"):
        write_image(folder / os.fsdecode(name))
    with pytest.raises(DatasetError) as failure:
        build_index(FolderReader(root=str(tmp_path)), "bottle")
    [line] = str(failure.value).splitlines()[1:]
    assert line == r"  bottle/train/good/\udce4.png: its name is not UTF-8, which tables cannot store: rename it"
    index = build_index(FolderReader(root=str(tmp_path), on_problem="skip"), "bottle")
    names = {row["path"].rpartition("/")[2] for row in index.table.to_pylist() if row["split"] == "train"}
    assert {"a\nb.png", "-rf.png", "\x1b[31m.png"} < names
    assert len(names) == 7


def test_long_lists_are_capped(tmp_path):
    folder = mvtec_tree(tmp_path, train=40)
    for path in sorted((folder / "train" / "good").iterdir())[:33]:
        truncate(path)
    with pytest.raises(DatasetError, match=r"33 problem\(s\)") as failure:
        build_index(FolderReader(root=str(tmp_path)), "bottle")
    assert len(failure.value.problems) == 33
    lines = str(failure.value).splitlines()
    assert len(str(failure.value)) < 2000
    assert lines[-1] == f"  ... and {33 - (len(lines) - 2)} more"


def test_nothing_to_learn_from_fails_even_when_skipping(tmp_path):
    mvtec_tree(tmp_path, train=0)
    mvtec_tree(tmp_path, "cap", train=2)
    for path in (tmp_path / "cap" / "train" / "good").iterdir():
        truncate(path)
    reader = FolderReader(root=str(tmp_path), on_problem="skip")
    for category in ("bottle", "cap"):
        with pytest.raises(DatasetError, match="no training images"):
            build_index(reader, category)
    with pytest.raises(DatasetError, match=r"category 'jar'\n.*no images; the folder holds bottle, cap"):
        build_index(reader, "jar")
    with pytest.raises(ValueError, match="does not exist"):
        build_index(FolderReader(root=str(tmp_path / "gone")), "bottle")


def test_copies_within_a_split_are_a_warning_but_contradictions_are_not(tmp_path):
    folder = mvtec_tree(tmp_path)
    train = folder / "train" / "good"
    (train / "again.png").write_bytes((train / "000.png").read_bytes())
    reader = FolderReader(root=str(tmp_path))
    index = build_index(reader, "bottle")
    assert [(problem.path, problem.severity) for problem in index.problems] == [
        ("bottle/train/good/again.png", "warning")
    ]
    assert index.table.num_rows == 5 + 2 + 4
    (folder / "test" / "good" / "odd.png").write_bytes((folder / "test" / "crack" / "000.png").read_bytes())
    with pytest.raises(DatasetError, match="nominal and in an anomalous folder"):
        build_index(reader, "bottle")


def test_a_file_that_vanishes_while_scanning_is_a_problem(tmp_path):
    folder = mvtec_tree(tmp_path)
    reader = FolderReader(root=str(tmp_path))
    listing = ImageFiles(reader.root).listing()
    (folder / "train" / "good" / "000.png").unlink()
    with pytest.raises(DatasetError, match=r"train/good/000\.png: cannot be read"):
        build_index(reader, "bottle", listing=listing)


def test_a_second_scan_opens_only_what_changed(tmp_path, reads):
    folder = mvtec_tree(tmp_path)
    reader = FolderReader(root=str(tmp_path))
    first = build_index(reader, "bottle")
    assert sorted(reads) == sorted(first.files)
    assert len(reads) == 4 + 2 + 4 + 4

    stored = json.loads(json.dumps({path: file._asdict() for path, file in first.files.items()}))
    known = {path: KnownFile(**file) for path, file in stored.items()}
    reads.clear()
    assert build_index(reader, "bottle", known_files=known) == first
    assert reads == []

    # What another reader took for an image may be a mask to this one.
    mask = "bottle/ground_truth/dirt/000_mask.png"
    other = {**known, mask: known[mask]._replace(area=None)}
    assert build_index(reader, "bottle", known_files=other) == first
    assert reads == [mask]

    reads.clear()
    write_image(folder / "train" / "good" / "new.png")
    write_image(folder / "train" / "good" / "000.png", content="other")
    (folder / "test" / "dirt" / "001.png").unlink()
    (folder / "ground_truth" / "dirt" / "001_mask.png").unlink()
    second = build_index(reader, "bottle", known_files=known)
    assert sorted(reads) == ["bottle/train/good/000.png", "bottle/train/good/new.png"]
    assert second == build_index(reader, "bottle")
    assert second.table != first.table


def test_progress_counts_the_files_that_are_opened(tmp_path):
    mvtec_tree(tmp_path, train=120)
    told = []
    build_index(FolderReader(root=str(tmp_path)), "bottle", report=lambda *args: told.append(args))
    assert [entry[1:] for entry in told] == [(100, 130), (130, 130)]
