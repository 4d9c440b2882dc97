"""Magnetic tiles: splits that no order decides, pairs of image and mask, the real release if it is at hand."""

from collections import Counter

import pytest
from pydantic import ValidationError

from ad_assets.datasets import build_index
from ad_assets.datasets.readers.mtd import CATEGORY, COUNTS, MtdReader
from tests.support.places import MAGNETIC_TILES
from tests.support.trees import mtd_tree


def names(free):
    return [f"MT_Free/Imgs/exp{i % 6 + 1}_num_{i}.{end}" for i in range(free) for end in ("jpg", "png")]


def training(reader, paths):
    return {c.path for c in reader.assign(paths)[CATEGORY] if c.split == "train"}


def test_the_random_split_is_the_floor_of_the_fraction():
    for free, fraction, expected in [(952, 0.8, 761), (10, 0.7, 7), (100, 0.29, 29), (7, 0.5, 3)]:
        reader = MtdReader(root="/nowhere", train_fraction=fraction)
        candidates = reader.assign(names(free))[CATEGORY]
        assert Counter(c.split for c in candidates) == {"train": expected, "test": free - expected}
        assert all(c.label == 0 and not c.masks for c in candidates)


def test_the_random_split_follows_seed_and_names_only():
    paths = names(40)
    first = training(MtdReader(root="/nowhere"), paths)
    # Pinned: a published result must be the same split on every machine and in every year.
    tested = {"1_num_6", "2_num_13", "2_num_25", "3_num_14", "5_num_10", "5_num_28", "5_num_34", "5_num_4"}
    assert set(paths[::2]) - first == {f"MT_Free/Imgs/exp{name}.jpg" for name in tested}
    assert training(MtdReader(root="/elsewhere"), paths[::-1]) == first
    assert training(MtdReader(root="/nowhere", seed=1), paths) != first


def test_the_exposure_split_shares_no_exposure():
    paths = [
        *names(40),
        "MT_Fray/Imgs/exp1_num_7.jpg",
        "MT_Fray/Imgs/exp5_num_8.jpg",
        "MT_Free/Imgs/exp0_num_1.jpg",
    ]
    reader = MtdReader(root="/nowhere", split="exposure", test_exposures=[6, 5, 5])
    candidates = reader.assign(paths)[CATEGORY]
    exposures = {
        split: {c.path.split("exp")[1][0] for c in candidates if c.split == split} for split in ("train", "test")
    }
    assert exposures == {"train": set("01234"), "test": set("56")}
    assert [c.path for c in candidates if c.label] == ["MT_Fray/Imgs/exp5_num_8.jpg"]
    assert reader.index_config()["test_exposures"] == [5, 6]


def test_only_options_that_are_read_enter_the_fingerprint():
    def config(**options):
        return MtdReader(root="/nowhere", **options).index_config()

    assert config(test_exposures=[1]) == config()
    assert config(seed=3) != config()
    assert config(split="exposure", seed=3) == config(split="exposure")
    assert config(split="exposure", test_exposures=[1]) != config(split="exposure")


@pytest.mark.parametrize(
    "options",
    [{"train_fraction": 0}, {"train_fraction": 1}, {"split": "tile"}, {"test_exposures": []}, {"seed": -1}],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        MtdReader(root="/nowhere", **options)


def test_what_names_show_to_be_wrong():
    paths = [
        *names(4),
        "MT_Crack/Imgs/exp1_num_5.jpg",
        "MT_Break/Imgs/exp1_num_6.png",
        "MT_Uneven/Imgs/tile.jpg",
        "MT_Uneven/Imgs/tile.png",
    ]
    reader = MtdReader(root="/nowhere", split="exposure", test_exposures=[1], check_counts=False)
    candidates = reader.assign(paths)[CATEGORY]
    problems = {problem.path: problem.message for problem in reader.check_names(CATEGORY, paths, candidates)}
    assert problems.keys() == {
        "MT_Crack/Imgs/exp1_num_5.jpg",
        "MT_Break/Imgs/exp1_num_6.png",
        "MT_Uneven/Imgs/tile.jpg",
    }
    counted = MtdReader(root="/nowhere").check_names(CATEGORY, paths, candidates)
    assert "expected 952 free images, found 4" in " ".join(problem.message for problem in counted)


def test_a_small_release_is_indexed(tmp_path):
    index = build_index(MtdReader(root=str(mtd_tree(tmp_path)), check_counts=False), CATEGORY)
    rows = index.table.to_pylist()
    assert Counter((row["split"], row["defect_type"]) for row in rows) == {
        ("train", "good"): 8,
        ("test", "good"): 2,
        **{("test", kind): 2 for kind in ("blowhole", "break", "crack", "fray", "uneven")},
    }
    for row in rows:
        assert bool(row["mask_paths"]) == bool(row["mask_id"]) == (row["label"] == 1)
        if row["label"]:
            assert row["mask_paths"] == [row["path"].replace(".jpg", ".png")]
    # An empty mask is legal, and its image stays anomalous.
    empty = "MT_Uneven/Imgs/exp1_num_2001.png"
    assert [path for path, file in index.files.items() if file.area == 0] == [empty]
    assert [row["label"] for row in rows if row["mask_paths"] == [empty]] == [1]


@pytest.mark.real
def test_the_real_release():
    if not MAGNETIC_TILES.is_dir():
        pytest.skip(f"the Magnetic Tile Defects images are not here: {MAGNETIC_TILES} (set AD_ASSETS_MTD)")
    reader = MtdReader(root=str(MAGNETIC_TILES))
    index = build_index(reader, CATEGORY)
    assert [problem.message for problem in index.problems] == ["its mask is empty, 0 % of the image (4 of 392 files)"]
    assert index.table.num_rows == 1344
    found = Counter((row["split"], row["defect_type"]) for row in index.table.to_pylist())
    defects = {("test", kind.lower()): count for kind, count in COUNTS.items() if kind != "Free"}
    assert found == {("train", "good"): 761, ("test", "good"): 191, **defects}
    assert sum(defects.values()) == 392
    assert sorted(path for path, file in index.files.items() if file.area == 0) == [
        "MT_Uneven/Imgs/exp3_num_45042.png",
        "MT_Uneven/Imgs/exp4_num_124690.png",
        "MT_Uneven/Imgs/exp4_num_352527.png",
        "MT_Uneven/Imgs/exp4_num_45057.png",
    ]
    assert set(index.table["mode"].to_pylist()) == {"L"}
    by_light = build_index(MtdReader(root=str(MAGNETIC_TILES), split="exposure"), CATEGORY, known_files=index.files)
    assert Counter(by_light.table["split"].to_pylist()) == {"train": 474, "test": 674}
