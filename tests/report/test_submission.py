"""Files of public evaluators: where they lie, what they hold bit for bit, and what is refused."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from ad_assets.report.submission import SubmissionError, encode, folders, png, targets, tiff


def row(path, defect_type="good", split="test", image_id=""):
    return {
        "path": path,
        "image_id": image_id or path,
        "split": split,
        "defect_type": defect_type,
        "height": 5,
        "width": 7,
    }


@pytest.mark.parametrize(
    ("category", "path", "defect_type", "evaluator", "server"),
    [
        ("nut", "nut/test/good/000.png", "good", "nut/test/good/000", "nut/test/good/000"),
        ("nut", "nut/test/bent/004.png", "bent", "nut/test/bent/004", "nut/test/bent/004"),
        # The folder on disk counts, not what the index calls its images.
        ("nut", "nut/test/ok/1.5.png", "good", "nut/test/ok/1.5", "nut/test/ok/1.5"),
        ("nut", "test/bent/004.png", "bent", "nut/test/bent/004", "nut/test/bent/004"),
        ("can", "can/test_private/007_regular.png", "x", "can/test/x/007_regular", "can/test_private/007_regular"),
        ("can", "can/test_public/bad/007.png", "bad", "can/test/bad/007", "can/test_public/bad/007"),
        ("test_rig", "test_rig/test/good/000.png", "good", "test_rig/test/good/000", "test_rig/test/good/000"),
        ("tile", "MT_Crack/Imgs/exp1_num_7.jpg", "crack", "tile/test/crack/exp1_num_7", "tile/test/exp1_num_7"),
    ],
)
def test_a_map_lies_where_its_image_does(category, path, defect_type, evaluator, server):
    [target] = targets("mvtec_ad", category, [row(path, defect_type)])
    assert target.paths == (f"{evaluator}.tiff",)
    assert target.size == (5, 7)
    [target] = targets("mvtec_ad_2", category, [row(path, defect_type)])
    assert target.paths == (f"anomaly_images/{server}.tiff", f"anomaly_images_thresholded/{server}.png")
    for layout in ("mvtec_ad", "mvtec_ad_2"):
        [target] = targets(layout, category, [row(path, defect_type)])
        assert all(p.startswith(f"{f}/") for p, f in zip(target.paths, folders(layout, category), strict=True))


def test_every_test_row_has_one_target_even_if_images_are_equal():
    rows = [row("nut/train/good/000.png", split="train"), row("nut/test/good/001.png", image_id="same")]
    rows.append(row("nut/test/good/000.png", image_id="same"))
    found = targets("mvtec_ad", "nut", rows)
    assert [target.map_path for target in found] == ["nut/test/good/000.tiff", "nut/test/good/001.tiff"]
    assert {target.image_id for target in found} == {"same"}


def test_two_images_of_one_name_are_refused():
    rows = [row("nut/test/good/000.png"), row("nut/test/good/000.jpg")]
    with pytest.raises(SubmissionError, match=r"000\.jpg and nut/test/good/000\.png would both be test/good/000\.tiff"):
        targets("mvtec_ad", "nut", rows)


@pytest.mark.parametrize(
    ("category", "path", "defect_type"),
    [
        ("nut", "nut/test/../../000.png", "good"),
        ("nut", "../nut/test/good/000.png", "good"),
        ("nut", "/nut/test/good/000.png", "good"),
        ("nut", "nut/test//000.png", "good"),
        ("nut", "nut/test/good/..\\000.png", "good"),
        ("nut", "Imgs/000.png", "../../bent"),
        ("nut", "Imgs/000.png", ""),
        ("..", "Imgs/000.png", "good"),
        ("a/../..", "Imgs/000.png", "good"),
    ],
)
def test_nothing_leads_out_of_the_folder(category, path, defect_type):
    with pytest.raises(SubmissionError, match="no plain relative path"):
        targets("mvtec_ad", category, [row(path, defect_type)])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (6, 3), (3, 4), (64, 33)])
def test_a_tiff_gives_back_every_bit(dtype, shape):
    pixels = np.random.default_rng(0).normal(scale=100, size=shape).astype(dtype)
    pixels.flat[0] = np.finfo(dtype).max
    pixels.flat[-1] = np.finfo(dtype).smallest_subnormal
    data = tiff(pixels)
    found = tifffile.imread(io.BytesIO(data))
    assert (found.dtype, found.shape) == (pixels.dtype, shape)
    assert found.tobytes() == pixels.tobytes()
    assert tiff(pixels) == data
    if dtype is np.float32:  # Pillow has no half precision
        with Image.open(io.BytesIO(data)) as image:
            assert np.asarray(image).tobytes() == pixels.tobytes()


def test_a_png_is_grey_with_0_and_255():
    mask = np.array([[True, False, True], [False, False, True]])
    with Image.open(io.BytesIO(png(mask))) as image:
        assert image.mode == "L"
        assert np.asarray(image).tolist() == [[255, 0, 255], [0, 0, 255]]


def test_the_server_gets_half_precision_and_decisions_on_the_full_one():
    [target] = targets("mvtec_ad_2", "can", [row("can/test_private/000.png")])
    score_map = np.full((5, 7), 1.0, np.float32)
    threshold = float(np.float32(1.0001))
    score_map[2, 3] = 1.0002  # rounds to 1 in half precision
    score_map[4, 6] = threshold
    files = encode(target, score_map, threshold)
    assert list(files) == [
        "anomaly_images/can/test_private/000.tiff",
        "anomaly_images_thresholded/can/test_private/000.png",
    ]
    found = tifffile.imread(io.BytesIO(files[target.map_path]))
    assert found.dtype == np.float16
    assert np.array_equal(found, score_map.astype(np.float16))
    with Image.open(io.BytesIO(files[target.mask_path])) as image:
        assert np.argwhere(np.asarray(image)).tolist() == [[2, 3]]  # above the threshold, not at it
    with pytest.raises(ValueError, match="threshold"):
        encode(target, score_map, None)


def test_the_evaluator_gets_raw_scores():
    [target] = targets("mvtec_ad", "can", [row("can/test/good/000.png")])
    score_map = np.random.default_rng(0).normal(scale=1e6, size=(5, 7)).astype(np.float32)
    [data] = encode(target, score_map, None).values()
    assert tifffile.imread(io.BytesIO(data)).tobytes() == score_map.tobytes()


def test_scores_that_a_file_cannot_hold_are_refused():
    [target] = targets("mvtec_ad_2", "can", [row("can/test_private/000.png")])
    with pytest.raises(SubmissionError, match=r"000\.png: scores up to 70000 do not fit"):
        encode(target, np.full((5, 7), 7e4, np.float32), 1.0)
    with pytest.raises(SubmissionError, match="not finite"):
        encode(target, np.full((5, 7), np.nan, np.float32), 1.0)
    with pytest.raises(ValueError, match=r"shape \(7, 5\)"):
        encode(target, np.zeros((7, 5), np.float32), 1.0)
