"""Heat maps, mask outlines and contact sheets as plain RGB arrays ``(H, W, 3)`` uint8.

One colour scale serves a whole category, so that pictures can be compared. Clipping to it touches the picture
only, never a score. The colour map is matplotlib's inferno: even steps look even, also in grey and to
colour-blind eyes.
"""

from __future__ import annotations

import base64
import io
import math
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ad_assets_runtime.images import RgbImage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

GAP = 3
CAPTION_HEIGHT = 18
GROUND = 28  # dark grey behind and between tiles, so that heat maps keep their contrast
INK = (214, 214, 214)
LABEL_NAMES = ("nominal", "anomalous")
LABEL_COLOURS = ((126, 200, 150), (255, 150, 122))
HATCH = 12  # pixels from one line to the next where nothing was looked at
BORDER = (255, 255, 255)  # of what is inspected
BORDER_PART = 200  # its line is this part of the longer side, so that it shows in small pictures
OUTSIDE_BRIGHTNESS = 0.4
OUTLINE = (64, 224, 255)  # far from inferno's colours and from most steel, wood and textile


def nominal_scale(maxima: Sequence[float]) -> tuple[float, float] | None:
    """A colour scale from the highest map scores of nominal images: cold below all of them, hot above; None without."""
    if not maxima:
        return None
    return float(min(maxima)), float(max(max(maxima), np.nextafter(min(maxima), np.inf)))


def heat_map(score_map: NDArray[Any], low: float, high: float) -> RgbImage:
    """A score map in colour.

    Args:
        score_map: ``(H, W)`` raw scores.
        low: score shown as black; lower ones look the same.
        high: score shown as the brightest yellow; higher ones look the same.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: not two-dimensional, a score that is not finite, or `low` above `high`.
    """
    if score_map.ndim != 2:
        raise ValueError(f"a score map has the shape (H, W), not {score_map.shape}")
    if not np.isfinite(score_map).all():
        raise ValueError("the score map holds values that are not finite: the detector is at fault, not its picture")
    if not low <= high:
        raise ValueError(f"the colour scale runs from {low} to {high}: low must not exceed high")
    share = (score_map.astype(np.float64) - low) / (high - low or 1.0)
    return _colours()[np.rint(np.clip(share, 0, 1) * 255).astype(np.intp)]


def overlay(
    rgb: RgbImage,
    score_map: NDArray[Any],
    low: float,
    high: float,
    alpha: float = 0.65,
    *,
    seen: NDArray[np.bool_] | None = None,
) -> RgbImage:
    """The heat map laid over its image with opacity `alpha` (0 image only .. 1 heat map only).

    Args:
        rgb: ``(H, W, 3)`` uint8.
        score_map: ``(H, W)`` raw scores.
        low: as for `heat_map`.
        high: as for `heat_map`.
        alpha: opacity.
        seen: ``(H, W)``, where the detector looked; the rest is shown in hatched grey, and its scores are not read.
            None: everywhere.

    Raises:
        ValueError: as `heat_map`, or image and map differ in size.
    """
    _same_size(rgb, score_map, "score map")
    if seen is not None:
        _same_size(rgb, seen, "mask of what is seen")
        score_map = np.where(seen, score_map, low)
    heat = heat_map(score_map, low, high)
    mixed: RgbImage = np.rint(rgb * (1 - alpha) + heat * alpha).astype(np.uint8)
    if seen is not None and not seen.all():
        mixed[~seen] = _hatched(rgb)[~seen]
    return mixed


def outline(rgb: RgbImage, mask: NDArray[Any]) -> RgbImage:
    """The image with a line just outside the mask, so that the defect itself stays in view.

    Args:
        rgb: ``(H, W, 3)`` uint8.
        mask: ``(H, W)``, nonzero = anomalous. Where it meets the frame, the line runs inside.

    Raises:
        ValueError: image and mask differ in size.
    """
    _same_size(rgb, mask, "mask")
    inside = mask.astype(bool)
    drawn = rgb.copy()
    drawn[_grown(inside) & ~inside] = OUTLINE
    frame = np.ones_like(inside)
    frame[1:-1, 1:-1] = False
    drawn[inside & frame] = OUTLINE
    return drawn


def inspected(rgb: RgbImage, region: NDArray[Any]) -> RgbImage:
    """The image with what lies outside a region of interest darkened, and a line along its border.

    Args:
        rgb: ``(H, W, 3)`` uint8.
        region: ``(H, W)``, nonzero = inspected.

    Raises:
        ValueError: image and region differ in size.
    """
    _same_size(rgb, region, "region of interest")
    inside = region.astype(bool)
    drawn = rgb.copy()
    drawn[~inside] = np.rint(drawn[~inside] * OUTSIDE_BRIGHTNESS).astype(np.uint8)
    line = inside
    for _ in range(max(1, round(max(inside.shape) / BORDER_PART))):
        line = _grown(line)
    drawn[line & ~inside] = BORDER
    return drawn


def strip(
    rgb: RgbImage,
    mask: NDArray[Any] | None,
    score_map: NDArray[Any],
    low: float,
    high: float,
    *,
    size: int = 160,
    seen: NDArray[np.bool_] | None = None,
) -> RgbImage:
    """Image | image with mask outline | heat map over the image, side by side.

    Args:
        rgb: ``(H, W, 3)`` uint8.
        mask: ``(H, W)`` or None for images without one.
        score_map: ``(H, W)`` raw scores.
        low: start of the category's colour scale.
        high: its end.
        size: longer side of each tile in pixels.
        seen: as for `overlay`.

    Raises:
        ValueError: as `overlay` and `outline`.
    """
    shown = heat(rgb, score_map, low, high, size, seen=seen)
    gap = np.full((shown.shape[0], GAP, 3), GROUND, np.uint8)
    return np.concatenate([photo(rgb, mask, size), gap, shown], axis=1)


def photo(rgb: RgbImage, mask: NDArray[Any] | None, size: int = 160) -> RgbImage:
    """Image | image with mask outline, side by side: of a `strip` what is the same for all detectors.

    Raises:
        ValueError: image and mask differ in size.
    """
    small = resized(rgb, size)
    masked = small if mask is None else outline(small, _resized_mask(mask, rgb, small))
    gap = np.full((small.shape[0], GAP, 3), GROUND, np.uint8)
    return np.concatenate([small, gap, masked], axis=1)


def heat(
    rgb: RgbImage,
    score_map: NDArray[Any],
    low: float,
    high: float,
    size: int = 160,
    *,
    seen: NDArray[np.bool_] | None = None,
) -> RgbImage:
    """The heat map over the image: the last of the three of a `strip`. Arguments as there.

    Raises:
        ValueError: as `overlay`.
    """
    return resized(overlay(rgb, score_map, low, high, seen=seen), size)


def panel(
    rgb: RgbImage,
    mask: NDArray[Any] | None,
    score_map: NDArray[Any],
    low: float,
    high: float,
    *,
    score: float,
    label: int,
    title: str = "",
    size: int = 160,
    seen: NDArray[np.bool_] | None = None,
) -> RgbImage:
    """A `strip` with a caption: label, image score and a title such as detector or defect type.

    Raises:
        ValueError: as `strip`, or `label` is neither 0 nor 1.
    """
    if label not in (0, 1):
        raise ValueError(f"a label is 0 (nominal) or 1 (anomalous), not {label}")
    tiles = strip(rgb, mask, score_map, low, high, size=size, seen=seen)
    head = caption(tiles.shape[1], f"{LABEL_NAMES[label]} {score:.4g}", LABEL_COLOURS[label], title)
    return np.concatenate([head, tiles], axis=0)


def tile(rgb: RgbImage, mask: NDArray[Any] | None, *, label: int, title: str, size: int = 160) -> RgbImage:
    """An image in a square of `size` pixels with the outline of its mask, under a caption: label and title.

    Raises:
        ValueError: image and mask differ in size.
    """
    small = resized(rgb, size)
    shown = small if mask is None else outline(small, _resized_mask(mask, rgb, small))
    square = np.full((size, size, 3), GROUND, np.uint8)
    top, left = (size - shown.shape[0]) // 2, (size - shown.shape[1]) // 2
    square[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    return np.concatenate([caption(size, LABEL_NAMES[label], LABEL_COLOURS[label], title), square], axis=0)


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


def to_jpeg(rgb: RgbImage, quality: int = 85, max_bytes: int | None = None) -> bytes:
    """The picture as JPEG; where it exceeds `max_bytes`, with less quality first, smaller then.

    Raises:
        ValueError: even a picture of 16 pixels exceeds `max_bytes`.
    """
    from PIL import Image

    image = Image.fromarray(rgb)
    qualities = [quality, *(step for step in (75, 65, 55) if step < quality)]
    while True:
        for step in qualities:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=step, optimize=True)
            if max_bytes is None or buffer.tell() <= max_bytes:
                return buffer.getvalue()
        if min(image.size) <= 16:
            raise ValueError(f"no JPEG of this picture fits into {max_bytes} bytes: allow more")
        width, height = (max(16, round(side * 0.85)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)


def to_png(rgb: RgbImage) -> bytes:
    """The picture as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """A JPEG as a ``data:`` address, for HTML and markdown that must not load anything."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def figure_png(figure: Figure) -> bytes:
    """A matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def png_uri(png: bytes) -> str:
    """A PNG as a ``data:`` address."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """Width and height of a JPEG in pixels.

    Raises:
        ValueError: the bytes are no JPEG.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            return image.size
    except UnidentifiedImageError as error:
        raise ValueError(f"{len(jpeg)} bytes that are no JPEG: make pictures with to_jpeg") from error


@cache
def _colours() -> RgbImage:
    """The colour map as a table ``(256, 3)``."""
    from matplotlib import colormaps

    table: RgbImage = np.asarray(colormaps["inferno"](np.arange(256), bytes=True))[:, :3]
    return table


def _hatched(rgb: RgbImage) -> RgbImage:
    """The image in dark grey under diagonal lines, which no heat map looks like."""
    grey = rgb.mean(axis=2) * 0.4 + GROUND
    rows, columns = (np.arange(side) for side in grey.shape)
    grey[(rows[:, None] + columns) % HATCH < max(1, HATCH // 6)] = 160
    return np.repeat(np.rint(np.clip(grey, 0, 255)).astype(np.uint8)[:, :, None], 3, axis=2)


def _same_size(rgb: RgbImage, other: NDArray[Any], what: str) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"an image has the shape (H, W, 3) and uint8, not {rgb.shape} and {rgb.dtype}")
    if other.shape != rgb.shape[:2]:
        raise ValueError(f"the {what} has the shape {other.shape}, its image {rgb.shape[:2]}: resize one of them")


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with its 8 neighbours."""
    padded = np.pad(mask, 1)
    rows, columns = mask.shape
    grown = np.zeros_like(mask)
    for down in range(3):
        for right in range(3):
            grown |= padded[down : down + rows, right : right + columns]
    return grown


def resized(rgb: RgbImage, size: int) -> RgbImage:
    """The picture with its longer side at `size` pixels."""
    from PIL import Image

    height, width = rgb.shape[:2]
    scale = size / max(height, width)
    target = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(rgb).resize(target, Image.Resampling.LANCZOS))


def _resized_mask(mask: NDArray[Any], rgb: RgbImage, small: RgbImage) -> NDArray[np.bool_]:
    """The mask at the size of the small picture; a defect thinner than one of its pixels stays visible."""
    from PIL import Image

    _same_size(rgb, mask, "mask")
    image = Image.fromarray(mask.astype(bool).astype(np.uint8) * 255)
    target = small.shape[1], small.shape[0]
    return np.asarray(image.resize(target, Image.Resampling.BOX)) > 0


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
