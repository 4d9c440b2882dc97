"""One listing of a folder: local, linked, or any other fsspec file system."""

import datetime
import os

import fsspec
import pytest

from ad_assets.datasets import FileStamp
from ad_assets.datasets.files import ImageFiles


def touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_a_listing_is_relative_sorted_and_without_clutter(tmp_path):
    for name in ("b/2.png", "b/1.png", "a/ä ö.png", "readme.txt"):
        touch(tmp_path / name)
    for name in (".DS_Store", "b/._1.png", ".cache/1.png", "b/Thumbs.db", "desktop.ini", "__MACOSX/1.png"):
        touch(tmp_path / name)
    listing = ImageFiles(str(tmp_path) + "/").listing()
    assert list(listing) == ["a/ä ö.png", "b/1.png", "b/2.png", "readme.txt"]
    assert {stamp.size for stamp in listing.values()} == {1}


def test_thumbnails_of_network_storages_are_passed_over_and_counted(tmp_path):
    clutter = ("@eaDir/1.png/SYNOPHOTO_THUMB_M.png", "@EADIR/2.png", ".@__thumb/1.png", ".thumbnails/1.png")
    more = ("#recycle/0.png", "Thumbs.db", "._1.png", ".AppleDouble/1.png", "__MACOSX/1.png", "@Recycle/1.png")
    memory = fsspec.filesystem("memory")
    try:
        for name in ("good/1.png", *(f"good/{name}" for name in (*clutter, *more)), "$RECYCLE.BIN/1.png", ".git/x"):
            touch(tmp_path / name)
            memory.pipe(f"/bucket/{name}", b"x")
        for root in (str(tmp_path), "memory://bucket"):
            listing = ImageFiles(root).listing()
            assert list(listing) == ["good/1.png"]
            assert listing.clutter_beside(["good/1.png"]) == (
                "#recycle 1, @EADIR 1, @Recycle 1, @eaDir 1, Thumbs.db 1, __MACOSX 1, names with a leading dot 4"
            )
            assert listing.clutter_beside(["other/1.png"]) == ""
            assert listing.folders() == {"good"}
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_changed_file_changes_its_stamp_and_no_other(tmp_path):
    touch(tmp_path / "a.png", b"old")
    touch(tmp_path / "b.png")
    files = ImageFiles(str(tmp_path))
    before = files.listing()
    touch(tmp_path / "a.png", b"new")
    after = files.listing()
    assert files.read("a.png") == b"new"
    assert before["a.png"] != after["a.png"]
    assert before["b.png"] == after["b.png"]


def test_a_file_replaced_by_one_of_the_same_size_and_time_has_another_stamp(tmp_path):
    touch(tmp_path / "a.png", b"old")
    files, kept = ImageFiles(str(tmp_path)), (tmp_path / "a.png").stat()
    times = (kept.st_atime_ns, kept.st_mtime_ns)
    stamps = [files.listing()["a.png"]]
    touch(tmp_path / "a.png", b"new")  # as rsync --inplace -t, or cp -p over it
    os.utime(tmp_path / "a.png", ns=times)
    stamps.append(files.listing()["a.png"])
    touch(tmp_path / "b.tmp", b"too")  # as rsync -t, or a restored backup, under a temporary name
    os.utime(tmp_path / "b.tmp", ns=times)
    (tmp_path / "b.tmp").rename(tmp_path / "a.png")
    stamps.append(files.listing()["a.png"])
    assert {stamp.size for stamp in stamps} == {3}
    assert {(tmp_path / "a.png").stat().st_mtime_ns} == {kept.st_mtime_ns}
    assert len({stamp.stamp for stamp in stamps}) == 3


def test_remote_stamps_take_what_follows_from_the_content_or_else_all_times():
    written = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    stored = {"size": 7, "ETag": "abc", "LastModified": written}
    assert FileStamp.of_remote(stored) == FileStamp.of_remote({**stored, "LastModified": written.replace(month=2)})
    assert FileStamp.of_remote(stored) != FileStamp.of_remote({**stored, "ETag": "abd"})
    assert FileStamp.of_remote(stored).changed == written.timestamp()
    told = {"size": 7, "mtime": 5.0, "ino": 3, "created": 1.0}
    others = [{**told, key: 9} for key in told]
    assert len({FileStamp.of_remote(info) for info in (told, *others)}) == 5
    assert FileStamp.of_remote({"size": 7}).stamp == ""  # nothing tells of a change: read each time


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path / "elsewhere" / "1.png", b"12345")
    root = tmp_path / "root"
    touch(root / "a" / "0.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "file.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (root / "broken.png").symlink_to(tmp_path / "nowhere")
    (root / "a" / "loop").symlink_to(root)
    listing = ImageFiles(str(root)).listing()
    assert list(listing) == ["a/0.png", "broken.png", "file.png", "linked/1.png"]
    assert listing["file.png"] == listing["linked/1.png"]
    assert listing["file.png"].size == 5


@pytest.mark.parametrize("made", [False, True])
def test_a_missing_or_empty_root_says_how_to_set_it(tmp_path, made):
    root = tmp_path / "data"
    if made:
        root.mkdir()
    with pytest.raises(ValueError, match=rf"{root}.*(is empty|does not exist).*--set datasets\.<name>\.root="):
        ImageFiles(str(root)).listing()


def test_other_file_systems_work_alike_and_are_listed_anew():
    memory = fsspec.filesystem("memory")
    try:
        memory.pipe({"/bucket/set/a/1.png": b"one", "/bucket/set/.x/2.png": b"two", "/bucket/other/3.png": b"3"})
        files = ImageFiles("memory://bucket/set")
        before = files.listing()
        assert list(before) == ["a/1.png"]
        assert files.read("a/1.png") == b"one"
        memory.pipe("/bucket/set/a/2.png", b"two")
        memory.pipe("/bucket/set/a/1.png", b"ONE")
        after = files.listing()
        assert list(after) == ["a/1.png", "a/2.png"]
        assert after["a/1.png"].stamp != before["a/1.png"].stamp
    finally:
        memory.rm("/bucket", recursive=True)
