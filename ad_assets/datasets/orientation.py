"""EXIF orientation: how a viewer turns the stored pixels of a file."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

Pixels = TypeVar("Pixels", bound=NDArray[Any])
UPRIGHT = 1
# The orientation's number -> quarter turns anticlockwise, after mirroring from left to right.
_TURNS = {
    UPRIGHT: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (1, True),
    6: (3, False),
    7: (3, True),
    8: (1, False),
}


def orientation(image: Image.Image) -> int:
    """The orientation that an opened file still has to be turned by: 1 is not at all.

    Of TIFF it is 1, as Pillow turns those while it decodes.
    """
    tag: Any = UPRIGHT if image.format == "TIFF" else image.getexif().get(ExifTags.Base.Orientation)
    return tag if isinstance(tag, int) and tag in _TURNS else UPRIGHT


def turned(pixels: Pixels, how: int) -> Pixels:
    """Pixels ``(H, W, ...)`` as a viewer shows them.

    Args:
        pixels: as stored.
        how: the orientation.
    """
    quarters, mirrored = _TURNS[how]
    if how == UPRIGHT:
        return pixels
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if mirrored else pixels, quarters))  # type: ignore[return-value]
