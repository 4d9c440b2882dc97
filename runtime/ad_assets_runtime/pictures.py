"""Pictures of a prediction: the image under its heat map, with the boxes of its defect regions."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ad_assets_runtime.colours import INFERNO
from ad_assets_runtime.images import RgbImage
from ad_assets_runtime.prediction import Prediction

_LARGEST = 960  # pixels of the longer side: a page on a phone shows no more
_OPACITY = 0.6
_UNSEEN = 70  # grey of what was not looked at
_BOX = (0, 230, 118)


def heat_map_png(rgb: RgbImage, prediction: Prediction, colours: tuple[float, float] | None) -> bytes:
    """An image under its heat map as a PNG file, at most 960 pixels long.

    Args:
        rgb: the decoded image ``(H, W, 3)`` uint8.
        prediction: of that image.
        colours: scores shown as the lowest and highest colour; None: those of the map, up to the pixel threshold at
            least.
    """
    size = _size(rgb)
    small = _resized(rgb, size)
    whole = prediction.full_map((size[1], size[0]))
    seen = np.isfinite(whole)
    low, high = colours or _scale(prediction)
    share = np.clip((np.where(seen, whole, low) - low) / (high - low or 1.0), 0, 1)
    mixed = small * (1 - _OPACITY) + INFERNO[np.rint(share * 255).astype(np.intp)] * _OPACITY
    mixed[~seen] = small[~seen].mean(axis=1, keepdims=True) * 0.4 + _UNSEEN
    image = Image.fromarray(np.rint(np.clip(mixed, 0, 255)).astype(np.uint8))
    draw, scale = ImageDraw.Draw(image), size[0] / rgb.shape[1]
    for region in prediction.regions:
        left, top, right, bottom = (side * scale for side in region.box)
        draw.rectangle((left - 2, top - 2, max(right, left + 1) + 1, max(bottom, top + 1) + 1), outline=_BOX)
    return _png(image)


def picture_png(rgb: RgbImage) -> bytes:
    """An image as a PNG file, at most 960 pixels long."""
    return _png(Image.fromarray(_resized(rgb, _size(rgb))))


def _size(rgb: RgbImage) -> tuple[int, int]:
    height, width = rgb.shape[:2]
    scale = min(1.0, _LARGEST / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(rgb: RgbImage, size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX, reducing_gap=2.0))


def _scale(prediction: Prediction) -> tuple[float, float]:
    low, high = float(prediction.score_map.min()), float(prediction.score_map.max())
    return low, max(high, prediction.pixel_threshold or high)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
