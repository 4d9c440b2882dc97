"""Tiny folders of images in the layouts of public datasets."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, size: tuple[int, int] = (12, 10), content: str | None = None) -> Path:
    """An RGB image of (width, height) whose pixels follow from `content`, by default from the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = hashlib.sha256((content or str(path)).encode()).digest()
    rng = np.random.default_rng(list(seed))
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def write_mask(path: Path, size: tuple[int, int] = (12, 10), empty: bool = False) -> Path:
    """A 0/255 mask of (width, height) with a rectangle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    mask[2:5, 3:8] = 0 if empty else 255
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
