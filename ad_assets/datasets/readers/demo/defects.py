"""Defects of the demo dataset: shapes as soft alpha maps, and what they do to an image.

Images are float arrays of 0..255, ``(SIZE, SIZE)`` or ``(SIZE, SIZE, 3)``; an alpha map is ``(SIZE, SIZE)``
in 0..1. Every function takes the random generator of its image, so an image depends on nothing but its own
seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = npt.NDArray[Any]

SIZE = 256
# Where a soft edge ends for someone who draws a mask by hand.
_VISIBLE = 0.3


def as_mask(alpha: Array) -> Array:
    """The pixels of an alpha map that a person would mark: bool."""
    marked: Array = alpha > _VISIBLE
    return marked


def blob(rng: np.random.Generator, centre: tuple[float, float], radius: float, edge: float = 2.0) -> Array:
    """An irregular ellipse.

    Args:
        rng: random generator.
        centre: x and y, pixels.
        radius: mean radius, pixels.
        edge: width of the soft edge, pixels.
    """
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(0.55, 1.0)
    dx, dy = x - centre[0], y - centre[1]
    along = dx * np.cos(turn) + dy * np.sin(turn)
    across = (dy * np.cos(turn) - dx * np.sin(turn)) / stretch
    angle = np.arctan2(across, along)
    outline = np.full_like(angle, radius)
    for order in range(2, 7):
        outline += radius * rng.normal(0, 0.35 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return np.clip((outline - np.hypot(along, across)) / edge + 0.5, 0, 1)


def stroke(rng: np.random.Generator, length: float, width: float, margin: int = 24) -> Array:
    """A thin curved line, drawn at four times the size and averaged.

    Args:
        rng: random generator.
        length: pixels.
        width: pixels.
        margin: distance of its middle from the border, pixels.
    """
    steps, scale = 40, 4
    bend = rng.normal(0, 0.02) + rng.normal(0, 0.05, steps)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(bend)
    points = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0) * (length / steps)
    points += rng.uniform(margin, SIZE - margin, 2) - points[steps // 2]
    canvas = Image.new("L", (SIZE * scale, SIZE * scale))
    line: Sequence[float] = (points * scale).ravel().tolist()
    ImageDraw.Draw(canvas).line(line, fill=255, width=max(1, round(width * scale)), joint="curve")
    return np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float64) / 255


def scratched(rng: np.random.Generator, image: Array, alpha: Array, contrast: float) -> tuple[Array, Array]:
    """A groove: lit on one side and shaded on the other.

    Args:
        rng: random generator.
        image: what is scratched.
        alpha: a stroke.
        contrast: brightness of the lit side, 0..255; negative turns the light.

    Returns:
        Image and mask.
    """
    from scipy.ndimage import binary_dilation, shift

    shade = shift(alpha, rng.uniform(-1.3, 1.3, 2), order=1)
    groove = contrast * (alpha - 0.6 * shade)
    return image + _over(groove, image), binary_dilation(as_mask(alpha), iterations=1)


def stained(rng: np.random.Generator, image: Array, alpha: Array, depth: float) -> tuple[Array, Array]:
    """A liquid: darker (or lighter, for negative depth) with a cloudy surface, and flatter.

    Args:
        rng: random generator.
        image: what is stained.
        alpha: a blob.
        depth: part of the brightness that is lost.

    Returns:
        Image and mask.
    """
    from scipy.ndimage import gaussian_filter

    cloud = gaussian_filter(rng.normal(0, 1, (SIZE, SIZE)), 10)
    cloud = 1 + 0.25 * cloud / np.abs(cloud).max()
    flat = gaussian_filter(image, (3, 3, 0)[: image.ndim])
    mixed = image + _over(0.35 * alpha, image) * (flat - image)
    return mixed * (1 - _over(depth * alpha * cloud, image)), as_mask(alpha)


def covered(image: Array, alpha: Array, foreign: Array, blend: float) -> tuple[Array, Array]:
    """Foreign texture pasted on with soft edges and shifted towards the brightness of what it covers.

    Args:
        image: what is covered.
        alpha: a blob.
        foreign: the texture, shaped as the image.
        blend: how opaque it is, 0..1.

    Returns:
        Image and mask.
    """
    inside = as_mask(alpha)
    offset = image[inside].mean() - foreign[inside].mean()
    return image + _over(blend * alpha, image) * (foreign + 0.8 * offset - image), inside


def dented(rng: np.random.Generator, image: Array, alpha: Array, strength: float) -> tuple[Array, Array]:
    """A hollow under light from one side.

    Args:
        rng: random generator.
        image: what is dented.
        alpha: a blob.
        strength: change of brightness at the steepest place, as a part.

    Returns:
        Image and mask.
    """
    from scipy.ndimage import gaussian_filter

    radius = np.sqrt(alpha.sum() / np.pi)
    slope_y, slope_x = np.gradient(gaussian_filter(alpha, radius / 3))
    light = rng.uniform(0, 2 * np.pi)
    shade = slope_x * np.cos(light) + slope_y * np.sin(light)
    # A surface reflects a little light even where it is black.
    return image + _over(strength * shade / np.abs(shade).max(), image) * (image + 40), as_mask(alpha)


def _over(values: Array, image: Array) -> Array:
    return values[..., None] if image.ndim == 3 else values
