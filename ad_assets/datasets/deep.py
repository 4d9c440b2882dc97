"""Pixels of more than 8 bits, as cameras of 10, 12 or 14 bits store them in containers of 16.

A container does not say how many of its bits are used: 12-bit data scaled by 65535 keep 16 grey levels of 256. So
values are scaled by a depth that holds for a whole category, declared or found: the deepest that a TIFF's tags tell,
else the smallest of `DEPTHS` that holds the largest value.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad_assets.datasets.images import RefusedPixels
from ad_assets.datasets.orientation import known_orientation, turned

DEPTHS = (8, 10, 12, 14, 16)
_GREY = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})
_BITS, _PHOTOMETRIC, _MAX_VALUE, _ORIENTATION = 258, 262, 281, 274  # tags of TIFF
_WHITE_IS_ZERO = 0
_TOP = 65535
# These decoders spread what they read over 16 bits, whatever the depth of the file.
_SPREAD = frozenset({"PPM", "JPEG2000"})


@dataclass(frozen=True, eq=False)
class DeepPixels:
    """What a file of more than 8 bits holds.

    Args:
        values: ``(H, W)`` or ``(H, W, 3)`` uint16 as stored.
        largest: the largest value.
        told_depth: bits that the file's tags tell; 0 where they tell nothing.
        white_is_zero: whether 0 is white and the largest value black.
    """

    values: NDArray[np.uint16]
    largest: int
    told_depth: int
    white_is_zero: bool

    @property
    def depth(self) -> int:
        """Bits that the values of this file alone ask for."""
        return found_depth(self.largest, self.told_depth)

    def scaled(self, depth: int) -> NDArray[np.uint8]:
        """RGB ``(H, W, 3)``: 0..2**depth - 1 scaled to 0..255 with rounding; values beyond are as the last."""
        grey = _to_8_bit(depth, self.white_is_zero)[self.values]
        return grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2)


def is_deep(image: Image.Image) -> bool:
    """Whether an opened file, not yet decoded, has pixels of more than 8 bits that Pillow would not scale."""
    return image.mode in _GREY or _is_deep_colour(image)


def read_deep(image: Image.Image, data: bytes) -> DeepPixels:
    """The pixels of a file that `is_deep`.

    Args:
        image: as it was opened.
        data: its bytes.

    Raises:
        RefusedPixels: values outside 0..65535, or colours in a compression or arrangement that nothing here decodes.
    """
    told, white = _told(image)
    if _is_deep_colour(image):
        values = _colours(image, data)
    else:
        values = np.asarray(image)
        low, high = int(values.min(initial=0)), int(values.max(initial=0))
        if low < 0 or high > _TOP:
            raise RefusedPixels(f"32-bit pixels from {low} to {high}, expected 0..65535: save them as 8 or 16 bit")
        values = values.astype(np.uint16)
    return DeepPixels(values, int(values.max(initial=0)), told, white)


def found_depth(largest: int, told_depth: int) -> int:
    """The depth of a file: as its tags tell, else the smallest of `DEPTHS` that holds its largest value."""
    if told_depth and not largest >> told_depth:
        return told_depth
    return next(depth for depth in DEPTHS if not largest >> depth)


def _is_deep_colour(image: Image.Image) -> bool:
    # Pillow keeps the upper byte of each colour.
    if image.mode in _GREY or image.mode == "F":
        return False
    if image.format == "TIFF":
        return max(_numbers(image.tag_v2.get(_BITS)), default=0) > 8  # type: ignore[attr-defined]
    return image.format == "PNG" and any(";16" in str(tile[3]) for tile in image.tile)  # type: ignore[attr-defined]


def _told(image: Image.Image) -> tuple[int, bool]:
    """The depth that a file's header tells, 0 where it tells none, and whether 0 is white."""
    if image.format in _SPREAD:
        return DEPTHS[-1], False
    tags: Any = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return 0, False
    bits = max(_numbers(tags.get(_BITS)), default=0)
    largest = max(_numbers(tags.get(_MAX_VALUE)), default=0)
    told = bits if 8 < bits < DEPTHS[-1] else largest.bit_length() if 0 < largest <= _TOP else 0
    return max(told, DEPTHS[0]) if told else 0, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _numbers(tag: Any) -> list[int]:
    return [value for value in (tag if isinstance(tag, tuple) else (tag,)) if isinstance(value, int)]


def _colours(image: Image.Image, data: bytes) -> NDArray[np.uint16]:
    """``(H, W, 3)`` uint16; grey with alpha is repeated, alpha dropped."""
    values = _png(data) if image.format == "PNG" else _tiff(image, data)
    if values.dtype != np.uint16 or values.shape[:2] != (image.height, image.width) or values.shape[2] > 4:
        raise RefusedPixels(f"pixels {values.shape} of {values.dtype}: save it as 8 bit RGB or 16 bit grey")
    return np.repeat(values[..., :1], 3, axis=2) if values.shape[2] < 3 else np.ascontiguousarray(values[..., :3])


def _png(data: bytes) -> NDArray[Any]:
    import torch
    from torchvision.io import ImageReadMode, decode_png

    decoded = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    values: NDArray[Any] = decoded.permute(1, 2, 0).numpy()
    return values


def _tiff(image: Image.Image, data: bytes) -> NDArray[Any]:
    from tifffile import TiffFile

    if image.mode == "CMYK":
        raise RefusedPixels("16-bit CMYK: save it as RGB")
    with TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        values: NDArray[Any] = page.asarray()
        how = known_orientation(image.tag_v2.get(_ORIENTATION))  # type: ignore[attr-defined]
    # Pillow turns what it decodes of a TIFF; here it decodes nothing.
    return turned(np.moveaxis(values, 0, 2) if page.axes == "SYX" else values, how)


@lru_cache(maxsize=16)
def _to_8_bit(depth: int, white_is_zero: bool) -> NDArray[np.uint8]:
    top = (1 << depth) - 1
    levels = np.arange(_TOP + 1)
    levels = top - levels if white_is_zero else levels
    scaled = (np.clip(levels, 0, top) * 255 + top // 2) // top
    return scaled.astype(np.uint8)
