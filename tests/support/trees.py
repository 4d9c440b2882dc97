"""Tiny folders of images in the layouts of public datasets."""

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, size: tuple[int, int] = (12, 10), content: str | None = None) -> Path:
    """An RGB image of (width, height) whose pixels follow from `content`, by default from the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = hashlib.sha256((content or str(path)).encode(errors="surrogateescape")).digest()
    rng = np.random.default_rng(list(seed))
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def write_mask(path: Path, size: tuple[int, int] = (12, 10), empty: bool = False, value: int = 255) -> Path:
    """A mask of (width, height) with a rectangle of 15 pixels of `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    mask[2:5, 3:8] = 0 if empty else value
    Image.fromarray(mask).save(path)
    return path


def mvtec_tree(
    root: Path,
    category: str = "bottle",
    train: int = 4,
    good: int = 2,
    defects: Sequence[str] = ("crack", "dirt"),
) -> Path:
    """A category in the layout of MVTec AD, two images a defect type."""
    folder = root / category
    for number in range(train):
        write_image(folder / "train" / "good" / f"{number:03d}.png")
    for number in range(good):
        write_image(folder / "test" / "good" / f"{number:03d}.png")
    for defect in defects:
        for number in range(2):
            write_image(folder / "test" / defect / f"{number:03d}.png")
            write_mask(folder / "ground_truth" / defect / f"{number:03d}_mask.png")
    return folder


def mtd_tree(root: Path, free: int = 10) -> Path:
    """The public Magnetic Tile release in small: `free` sound tiles over six exposures, two of each defect."""
    for number in range(free):
        stem = root / "MT_Free" / "Imgs" / f"exp{number % 6 + 1}_num_{1000 + number}"
        write_image(stem.with_suffix(".jpg"))
        write_mask(stem.with_suffix(".png"), empty=True)
    for kind in ("Blowhole", "Break", "Crack", "Fray", "Uneven"):
        for number in (1, 5):
            stem = root / f"MT_{kind}" / "Imgs" / f"exp{number}_num_{2000 + number}"
            write_image(stem.with_suffix(".jpg"))
            write_mask(stem.with_suffix(".png"), empty=kind == "Uneven" and number == 1)
    return root


def loco_tree(root: Path, category: str = "pushpins") -> Path:
    """A category of MVTec LOCO AD: 4 train, 2 validation, 2 images each of good, logical and structural.

    The first logical image has two regions, of the defects 255 (9 pixels are enough) and 254 (half the area is).
    """
    folder = root / category
    for place, number in (("train/good", 4), ("validation/good", 2), ("test/good", 2)):
        for image in range(number):
            write_image(folder / place / f"{image:03d}.png")
    for kind in ("logical_anomalies", "structural_anomalies"):
        for image in range(2):
            write_image(folder / "test" / kind / f"{image:03d}.png")
            write_mask(folder / "ground_truth" / kind / f"{image:03d}" / "000.png", value=254)
    write_mask(folder / "ground_truth" / "logical_anomalies" / "000" / "001.png")
    defects = [
        {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 9, "relative_saturation": False},
        {"defect_name": "dent", "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True},
    ]
    (folder / "defects_config.json").write_text(json.dumps(defects))
    return root


def btad_tree(root: Path) -> Path:
    """BTAD's three products: 3 train, 2 ok and 2 ko images each, with the suffixes that the release mixes."""
    for product, image, mask in (("01", ".bmp", ".png"), ("02", ".png", ".png"), ("03", ".bmp", ".bmp")):
        folder = root / product
        for place, number in (("train/ok", 3), ("test/ok", 2), ("test/ko", 2)):
            for stem in range(number):
                write_image(folder / place / f"{stem:04d}{image}")
        for stem in range(2):
            write_mask(folder / "ground_truth" / "ko" / f"{stem:04d}{mask}", value=1 if product == "02" else 255)
    return root


def mvtec_3d_tree(root: Path, category: str = "bagel") -> Path:
    """A category of MVTec 3D-AD: 3 train, 2 validation, 2 good and 2 images of a hole, each with its point cloud."""
    for place, number in (("train/good", 3), ("validation/good", 2), ("test/good", 2), ("test/hole", 2)):
        for image in range(number):
            folder = root / category / place
            write_image(folder / "rgb" / f"{image:03d}.png")
            (folder / "xyz").mkdir(exist_ok=True)
            Image.new("F", (12, 10), image).save(folder / "xyz" / f"{image:03d}.tiff")
            if place.startswith("test"):
                write_mask(folder / "gt" / f"{image:03d}.png", empty=place.endswith("good"))
    return root


def mvtec_ad_2_tree(root: Path, category: str = "vial") -> Path:
    """An object of MVTec AD 2: 3 train, 2 validation, 2 good and 2 bad images, and unlabelled private ones. Grey."""
    folder = root / category
    places = {"train/good": 3, "validation/good": 2, "test_public/good": 2, "test_public/bad": 2, "test_private": 2}
    for place, number in (places | {"test_private_mixed": 2}).items():
        for image in range(number):
            path = write_image(folder / place / f"{image:03d}_regular.png")
            with Image.open(path) as colours:
                colours.convert("L").save(path)
    for image in range(2):
        write_mask(folder / "test_public" / "ground_truth" / "bad" / f"{image:03d}_regular_mask.png")
    return root


def visa_tree(root: Path, categories: Sequence[str] = ("candle", "pcb1")) -> Path:
    """The raw release of VisA: 5 normal and 2 anomalous images an object, of which 3 train; masks of small numbers."""
    rows = []
    for category in categories:
        folder = f"{category}/Data"
        for image in range(5):
            path = f"{folder}/Images/Normal/{image:04d}.JPG"
            write_image(root / path)
            rows.append([category, "train" if image < 3 else "test", "normal", path, ""])
        for image in range(2):
            path, mask = f"{folder}/Images/Anomaly/{image:03d}.JPG", f"{folder}/Masks/Anomaly/{image:03d}.png"
            write_image(root / path)
            write_mask(root / mask, value=image + 1)
            rows.append([category, "test", "anomaly", path, mask])
    write_table(root / "split_csv" / "1cls.csv", [["object", "split", "label", "image", "mask"], *rows])
    return root


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    """A CSV file of `rows`, the first of which names the columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def campus_tree(root: Path) -> Path:
    """ShanghaiTech Campus in small, its training frames as folders: two scenes, and scene 13 without test clips.

    Frames 4 to 8 of clip 01_0014 are anomalous, and frames 0 and 1 of 02_0003.
    """
    for clip, frames in {"01_001": 12, "01_002": 5, "02_001": 6, "13_001": 6}.items():
        for number in range(frames):
            write_image(root / "training" / "frames" / clip / f"{number:03d}.jpg")
    for clip, (frames, anomalous) in {"01_0014": (11, range(4, 9)), "02_0003": (6, range(2))}.items():
        for number in range(frames):
            write_image(root / "testing" / "frames" / clip / f"{number:03d}.jpg")
        labels = np.zeros(frames, np.int8)
        labels[list(anomalous)] = 1
        masks = np.zeros((frames, 10, 12), np.uint8)
        masks[list(anomalous), 2:5, 3:8] = 1
        for folder, array in (("test_frame_mask", labels), ("test_pixel_mask", masks)):
            (root / "testing" / folder).mkdir(parents=True, exist_ok=True)
            np.save(root / "testing" / folder / f"{clip}.npy", array)
    return root


def write_video(path: Path, frames: int, size: tuple[int, int] = (64, 48)) -> Path:
    """An AVI whose frame `n` is grey of the value ``10 n``; needs PyAV."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def cifar_tree(root: Path, names: Sequence[str], images: int = 20) -> Path:
    """The binary version of CIFAR-10 in small: six batches of `images`, which go round the classes."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    (folder / "batches.meta.txt").write_text("\n".join([*names, "", ""]))
    for number, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        records = np.random.default_rng(number).integers(0, 256, (images, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(images) % len(names)
        (folder / name).write_bytes(records.tobytes())
    return folder
