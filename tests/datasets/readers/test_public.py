"""Readers of published datasets: a tree of each in small as it unpacks, and many ways of breaking it."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from ad_assets.config.benchmark import Dataset
from ad_assets.datasets import READERS, DatasetError, ImageIndex, build_index
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.readers.mvtec_sl import PROXY, MvtecSlReader
from ad_assets.datasets.readers.published import Published, WithValidation
from ad_assets.graph.stages.image_index import UNKNOWN, changed_files
from ad_assets.store.store import ArtifactStore
from tests.support import trees
from tests.support.trees import mvtec_tree, write_image, write_mask


def sl_tree(root: Path) -> Path:
    """The category of MVTec AD that has most of the logical images."""
    mvtec_tree(root, "cable", defects=("bent_wire", "cable_swap"))
    (root / "logical.txt").write_text("# by eye\ncable/test/cable_swap/001.png\n")
    return root


# Reader -> its tree in small, a category of it, and options to read it with.
DATASETS = {
    "btad": (trees.btad_tree, "03", {}),
    "mvtec_3d_rgb": (trees.mvtec_3d_tree, "bagel", {}),
    "mvtec_ad_2": (trees.mvtec_ad_2_tree, "vial", {}),
    "mvtec_loco": (trees.loco_tree, "pushpins", {}),
    "mvtec_sl": (sl_tree, "cable", {"manifest": "logical.txt"}),
    "visa": (trees.visa_tree, "pcb1", {}),
}


def indexed(name: str, root: Path, category: str | None = None, **options: object) -> ImageIndex:
    _, usual, needed = DATASETS[name]
    reader = READERS[name](root=str(root), **{"check_counts": False, **needed, **options})
    return build_index(reader, category or usual)


def counted(index: ImageIndex) -> Counter:
    return Counter((row["split"], row["label"], row["defect_type"]) for row in index.table.to_pylist())


def expected(train: int, good: int, **defects: int) -> dict:
    return {("train", 0, "good"): train, ("test", 0, "good"): good, **{("test", 1, t): n for t, n in defects.items()}}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("btad", expected(3, 2, ko=2)),
        ("mvtec_3d_rgb", expected(3, 2, hole=2)),
        ("mvtec_ad_2", expected(3, 2, bad=2)),
        ("mvtec_loco", expected(4, 2, logical_anomalies=2, structural_anomalies=2)),
        ("mvtec_sl", expected(4, 2, bent_wire=2, cable_swap=2)),
        ("visa", expected(3, 2, anomaly=2)),
    ],
)
def test_a_small_release_is_indexed(tmp_path: Path, name: str, found: dict) -> None:
    root = DATASETS[name][0](tmp_path)
    index = indexed(name, root)
    assert index.problems == ()
    assert counted(index) == found
    for row in index.table.to_pylist():
        assert bool(row["mask_paths"]) == bool(row["mask_id"]) == (row["label"] == 1)
        for path in row["mask_paths"]:
            assert Decoding().mask((root / path).read_bytes(), path).anomalous.sum() == 15
    reader = READERS[name]
    assert reader.origin
    assert reader.layout
    assert DATASETS[name][1] in reader(root="/nowhere").categories()  # known without the disk


def test_masks_lie_where_each_release_has_them(tmp_path: Path) -> None:
    pairs = {
        "btad": ("03/test/ko/0001.bmp", "03/ground_truth/ko/0001.bmp"),
        "mvtec_3d_rgb": ("bagel/test/hole/rgb/001.png", "bagel/test/hole/gt/001.png"),
        "mvtec_ad_2": (
            "vial/test_public/bad/001_regular.png",
            "vial/test_public/ground_truth/bad/001_regular_mask.png",
        ),
        "visa": ("pcb1/Data/Images/Anomaly/001.JPG", "pcb1/Data/Masks/Anomaly/001.png"),
    }
    for name, (image, mask) in pairs.items():
        index = indexed(name, DATASETS[name][0](tmp_path / name))
        assert {row["path"]: row["mask_paths"] for row in index.table.to_pylist()}[image] == [mask]
    for product in ("01", "02", "03"):
        assert counted(indexed("btad", tmp_path / "btad", product)) == expected(3, 2, ko=2)


def test_loco_has_regions_with_saturations_and_kinds(tmp_path: Path) -> None:
    rows = {row["path"]: row for row in indexed("mvtec_loco", trees.loco_tree(tmp_path)).table.to_pylist()}
    two = rows["pushpins/test/logical_anomalies/000.png"]
    folder = "pushpins/ground_truth/logical_anomalies/000"
    assert two["mask_paths"] == [f"{folder}/000.png", f"{folder}/001.png"]
    assert two["mask_saturations"] == [0.5, 9 / 15]
    assert rows["pushpins/test/structural_anomalies/001.png"]["mask_saturations"] == [0.5]
    assert {row["defect_type"]: row["anomaly_kind"] for row in rows.values()} == {
        "good": "",
        "logical_anomalies": "logical",
        "structural_anomalies": "structural",
    }
    reader = READERS["mvtec_loco"](root=str(tmp_path))
    assert reader.tables("pushpins") == ("pushpins/defects_config.json",)


@pytest.mark.parametrize("name", [name for name in DATASETS if issubclass(READERS[name], WithValidation)])
def test_validation_images_train_only_if_told_to(tmp_path: Path, name: str) -> None:
    root = DATASETS[name][0](tmp_path)
    without, with_them = indexed(name, root), indexed(name, root, validation="train")
    assert with_them.table.num_rows == without.table.num_rows + 2
    assert {row["split"] for row in with_them.table.to_pylist() if "validation" in row["path"]} == {"train"}
    left_out, trained = (READERS[name](root="/x", validation=option) for option in ("leave_out", "train"))
    assert left_out.compared_with == left_out.paper_dataset
    assert trained.compared_with is None
    assert left_out.index_config() != trained.index_config()
    category = DATASETS[name][1]
    more = trained._expected(category).train - left_out._expected(category).train
    assert more == left_out.validation_counts[category]


def test_the_proxy_for_logical_images_is_named_so_and_compared_with_nobody(tmp_path: Path) -> None:
    root = sl_tree(tmp_path)
    by_list, by_folder = MvtecSlReader(root=str(root), manifest="logical.txt"), MvtecSlReader(root=str(root))
    assert (by_list.logical, by_list.compared_with) == ("manifest", "MVTec SL AD")
    assert (by_folder.logical, by_folder.compared_with) == ("folder_proxy", None)
    assert by_list.tables("cable") == ("logical.txt",)
    for options, logical in (({}, {"001"}), ({"manifest": None}, {"000", "001"})):
        rows = indexed("mvtec_sl", root, **options).table.to_pylist()
        kinds = {(row["defect_type"], Path(row["path"]).stem): row["anomaly_kind"] for row in rows if row["label"]}
        assert {key for key, kind in kinds.items() if kind == "logical"} == {("cable_swap", stem) for stem in logical}
        assert set(kinds.values()) == {"logical", "structural"}
        assert {row["anomaly_kind"] for row in rows if not row["label"]} == {""}
    assert {category for category, _ in PROXY} <= set(by_list.categories())
    for options in ({"logical": "manifest"}, {"logical": "folder_proxy", "manifest": "logical.txt"}):
        with pytest.raises(ValidationError, match="needs manifest: <path>"):
            MvtecSlReader(root="/x", **options)


def test_a_list_of_logical_images_may_be_csv_and_elsewhere(tmp_path: Path) -> None:
    root = sl_tree(tmp_path / "set")
    listed = tmp_path / "lists" / "logical.csv"
    listed.parent.mkdir()
    listed.write_text("path,by\r\ncable/test/cable_swap/001.png,me\r\n")
    reader = MvtecSlReader(root=str(root), manifest=str(listed), check_counts=False)
    assert build_index(reader, "cable").table == indexed("mvtec_sl", root).table
    before = reader.index_config()
    assert str(tmp_path) not in str(before)
    listed.write_text("cable/test/cable_swap/000.png\n")
    assert reader.index_config() != before


Damage = Callable[[Path], object]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def write(text: str) -> Damage:
    return lambda path: path.write_text(text)


def append(text: str) -> Damage:
    return lambda path: path.write_text(path.read_text() + text)


def become(sibling: str) -> Damage:
    return lambda path: path.write_bytes((path.parent / sibling).read_bytes())


def resize(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((10, 13), Image.Resampling.NEAREST).save(path)


def number(value: int) -> Damage:
    return lambda path: write_mask(path, value=value)


GT_3D, GT_SL = "bagel/test/hole/gt", "cable/ground_truth/bent_wire"
GT_AD_2, GT_VISA = "vial/test_public/ground_truth/bad", "pcb1/Data/Masks/Anomaly"
GT_LOCO, CONFIG = "pushpins/ground_truth/logical_anomalies", "pushpins/defects_config.json"
CSV = "split_csv/1cls.csv"
BREAKS: dict[str, list[tuple[Damage, str, str]]] = {
    "btad": [
        (truncate, "03/train/ok/0000.bmp", r"03/train/ok/0000\.bmp: cannot be decoded"),
        (remove, "03/ground_truth/ko/0001.bmp", r"test/ko/0001\.bmp: has no mask: expected .*ko/0001\.png or \.bmp"),
        (resize, "03/ground_truth/ko/0001.bmp", r"ko/0001\.bmp: mask of 10 x 13 for the image 03/test/ko/0001\.bmp"),
        (write_mask, "03/ground_truth/ko/0777.bmp", r"ko/0777\.bmp: mask without an image test/ko/0777"),
        (remove, "03/train", "03: no training images"),
        (
            become("../../train/ok/0001.bmp"),
            "03/test/ok/0000.bmp",
            r"ok/0001\.bmp: the same image is the test image 03/test/ok",
        ),
    ],
    "mvtec_3d_rgb": [
        (write("no"), "bagel/train/good/rgb/001.png", r"bagel/train/good/rgb/001\.png: not an image"),
        (remove, f"{GT_3D}/000.png", r"hole/rgb/000\.png: has no mask: expected test/hole/gt/000\.png"),
        (resize, f"{GT_3D}/000.png", r"gt/000\.png: mask of 10 x 13 for the image bagel/test/hole/rgb/000\.png"),
        (remove, "bagel/test/hole/rgb/001.png", r"gt/001\.png: mask without an image test/hole/rgb/001\.png"),
        (remove, "bagel/train/good/rgb", "bagel: no training images"),
        (truncate, f"{GT_3D}/000.png", r"hole/gt/000\.png: cannot be decoded"),
    ],
    "mvtec_ad_2": [
        (truncate, "vial/test_public/good/000_regular.png", r"good/000_regular\.png: cannot be decoded"),
        (write(""), "vial/train/good/000_regular.png", r"train/good/000_regular\.png: the file is empty"),
        (
            remove,
            f"{GT_AD_2}/000_regular_mask.png",
            r"000_regular\.png: has no mask: expected test_public/ground_truth",
        ),
        (resize, f"{GT_AD_2}/000_regular_mask.png", r"000_regular_mask\.png: mask of 10 x 13"),
        (write_mask, f"{GT_AD_2}/9_mask.png", r"bad/9_mask\.png: mask without an image test_public/bad/9\.png"),
        (remove, "vial/train", "vial: no training images"),
    ],
    "mvtec_loco": [
        (truncate, "pushpins/train/good/000.png", r"pushpins/train/good/000\.png: cannot be decoded"),
        (remove, f"{GT_LOCO}/001", r"001\.png: has no mask: expected ground_truth/logical_anomalies/001/NNN\.png"),
        (resize, f"{GT_LOCO}/000/001.png", r"000/001\.png: mask of 10 x 13 for the image pushpins/test/logical_anom"),
        (write_mask, f"{GT_LOCO}/777/000.png", r"777/000\.png: mask without an image test/logical_anomalies/777"),
        (number(7), f"{GT_LOCO}/001/000.png", r"001/000\.png: its pixels have the value 7, but defects are"),
        (
            become("../../train/good/001.png"),
            "pushpins/test/good/000.png",
            r"001\.png: the same image is the test image",
        ),
        (remove, CONFIG, r"pushpins/defects_config\.json: is missing"),
        (write("[{"), CONFIG, r"pushpins/defects_config\.json: expected a list of defects"),
        (write("{}"), CONFIG, r"pushpins/defects_config\.json: expected a list of defects"),
        (write('[{"pixel_value": 255}]'), CONFIG, r"defects_config\.json: expected a list of defects.*KeyError"),
    ],
    "mvtec_sl": [
        (truncate, "cable/test/cable_swap/000.png", r"cable_swap/000\.png: cannot be decoded"),
        (remove, f"{GT_SL}/000_mask.png", r"bent_wire/000\.png: has no mask"),
        (remove, GT_SL, r"bent_wire/001\.png: has no mask"),
        (remove, "cable/train", "cable: no training images"),
        (remove, "logical.txt", r"logical\.txt: cannot be read: paths are relative to the dataset's root"),
        (append("cable/test/good/000.png"), "logical.txt", r"good/000\.png: listed as logical in logical\.txt, but"),
        (append("swap/000.png"), "logical.txt", r"logical\.txt: 'swap/000\.png' begins with none of the categories"),
    ],
    "visa": [
        (truncate, "pcb1/Data/Images/Normal/0000.JPG", r"Normal/0000\.JPG: cannot be decoded"),
        (remove, "pcb1/Data/Images/Normal/0001.JPG", r"0001\.JPG: named in split_csv/1cls\.csv row 10, but no such"),
        (
            become("0000.JPG"),
            "pcb1/Data/Images/Normal/0004.JPG",
            r"0000\.JPG: the same image is the test image .*0004\.JPG",
        ),
        (write_image, "pcb1/Data/Images/Normal/0777.JPG", r"0777\.JPG: not named in split_csv/1cls\.csv"),
        (
            remove,
            f"{GT_VISA}/000.png",
            r"000\.JPG: has no mask: .*Masks/Anomaly/000\.png \(split_csv/1cls\.csv row 14\)",
        ),
        (resize, f"{GT_VISA}/000.png", r"000\.png: mask of 10 x 13 for the image pcb1/Data/Images/Anomaly/000\.JPG"),
        (write_mask, f"{GT_VISA}/777.png", r"777\.png: mask without an image: split_csv/1cls\.csv does not name it"),
        (remove, CSV, r"split_csv/1cls\.csv: is missing: .* is read by reader: folder"),
        (write("object,split,image\na,b,c\n"), CSV, r"split_csv/1cls\.csv: lacks label: its columns are"),
        (append("pcb1,val,normal,x.JPG,"), CSV, r"split_csv/1cls\.csv row 16: its split is 'val'"),
        (append("pcb1,test,anomaly,pcb1/Data/Images/Normal/0777.JPG,"), CSV, r"0777\.JPG: named in .* row 16, but no"),
    ],
}


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize(
    ("name", "damage", "path", "message"), [(name, *broken) for name, rows in BREAKS.items() for broken in rows]
)
def test_what_is_broken_is_told_by_name(tmp_path: Path, name: str, damage: Damage, path: str, message: str) -> None:
    root = DATASETS[name][0](tmp_path)
    damage(root / path)
    with pytest.raises(DatasetError, match=message) as failure:
        indexed(name, root)
    assert len(failure.value.problems) == (2 if path == GT_SL else 1)  # both images of the type lack their masks


@pytest.mark.parametrize("name", list(DATASETS))
def test_wrong_counts_are_told(tmp_path: Path, name: str) -> None:
    root, category = DATASETS[name][0](tmp_path), DATASETS[name][1]
    options = {"manifest": None} if name == "mvtec_sl" else {}
    with pytest.raises(DatasetError) as failure:
        indexed(name, root, check_counts=True, **options)
    train, good, anomalous = READERS[name].counts[category]
    for kind, number in (("training", train), ("good test", good), ("anomalous test", anomalous)):
        assert f"{category}: expected {number} {kind} images, found" in str(failure.value)


def test_a_list_of_logical_images_has_37(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"logical\.txt: expected 37 logical images, found 1: .*check_counts: false"):
        indexed("mvtec_sl", sl_tree(tmp_path), check_counts=True)


@pytest.mark.parametrize(
    ("name", "categories", "totals", "validation"),
    [
        ("btad", 3, (1799, 451, 290), 0),  # 2540 images
        ("mvtec_3d_rgb", 10, (2656, 249, 948), 294),  # 4147 scans
        ("mvtec_ad", 15, (3629, 467, 1258), 0),
        ("mvtec_ad_2", 8, (2528, 379, 705), 302),
        ("mvtec_loco", 5, (1778, 575, 993), 305),
        ("mvtec_sl", 15, (3629, 467, 1258), 0),
        ("visa", 12, (8659, 962, 1200), 0),
    ],
)
def test_counts_add_up_to_those_published(name: str, categories: int, totals: tuple, validation: int) -> None:
    reader = READERS[name]
    assert issubclass(reader, Published)
    assert len(reader.counts) == categories
    assert tuple(map(sum, zip(*reader.counts.values(), strict=True))) == totals
    if issubclass(reader, WithValidation):
        assert reader.validation_counts.keys() == reader.counts.keys()
        assert sum(reader.validation_counts.values()) == validation


def test_a_split_that_is_gone_is_a_change_and_does_not_stop_the_others(tmp_path: Path) -> None:
    root = trees.visa_tree(tmp_path / "visa")
    dataset = Dataset("visa", READERS["visa"](root=str(root), check_counts=False), {})
    store = ArtifactStore(root=str(tmp_path / "store"))
    assert set(changed_files(dataset, store).values()) == {UNKNOWN}  # never indexed, which the plan says otherwise
    (root / "split_csv" / "1cls.csv").unlink()
    assert changed_files(dataset, store)["pcb1"] == "the table that says what its images are cannot be read"
