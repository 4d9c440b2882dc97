"""Opening image files: one way into Pillow for images and masks, and RGB 8 bit whatever the mode of a file.

Only the formats in `FORMATS` are tried, whatever a file is called, so that no content starts a program (PostScript) or
a decoder that nobody expects. Of files with several pages or frames the first is used. Pixels of more than 8 bits are
read by `ad_assets.datasets.deep`. Several threads may decode at once as far as `ROOM` has memory for it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError, _imaging

RgbImage = npt.NDArray[np.uint8]
Pixels = TypeVar("Pixels", bound=npt.NDArray[Any])

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

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF", "JPEG2000", "AVIF")
# Nothing in these files says for certain what they are, so only their names open them.
_BY_NAME = {".tga": "TGA", ".dib": "DIB"}
_WITHOUT_RANGE = {
    "F": "floating point pixels have no range of their own",
    "LAB": "CIELAB pixels need a colour profile",
}
# Pillow's buffer (4 bytes a colour pixel), its conversion to RGB, the array, and the file's own depth.
_BYTES_A_PIXEL = 12
_MEMORY_GB = 4.0
# The best that PNG does is 8,450 pixels a byte, of one colour and one bit.
_LARGE, _PIXELS_A_BYTE = 10_000_000, 20_000
# Blocks of Pillow's usual 16 MB stay with the thread that had them; larger ones go back to the system when freed.
_imaging.set_block_size(128 * 2**20)
_LONGEST = 300  # characters of a decoder's own message


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


class RefusedPixels(ValueError):  # noqa: N818 - becomes an `ImageError` once the file's name is known
    """Pixels that decode and still are not what is asked for: what was expected and what to do."""


class DecodingRoom:
    """Memory for decoding that the threads of a process share: who finds none waits.

    Half of the budget (``compute.memory_gb``) is for images that are being decoded; one that needs more than that is
    decoded alone.
    """

    def __init__(self, memory_gb: float = _MEMORY_GB) -> None:
        self._changed = Condition()
        self._used = 0
        self.limit(memory_gb)

    def limit(self, memory_gb: float) -> None:
        """Set the budget."""
        self._most = int(memory_gb * 1e9 / 2)

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait for so many bytes, and have them until the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._most)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


ROOM = DecodingRoom()


@contextmanager
def opened(data: bytes, path: str) -> Iterator[Image.Image]:
    """An image file with its header read; it is decoded within the block, which converts it and does nothing else.

    Args:
        data: the file's bytes.
        path: its name in errors.

    Raises:
        ImageError: not an image, cut short, unreasonably large, or what the block cannot convert.
    """
    if not data:
        raise ImageError(path, "the file is empty: copy it again or remove it")
    try:
        with (
            Image.open(io.BytesIO(data), formats=_formats(path)) as image,
            ROOM.hold(_plausible(image, len(data)) * _BYTES_A_PIXEL),
        ):
            yield image
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ImageError(path, f"not an image of a known format ({known}): remove it or save it as PNG") from None
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"too large to be an image of a product ({error}): tile or crop it") from None
    except ImageError:
        raise
    except RefusedPixels as error:
        raise ImageError(path, str(error)) from None
    except Exception as error:  # noqa: BLE001 - decoders tell of damage by exceptions of any kind
        told = (str(error) or type(error).__name__)[:_LONGEST]
        raise ImageError(path, f"cannot be decoded ({told}): copy it again, convert it or remove it") from None


def _plausible(image: Image.Image, size: int) -> int:
    """Pixels of an opened file, if so many bytes can hold them: a damaged header claims any number.

    Raises:
        RefusedPixels: they cannot.
    """
    pixels = image.width * image.height
    if pixels > _LARGE and pixels > _PIXELS_A_BYTE * size:
        raise RefusedPixels(f"{size} bytes cannot be an image of {image.width} x {image.height}: copy it again")
    return pixels


def frame_count(image: Image.Image) -> int:
    """Pages or frames of an opened file; 1 for a photograph that carries previews of itself (MPO)."""
    return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


def eight_bit_rgb(image: Image.Image) -> RgbImage:
    """RGB ``(H, W, 3)`` of an opened file of 8 bits.

    Grey is repeated over the channels; palettes are looked up; alpha is dropped, not blended; CMYK, YCbCr and HSV are
    converted.

    Raises:
        RefusedPixels: a mode without a defined range (float, CIELAB).
    """
    if image.mode in ("P", "PA", "La", "RGBa"):  # by way of RGBA, so that transparency never blends colours
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in _WITHOUT_RANGE:
        raise RefusedPixels(f"{_WITHOUT_RANGE[image.mode]}: save it as 8 or 16 bit grey or as RGB")
    return np.array(image.convert("RGB"))


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


def _formats(path: str) -> list[str]:
    Image.init()
    named = [kind for suffix, kind in _BY_NAME.items() if path.lower().endswith(suffix)]
    # A build of Pillow may lack a decoder.
    return [kind for kind in (*FORMATS, *named) if kind in Image.OPEN]
