"""The generated demo: deterministic, in MVTec AD's layout, safe to make twice at once, from disjoint halves."""

import hashlib
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ad_assets.datasets import build_index
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.readers.demo import reader as demo
from ad_assets.datasets.readers.demo import textures
from ad_assets.datasets.readers.demo.reader import DEFECTS, MARKER, DemoReader
from ad_assets.datasets.readers.folder import FolderReader
from tests.support.forked import Forked

# A board takes as long to draw as all else.
CATEGORIES = [pytest.param(each, marks=pytest.mark.slow if each == "board" else ()) for each in sorted(DEFECTS)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


def drawn(root: Path, category: str) -> Path:
    """The folder of a category, drawn by the first test that asks."""
    DemoReader(root=str(root)).prepare(category)
    return root / category


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.png")
    }


@pytest.mark.parametrize("category", CATEGORIES)
def test_each_category_is_a_sound_benchmark(root, category):
    drawn(root, category)
    index = build_index(DemoReader(root=str(root)), category)
    assert index.problems == ()
    rows = index.table.to_pylist()
    assert Counter((row["split"], row["label"]) for row in rows) == {
        ("train", 0): 60,
        ("test", 0): 15,
        ("test", 1): 25,
    }
    assert {row["defect_type"] for row in rows} == {"good", *DEFECTS[category]}
    assert {(row["width"], row["height"]) for row in rows} == {(256, 256)}
    assert len({row["image_id"] for row in rows}) == len(rows)
    for row in rows:
        if row["label"]:
            [path] = row["mask_paths"]
            share = Decoding().mask((root / path).read_bytes(), path).anomalous.mean()
            assert 0.0002 < share < 0.25, row["path"]
    plain = build_index(FolderReader(root=str(root)), category)
    assert plain.table == index.table


@pytest.mark.parametrize("category", CATEGORIES)
def test_an_image_depends_on_its_own_seed_only(root, category):
    folder = drawn(root, category)
    for split, defect, number in reversed(list(demo._plan(category))[::13]):
        image, mask = demo._drawn(category, DemoReader.version, split, defect, number)
        with Image.open(folder / split / defect / f"{number:03d}.png") as stored:
            assert np.array_equal(np.asarray(stored), image)
        if defect != "good":
            path = folder / "ground_truth" / defect / f"{number:03d}_mask.png"
            assert np.array_equal(Decoding().mask(path.read_bytes(), path.name).anomalous, mask)


def test_train_and_test_crops_share_no_pixel_of_a_photograph():
    # A photograph whose every pixel names its column: what a crop shows tells where it comes from.
    columns = np.tile(np.arange(512) // 2, (512, 1)).astype(np.uint8)
    seen = {
        split: [
            textures._crop(np.random.default_rng(seed), columns[:, textures.HALF[split]], turns=True)
            for seed in range(50)
        ]
        for split in ("train", "test")
    }
    assert max(crop.max() for crop in seen["test"]) <= 128
    assert min(crop.min() for crop in seen["train"]) >= 127
    train, test = textures.HALF["train"], textures.HALF["test"]
    assert not set(range(512)[train]) & set(range(512)[test])


def test_defects_are_local_changes():
    from ad_assets.datasets.readers.demo.defects import blob, covered, dented, scratched, stained, stroke

    rng = np.random.default_rng(0)
    image = rng.uniform(90, 150, (256, 256, 3))
    alpha = blob(rng, (120, 130), 25)
    for changed, mask in (
        scratched(rng, image, stroke(rng, 80, 2), 80),
        stained(rng, image, alpha, 0.4),
        covered(image, alpha, np.full_like(image, 200), 0.9),
        dented(rng, image, alpha, 0.5),
    ):
        difference = np.abs(changed - image).max(axis=2)
        assert difference[mask].mean() > 20 * difference[~mask].mean()


def _prepare(root: str) -> int:
    DemoReader(root=root).prepare("gravel")
    return 0


def test_two_processes_at_once_write_the_same_files_whole(root, tmp_path):
    made, log = tmp_path / "made", tmp_path / "log.txt"
    workers = [Forked(partial(_prepare, str(made)), log) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0], log.read_text(encoding="utf-8")
    assert [path.name for path in made.iterdir()] == ["gravel"]
    assert digests(made / "gravel") == digests(drawn(root, "gravel"))


def test_a_crash_leaves_nothing_that_a_reader_would_see(tmp_path, monkeypatch):
    reader = DemoReader(root=str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            reader.prepare("brick")
    assert list(tmp_path.iterdir()) == []


def test_made_once_and_again_only_by_another_version(tmp_path, monkeypatch):
    reader = DemoReader(root=str(tmp_path))
    reader.prepare("gravel")
    folder = tmp_path / "gravel"
    extra = folder / "train" / "good" / "mine.png"
    Image.new("L", (256, 256)).save(extra)
    reader.prepare("gravel")
    assert extra.is_file()  # an image that a user adds is part of the category
    assert build_index(reader, "gravel").table.num_rows == 101

    monkeypatch.setattr(DemoReader, "version", 2)
    before = digests(folder)["train/good/000.png"]
    reader.prepare("gravel")
    assert not extra.exists()
    assert digests(folder)["train/good/000.png"] != before
    (former,) = (path for path in tmp_path.iterdir() if path.name.endswith("-former"))
    assert (former / "train" / "good" / "mine.png").is_file()  # nothing of a user's is deleted
    assert build_index(reader, "gravel").table.num_rows == 100


def test_folders_of_others_are_not_touched(tmp_path):
    photo = tmp_path / "brick" / "train" / "good" / "0.png"
    photo.parent.mkdir(parents=True)
    Image.new("L", (4, 4)).save(photo)
    with pytest.raises(ValueError, match="was not generated by the demo"):
        DemoReader(root=str(tmp_path)).prepare("brick")
    assert Decoding().rgb(photo.read_bytes(), "x").shape == (4, 4, 3)
    assert not (tmp_path / "brick" / MARKER).exists()
    with pytest.raises(ValueError, match="local folder"):
        DemoReader(root="s3://bucket/demo").prepare()
    with pytest.raises(ValueError, match="no category 'sand', only brick, grass"):
        DemoReader(root=str(tmp_path)).prepare("sand")
