"""The MVTec AD layout from names alone, and the published counts."""

import shutil

import numpy as np
import pytest
from pydantic import ValidationError

from ad_assets.datasets import READERS
from ad_assets.datasets.base import Candidate
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.readers.folder import FolderReader
from ad_assets.datasets.readers.mvtec_ad import COUNTS, MvtecAdReader
from tests.support.trees import mvtec_tree, write_image

PATHS = [
    "bottle/train/good/000.png",
    "bottle/train/good/monday/000.jpg",
    "bottle/test/good/000.png",
    "bottle/test/crack/000.png",
    "bottle/test/crack/monday/000.png",
    "bottle/test/dent/7.JPG",
    "bottle/ground_truth/crack/000_mask.png",
    "bottle/ground_truth/crack/monday/000_mask.png",
    "bottle/ground_truth/dent/7.png",
    "bottle/license.txt",
    "cap/train/ok/1.png",
    "cap/test/ok/2.png",
    "cap/test/ko/3.bmp",
    "readme.md",
]


def test_the_layout_is_read_from_names():
    assert FolderReader(root="/nowhere").assign(PATHS) == {
        "bottle": [
            Candidate("bottle/test/crack/000.png", "test", 1, "crack", ("bottle/ground_truth/crack/000_mask.png",)),
            Candidate(
                "bottle/test/crack/monday/000.png",
                "test",
                1,
                "crack",
                ("bottle/ground_truth/crack/monday/000_mask.png",),
            ),
            Candidate("bottle/test/dent/7.JPG", "test", 1, "dent", ("bottle/ground_truth/dent/7.png",)),
            Candidate("bottle/test/good/000.png", "test", 0, "good"),
            Candidate("bottle/train/good/000.png", "train", 0, "good"),
            Candidate("bottle/train/good/monday/000.jpg", "train", 0, "good"),
        ],
        "cap": [
            Candidate("cap/test/ko/3.bmp", "test", 1, "ko"),
            Candidate("cap/test/ok/2.png", "test", 0, "good"),
            Candidate("cap/train/ok/1.png", "train", 0, "good"),
        ],
    }


@pytest.mark.parametrize("name", sorted({name for name, reader in READERS.items() if not reader.blind} - {"visa"}))
def test_assigning_opens_nothing_and_ignores_order(name):
    reader = READERS[name](root="/nowhere")
    mtd = [
        f"MT_{kind}/Imgs/exp{i}_num_{i}.{end}" for kind in ("Free", "Fray") for i in range(7) for end in ("jpg", "png")
    ]
    other_layouts = [
        "01/train/ok/0.bmp",
        "tire/train/good/rgb/0.png",
        "can/train/good/0.png",
        "pushpins/test/good/0.png",
    ]
    packed = ["scene_01/train/good/01_001_00000.png", "train/cat/00000.png", "test/dog/00001.png"]
    paths = [*PATHS, *mtd, *other_layouts, *packed]
    expected = reader.assign(paths)
    assert expected or name == "demo"
    for seed in range(5):
        paths = [paths[i] for i in np.random.default_rng(seed).permutation(len(paths))]
        assert reader.assign(tuple(paths)) == expected


def test_masks_pair_by_name_when_positions_disagree():
    # Image 001 has no mask; a reader that pairs sorted lists would give it the mask of 002.
    paths = [
        "c/train/good/0.png",
        *(f"c/test/hole/00{i}.png" for i in range(3)),
        "c/ground_truth/hole/000_mask.png",
        "c/ground_truth/hole/002_mask.png",
    ]
    reader = FolderReader(root="/nowhere")
    candidates = reader.assign(paths)["c"]
    masks = {candidate.path: candidate.masks for candidate in candidates if candidate.label}
    assert masks == {
        "c/test/hole/000.png": ("c/ground_truth/hole/000_mask.png",),
        "c/test/hole/001.png": (),
        "c/test/hole/002.png": ("c/ground_truth/hole/002_mask.png",),
    }
    (problem,) = reader.check_names("c", paths, candidates)
    assert str(problem) == ("c/test/hole/001.png: has no mask: expected ground_truth/hole/001_mask.png or 001.png")


@pytest.mark.parametrize(
    ("path", "message", "severity"),
    [
        ("c/ground_truth/hole/9_mask.png", "mask without an image test/hole/9", "error"),
        ("c/ground_truth/hole/0.png", "a second mask", "error"),
        ("c/train/hole/0.png", "only train/good", "error"),
        ("c/train/0.png", "only train/good", "error"),
        ("c/test/0.png", "no defect type's folder", "error"),
        ("c/test/dent/0.png", "ground_truth has no folder 'dent'", "warning"),
    ],
)
def test_names_that_fit_nowhere_are_told(path, message, severity):
    paths = ["c/train/good/0.png", "c/test/hole/0.png", "c/ground_truth/hole/0_mask.png", path]
    for order in (paths, paths[::-1]):
        reader = FolderReader(root="/nowhere")
        candidates = reader.assign(order)["c"]
        problems = reader.check_names("c", order, candidates)
        expected = path.replace("0.png", "0_mask.png") if "second" in message else path
        assert [(problem.path, problem.severity) for problem in problems] == [(expected, severity)]
        assert message in problems[0].message


def test_ground_truth_of_nominal_images_is_passed_over():
    paths = ["c/train/good/0.png", "c/test/good/0.png", "c/ground_truth/good/0_mask.png"]
    reader = FolderReader(root="/nowhere")
    candidates = reader.assign(paths)["c"]
    assert not any(candidate.masks for candidate in candidates)
    assert reader.check_names("c", paths, candidates) == []


def test_a_root_that_is_a_category(tmp_path):
    mvtec_tree(tmp_path, "gear-2")
    root = str(tmp_path / "gear-2")
    assert FolderReader(root=root).categories() == ["gear-2"]
    assert FolderReader(root=root + "/", category="gear").categories() == ["gear"]
    (candidate, *_) = FolderReader(root=root, category="gear").assign(["train/good/1.png"])["gear"]
    assert candidate.path == "train/good/1.png"


def test_categories_are_found_and_bad_names_left_out_and_told(tmp_path):
    for name in ("b_2", "a-1"):
        mvtec_tree(tmp_path, name)
    (tmp_path / "notes").mkdir()
    assert FolderReader(root=str(tmp_path)).categories() == ["a-1", "b_2"]
    for name in ("my parts", "p" * 101, "teil\n"):
        write_image(tmp_path / name / "train" / "good" / "0.png")
    reader = FolderReader(root=str(tmp_path))
    paths = list(ImageFiles(reader.root).listing())
    assert reader.categories() == sorted(reader.assign(paths)) == ["a-1", "b_2"]
    problems = reader.misfits(paths)
    assert [problem.path for problem in problems] == ["my parts", "p" * 101, "teil\n"]
    assert {problem.severity for problem in problems} == {"error"}
    assert "1 image (0.png) not read: its name cannot be a category's (letters, digits" in problems[0].message
    assert "\n" not in str(problems[2])
    for name in ("a-1", "b_2"):
        shutil.rmtree(tmp_path / name)
    with pytest.raises(ValueError, match=r"no category under .*\n  my parts: 1 image"):
        reader.categories()


@pytest.mark.parametrize(
    ("parts", "split", "label"),
    [
        (("Train", "Good"), "train", 0),
        (("TRAIN ", "OK"), "train", 0),
        (("test", "Normal"), "test", 0),
        (("Test", "nominal"), "test", 0),
        (("TEST", "Crack"), "test", 1),
        (("test", "NOK"), "test", 1),
        (("test", "not good"), "test", 1),
        (("test", "abnormal"), "test", 1),
        (("test", "wood"), "test", 1),
    ],
)
def test_names_of_splits_and_nominal_folders_are_known_in_any_case(parts, split, label):
    path = "/".join(("c", *parts, "0.png"))
    (candidate,) = FolderReader(root="/nowhere").assign([path])["c"]
    assert (candidate.path, candidate.split, candidate.label) == (path, split, label)
    (flat,) = FolderReader(root="/nowhere", category="c").assign([path.removeprefix("c/")])["c"]
    assert (flat.split, flat.label) == (split, label)
    assert MvtecAdReader(root="/nowhere").assign([path.replace("c/", "bottle/", 1)])["bottle"][0].label == label


@pytest.mark.parametrize(
    "folder", ["goods", "god", "OK (2)", "Good images", "good_1", "defect-free", "normla", "nomal"]
)
def test_near_misses_of_nominal_folders_are_errors_and_no_defects(folder):
    paths = ["c/train/good/0.png", "c/test/crack/0.png", f"c/test/{folder}/1.png", f"c/test/{folder}/2.png"]
    reader = FolderReader(root="/nowhere")
    candidates = reader.assign(paths)["c"]
    assert [candidate.path for candidate in candidates] == ["c/test/crack/0.png", "c/train/good/0.png"]
    [error] = [each for each in reader.check_names("c", paths, candidates) if each.severity == "error"]
    assert error.path == f"c/test/{folder}"
    assert "2 images (1.png, 2.png), nominal or not? Rename the folder to" in error.message


@pytest.mark.parametrize(
    ("folder", "meant"),
    [
        ("Training", "train"),
        ("train_2", "train"),
        ("tset", "test"),
        ("Ground Truth", "ground_truth"),
        ("masks", "ground_"),
    ],
)
def test_near_misses_of_splits_are_errors_that_offer_the_known_names(folder, meant):
    rest = ["c/train/good/0.png"] if meant != "train" else ["c/test/good/0.png"]
    paths = [*rest, f"c/{folder}/good/1.png"]
    for reader, own in (
        (FolderReader(root="/nowhere"), paths),
        (FolderReader(root="/nowhere", category="c"), [path.removeprefix("c/") for path in paths]),
        (MvtecAdReader(root="/nowhere", check_counts=False), [path.replace("c/", "bottle/", 1) for path in paths]),
    ):
        [(category, candidates)] = reader.assign(own).items()
        [error] = reader.check_names(category, own, candidates)
        assert error.severity == "error"
        assert error.path.endswith(folder)
        assert f"1 image (1.png) not read: is it {meant}" in error.message
    # Where no other folder makes it a category, the whole of it is told.
    [problem] = FolderReader(root="/nowhere").misfits(["b/train/good/0.png", f"c/{folder}/good/1.png"])
    assert (problem.path, problem.severity) == (f"c/{folder}", "error")


def test_what_lies_among_images_and_is_not_read_is_counted_and_named():
    paths = [
        "c/train/good/0.png",
        *(f"c/train/good/{i}.heic" for i in range(5)),
        "c/train/good/0.json",
        "c/test/hole/film.MP4",
        "c/ground_truth/hole/readme.txt",
        "c/validation/good/1.png",
        "c/preview.png",
        "notes/figure.png",
        "loose.png",
    ]
    reader = FolderReader(root="/nowhere")
    told = [
        (p.path, p.severity, p.message.split(":")[0]) for p in reader.check_names("c", paths, reader.assign(paths)["c"])
    ]
    assert sorted(told) == [
        ("c", "warning", "1 image (preview.png) not read"),
        ("c/ground_truth/hole", "warning", "1 file (readme.txt) not read"),
        ("c/test/hole", "error", "1 file (film.MP4) of a format that is not read (.mp4)"),
        ("c/train/good", "error", "5 files (0.heic, 1.heic, 2.heic, ...) of a format that is not read (.heic)"),
        ("c/train/good", "warning", "1 file (0.json) not read"),
        ("c/validation", "warning", "1 image (1.png) not read"),
    ]
    assert [(p.path, p.severity) for p in reader.misfits(paths)] == [("/nowhere", "warning"), ("notes", "warning")]


def test_every_format_that_is_decoded_is_listed():
    suffixes = [
        "png",
        "PNG",
        "apng",
        "jpg",
        "jpeg",
        "jpe",
        "jfif",
        "jp2",
        "j2k",
        "bmp",
        "dib",
        "tif",
        "tiff",
        "webp",
        "gif",
        "avif",
        "tga",
        "pgm",
        "ppm",
        "pbm",
        "pnm",
        "mpo",
    ]
    paths = [f"c/train/good/{number}.{suffix}" for number, suffix in enumerate(suffixes)]
    assert len(FolderReader(root="/nowhere").assign(paths)["c"]) == len(suffixes)


def test_a_folder_of_another_layout_says_what_was_expected(tmp_path):
    write_image(tmp_path / "pictures" / "0.png")
    with pytest.raises(ValueError, match=r"no category under .*expected <category>/train/good"):
        FolderReader(root=str(tmp_path)).categories()
    with pytest.raises(ValueError, match="does not exist"):
        FolderReader(root=str(tmp_path / "gone")).categories()


def test_options_that_do_not_exist_are_refused():
    for name, reader in READERS.items():
        if reader.blind:
            continue  # it has no folder of its own
        with pytest.raises(ValidationError, match="extra"):
            reader(root="/x", colour="red")
        assert reader.name == name
        config = reader(root="/x").index_config()
        assert config == reader(root="/y").index_config()  # the same files elsewhere are the same index
        assert config["reader"] == name
        assert config["version"] == reader.version


def test_mvtec_counts_are_those_published():
    assert len(COUNTS) == 15
    totals = [sum(column) for column in zip(*COUNTS.values(), strict=True)]
    assert totals == [3629, 467, 1258]
    reader = MvtecAdReader(root="/nowhere")
    assert reader.categories() == list(COUNTS)  # known without the disk
    assert reader.paper_dataset == "MVTec AD"


def test_a_broken_download_of_mvtec_shows_in_the_counts():
    train, good, anomalous = COUNTS["toothbrush"]
    paths = [
        *(f"toothbrush/train/good/{i:03d}.png" for i in range(train)),
        *(f"toothbrush/test/good/{i:03d}.png" for i in range(good)),
        *(f"toothbrush/test/defective/{i:03d}.png" for i in range(anomalous)),
        *(f"toothbrush/ground_truth/defective/{i:03d}_mask.png" for i in range(anomalous)),
        "another/train/good/0.png",
    ]

    def messages(kept, **options):
        reader = MvtecAdReader(root="/nowhere", **options)
        assigned = reader.assign(kept)
        assert list(assigned) == ["toothbrush"]
        return [problem.message for problem in reader.check_names("toothbrush", kept, assigned["toothbrush"])]

    assert messages(paths) == []
    (message,) = messages(paths[12:])
    assert message.startswith("expected 60 training images, found 48: is the download complete?")
    assert messages(paths[12:], check_counts=False) == []
    (message,) = messages([*paths, "toothbrush/test/good/more.png"])
    assert message.startswith("expected 12 good test images, found 13: were files added?")
