"""The demo's board: a drawn circuit board with parts at fixed places, for structural and logical defects.

A logical defect (part missing, swapped, misplaced) is made of sound surfaces only: what is wrong is which
part lies where, as in MVTec LOCO AD. Its mask covers every place concerned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ad_assets.datasets.readers.demo.defects import SIZE, Array, blob, dented, scratched, stroke

DEFECTS = ("scratch", "dent", "part_missing", "part_swapped", "part_misplaced")

_SCALE = 3  # drawn three times as large, then averaged
_PLATE = (14, 14, 242, 242)
Colour = tuple[int, int, int]
Shape = Callable[[ImageDraw.ImageDraw, np.random.Generator], None]


class Part(NamedTuple):
    """A part and its place: kind, centre (x, y) in pixels of the finished image, angle in degrees."""

    kind: str
    x: float
    y: float
    angle: float = 0.0


PARTS = (
    Part("screw", 31, 31),
    Part("screw", 225, 31),
    Part("screw", 31, 225),
    Part("screw", 225, 225),
    Part("chip", 128, 116),
    Part("red_led", 92, 50),
    Part("green_led", 164, 50),
    Part("blue_capacitor", 54, 88),
    Part("orange_capacitor", 54, 128),
    Part("fuse", 54, 178, 90),
    Part("resistor", 96, 196, 90),
    Part("resistor", 122, 196, 90),
    Part("resistor", 148, 196, 90),
    Part("blue_resistor", 174, 196, 90),
    Part("connector", 210, 122),
)
# Pairs of places in `PARTS`: LEDs, capacitors, the odd resistor with another one, the fuse with a resistor.
SWAPS = ((5, 6), (7, 8), (13, 12), (13, 11), (9, 10))
LOOSE = tuple(number for number, part in enumerate(PARTS) if part.kind != "chip")


def draw(rng: np.random.Generator, defect: str) -> tuple[Array, Array]:
    """One image of the board.

    Args:
        rng: random generator of this image.
        defect: one of `DEFECTS`, or ``good``.

    Returns:
        Image ``(SIZE, SIZE, 3)`` float, mask ``(SIZE, SIZE)`` bool.
    """
    parts, concerned = _arranged(rng, defect)
    board = _bare_board(rng)
    for part in parts:
        _place(board, _tile(part.kind, rng), part, rng)
    footprint = Image.new("L", board.size)
    for part in concerned:
        tile = _tile(part.kind, rng).rotate(part.angle, Image.Resampling.BILINEAR, expand=True)
        footprint.paste(255, _corner(tile, part), tile.getchannel("A"))
    image, mask = _photographed(rng, board, footprint)
    if defect == "scratch":
        alpha = stroke(rng, rng.uniform(14, 80), rng.uniform(1.0, 2.2), margin=50)
        image, mask = scratched(rng, image, alpha, rng.choice([-1, 1]) * rng.uniform(25, 80))
    elif defect == "dent":
        alpha = blob(rng, tuple(rng.uniform(50, SIZE - 50, 2)), rng.uniform(6, 15), edge=3)
        image, mask = dented(rng, image, alpha, rng.uniform(0.12, 0.45))
    return image + rng.normal(0, 2.0, image.shape), mask


def _arranged(rng: np.random.Generator, defect: str) -> tuple[list[Part], list[Part]]:
    # Parts as they lie on this board, and the places that a mask has to cover.
    jitter = rng.normal(0, 0.7, (len(PARTS), 2))
    parts = [
        part._replace(x=part.x + dx, y=part.y + dy, angle=part.angle + rng.normal(0, 1.5))
        for part, (dx, dy) in zip(PARTS, jitter, strict=True)
    ]
    if defect == "part_missing":
        gone = parts.pop(rng.choice(LOOSE))
        return parts, [gone]
    if defect == "part_swapped":
        one, other = SWAPS[rng.integers(len(SWAPS))]
        first, second = parts[one], parts[other]
        parts[one] = first._replace(kind=second.kind)
        parts[other] = second._replace(kind=first.kind)
        return parts, [first, second, parts[one], parts[other]]
    if defect == "part_misplaced":
        number = rng.choice(LOOSE)
        right = parts[number]
        towards = np.arctan2(SIZE / 2 - right.y, SIZE / 2 - right.x) + rng.uniform(-1.2, 1.2)
        distance = rng.uniform(4, 14)
        parts[number] = right._replace(
            x=right.x + distance * np.cos(towards),
            y=right.y + distance * np.sin(towards),
            angle=right.angle + rng.uniform(-25, 25),
        )
        parts.append(parts.pop(number))  # on top of what it now covers
        return parts, [right, parts[-1]]
    return parts, []


def _bare_board(rng: np.random.Generator) -> Image.Image:
    board = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), (52, 54, 58))
    pen = ImageDraw.Draw(board)
    plate = [v * _SCALE for v in _PLATE]
    pen.rounded_rectangle(plate, 8 * _SCALE, fill=(26, 92, 62), outline=(18, 66, 44), width=4)
    trace: Colour = (44, 116, 80)
    for y in (92, 100, 108, 116, 124, 132, 140):
        pen.line([v * _SCALE for v in (54, y, 210, y)], fill=trace, width=3)
    for part in PARTS[5:14]:
        bend = (part.x, part.y, part.x, 150 if part.y > 150 else 84, 128, 116)
        pen.line([v * _SCALE for v in bend], fill=trace, width=3)
    for part in PARTS:
        _draw_seat(pen, part)
    grain = rng.normal(0, 4, (SIZE, SIZE, 1)).repeat(3, axis=2) + 128
    fine = Image.fromarray(grain.clip(0, 255).astype(np.uint8)).resize(board.size, Image.Resampling.BILINEAR)
    lit = np.asarray(board, dtype=np.int16) + (np.asarray(fine, dtype=np.int16) - 128)
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8))


def _draw_seat(pen: ImageDraw.ImageDraw, part: Part) -> None:
    # What a missing part uncovers: a hole for a screw, two pads for all else.
    x, y = part.x * _SCALE, part.y * _SCALE
    if part.kind == "screw":
        pen.ellipse((x - 21, y - 21, x + 21, y + 21), fill=(188, 170, 110))
        pen.ellipse((x - 15, y - 15, x + 15, y + 15), fill=(26, 28, 30))
        return
    upright = part.kind in ("fuse", "resistor", "blue_resistor")
    for side in (-1, 1):
        u, v = (x, y + 27 * side) if upright else (x + 15 * side, y)
        pen.ellipse((u - 7, v - 7, u + 7, v + 7), fill=(188, 170, 110))
        pen.ellipse((u - 3, v - 3, u + 3, v + 3), fill=(30, 34, 30))


def _tile(kind: str, rng: np.random.Generator) -> Image.Image:
    # One part, unturned, on a transparent ground.
    (w, h), drawn = _SHAPES[kind]
    tile = Image.new("RGBA", (w * _SCALE, h * _SCALE))
    drawn(ImageDraw.Draw(tile), rng)
    return tile


def _box(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
    return x0 * _SCALE, y0 * _SCALE, x1 * _SCALE - 1, y1 * _SCALE - 1


def _screw(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    pen.ellipse(_box(0, 0, 20, 20), fill=(150, 152, 156), outline=(96, 98, 102), width=3)
    pen.ellipse(_box(3, 3, 17, 17), fill=(186, 188, 192))
    turn = rng.uniform(0, np.pi)  # a tight screw may point anywhere
    for angle in (turn, turn + np.pi / 2):
        dx, dy = 6 * np.cos(angle), 6 * np.sin(angle)
        pen.line(_box(10 - dx, 10 - dy, 10 + dx, 10 + dy), fill=(70, 72, 76), width=6)


def _chip(pen: ImageDraw.ImageDraw, _: np.random.Generator) -> None:
    for pin in range(8):
        for x in (0, 64):
            pen.rectangle(_box(x, 3.5 + 6.6 * pin, x + 8, 6.5 + 6.6 * pin), fill=(196, 198, 202))
    pen.rectangle(_box(6, 0, 66, 58), fill=(38, 38, 42), outline=(58, 58, 62), width=3)
    pen.ellipse(_box(10, 4, 16, 10), fill=(70, 70, 74))
    for row, end in ((22, 54), (30, 46), (38, 50)):
        pen.rectangle(_box(18, row, end, row + 3), fill=(104, 104, 108))


def _led(shell: Colour, light: Colour) -> Shape:
    def drawn(pen: ImageDraw.ImageDraw, _: np.random.Generator) -> None:
        pen.ellipse(_box(0, 0, 16, 16), fill=shell)
        pen.ellipse(_box(3, 3, 13, 13), fill=light)
        pen.ellipse(_box(5, 4, 9, 8), fill=(250, 240, 230))

    return drawn


def _capacitor(shell: Colour) -> Shape:
    def drawn(pen: ImageDraw.ImageDraw, _: np.random.Generator) -> None:
        pen.ellipse(_box(0, 0, 28, 28), fill=shell)
        pen.ellipse(_box(3, 3, 25, 25), fill=(176, 178, 184))
        pen.chord(_box(3, 3, 25, 25), 120, 240, fill=shell)
        pen.line(_box(14, 7, 14, 21), fill=(140, 142, 148), width=2)
        pen.line(_box(7, 14, 21, 14), fill=(140, 142, 148), width=2)

    return drawn


def _fuse(pen: ImageDraw.ImageDraw, _: np.random.Generator) -> None:
    pen.rounded_rectangle(_box(0, 1, 40, 13), 6, fill=(198, 214, 220))
    pen.line(_box(8, 7, 32, 7), fill=(110, 110, 112), width=3)
    for x in (0, 30):
        pen.rectangle(_box(x, 0, x + 10, 14), fill=(172, 164, 140), outline=(120, 112, 92), width=2)


def _resistor(body: Colour, bands: tuple[Colour, ...]) -> Shape:
    def drawn(pen: ImageDraw.ImageDraw, _: np.random.Generator) -> None:
        pen.line(_box(0, 6, 34, 6), fill=(190, 190, 194), width=5)
        pen.rounded_rectangle(_box(5, 0, 29, 12), 10, fill=body)
        for x, colour in zip((9, 13, 17, 24), bands, strict=True):
            pen.rectangle(_box(x, 0, x + 2, 12), fill=colour)

    return drawn


def _connector(pen: ImageDraw.ImageDraw, _: np.random.Generator) -> None:
    pen.rounded_rectangle(_box(0, 0, 22, 84), 6, fill=(226, 224, 214), outline=(168, 166, 158), width=3)
    for slot in range(6):
        pen.rectangle(_box(6, 7 + 12.5 * slot, 16, 14.5 + 12.5 * slot), fill=(40, 40, 42))
        pen.rectangle(_box(9, 9 + 12.5 * slot, 13, 12.5 + 12.5 * slot), fill=(206, 176, 96))


_BROWN, _BLACK, _RED, _GOLD = (120, 60, 20), (24, 24, 24), (190, 40, 30), (200, 160, 50)

# Kind -> width and height in pixels of the finished image, and how it is drawn.
_SHAPES: dict[str, tuple[tuple[int, int], Shape]] = {
    "screw": ((20, 20), _screw),
    "chip": ((72, 58), _chip),
    "red_led": ((16, 16), _led((150, 24, 24), (236, 96, 84))),
    "green_led": ((16, 16), _led((24, 130, 40), (120, 226, 120))),
    "blue_capacitor": ((28, 28), _capacitor((36, 60, 140))),
    "orange_capacitor": ((28, 28), _capacitor((206, 116, 30))),
    "fuse": ((40, 14), _fuse),
    "resistor": ((34, 12), _resistor((214, 188, 142), (_BROWN, _BLACK, _RED, _GOLD))),
    "blue_resistor": ((34, 12), _resistor((120, 168, 204), (_RED, _RED, _BLACK, _BROWN))),
    "connector": ((22, 84), _connector),
}


def _corner(tile: Image.Image, part: Part) -> tuple[int, int]:
    return round(part.x * _SCALE - tile.width / 2), round(part.y * _SCALE - tile.height / 2)


def _place(board: Image.Image, tile: Image.Image, part: Part, rng: np.random.Generator) -> None:
    tile = tile.rotate(part.angle, Image.Resampling.BILINEAR, expand=True)
    left, top = _corner(tile, part)
    soft, shift = 4, 6
    shadow = Image.new("L", (tile.width + 4 * soft, tile.height + 4 * soft))
    shadow.paste(tile.getchannel("A").point(lambda alpha: alpha * 0.45), (2 * soft, 2 * soft))
    shadow = shadow.filter(ImageFilter.GaussianBlur(soft))
    board.paste((10, 20, 16), (left - 2 * soft + shift, top - 2 * soft + shift), shadow)
    tone = rng.uniform(0.94, 1.06)  # no two parts of a batch are quite the same colour
    shaded = tile.convert("RGB").point(lambda value: value * tone)
    board.paste(shaded, (left, top), tile.getchannel("A"))


def _photographed(rng: np.random.Generator, board: Image.Image, footprint: Image.Image) -> tuple[Array, Array]:
    # The fixture holds the board a little turned and shifted, under light that comes a little from one side.
    angle = rng.normal(0, 1.0)
    shift = tuple(rng.normal(0, 1.2 * _SCALE, 2).round().astype(int).tolist())
    turned = board.rotate(angle, Image.Resampling.BILINEAR, translate=shift, fillcolor=(52, 54, 58))
    image = np.asarray(turned.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float64)
    marked = footprint.rotate(angle, Image.Resampling.BILINEAR, translate=shift)
    mask = np.asarray(marked.resize((SIZE, SIZE), Image.Resampling.BOX)) > 127
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    gain, tilt_x, tilt_y = rng.uniform(0.92, 1.08), *rng.uniform(-0.08, 0.08, 2)
    return image * (gain + tilt_x * x + tilt_y * y)[..., None], mask
