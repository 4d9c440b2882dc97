"""The demo's textures: crops of photographs inside the scikit-image package, sound or with a painted defect.

`brick.png`, `grass.png` and `gravel.png` are photographs of 512 x 512 in the public domain. Training crops
come from the right half and test crops from the left half, so no pixel is in both. `coins.png`, `coffee.png`
and `text.png` lend foreign texture.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import Literal

import numpy as np
from PIL import Image

from ad_assets.datasets.readers.demo.defects import SIZE, Array, as_mask, blob, covered, scratched, stained, stroke

DEFECTS = {
    "brick": ("scratch", "foreign_patch", "stain", "missing_brick"),
    "grass": ("wire", "foreign_patch", "stain", "bare"),
    "gravel": ("wire", "foreign_patch", "stain", "crushed"),
}
HALF = {"train": slice(256, 512), "test": slice(0, 256)}

_FOREIGN = ("coins", "coffee", "text")
# Grass and gravel hide what would stand out on brick.
_BOLDNESS = {"brick": 0.7, "grass": 1.8, "gravel": 1.8}


def draw(rng: np.random.Generator, category: str, split: Literal["train", "test"], defect: str) -> tuple[Array, Array]:
    """One image of a texture.

    Args:
        rng: random generator of this image.
        category: a key of `DEFECTS`.
        split: says which half of the photograph.
        defect: one of the category's, or ``good``.

    Returns:
        Image ``(SIZE, SIZE)`` float, mask ``(SIZE, SIZE)`` bool.
    """
    half = _photograph(category)[:, HALF[split]]
    turns = category != "brick"  # bricks have an upright, grass and gravel have none
    image = _crop(rng, half, turns)
    mask = np.zeros(image.shape, dtype=bool)
    bold = _BOLDNESS[category]
    if defect in ("scratch", "wire"):
        alpha = stroke(rng, rng.uniform(60, 150), bold * rng.uniform(1.5, 3.0))
        contrast = rng.choice([-1, 1]) * bold * rng.uniform(45, 100)
        image, mask = scratched(rng, image, alpha, contrast)
    elif defect == "stain":
        depth = rng.choice([0.45, -0.35]) * bold * rng.uniform(0.5, 1)
        image, mask = stained(rng, image, _somewhere(rng, bold * 16, bold * 34, edge=8), depth)
    elif defect == "foreign_patch":
        foreign = _crop(rng, _photograph(str(rng.choice(_FOREIGN))), turns=True)
        alpha = _somewhere(rng, bold * 12, bold * 28, edge=4)
        image, mask = covered(image, alpha, foreign, rng.uniform(0.75, 1))
    elif defect == "missing_brick":
        sand = _sand(rng, image.mean() * rng.uniform(0.6, 1.2))
        image, mask = covered(image, _one_brick(rng, image), sand, 0.95)
    elif defect == "bare":
        sand = _sand(rng, image.mean() * 0.8)
        image, mask = covered(image, _somewhere(rng, 24, 48, edge=8), sand, rng.uniform(0.7, 1))
    elif defect == "crushed":
        fine = _crop(rng, half, turns, shrink=0.35)
        image, mask = covered(image, _somewhere(rng, 28, 50, edge=4), fine, 1.0)
    gain, offset = rng.uniform(0.94, 1.06), rng.uniform(-6, 6)
    return image * gain + offset + rng.normal(0, 1.5, image.shape), mask


@functools.cache
def _photograph(name: str) -> Array:
    with files("skimage").joinpath("data", f"{name}.png").open("rb") as file, Image.open(file) as image:
        return np.asarray(image.convert("L"))


def _crop(rng: np.random.Generator, photograph: Array, turns: bool, shrink: float = 1.0) -> Array:
    h, w = photograph.shape
    side = int(min(rng.uniform(176, 208), h, w))
    top, left = rng.integers(0, h - side + 1), rng.integers(0, w - side + 1)
    crop = Image.fromarray(photograph[top : top + side, left : left + side])
    if rng.random() < 0.5:  # mirrored, or the perspective of the bricks would tell one half from the other
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if turns:
        crop = crop.rotate(90 * int(rng.integers(4)))
    size = round(SIZE * shrink)
    resized = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
    repeats = -(-SIZE // size)
    return np.tile(resized, (repeats, repeats))[:SIZE, :SIZE]


def _somewhere(rng: np.random.Generator, smallest: float, largest: float, edge: float) -> Array:
    x, y = rng.uniform(40, SIZE - 40, 2)
    return blob(rng, (x, y), rng.uniform(smallest, largest), edge)


def _sand(rng: np.random.Generator, level: float) -> Array:
    from scipy.ndimage import gaussian_filter

    grains = gaussian_filter(rng.normal(0, 1, (SIZE, SIZE)), 1.0)
    grains += gaussian_filter(rng.normal(0, 8, (SIZE, SIZE)), 6)
    return level + 18 * grains / grains.std()


def _one_brick(rng: np.random.Generator, image: Array) -> Array:
    from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter, label

    smooth = gaussian_filter(image, 1.5)
    dark = smooth < smooth.min() * 0.35 + np.percentile(smooth, 98) * 0.65
    labels, _ = label(binary_erosion(dark, iterations=3))
    areas = np.bincount(labels.ravel())
    whole = [number for number in range(1, len(areas)) if 2000 < areas[number] < 12000]
    if not whole:
        return _somewhere(rng, 18, 30, edge=3)
    brick = binary_dilation(labels == rng.choice(whole), iterations=4)
    return gaussian_filter(brick.astype(np.float64), 1.0) * as_mask(brick)
