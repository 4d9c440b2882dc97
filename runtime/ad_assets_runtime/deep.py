"""Pixels of more than 8 bits, as cameras of 10, 12 or 14 bits store them in 16.

The file does not say how many of the 16 bits are used: 12-bit data divided by 65535 would keep 16 of 256 grey levels.
So values are scaled by one bit depth for a whole category: declared, or the largest that TIFF tags give, else the
smallest of `DEPTHS` that holds the largest value.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad_assets_runtime.images import RefusedPixels

DEPTHS = (8, 10, 12, 14, 16)
_GREY = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})
_BITS, _PHOTOMETRIC, _MAX_VALUE = 258, 262, 281  # tags of TIFF
_WHITE_IS_ZERO = 0
_TOP = 65535
# These decoders scale values to the full 16 bits, whatever the depth of the file.
_SPREAD = frozenset({"PPM", "JPEG2000"})


@dataclass(frozen=True, eq=False)
class DeepPixels:
    """Pixels of a file with more than 8 bits.

    Args:
        values: ``(H, W)`` or ``(H, W, 3)`` uint16 as stored.
        largest: the largest value.
        told_depth: bits declared by the file's tags; 0 where they declare none.
        white_is_zero: whether 0 is white and the largest value black.
    """

    values: NDArray[np.uint16]
    largest: int
    told_depth: int
    white_is_zero: bool

    @property
    def depth(self) -> int:
        """Bit depth by this file alone."""
        return found_depth(self.largest, self.told_depth)

    def scaled(self, depth: int) -> NDArray[np.uint8]:
        """RGB ``(H, W, 3)`` uint8: 0..2**depth - 1 scaled to 0..255 with rounding; larger values are clipped."""
        grey = _to_8_bit(depth, self.white_is_zero)[self.values]
        return grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2)


def is_deep(image: Image.Image) -> bool:
    """Whether an opened file, not yet decoded, has pixels of more than 8 bits that Pillow would not scale."""
    return image.mode in _GREY or _is_deep_colour(image)


def read_deep(image: Image.Image, data: bytes) -> DeepPixels:
    """The pixels of a file for which `is_deep` holds.

    Args:
        image: the opened file.
        data: its bytes.

    Raises:
        RefusedPixels: values outside 0..65535, or colours in an arrangement that cannot be decoded.
    """
    tag_depth, white_is_zero = _depth_and_polarity(image)
    if _is_deep_colour(image):
        values = _colours(image, data)
    else:
        values = np.asarray(image)
        low, high = int(values.min(initial=0)), int(values.max(initial=0))
        if low < 0 or high > _TOP:
            raise RefusedPixels(f"32-bit pixels from {low} to {high}, expected 0..65535: save them as 8 or 16 bit")
        values = values.astype(np.uint16)
    return DeepPixels(values, int(values.max(initial=0)), tag_depth, white_is_zero)


def found_depth(largest: int, told_depth: int) -> int:
    """Bit depth of a file: declared by its tags, else the smallest of `DEPTHS` that holds its largest value."""
    if told_depth and not largest >> told_depth:
        return told_depth
    return next(depth for depth in DEPTHS if not largest >> depth)


def _is_deep_colour(image: Image.Image) -> bool:
    # Pillow keeps the upper byte of each colour.
    if image.mode in _GREY or image.mode == "F":
        return False
    if image.format == "TIFF":
        return max(_numbers(image.tag_v2.get(_BITS)), default=0) > 8  # type: ignore[attr-defined]
    return image.format == "PNG" and ";16" in _raw_mode(image)


def _raw_mode(image: Image.Image) -> str:
    """The raw mode of Pillow's decoder for a file, such as ``RGB;16B``."""
    args: Any = image.tile[0].args if image.tile else ""  # type: ignore[attr-defined]
    return str(args[0] if isinstance(args, tuple) else args)


def _depth_and_polarity(image: Image.Image) -> tuple[int, bool]:
    """The bit depth that a file's header declares, 0 for none, and whether 0 is white."""
    if image.format in _SPREAD:
        return DEPTHS[-1], False
    tags: Any = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return 0, False
    bits = max(_numbers(tags.get(_BITS)), default=0)
    largest = max(_numbers(tags.get(_MAX_VALUE)), default=0)
    depth = bits if 8 < bits < DEPTHS[-1] else largest.bit_length() if 0 < largest <= _TOP else 0
    return max(depth, DEPTHS[0]) if depth else 0, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _numbers(tag: Any) -> list[int]:
    return [value for value in (tag if isinstance(tag, tuple) else (tag,)) if isinstance(value, int)]


def _colours(image: Image.Image, data: bytes) -> NDArray[np.uint16]:
    """``(H, W, 3)`` uint16; grey with alpha is repeated, alpha dropped.

    Pillow decodes such files to their upper bytes, and with the opposite byte order to their lower ones.
    """
    raw = _raw_mode(image)
    swapped = _SWAPPED.get(raw)
    if swapped is None:
        raise RefusedPixels(f"pixels of 16 bits arranged as {raw or 'nothing known'}: save it as RGB of 8 or 16 bits")
    high = np.array(image)
    with Image.open(io.BytesIO(data), formats=[str(image.format)]) as again:
        again._mode = swapped.mode or again.mode
        again.tile = [tile._replace(args=_with_raw_mode(tile.args, swapped.raw)) for tile in again.tile]
        low = np.array(again)
    if swapped.mode:  # upper and lower byte of grey, upper and lower byte of alpha
        grey = low[..., 0].astype(np.uint16) << 8 | low[..., 1]
        return np.repeat(grey[..., None], 3, axis=2)
    return high[..., :3].astype(np.uint16) << 8 | low[..., :3]


class _Swapped(NamedTuple):
    raw: str
    mode: str = ""  # image mode to decode with, where it differs


def _other(order: str) -> str:
    return {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}[order]


_SWAPPED = {
    **{f"{m};16{order}": _Swapped(f"{m};16{_other(order)}") for m in ("RGB", "RGBA", "RGBX") for order in "LBN"},
    "LA;16B": _Swapped("RGBA", "RGBA"),
}


def _with_raw_mode(args: Any, raw: str) -> Any:
    return (raw, *args[1:]) if isinstance(args, tuple) else raw


@lru_cache(maxsize=16)
def _to_8_bit(depth: int, white_is_zero: bool) -> NDArray[np.uint8]:
    top = (1 << depth) - 1
    levels = np.arange(_TOP + 1)
    levels = top - levels if white_is_zero else levels
    scaled = (np.clip(levels, 0, top) * 255 + top // 2) // top
    return scaled.astype(np.uint8)
