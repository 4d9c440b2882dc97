"""Resizing and cropping of images, and the inverse for score maps.

Sizes are rounded as torchvision's ``Resize`` and ``CenterCrop`` do, so inputs match those of published models.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ad_assets_runtime.images import Pixels, RgbImage

Mask = npt.NDArray[np.bool_]
ScoreMap = npt.NDArray[np.float32]
Resize = int | tuple[int, int]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]

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
    rows, columns = nearest(h, height), nearest(w, width)
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
    return cropped(np.asarray(resized), box)


def fit_region(region: Mask, size: tuple[int, int]) -> Mask:
    """A region of an image at another height and width: every pixel that it touches, ``(H, W)`` bool -> ``(h, w)``."""
    (old_h, old_w), (h, w) = region.shape, size
    fitted: Mask = region[nearest(old_h, h)[:, None], nearest(old_w, w)]
    if h < old_h or w < old_w:
        y, x = np.nonzero(region)
        fitted[nearest(h, old_h)[y], nearest(w, old_w)[x]] = True
    return fitted


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


def nearest(old: int, new: int) -> npt.NDArray[np.intp]:
    """``(new,)``: of each place of a new axis the nearest place of the old one."""
    # floor((i + 1/2) old / new) in integers, so that rounding cannot move a mask by a pixel.
    return (2 * np.arange(new, dtype=np.intp) + 1) * old // (2 * new)


def cropped(pixels: Pixels, box: tuple[int, int, int, int]) -> Pixels:
    """The pixels ``(H, W, ...)`` inside top, left, bottom, right; a copy in one piece."""
    top, left, bottom, right = box
    return np.ascontiguousarray(pixels[top:bottom, left:right])  # type: ignore[return-value]
