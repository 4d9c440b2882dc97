"""How files are decoded, through the whole graph: bit depths, pixels to ignore, and what is told of files."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from ad_assets.datasets.decoding import PUBLISHED, Decoding
from tests.defs.test_automation import Line, line  # noqa: F401 - fixtures
from tests.support.bench_graph import Bench, draw_image, write_image

SPLITS = (("train/good", 6, False), ("test/good", 3, False), ("test/spot", 3, True))


def scene(number: int, *, defect: bool) -> np.ndarray:
    """A grey scene of a 12-bit camera that is used to the full."""
    return draw_image(number, defect=defect)[..., 0].astype(np.uint16) * 16 + number % 16


def write_scenes(root: Path, *, deep: bool) -> None:
    """A category `bolt` of the scenes, in 16-bit containers or in 8 bits."""
    for place, count, defect in SPLITS:
        for i in range(count):
            number = 10 * SPLITS.index((place, count, defect)) + i
            pixels = scene(number, defect=defect)
            write_image(root / "bolt" / place / f"{i:03}.png", pixels if deep else (pixels >> 4).astype(np.uint8))
            if defect:
                mask = pixels != scene(number, defect=False)
                write_image(root / "bolt/ground_truth/spot" / f"{i:03}_mask.png", mask.astype(np.uint8) * 255)


@pytest.fixture
def small(tmp_path: Path) -> Bench:
    """A benchmark with one lane and no images yet."""
    (tmp_path / "images").mkdir()
    bench = Bench(tmp_path, dg.DagsterInstance.ephemeral())
    del bench.tree["datasets"]["parts"]["detectors"]["full"]
    return bench


def index_metadata(bench: Bench) -> dict[str, Any]:
    record = bench.instance.get_latest_materialization_event(dg.AssetKey(["parts", "image_index"]))
    assert record is not None
    assert record.asset_materialization is not None
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}


def test_twelve_bits_in_sixteen_measure_like_the_same_scenes_in_eight(small: Bench) -> None:
    measured = []
    for deep in (False, True):
        write_scenes(small.folder / f"deep-{deep}", deep=deep)
        small.set("datasets.parts.root", str(small.folder / f"deep-{deep}"))
        small.make()
        measured.append(small.rows("small", "bolt"))
    shallow, deep_rows = measured
    assert deep_rows["standard", "image_auroc"] == shallow["standard", "image_auroc"]
    # One grey level in 256 is what the container of 8 bits rounds away.
    assert deep_rows["standard", "pixel_auroc"] == pytest.approx(shallow["standard", "pixel_auroc"], abs=0.005)
    assert shallow["standard", "pixel_auroc"] > 0.9


def test_pixels_to_ignore_are_in_no_pixel_metric(small: Bench) -> None:
    write_scenes(small.images, deep=False)
    small.reload()
    small.make()
    clean = small.rows("small", "bolt")
    for path in (small.images / "bolt/ground_truth/spot").glob("*.png"):
        with Image.open(path) as image:
            mask = (np.asarray(image) > 0).astype(np.uint8)
        mask[:4], mask[-4:] = 255, 255  # as VOC draws what nobody labelled: 1 is the class
        write_image(path, mask)
    small.set("datasets.parts.mask_ignore", [255])
    small.make()
    ignoring = small.rows("small", "bolt")
    small.tree["datasets"]["parts"].pop("mask_ignore")
    small.set("datasets.parts.mask_values", ["1-255"])
    small.make()
    counting = small.rows("small", "bolt")
    assert ignoring["standard", "pixel_auroc"] == pytest.approx(clean["standard", "pixel_auroc"], abs=0.02)
    assert counting["standard", "pixel_auroc"] < clean["standard", "pixel_auroc"] - 0.1
    assert ignoring["standard", "image_auroc"] == clean["standard", "image_auroc"]


def test_datasets_that_read_the_same_masks_otherwise_share_no_metrics(small: Bench) -> None:
    write_scenes(small.images, deep=False)
    small.reload()
    for path in (small.images / "bolt/ground_truth/spot").glob("*.png"):
        mask = np.zeros((64, 64), np.uint8)
        mask[11, 17] = mask[40, 41] = 255  # single pixels, which the nearest of a smaller frame may miss
        write_image(path, mask)
    small.tree["extractors"]["lite0"]["resize"] = [32, 32]
    parts = small.tree["datasets"]["parts"]
    small.tree["datasets"]["nearest"] = {**parts, "mask_shrink": "nearest"}
    small.reload()
    small.make()
    truths = {name: metrics_address(small, name) for name in small.tree["datasets"]}
    assert len(set(truths.values())) == 2, truths
    # A published layout reads grey edges and small regions by rules of its own.
    assert PUBLISHED.mask_id("0" * 64, turned=False) != Decoding().mask_id("0" * 64, turned=False)


def metrics_address(bench: Bench, dataset: str) -> str:
    head = bench.benchmark.store.read_head((dataset, "small", "metrics"), "bolt")
    assert head is not None
    return str(head["version"])


def test_what_is_odd_about_files_is_in_the_metadata_of_the_index_and_in_the_check(small: Bench, capsys: Any) -> None:
    from ad_assets.cli import main

    write_scenes(small.images, deep=False)
    small.reload()
    train = small.images / "bolt/train/good"
    pages = [Image.fromarray(draw_image(100 + page)) for page in range(3)]
    pages[0].save(train / "pages.tif", save_all=True, append_images=pages[1:])
    write_image(train / "tiny.png", draw_image(200)[:2, :2])
    bmp = train / "hole.bmp"
    write_image(bmp, draw_image(300))
    whole = bmp.read_bytes()
    bmp.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    jpeg = train / "hole.jpg"
    write_image(jpeg, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = jpeg.read_bytes()
    jpeg.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 3) + whole[len(whole) // 2 + len(whole) // 3 :])
    for path in (small.images / "bolt/ground_truth/spot").glob("*.png"):
        write_image(path, np.full((64, 64), 255, np.uint8))
    small.make()
    assert main(["data", "check", "--config", str(small.folder / "bench.yaml")]) == 0
    expected = ("pages.tif: holds 3 pages", "tiny.png: is of 2 x 2", "hole.bmp: 5", "hole.jpg: 3", "marks 100 %")
    for told in (capsys.readouterr().out, index_metadata(small)["first_problems"]):
        assert [each for each in expected if each not in told] == []
    head = small.benchmark.store.read_head(("parts", "category_report"), "bolt")
    assert head is not None
    report = small.benchmark.store.read_bytes(f"artifacts/category_report/{head['version']}/page.html").decode()
    assert [each for each in expected if each not in report] == []


def test_a_mask_that_does_not_fit_an_image_turned_by_exif_names_exif(small: Bench) -> None:
    write_scenes(small.images, deep=False)
    small.reload()
    image = small.images / "bolt/test/spot/000.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(draw_image(7)[:48]).save(image, exif=exif)
    write_image(small.images / "bolt/ground_truth/spot/000_mask.png", np.zeros((48, 64), np.uint8))
    failures = json.dumps(small.outcome().failures, default=str)
    assert "as its own EXIF orientation says" in failures
    assert "mask of 64 x 48 for the image bolt/test/spot/000.png of 48 x 64" in failures


def test_a_line_keeps_the_depth_that_its_champion_learnt_at(line: Line) -> None:  # noqa: F811 - the fixture
    for folder in ("bolt", "nut"):
        for path in (line.images / folder).rglob("*.png"):
            path.unlink()
    write_scenes(line.images, deep=True)
    line.ahead = 60
    line.carry_out(line.tick())
    line.settle()
    before = bench_ids(line)
    assert all(image.endswith("-12bit") for image in before)
    write_image(line.images / "bolt/train/good/deeper.png", scene(500, defect=False) * 4)
    write_image(line.images / "bolt/train/good/more.png", scene(501, defect=False))
    line.carry_out(line.tick())
    after = bench_ids(line)
    assert before < after
    assert len(after) == len(before) + 1
    assert all(image.endswith("-12bit") for image in after)
    told = index_metadata(line)["first_problems"]
    assert "deeper.png" in told
    assert "images are read with 12 bits" in told


def bench_ids(bench: Bench) -> set[str]:
    head = bench.benchmark.store.read_head(("parts", "image_index"), "bolt")
    assert head is not None
    store = bench.benchmark.store
    table = store.read_table(store.artifact("image_index", head["version"]).at("index.parquet"))
    return set(table.column("image_id").to_pylist())


def test_a_run_tells_which_files_it_did_not_take_yet(small: Bench) -> None:
    write_scenes(small.images, deep=False)
    small.set("datasets.parts.production", {"settle_seconds": 0, "patience_seconds": 0})
    assert small.outcome().waiting == ()
    small.set("datasets.parts.production", {"settle_seconds": 3600})
    write_image(small.images / "bolt/train/good/late.png", draw_image(77))
    [waiting] = small.outcome().waiting
    assert waiting.startswith("parts [bolt]")
    assert "1 files were not taken" in waiting
