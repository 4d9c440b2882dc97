"""ShanghaiTech Campus: which frames of which clips, unpacked once and whole, and what is wrong with them by name."""

import multiprocessing
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ad_assets.datasets import DatasetError, build_index
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.readers.folder import FolderReader
from ad_assets.datasets.readers.mstc import clips as mstc_clips
from ad_assets.datasets.readers.mstc.reader import MstcReader
from ad_assets_runtime.identity import content_of
from tests.support.trees import campus_tree, write_image, write_video


def reader(folder: Path, **options) -> MstcReader:
    return MstcReader(
        **{"root": str(folder / "root"), "source": str(folder / "source"), "check_counts": False} | options
    )


def test_every_fifth_frame_of_a_scene_is_indexed(tmp_path):
    source = campus_tree(tmp_path / "source")
    campus = reader(tmp_path)
    assert campus.categories() == ["scene_01", "scene_02"]
    assert not (tmp_path / "root").exists()
    told = []
    index = build_index(campus, "scene_01", report=lambda *args: told.append(args))
    assert told[:3] == [("clips unpacked", done, 3) for done in (1, 2, 3)]
    assert index.problems == ()
    rows = index.table.to_pylist()
    assert [(row["path"], row["label"], row["defect_type"], row["mask_paths"]) for row in rows] == [
        (
            "scene_01/test/anomalous/01_0014_00005.jpg",
            1,
            "anomalous",
            ["scene_01/ground_truth/anomalous/01_0014_00005_mask.png"],
        ),
        ("scene_01/test/good/01_0014_00000.jpg", 0, "good", []),
        ("scene_01/test/good/01_0014_00010.jpg", 0, "good", []),
        ("scene_01/train/good/01_001_00000.jpg", 0, "good", []),
        ("scene_01/train/good/01_001_00005.jpg", 0, "good", []),
        ("scene_01/train/good/01_001_00010.jpg", 0, "good", []),
        ("scene_01/train/good/01_002_00000.jpg", 0, "good", []),
    ]
    root = tmp_path / "root"
    assert not (root / "scene_02").exists()  # each scene when it is asked for
    unpacked = root / "scene_01/test/anomalous/01_0014_00005.jpg"
    assert unpacked.read_bytes() == (source / "testing/frames/01_0014/005.jpg").read_bytes()
    mask = Decoding().mask((root / rows[0]["mask_paths"][0]).read_bytes(), "mask").anomalous
    assert np.array_equal(mask, np.load(source / "testing/test_pixel_mask/01_0014.npy")[5] != 0)
    # The same files read as a folder of one's own: the same but for the rule of its masks, which their ids name.
    own = build_index(FolderReader(root=str(root)), "scene_01").table
    assert own.drop_columns("mask_id") == index.table.drop_columns("mask_id")
    ids = [[content_of(each) for each in table.column("mask_id").to_pylist()] for table in (own, index.table)]
    assert ids[0] == ids[1]


def test_the_choice_of_frames_is_an_option(tmp_path):
    campus_tree(tmp_path / "source")
    rows = build_index(reader(tmp_path, every=4, first=3), "scene_01").table.to_pylist()
    assert [row["path"].split("/")[-1].split(".")[0] for row in rows] == [
        "01_0014_00007",
        "01_0014_00003",
        "01_001_00003",
        "01_001_00007",
        "01_001_00011",
        "01_002_00003",
    ]
    assert reader(tmp_path, every=4).compared_with is None
    assert reader(tmp_path, first=3).compared_with == "mSTC"


def test_frames_may_be_counted_from_one(tmp_path):
    source = campus_tree(tmp_path / "source")
    clip = source / "training/frames/02_001"
    for path in sorted(clip.iterdir(), reverse=True):
        path.rename(clip / f"{int(path.stem) + 1}.jpg")
    build_index(reader(tmp_path), "scene_02")
    for number in (0, 5):
        unpacked = tmp_path / f"root/scene_02/train/good/02_001_0000{number}.jpg"
        assert unpacked.read_bytes() == (clip / f"{number + 1}.jpg").read_bytes()


def test_a_scene_without_test_clips_is_left_out_with_the_reason(tmp_path):
    campus_tree(tmp_path / "source")
    campus = reader(tmp_path)
    reason = "has no test clips, so that it cannot be measured"
    assert campus.left_out() == {"scene_13": reason}
    with pytest.raises(ValueError, match=f"scene_13: {reason}"):
        campus.prepare("scene_13")
    with pytest.raises(ValueError, match="no clips of 'scene_07', only of scene_01, scene_02, scene_13"):
        campus.prepare("scene_07")
    campus.prepare()
    write_image(tmp_path / "root/scene_13/train/good/13_001_00000.jpg")
    unpacked = reader(tmp_path, source=None)
    assert unpacked.categories() == ["scene_01", "scene_02"]
    assert unpacked.left_out() == {"scene_13": reason}


def test_the_number_of_clips_tells_a_broken_download(tmp_path):
    campus_tree(tmp_path / "source")
    with pytest.raises(ValueError, match="330 training and 107 test clips, found 4 and 2: is the download complete"):
        reader(tmp_path, check_counts=True).categories()


def test_unpacked_frames_need_no_source_and_are_the_same_index(tmp_path):
    campus_tree(tmp_path / "source")
    packed = reader(tmp_path)
    packed.prepare()
    first = build_index(packed, "scene_01")
    shutil.move(tmp_path / "source", tmp_path / "away")
    packed.prepare("scene_01")  # it is there
    unpacked = reader(tmp_path, source=None)
    assert build_index(unpacked, "scene_01") == first
    assert unpacked.index_config() == packed.index_config()
    with pytest.raises(ValueError, match="every 5 instead of 2: name another root"):
        reader(tmp_path, source=None, every=2).prepare("scene_01")
    with pytest.raises(ValueError, match="source' does not exist: name the published one"):
        packed.categories()


def test_what_others_put_there_is_not_touched(tmp_path):
    campus_tree(tmp_path / "source")
    own = write_image(tmp_path / "root/scene_01/train/good/own.png")
    with pytest.raises(ValueError, match="scene_01 exists and was not unpacked by ad-assets"):
        reader(tmp_path).prepare("scene_01")
    assert own.is_file()
    with pytest.raises(ValidationError, match="must be local"):
        reader(tmp_path, root="s3://bucket/campus")
    assert reader(tmp_path, root="s3://bucket/campus", source=None).root == "s3://bucket/campus"


def test_an_interrupted_scene_begins_again(tmp_path, monkeypatch):
    campus_tree(tmp_path / "source")
    campus, root = reader(tmp_path), tmp_path / "root"
    with monkeypatch.context() as patched:
        patched.setattr(mstc_clips, "_test_frames", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            campus.prepare("scene_01")
    assert [path.name for path in root.iterdir()] == [".scene_01.lock"]
    write_image(root / ".scene_01.part" / "train" / "good" / "rest.png")  # of a run that was killed
    index = build_index(campus, "scene_01")
    assert not any("rest" in path for path in index.files)
    assert not (root / ".scene_01.part").exists()


def _prepare(folder: str) -> None:
    reader(Path(folder)).prepare("scene_01")


def test_processes_at_once_unpack_one_scene(tmp_path):
    campus_tree(tmp_path / "source")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_prepare, args=(str(tmp_path),)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert Counter(path.suffix for path in (tmp_path / "root/scene_01").rglob("*_*")) == {".jpg": 7, ".png": 1, "": 1}


def test_masks_that_disagree_are_a_warning_and_the_frame_mask_decides(tmp_path):
    source = campus_tree(tmp_path / "source")
    path = source / "testing/test_frame_mask/01_0014.npy"
    np.save(path, np.array([0] * 5 + [0] + [0] * 4 + [1], np.int64))  # of frames 0, 5, 10 the last
    index = build_index(reader(tmp_path), "scene_01")
    labels = {row["path"][-9:-4]: row["label"] for row in index.table.to_pylist() if row["split"] == "test"}
    assert labels == {"00000": 0, "00005": 0, "00010": 1}
    messages = [problem.message for problem in index.problems if problem.severity == "warning"]
    assert len(messages) == len(index.problems) == 3
    assert "1 test frame(s) such as 01_0014_00005: nominal by the frame mask" in messages[0]
    assert "1 test frame(s) such as 01_0014_00010: anomalous by the frame mask" in messages[1]
    assert "its mask is empty" in messages[2]


def _save(path: str, make):
    return lambda source: np.save(source / path, make(np.load(source / path)), allow_pickle=True)


LABELS, MASKS = "testing/test_frame_mask/01_0014.npy", "testing/test_pixel_mask/01_0014.npy"


def _cut(source: Path, path: str) -> None:
    (source / path).write_bytes((source / path).read_bytes()[:300])


BROKEN = {
    "pickled": (_save(MASKS, lambda array: array.astype(object)), MASKS, "cannot be read as an array of numbers"),
    "cut mask": (lambda source: _cut(source, MASKS), MASKS, "cannot be read as an array of numbers"),
    "short": (_save(LABELS, lambda array: array[:-1]), LABELS, "is of 10 frames, but .*01_0014 holds 11"),
    "flat": (_save(MASKS, lambda array: array[0]), MASKS, r"expected numbers of the shape \(frames, height, width\)"),
    "other size": (_save(MASKS, lambda array: array[:, :, 1:]), MASKS, "11 x 10 for .*000.jpg of 12 x 10"),
    "other labels": (_save(LABELS, lambda array: array * 2), LABELS, "other values than 0"),
    "no labels": (lambda source: (source / LABELS).unlink(), LABELS, "is missing"),
    "no frames": (
        lambda source: shutil.rmtree(source / "testing/frames/01_0014"),
        "01_0014.npy",
        "mask without the frames testing/frames/01_0014",
    ),
    "cut frame": (
        lambda source: _cut(source, "testing/frames/01_0014/005.jpg"),
        "testing/frames/01_0014/005.jpg",
        "cannot be decoded",
    ),
    "gap": (
        lambda source: (source / "testing/frames/01_0014/003.jpg").unlink(),
        "testing/frames/01_0014",
        "frame 3 is missing",
    ),
    "cut training frame": (
        lambda source: _cut(source, "training/frames/01_001/010.jpg"),
        "training/frames/01_001/010.jpg",
        "cannot be decoded",
    ),
    "no number": (
        lambda source: write_image(source / "training/frames/01_001/cover.jpg"),
        "training/frames/01_001/cover.jpg",
        "called by their number",
    ),
    "no scene": (
        lambda source: (source / "training/frames/01_002").rename(source / "training/frames/clip2"),
        "training/frames/clip2",
        "clips are called SS_NNN",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_source_is_told_by_file(tmp_path, fault):
    source = campus_tree(tmp_path / "source")
    spoil, path, message = BROKEN[fault]
    spoil(source)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        build_index(reader(tmp_path), "scene_01")
    assert not (tmp_path / "root/scene_01").exists()
    assert [name for name in (tmp_path / "root").glob(".*") if name.suffix != ".lock"] == []


def test_a_folder_of_something_else_is_told(tmp_path):
    (tmp_path / "source").mkdir()
    with pytest.raises(ValueError, match="holds neither training/videos nor training/frames"):
        reader(tmp_path).categories()
    (tmp_path / "source/training/videos").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no testing/frames"):
        reader(tmp_path).categories()
    (tmp_path / "source/testing/frames").mkdir(parents=True)
    with pytest.raises(ValueError, match="no scene with training and test clips in the source"):
        reader(tmp_path).categories()


def test_frames_broken_after_unpacking_are_told(tmp_path):
    campus_tree(tmp_path / "source")
    campus = reader(tmp_path)
    campus.prepare("scene_01")
    scene = tmp_path / "root/scene_01"
    (scene / "ground_truth/anomalous/01_0014_00005_mask.png").unlink()
    write_image(scene / "ground_truth/anomalous/01_0014_00006_mask.png")
    (scene / "train/good/01_001_00005.jpg").write_text("no image")
    with pytest.raises(DatasetError) as failure:
        build_index(campus, "scene_01")
    # Where a type has masks at all, an image without one is an error.
    assert {problem.path.split("/")[-1] for problem in failure.value.problems} == {
        "01_0014_00005.jpg",
        "01_0014_00006_mask.png",
        "01_001_00005.jpg",
    }


def videos(source: Path) -> Path:
    shutil.rmtree(campus_tree(source) / "training/frames")
    for clip, frames in {"01_001": 12, "02_001": 6, "13_001": 3}.items():
        write_video(source / f"training/videos/{clip}.avi", frames)
    return source


def test_videos_are_decoded(tmp_path):
    pytest.importorskip("av", reason="needs PyAV: pip install 'ad-assets[video]'")
    videos(tmp_path / "source")
    rows = build_index(reader(tmp_path), "scene_01").table.to_pylist()
    train = [row["path"] for row in rows if row["split"] == "train"]
    assert train == [f"scene_01/train/good/01_001_{n:05d}.png" for n in (0, 5, 10)]
    for path, value in zip(train, (0, 50, 100), strict=True):
        with Image.open(tmp_path / "root" / path) as image:
            assert (image.mode, image.size) == ("RGB", (64, 48))
            assert abs(np.asarray(image).mean() - value) < 3
    # A clip that was unpacked is not decoded.
    write_image(tmp_path / "source/training/frames/02_001/000.jpg")
    rows = build_index(reader(tmp_path), "scene_02").table.to_pylist()
    assert [row["path"] for row in rows if row["split"] == "train"] == ["scene_02/train/good/02_001_00000.jpg"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda _: b"", "cannot be decoded"),
        (lambda _: b"#EXTM3U\nhttp://127.0.0.1/frame.avi\n", "cannot be decoded"),
        (lambda data: data[: len(data) * 2 // 3], "only .* of 12 frames|cannot be decoded"),
    ],
)
def test_a_broken_video_is_told(tmp_path, spoil, message):
    pytest.importorskip("av", reason="needs PyAV: pip install 'ad-assets[video]'")
    path = videos(tmp_path / "source") / "training/videos/01_001.avi"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=f"training/videos/01_001.avi: ({message})"):
        reader(tmp_path).prepare("scene_01")


def test_without_the_decoder_the_remedy_is_told(tmp_path, monkeypatch):
    source = campus_tree(tmp_path / "source")
    (source / "training/videos").mkdir()
    (source / "training/videos/01_003.avi").write_bytes(b"a video")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"01_003.avi: .*pip install 'ad-assets\[video\]'"):
        reader(tmp_path).prepare("scene_01")
    reader(tmp_path).prepare("scene_02")  # its clips are no videos
