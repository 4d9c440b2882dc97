"""Brightness and contrast of an image, and a thumbnail that identifies near-duplicate images.

A thumbnail averages over so many pixels that noise vanishes: two differently saved files of one photograph agree to
half a grey level, photographs of two parts of the same kind do not.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
MOST_APART, MEAN_APART = 2, 0.5  # grey levels between copies: of any pixel of the thumbnail, and on average


@dataclass(frozen=True)
class Appearance:
    """Brightness and thumbnail of an image.

    Args:
        brightness: mean grey, 0..255.
        thumbnail: base64 of `SIDE` x `SIDE` grey pixels.
    """

    brightness: float
    thumbnail: str

    @property
    def contrast(self) -> float:
        """See `contrast_of`."""
        return contrast_of(self.thumbnail)


def appearance_of(rgb: NDArray[np.uint8]) -> Appearance:
    """Brightness and thumbnail of an RGB image ``(H, W, 3)`` uint8."""
    small = np.asarray(Image.fromarray(rgb).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))
    return Appearance(round(float(small.mean()), 3), base64.b64encode(small.tobytes()).decode())


def contrast_of(thumbnail: str) -> float:
    """Standard deviation of the grey levels of a thumbnail: contrast of what is larger than its cells."""
    return round(float(_pixels(thumbnail).std()), 3)


def copies(thumbnail: str, others: Sequence[str]) -> list[int]:
    """Positions of those thumbnails in `others` that show the same picture."""
    if not others:
        return []
    apart = np.abs(_pixels(thumbnail) - np.stack([_pixels(other) for other in others]))
    return np.flatnonzero((apart.max(axis=1) <= MOST_APART) & (apart.mean(axis=1) <= MEAN_APART)).tolist()


def _pixels(thumbnail: str) -> NDArray[np.int16]:
    return np.frombuffer(base64.b64decode(thumbnail), np.uint8).astype(np.int16)
