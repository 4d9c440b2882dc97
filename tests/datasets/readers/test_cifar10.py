"""CIFAR-10 one-class: one set of files for ten categories, and what is refused of its source."""

import hashlib
import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ad_assets.datasets import DatasetError, build_index
from ad_assets.datasets.base import Candidate
from ad_assets.datasets.readers.cifar10 import CLASSES, COUNTS, Cifar10OneClassReader
from tests.support.trees import cifar_tree, write_image


def reader(folder: Path, source: Path | None, **options) -> Cifar10OneClassReader:
    own = {"root": str(folder / "root"), "source": None if source is None else str(source), "check_counts": False}
    return Cifar10OneClassReader(**own | options)


def archive(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        packed.add(folder, folder.name)
    return path


@pytest.mark.parametrize("packed", ["archive", "folder", "folder above"])
def test_each_class_is_a_category_of_all_test_images(tmp_path, packed):
    folder = cifar_tree(tmp_path / "source", CLASSES)
    source = {"folder": folder, "folder above": folder.parent}.get(packed) or archive(folder, tmp_path / "cifar.tar.gz")
    cifar = reader(tmp_path, source)
    assert cifar.categories() == list(CLASSES)
    index = build_index(cifar, "cat")
    assert index.problems == ()
    rows = index.table.to_pylist()
    assert Counter((row["split"], row["label"], row["defect_type"]) for row in rows) == {
        ("train", 0, "good"): 10,
        ("test", 0, "good"): 2,
        **{("test", 1, name): 2 for name in CLASSES if name != "cat"},
    }
    assert {(row["width"], row["height"], row["mode"], len(row["mask_paths"])) for row in rows} == {(32, 32, "RGB", 0)}
    # Image 13 of the third batch, by the record's own bytes: a plane a channel, rows first.
    record = np.frombuffer((folder / "data_batch_3.bin").read_bytes(), np.uint8).reshape(-1, 3073)[13]
    with Image.open(tmp_path / "root/train/cat/20013.png") as image:
        assert np.array_equal(np.asarray(image), np.moveaxis(record[1:].reshape(3, 32, 32), 0, 2))
    assert sum(1 for _ in (tmp_path / "root").rglob("*.png")) == 120


def test_the_same_test_image_serves_every_category(tmp_path):
    cifar = reader(tmp_path, cifar_tree(tmp_path / "source", CLASSES))
    indexes = {category: build_index(cifar, category) for category in CLASSES}
    tests = {
        category: {row["path"]: row for row in index.table.to_pylist() if row["split"] == "test"}
        for category, index in indexes.items()
    }
    assert len({frozenset((path, row["image_id"]) for path, row in rows.items()) for rows in tests.values()}) == 1
    for path in tests["cat"]:
        own = path.split("/")[1]
        assert {category: rows[path]["label"] for category, rows in tests.items()} == {
            c: int(c != own) for c in CLASSES
        }
    # What is known of a file holds for each category: the label is no part of it.
    known = {**indexes["cat"].files, **indexes["dog"].files}
    assert build_index(cifar, "dog", known_files=known) == indexes["dog"]
    assert {**indexes["cat"].files}.items() & indexes["dog"].files.items() == {
        (path, file) for path, file in indexes["dog"].files.items() if path.startswith("test/")
    }


def test_a_given_folder_of_images_needs_no_source(tmp_path):
    paths = ["train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/truck/4.png", "notes.txt"]
    assigned = reader(tmp_path, None).assign(paths[::-1])
    assert assigned["cat"] == [
        Candidate("train/cat/1.png", "train", 0, "good"),
        Candidate("test/cat/3.png", "test", 0, "good"),
        Candidate("test/truck/4.png", "test", 1, "truck"),
    ]
    for path in paths[:-1]:
        write_image(tmp_path / "root" / path, (32, 32))
    given, other = reader(tmp_path, None), reader(tmp_path, tmp_path / "cifar.tar.gz")
    assert build_index(given, "dog").table["label"].to_pylist() == [1, 1, 0]
    assert given.index_config() == other.index_config()
    with pytest.raises(ValueError, match=r"root/train exists and was not unpacked by ad-assets.*source: null"):
        other.prepare()


def test_published_copies_are_told_and_kept(tmp_path):
    for path in ("train/cat/1.png", "train/cat/2.png", "test/cat/3.png", "test/dog/4.png"):
        write_image(tmp_path / "root" / path, (32, 32), content="same" if path[-5] in "14" else path)
    index = build_index(reader(tmp_path, None), "cat")
    assert [str(problem) for problem in index.problems] == [
        "train/cat/1.png: the same image is the test image test/dog/4.png, as published: its result means nothing"
    ]
    assert index.table.num_rows == 4


def test_images_are_unpacked_once_and_by_one_process(tmp_path):
    folder = cifar_tree(tmp_path / "source", CLASSES)
    cifar = reader(tmp_path, folder)
    told = []
    cifar.prepare("cat", lambda *args: told.append(args))
    assert told[0] == ("images of data_batch_1.bin unpacked", 0, 20)
    digest = {path: hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / "root").rglob("*.png")}
    folder.rename(tmp_path / "away")
    cifar.prepare("dog")
    assert digest == {path: hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / "root").rglob("*.png")}


def _edit(path: str, change):
    def spoil(folder: Path) -> Path:
        (folder / path).write_bytes(change((folder / path).read_bytes()))
        return folder

    return spoil


def _without(folder: Path) -> Path:
    (folder / "data_batch_4.bin").unlink()
    return folder


def _pickled(folder: Path) -> Path:
    for path in folder.glob("*.bin"):
        path.rename(path.with_suffix(""))
    return folder


def _cut(folder: Path) -> Path:
    path = archive(folder, folder.parent / "cut.tar.gz")
    path.write_bytes(path.read_bytes()[:50_000])
    return path


def _twice(folder: Path) -> Path:
    path = folder.parent / "twice.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        packed.add(folder, "a")
        packed.add(folder, "b")
    return path


def _linked(folder: Path) -> Path:
    path = folder.parent / "linked.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        for name in ("data_batch_1.bin", "batches.meta.txt"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
            packed.addfile(link)
    return path


BROKEN = {
    "python version": (_pickled, "is the Python version of CIFAR-10, whose pickles .*cifar-10-binary.tar.gz"),
    "python archive": (lambda f: archive(_pickled(f), f.parent / "cifar-10-python.tar.gz"), "is the Python version"),
    "cut batch": (
        _edit("data_batch_2.bin", lambda data: data[:-1]),
        "data_batch_2.bin of 61459 bytes is not a whole number of",
    ),
    "empty batch": (_edit("test_batch.bin", lambda _: b""), "test_batch.bin of 0 bytes"),
    "label": (
        _edit("data_batch_5.bin", lambda data: b"\x0a" + data[1:]),
        "data_batch_5.bin has the label 10 in record 0",
    ),
    "missing": (_without, "lacks data_batch_4.bin"),
    "other classes": (_edit("batches.meta.txt", lambda _: b"apple\npear\n"), "batches.meta.txt names other classes"),
    "cut archive": (_cut, "cut.tar.gz: cannot be read as a tar archive"),
    "twice": (_twice, "twice.tar.gz holds .* twice"),
    "links": (_linked, "linked.tar.gz lacks data_batch_1.bin"),
    "large": (
        _edit("data_batch_1.bin", lambda _: bytes(30_730_001)),
        "data_batch_1.bin of 30730001 bytes is larger",
    ),
    "nothing": (lambda folder: folder / "nowhere", "nowhere does not exist: name cifar-10-binary.tar.gz"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_source_is_told_by_file(tmp_path, fault):
    spoil, message = BROKEN[fault]
    source = spoil(cifar_tree(tmp_path / "source", CLASSES))
    with pytest.raises(ValueError, match=message):
        build_index(reader(tmp_path, source), "cat")
    assert [
        path.name for path in (tmp_path / "root").glob("*") if path.suffix != ".lock" and path.name != "train"
    ] == []


def test_nothing_is_extracted_by_the_paths_of_an_archive(tmp_path):
    folder = cifar_tree(tmp_path / "source", CLASSES)
    path = tmp_path / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        for file in folder.iterdir():
            member = tarfile.TarInfo(f"../../{tmp_path.name}-outside/{file.name}")
            member.size = file.stat().st_size
            packed.addfile(member, io.BytesIO(file.read_bytes()))
        member = tarfile.TarInfo(f"{tmp_path}/evil.py")
        packed.addfile(member, io.BytesIO())
    build_index(reader(tmp_path, path), "cat")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["evil.tar.gz", "root", "source"]


def test_what_is_wrong_with_the_images_is_told(tmp_path):
    cifar = reader(tmp_path, cifar_tree(tmp_path / "source", CLASSES), check_counts=True)
    cifar.prepare()
    (tmp_path / "root/test/dog/00005.png").write_text("no image")
    write_image(tmp_path / "root/train/lorry/1.png")
    with pytest.raises(DatasetError) as failure:
        build_index(cifar, "cat")
    problems = {problem.path: problem.message for problem in failure.value.problems}
    assert problems.keys() == {"cat", "test/dog/00005.png", "train/lorry/1.png"}
    assert "is not in the folder of a class" in problems["train/lorry/1.png"]
    text = str(failure.value)
    for kind, found in {"nominal train": 10, "nominal test": 2, "anomalous test": 18}.items():
        assert f"expected {COUNTS[kind]} {kind} images, found {found}: is the download complete?" in text
