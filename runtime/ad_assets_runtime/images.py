"""Opening image files with Pillow: one entry for images and masks, conversion to 8-bit RGB, EXIF orientation.

Only the formats in `FORMATS` are tried, whatever a file's name, so that no file can start a program (PostScript) or an
unexpected decoder. Of files with several pages or frames the first is used. Pixels of more than 8 bits are read by
`ad_assets_runtime.deep`. Threads decode concurrently within the memory that `ROOM` grants.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Condition
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError, _imaging

RgbImage = npt.NDArray[np.uint8]
Pixels = TypeVar("Pixels", bound=npt.NDArray[Any])
Source = TypeVar("Source")
Decoded = TypeVar("Decoded")

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
# These formats have no reliable signature, so they are recognised by file name.
_BY_NAME = {".tga": "TGA", ".dib": "DIB"}
# Suffixes of these formats.
IMAGE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    *(".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".avif", ".tga", ".pbm", ".pgm", ".ppm", ".pnm"),
)
_WITHOUT_RANGE = {
    "F": "floating point pixels have no range of their own",
    "LAB": "CIELAB pixels need a colour profile",
}
# Pillow's buffer (4 bytes a colour pixel), its conversion to RGB, the array, and the file's own depth.
_BYTES_A_PIXEL = 12
_MEMORY_GB = 4.0
# PNG reaches 8,450 pixels per byte at most (one colour, one bit).
_LARGE, _PIXELS_A_BYTE = 10_000_000, 20_000
# Pillow's default blocks of 16 MB stay allocated to their thread; larger ones return to the system when freed.
_imaging.set_block_size(128 * 2**20)
_LONGEST = 300  # characters of a decoder's own message


class ImageError(ValueError):
    """An image file is damaged, unsupported or changed.

    Args:
        path: the file's name in messages.
        message: what is wrong and what to do.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


class RefusedPixels(ValueError):  # noqa: N818 - becomes an `ImageError` once the file's name is known
    """Decoded pixels are not usable; the message says what was expected and what to do."""


class DecodingRoom:
    """Memory budget for decoding, shared by the threads of a process; a thread waits until its image fits.

    Half of ``compute.memory_gb`` is for images being decoded; an image that needs more is decoded alone.
    """

    def __init__(self, memory_gb: float = _MEMORY_GB) -> None:
        self._changed = Condition()
        self._used = 0
        self.limit(memory_gb)

    def limit(self, memory_gb: float) -> None:
        """Set the budget to half of `memory_gb`."""
        self._most = int(memory_gb * 1e9 / 2)

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Reserve `size` bytes for the block, waiting until they are free."""
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
    """Open an image file and read its header; the block decodes and converts it and does nothing else.

    Args:
        data: the file's bytes.
        path: its name in errors.

    Raises:
        ImageError: not an image, truncated, implausibly large, or any error that the block raises.
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
        formats = ", ".join(FORMATS)
        raise ImageError(path, f"not an image of a known format ({formats}): remove it or save it as PNG") from None
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"too large to be an image of a product ({error}): tile or crop it") from None
    except ImageError:
        raise
    except RefusedPixels as error:
        raise ImageError(path, str(error)) from None
    except Exception as error:  # noqa: BLE001 - decoders report damage by exceptions of any type
        message = (str(error) or type(error).__name__)[:_LONGEST]
        raise ImageError(path, f"cannot be decoded ({message}): copy it again, convert it or remove it") from None


def _plausible(image: Image.Image, size: int) -> int:
    """Number of pixels of an opened file, checked against its size in bytes, since a damaged header may claim any.

    Raises:
        RefusedPixels: the file is too small for that many.
    """
    pixels = image.width * image.height
    if pixels > _LARGE and pixels > _PIXELS_A_BYTE * size:
        raise RefusedPixels(f"{size} bytes cannot be an image of {image.width} x {image.height}: copy it again")
    return pixels


def frame_count(image: Image.Image) -> int:
    """Pages or frames of an opened file; 1 for a photograph that carries previews of itself (MPO)."""
    return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


def eight_bit_rgb(image: Image.Image) -> RgbImage:
    """RGB ``(H, W, 3)`` uint8 of an opened file of 8 bits.

    Grey is repeated over the channels; palettes are looked up; alpha is dropped, not blended; CMYK, YCbCr and HSV are
    converted.

    Raises:
        RefusedPixels: a mode without a defined range (float, CIELAB).
    """
    if image.mode in ("P", "PA", "La", "RGBa"):  # through RGBA, so that transparency never blends colours
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in _WITHOUT_RANGE:
        raise RefusedPixels(f"{_WITHOUT_RANGE[image.mode]}: save it as 8 or 16 bit grey or as RGB")
    return np.array(image.convert("RGB"))


def orientation(image: Image.Image) -> int:
    """EXIF orientation still to be applied to an opened file: 1 to 8, 1 is upright.

    Always 1 for TIFF, which Pillow turns while decoding.
    """
    tag: Any = UPRIGHT if image.format == "TIFF" else image.getexif().get(ExifTags.Base.Orientation)
    return tag if isinstance(tag, int) and tag in _TURNS else UPRIGHT


def turned(pixels: Pixels, how: int) -> Pixels:
    """Pixels ``(H, W, ...)`` with an EXIF orientation applied.

    Args:
        pixels: as stored.
        how: the orientation, 1 to 8.
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


def decoded_batches(
    pool: ThreadPoolExecutor,
    decode: Callable[[Source], Decoded],
    images: Iterable[Source],
    size: int,
    weigh: Callable[[Decoded], int],
    most_bytes: float,
) -> Generator[list[Decoded]]:
    """Decoded batches in order; while one is used, two more are decoded, as far as memory has room for them.

    Args:
        pool: its threads decode.
        decode: called with each image in one of them.
        images: taken as they are needed.
        size: images a batch.
        weigh: bytes of a decoded image.
        most_bytes: of what is decoded ahead, if all were as large as the largest so far.
    """
    waiting = iter(images)
    ahead: deque[Future[Decoded]] = deque()
    largest = 1

    def fill(count: int) -> None:
        ahead.extend(pool.submit(decode, image) for image in islice(waiting, max(0, count - len(ahead))))

    try:
        while True:
            fill(size)
            if not ahead:
                return
            batch: list[Decoded] = []
            for left in reversed(range(min(size, len(ahead)))):
                batch.append(ahead.popleft().result())
                largest = max(largest, weigh(batch[-1]))
                fill(left + min(2 * size, int(most_bytes // largest)))
            yield batch
    finally:
        for future in ahead:
            future.cancel()
