"""The picture of an inspected image: the image, its heat map, and the image with its defect regions, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ad_assets.report.panels import GAP, INK, caption
from ad_assets.report.pictures import GROUND, OUTLINE, heat_map, outline, overlay
from ad_assets_runtime.images import RgbImage

SMALLEST, LARGEST = 256, 512  # pixels of a tile's longer side


def tile_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which an image is shown."""
    scale = min(max(SMALLEST / max(shape), 1.0), LARGEST / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def inspection_picture(
    rgb: RgbImage,
    score_map: NDArray[Any],
    scale: tuple[float, float],
    boxes: Sequence[tuple[float, float, float, float]],
    pixel_threshold: float | None,
    *,
    seen: NDArray[np.bool_],
    head: str,
    colour: tuple[int, int, int],
    title: str,
) -> RgbImage:
    """Image | heat map over it | image with the outlines and boxes of its regions, with a caption and the colour scale.

    Args:
        rgb: ``(H, W, 3)`` uint8, of `tile_size`.
        score_map: ``(H, W)`` raw scores; not read where nothing was looked at.
        scale: scores shown as the lowest and highest colour.
        boxes: left, top, right, bottom of the regions, in pixels of `rgb`; numbered in their order from 1.
        pixel_threshold: scores above it belong to regions; None: there are none.
        seen: ``(H, W)``, where the detector looked.
        head: first words of the caption.
        colour: of these.
        title: the rest of it.
    """
    low, high = scale
    heat = overlay(rgb, score_map, low, high, seen=seen)
    above = np.zeros_like(seen)
    if pixel_threshold is not None:
        above[seen] = score_map[seen] > pixel_threshold
    marked = _with_boxes(outline(rgb, above), boxes)
    gap = np.full((rgb.shape[0], GAP, 3), GROUND, np.uint8)
    tiles = np.concatenate([rgb, gap, heat, gap, marked], axis=1)
    return np.concatenate(
        [caption(tiles.shape[1], head, colour, title), tiles, _scale_bar(tiles.shape[1], low, high, pixel_threshold)]
    )


def _with_boxes(rgb: RgbImage, boxes: Sequence[tuple[float, float, float, float]]) -> RgbImage:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(rgb)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    for number, (left, top, right, bottom) in enumerate(boxes, start=1):
        # Two pixels apart, so that the box hides no outline.
        draw.rectangle((left - 3, top - 3, max(right, left + 1) + 2, max(bottom, top + 1) + 2), outline=OUTLINE)
        draw.text((left, top - 17 if top >= 17 else bottom + 3), str(number), fill=OUTLINE, font=font)
    return np.asarray(image)


def _scale_bar(width: int, low: float, high: float, pixel_threshold: float | None) -> RgbImage:
    """The colours from the lowest to the highest score, with the pixel threshold as a line, and both in words."""
    length = min(160, width // 3)
    bar = np.full((caption(width, "", INK, "").shape[0], width, 3), GROUND, np.uint8)
    values = np.linspace(low, high, length)[None, :]
    words = f"scores {low:.4g} to {high:.4g}"
    bar[4:-4, 4 : 4 + length] = heat_map(values, low, high)
    if pixel_threshold is not None:
        words += f"; outlined above {pixel_threshold:.4g}"
        if low <= pixel_threshold <= high and high > low:
            bar[1:-1, 4 + min(length - 1, round((pixel_threshold - low) / (high - low) * length))] = OUTLINE
    bar[:, 8 + length :] = caption(width - length - 8, words, INK, "")
    return bar
