"""Decoding images and masks, and the one geometry that both follow.

An image becomes RGB 8 bit whatever its mode, a mask becomes boolean once, and both are resized and cropped by
the same functions, so that a mask always lies on its image pixel for pixel. Geometry rounds as torchvision's
``Resize`` and ``CenterCrop`` do, so inputs match those of published models. EXIF rotation is ignored: masks
would not follow.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from collections.abc import Callable

RgbImage = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Resize = int | tuple[int, int]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]

_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})
_WITHOUT_RANGE = {
    "F": "floating point pixels have no range of their own",
    "LAB": "CIELAB pixels need a colour profile",
}
_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# In all of these ways decoders tell that a file is damaged.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
)
Pixels = TypeVar("Pixels", bound=npt.NDArray[Any])


class ImageError(ValueError):
    """A file that is not the image it should be.

    Args:
        path: the file, as messages name it.
        message: what is wrong and what to do.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


def decode_rgb(data: bytes, path: str) -> RgbImage:
    """Decode a file to ``(H, W, 3)`` uint8.

    Grey is repeated over the channels; 16-bit grey is scaled from 0..65535 to 0..255 with rounding; palettes
    are looked up; alpha is dropped, not blended; CMYK, YCbCr and HSV are converted; of several frames the
    first is taken.

    Args:
        data: the file's bytes.
        path: its name in errors.

    Raises:
        ImageError: not an image, cut short, unreasonably large, or a mode without a defined range (float,
            CIELAB).
    """
    return decode_with_mode(data, path)[0]


def decode_with_mode(data: bytes, path: str) -> tuple[RgbImage, str]:
    """`decode_rgb` with the PIL mode of the file."""
    return _decoded(data, path, _to_rgb)


def decode_mask(data: bytes, path: str) -> Mask:
    """Decode a ground truth mask to ``(H, W)`` bool, true where anomalous.

    One rule for all sources: above half of the file's range (127 of 255, 32767 of 65535) if any pixel is,
    which cuts the grey edges of drawn masks halfway; else above zero, which reads masks of 0/1 and of defect
    numbers. Colour masks count by their strongest channel; alpha is dropped.

    Args:
        data: the file's bytes.
        path: its name in errors.

    Raises:
        ImageError: as `decode_rgb`.
    """
    return decode_mask_with_mode(data, path)[0]


def decode_mask_with_mode(data: bytes, path: str) -> tuple[Mask, str, int]:
    """`decode_mask` with the PIL mode of the file and its strongest pixel."""
    values, mode = _decoded(data, path, _mask_values)
    highest, half = int(values.max()), 32767 if mode in _SIXTEEN_BIT else 127
    mask: Mask = values > (half if highest > half else 0)
    return mask, mode, highest


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


def fit_mask(mask: Mask, resize: Resize, crop: int | None) -> Mask:
    """Resize to the nearest pixel centre, then crop, as `fit_image` does: ``(H, W)`` bool -> ``(h, w)``.

    Args:
        mask: a decoded mask, of its image's size.
        resize: as the image's.
        crop: as the image's.

    Raises:
        ValueError: the crop is larger than the resized mask.
    """
    h, w = resized_shape(mask.shape[0], mask.shape[1], resize)
    box = centre_box(h, w, crop)
    resized: Mask = mask[_nearest(mask.shape[0], h)[:, None], _nearest(mask.shape[1], w)]
    return _cropped(resized, box)


def _nearest(old: int, new: int) -> npt.NDArray[np.intp]:
    # floor((i + 1/2) old / new) in integers: no rounding can move a mask by a pixel.
    return (2 * np.arange(new, dtype=np.intp) + 1) * old // (2 * new)


def _cropped(pixels: Pixels, box: tuple[int, int, int, int]) -> Pixels:
    top, left, bottom, right = box
    return np.ascontiguousarray(pixels[top:bottom, left:right])  # type: ignore[return-value]


def _decoded(data: bytes, path: str, convert: Callable[[Image.Image], Pixels]) -> tuple[Pixels, str]:
    if not data:
        raise ImageError(path, "the file is empty: copy it again or remove it")
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode = image.mode
            image.load()
            return convert(image), mode
    except UnidentifiedImageError:
        raise ImageError(path, "not an image that Pillow can read: remove it or save it as PNG or JPEG") from None
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"too large to be an image of a product ({error}): tile or crop it") from None
    except _DAMAGED as error:
        remedy = "copy it again, convert it or remove it"
        raise ImageError(path, f"cannot be decoded ({error}): {remedy}") from None


def _to_rgb(image: Image.Image) -> RgbImage:
    if image.mode in _SIXTEEN_BIT:
        grey = (_sixteen_bit(image) * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("P", "PA", "La", "RGBa"):  # by way of RGBA, so that transparency never blends colours
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in _WITHOUT_RANGE:
        raise ValueError(f"{_WITHOUT_RANGE[image.mode]}: save it as 8 or 16 bit grey or as RGB")
    return np.array(image.convert("RGB"))


def _mask_values(image: Image.Image) -> npt.NDArray[np.int64]:
    return _sixteen_bit(image) if image.mode in _SIXTEEN_BIT else _to_rgb(image).max(axis=2).astype(np.int64)


def _sixteen_bit(image: Image.Image) -> npt.NDArray[np.int64]:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"32-bit pixels from {values.min()} to {values.max()}, expected 0..65535")
    return values
