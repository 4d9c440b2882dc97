"""Images beside their masks and heat maps, under captions, and sheets of them: RGB arrays ``(H, W, 3)`` uint8."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ad_assets.report.pictures import GROUND, check_same_size, outline, overlay, resized
from ad_assets_runtime.images import RgbImage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

GAP = 3
CAPTION_HEIGHT = 18
INK = (214, 214, 214)
LABEL_NAMES = ("nominal", "anomalous")
LABEL_COLOURS = ((126, 200, 150), (255, 150, 122))


@dataclass(frozen=True)
class ScoredPicture:
    """An image, what was found in it, and what is known of it.

    Args:
        rgb: ``(H, W, 3)`` uint8.
        score_map: ``(H, W)`` raw scores.
        scale: start and end of the category's colour scale.
        mask: ``(H, W)``, or None for images without one.
        seen: as for `overlay`.
    """

    rgb: RgbImage
    score_map: NDArray[Any]
    scale: tuple[float, float]
    mask: NDArray[Any] | None = None
    seen: NDArray[np.bool_] | None = None


def strip(picture: ScoredPicture, size: int = 160) -> RgbImage:
    """Image | image with mask outline | heat map over the image, side by side; their longer sides have `size` pixels.

    Raises:
        ValueError: as `overlay` and `outline`.
    """
    shown = heat(picture, size)
    gap = np.full((shown.shape[0], GAP, 3), GROUND, np.uint8)
    return np.concatenate([photo(picture.rgb, picture.mask, size), gap, shown], axis=1)


def photo(rgb: RgbImage, mask: NDArray[Any] | None, size: int = 160) -> RgbImage:
    """Image | image with mask outline, side by side: of a `strip` what is the same for all detectors.

    Raises:
        ValueError: image and mask differ in size.
    """
    small = resized(rgb, size)
    gap = np.full((small.shape[0], GAP, 3), GROUND, np.uint8)
    return np.concatenate([small, gap, _outlined(rgb, small, mask)], axis=1)


def heat(picture: ScoredPicture, size: int = 160) -> RgbImage:
    """The heat map over the image: the last of the three of a `strip`.

    Raises:
        ValueError: as `overlay`.
    """
    return resized(overlay(picture.rgb, picture.score_map, *picture.scale, seen=picture.seen), size)


def panel(picture: ScoredPicture, *, score: float, label: int, title: str = "", size: int = 160) -> RgbImage:
    """A `strip` with a caption: label, image score and a title such as detector or defect type.

    Raises:
        ValueError: as `strip`, or `label` is neither 0 nor 1.
    """
    if label not in (0, 1):
        raise ValueError(f"a label is 0 (nominal) or 1 (anomalous), not {label}")
    return _labelled(strip(picture, size), label, f" {score:.4g}", title)


def tile(rgb: RgbImage, mask: NDArray[Any] | None, *, label: int, title: str, size: int = 160) -> RgbImage:
    """An image in a square of `size` pixels with the outline of its mask, under a caption: label and title.

    Raises:
        ValueError: image and mask differ in size.
    """
    shown = _outlined(rgb, resized(rgb, size), mask)
    square = np.full((size, size, 3), GROUND, np.uint8)
    top, left = (size - shown.shape[0]) // 2, (size - shown.shape[1]) // 2
    square[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    return _labelled(square, label, "", title)


def _labelled(rgb: RgbImage, label: int, more: str, title: str) -> RgbImage:
    """A picture under a caption: its label, in that colour, with more, and a title."""
    head = caption(rgb.shape[1], LABEL_NAMES[label] + more, LABEL_COLOURS[label], title)
    return np.concatenate([head, rgb], axis=0)


def captioned(rgb: RgbImage, text: str, size: int | None = None) -> RgbImage:
    """A picture below a line of text, cut to fit; its longer side is brought to `size` pixels, if that is given."""
    shown = rgb if size is None else resized(rgb, size)
    return np.concatenate([caption(shown.shape[1], text, INK, ""), shown], axis=0)


def title_tile(lines: Sequence[str], size: int = 160) -> RgbImage:
    """Lines of text in the frame of a `tile`, each cut to fit; for the head of a row of them."""
    captions = [caption(size, line, INK, "") for line in lines]
    square = np.full((size + CAPTION_HEIGHT, size, 3), GROUND, np.uint8)
    drawn = np.concatenate(captions, axis=0)[: square.shape[0]] if captions else square[:0]
    square[: drawn.shape[0]] = drawn
    return square


def contact_sheet(panels: Sequence[RgbImage], columns: int) -> RgbImage:
    """Panels in rows of `columns`, padded to the largest one.

    Raises:
        ValueError: no panel, or fewer than one column.
    """
    if not panels or columns < 1:
        raise ValueError(f"a contact sheet needs panels and columns, not {len(panels)} and {columns}")
    columns = min(columns, len(panels))
    height = max(picture.shape[0] for picture in panels) + 2 * GAP
    width = max(picture.shape[1] for picture in panels) + 2 * GAP
    sheet = np.full((height * math.ceil(len(panels) / columns), width * columns, 3), GROUND, np.uint8)
    for number, picture in enumerate(panels):
        top, left = GAP + number // columns * height, GAP + number % columns * width
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def caption(width: int, head: str, colour: tuple[int, int, int], title: str) -> RgbImage:
    """A line of text `width` pixels wide and `CAPTION_HEIGHT` high: `head` in a colour, then the title, cut to fit."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (width, CAPTION_HEIGHT), (GROUND, GROUND, GROUND))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=12)
    head = _shortened(draw, font, head, width - 4)
    draw.text((2, 1), head, fill=colour, font=font)
    used = int(draw.textlength(head, font=font)) + 10
    draw.text((used, 1), _shortened(draw, font, title, width - used - 2), fill=INK, font=font)
    return np.asarray(image)


def _shortened(draw: ImageDraw, font: FreeTypeFont | ImageFont, text: str, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels; its first line only."""
    text = (text.splitlines() or [""])[0]
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(f"{text}…", font=font) > width:
        text = text[:-1]
    return f"{text}…" if text else ""


def _outlined(rgb: RgbImage, small: RgbImage, mask: NDArray[Any] | None) -> RgbImage:
    """A small picture of an image with the outline of its mask; a defect thinner than one of its pixels stays visible.

    Raises:
        ValueError: image and mask differ in size.
    """
    from PIL import Image

    if mask is None:
        return small
    check_same_size(rgb, mask, "mask")
    image = Image.fromarray(mask.astype(bool).astype(np.uint8) * 255)
    target = small.shape[1], small.shape[0]
    return outline(small, np.asarray(image.resize(target, Image.Resampling.BOX)) > 0)
