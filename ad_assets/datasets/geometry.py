"""Resizing and cropping, the same for images and masks, so that they stay aligned pixel by pixel; and the inverse.

Sizes are rounded as torchvision's ``Resize`` and ``CenterCrop`` do, so inputs match those of published models.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ad_assets.datasets.images import Pixels, RgbImage

Mask = npt.NDArray[np.bool_]
ScoreMap = npt.NDArray[np.float32]
Resize = int | tuple[int, int]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]
# Which pixels of a smaller frame a region covers: those whose centre is in it (nearest); for regions without such a
# pixel, those that they touch (regions); or for all regions those that they touch (any_pixel).
Shrink = Literal["nearest", "regions", "any_pixel"]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resized_shape(h: int, w: int, resize: Resize) -> tuple[int, int]:
    """Height and width after resizing: an int sets the shorter side (the longer rounds down), a pair both."""
    if isinstance(resize, tuple):
        return resize
    if h <= w:
        return resize, resize * w // h
    return resize * h // w, resize


def centre_box(h: int, w: int, crop: int | None) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of the centred square of side `crop`; None keeps all.

    Raises:
        ValueError: the crop is larger than the image.
    """
    if crop is None:
        return 0, 0, h, w
    if crop > min(h, w):
        raise ValueError(f"crop {crop} is larger than the resized image ({h} x {w}): make resize at least {crop}")
    top, left = round((h - crop) / 2), round((w - crop) / 2)  # half to even, as torchvision rounds
    return top, left, top + crop, left + crop


def seen_share(size: tuple[int, int], resize: Resize, crop: int | None) -> float:
    """The part of an image of some height and width that is left after resizing and cropping, 0..1."""
    h, w = resized_shape(*size, resize)
    top, left, bottom, right = centre_box(h, w, crop)
    return (bottom - top) * (right - left) / (h * w)


def seen_mask(size: tuple[int, int], resize: Resize, crop: int | None, to: tuple[int, int] | None = None) -> Mask:
    """Which pixels of an image have their centre in the crop, ``(H, W)``; nothing is known of the others.

    Args:
        size: height and width of the image.
        resize: as for the image.
        crop: as for the image.
        to: height and width of the result, if not `size`.
    """
    h, w = resized_shape(*size, resize)
    top, left, bottom, right = centre_box(h, w, crop)
    height, width = to or size
    rows, columns = _nearest(h, height), _nearest(w, width)
    return ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))


def fit_image(rgb: RgbImage, resize: Resize, crop: int | None, interpolation: Interpolation = "bilinear") -> RgbImage:
    """Resize with antialiasing, then crop: ``(H, W, 3)`` uint8 -> ``(h, w, 3)`` uint8.

    Args:
        rgb: a decoded image.
        resize: new shorter side, or exact (height, width).
        crop: side of the centred square, or None.
        interpolation: PIL's filter of that name.

    Raises:
        ValueError: the crop is larger than the resized image.
    """
    h, w = resized_shape(rgb.shape[0], rgb.shape[1], resize)
    box = centre_box(h, w, crop)
    resized = Image.fromarray(rgb).resize((w, h), _RESAMPLING[interpolation])
    return _cropped(np.asarray(resized), box)


def fit_mask(mask: Mask, resize: Resize, crop: int | None, shrink: Shrink = "nearest") -> Mask:
    """Resize, then crop, as `fit_image` does: ``(H, W)`` bool -> ``(h, w)``.

    Args:
        mask: a decoded mask, of its image's size.
        resize: as the image's.
        crop: as the image's.
        shrink: see `Shrink`.

    Raises:
        ValueError: the crop is larger than the resized mask.
    """
    return fit_regions(mask, resize, crop, shrink)[0]


def fit_regions(mask: Mask, resize: Resize, crop: int | None, shrink: Shrink) -> tuple[Mask, int]:
    """As `fit_mask`, with the number of connected regions that have no pixel left (too small, or cropped away)."""
    old_h, old_w = mask.shape
    h, w = resized_shape(old_h, old_w, resize)
    top, left, bottom, right = box = centre_box(h, w, crop)
    rows, columns = _nearest(old_h, h), _nearest(old_w, w)
    resized: Mask = mask[rows[:, None], columns]
    whole = (top, left, bottom, right) == (0, 0, h, w)
    if not mask.any() or (whole and h >= old_h and w >= old_w):  # every pixel is still there
        return _cropped(resized, box), 0
    from scipy import ndimage

    regions, count = ndimage.label(mask, np.ones((3, 3)))
    sampled = regions[rows[:, None], columns]
    left_over = [_cropped(sampled, box).ravel()]
    if shrink != "nearest":
        missing = np.ones(count + 1, np.bool_)
        missing[0] = False
        if shrink == "regions":
            missing[np.unique(sampled)] = False
        old_y, old_x = np.nonzero(missing[regions])
        y, x = _nearest(h, old_h)[old_y], _nearest(w, old_w)[old_x]  # the new pixel that contains the old one's centre
        resized[y, x] = True
        inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
        left_over.append(regions[old_y[inside], old_x[inside]])
    present = np.unique(np.concatenate(left_over))
    return _cropped(resized, box), count - int((present > 0).sum())


def unfit_map(
    score_map: ScoreMap, size: tuple[int, int], resize: Resize, crop: int | None, to: tuple[int, int] | None = None
) -> ScoreMap:
    """A score map in the frame of its original image, the inverse of `fit_image`: ``(h, w)`` -> ``(H, W)`` float32.

    The map is placed where the crop was taken; the margin outside takes the values of the nearest pixels of the map.
    The whole is then resized bilinearly with half-pixel centres, with antialiasing along an axis that shrinks. An axis
    that keeps its length keeps its values exactly, and no value leaves the range of the map, so no pixel exceeds a
    threshold that none of the map exceeds.

    Args:
        score_map: of the size that `resize` and `crop` give for the image.
        size: height and width of the original image.
        resize: as for the image.
        crop: as for the image.
        to: height and width of the result, if not `size`.

    Raises:
        ValueError: the map has another size, or the crop is larger than the resized image.
    """
    h, w = resized_shape(*size, resize)
    top, left, bottom, right = centre_box(h, w, crop)
    if score_map.shape != (bottom - top, right - left):
        raise ValueError(
            f"a map of shape {score_map.shape} for an image of {size[0]} x {size[1]}, which resize {resize} and crop "
            f"{crop} make {bottom - top} x {right - left}"
        )
    margins = ((top, h - bottom), (left, w - right))
    frame = np.pad(np.asarray(score_map, np.float32), margins, mode="edge")
    # PIL sums in double precision and rounds once per axis, so an interpolated value stays between its neighbours.
    return np.array(Image.fromarray(frame).resize((to or size)[::-1], Image.Resampling.BILINEAR))


def _nearest(old: int, new: int) -> npt.NDArray[np.intp]:
    # floor((i + 1/2) old / new) in integers, so that rounding cannot move a mask by a pixel.
    return (2 * np.arange(new, dtype=np.intp) + 1) * old // (2 * new)


def _cropped(pixels: Pixels, box: tuple[int, int, int, int]) -> Pixels:
    top, left, bottom, right = box
    return np.ascontiguousarray(pixels[top:bottom, left:right])  # type: ignore[return-value]
