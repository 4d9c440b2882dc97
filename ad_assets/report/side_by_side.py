"""A place of an image beside the patch of a training image that it is compared with, whole and enlarged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ad_assets.report.panels import captioned, contact_sheet
from ad_assets.report.pictures import GROUND, OUTLINE
from ad_assets_runtime.images import RgbImage

SIDE = 320
AROUND = 6  # sides of the patch that an enlarged part shows
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Marked:
    """A picture ``(H, W, 3)`` uint8 with a marked box, and its caption."""

    rgb: RgbImage
    box: Box
    title: str


def side_by_side(pictures: list[Marked]) -> RgbImage:
    """Each picture whole, and below it what lies around its box, enlarged."""
    tiles = [*(_whole(each) for each in pictures), *(_enlarged(each) for each in pictures)]
    return contact_sheet(tiles, len(pictures))


def _whole(picture: Marked) -> RgbImage:
    height, width = picture.rgb.shape[:2]
    return _drawn(picture.rgb, (0, 0, width, height), picture.box, picture.title)


def _enlarged(picture: Marked) -> RgbImage:
    height, width = picture.rgb.shape[:2]
    left, top, right, bottom = picture.box
    side = min(AROUND * max(right - left, bottom - top), height, width)
    first_x, first_y = (
        int(min(max((low + high - side) / 2, 0), length - side))
        for low, high, length in ((left, right, width), (top, bottom, height))
    )
    part = (first_x, first_y, int(first_x + side), int(first_y + side))
    return _drawn(picture.rgb, part, picture.box, f"{AROUND} patches wide")


def _drawn(rgb: RgbImage, part: tuple[int, int, int, int], box: Box, title: str) -> RgbImage:
    """A part of a picture in a square of `SIDE`, with the box, under a caption."""
    from PIL import Image, ImageDraw

    width, height = part[2] - part[0], part[3] - part[1]
    scale = SIDE / max(width, height, 1)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    square = Image.new("RGB", (SIDE, SIDE), (GROUND, GROUND, GROUND))
    corner = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    square.paste(Image.fromarray(rgb).crop(part).resize(size, Image.Resampling.BICUBIC), corner)
    moved = [(value - part[axis % 2]) * scale + corner[axis % 2] for axis, value in enumerate(box)]
    # A box of a few pixels would hide what it marks.
    grown = [max(moved[0] - 2, 0), max(moved[1] - 2, 0), min(moved[2] + 2, SIDE - 1), min(moved[3] + 2, SIDE - 1)]
    ImageDraw.Draw(square).rectangle(grown, outline=OUTLINE, width=2)
    return captioned(np.asarray(square), title)
