"""Heat maps, mask outlines and regions drawn into an image, as plain RGB arrays ``(H, W, 3)`` uint8.

One colour scale serves a whole category, so that pictures can be compared. Clipping to it touches the picture
only, never a score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ad_assets_runtime.colours import INFERNO
from ad_assets_runtime.images import RgbImage

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUND = 28  # dark grey behind and between tiles, so that heat maps keep their contrast
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
    return INFERNO[np.rint(np.clip(share, 0, 1) * 255).astype(np.intp)]


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
    check_same_size(rgb, score_map, "score map")
    if seen is not None:
        check_same_size(rgb, seen, "mask of what is seen")
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
    check_same_size(rgb, mask, "mask")
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
    check_same_size(rgb, region, "region of interest")
    inside = region.astype(bool)
    drawn = rgb.copy()
    drawn[~inside] = np.rint(drawn[~inside] * OUTSIDE_BRIGHTNESS).astype(np.uint8)
    line = inside
    for _ in range(max(1, round(max(inside.shape) / BORDER_PART))):
        line = _grown(line)
    drawn[line & ~inside] = BORDER
    return drawn


def resized(rgb: RgbImage, size: int) -> RgbImage:
    """The picture with its longer side at `size` pixels."""
    from PIL import Image

    height, width = rgb.shape[:2]
    scale = size / max(height, width)
    target = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(rgb).resize(target, Image.Resampling.LANCZOS))


def _hatched(rgb: RgbImage) -> RgbImage:
    """The image in dark grey under diagonal lines, which no heat map looks like."""
    grey = rgb.mean(axis=2) * 0.4 + GROUND
    rows, columns = (np.arange(side) for side in grey.shape)
    grey[(rows[:, None] + columns) % HATCH < max(1, HATCH // 6)] = 160
    return np.repeat(np.rint(np.clip(grey, 0, 255)).astype(np.uint8)[:, :, None], 3, axis=2)


def check_same_size(rgb: RgbImage, other: NDArray[Any], what: str) -> None:
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
