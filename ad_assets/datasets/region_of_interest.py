"""The region of interest of a category: a mask of its images' size, white where they are inspected.

region = find_region(reader, category, files, listing)     # None: whole images are inspected
region.digest                                              # of the pixels: another compression is no other region
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ad_assets.datasets.base import Candidate, DatasetError, FileStamp, Problem, Reader
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.masks import MaskRule
from ad_assets.datasets.scanning import KnownFile
from ad_assets.store.retry import StorageError
from ad_assets_runtime.geometry import Mask
from ad_assets_runtime.images import ImageError, opened

_DIGITS = 24


@dataclass(frozen=True, eq=False)
class RegionOfInterest:
    """A region of interest.

    Args:
        path: of its file, relative to the dataset's root.
        inspected: ``(H, W)`` bool, as its file has it without the margin of the reader.
    """

    path: str
    inspected: Mask

    @property
    def digest(self) -> str:
        """See `digest_of`."""
        return digest_of(self.inspected)

    @property
    def share(self) -> float:
        """The inspected share of an image."""
        return float(self.inspected.mean())


def digest_of(inspected: Mask) -> str:
    """A hash of a region's size and pixels, hexadecimal."""
    shape = np.array(inspected.shape, "<u4").tobytes()
    return hashlib.sha256(shape + np.packbits(inspected).tobytes()).hexdigest()[:_DIGITS]


def to_png(inspected: Mask) -> bytes:
    """A region as a PNG of one bit, as `from_png` reads it."""
    buffer = io.BytesIO()
    Image.fromarray(inspected).save(buffer, "PNG")
    return buffer.getvalue()


def from_png(data: bytes, path: str) -> Mask:
    """The inverse of `to_png`; `path` names it in errors.

    Raises:
        ImageError: it cannot be decoded.
    """
    with opened(data, path) as image:
        return np.asarray(image.convert("1"))


def find_region(
    reader: Reader, category: str, files: ImageFiles, listing: Mapping[str, FileStamp]
) -> RegionOfInterest | None:
    """The region of a category; None where its dataset names none.

    Raises:
        DatasetError: it is missing, cannot be read, has more than two values, or no pixel of it is white, or none but
            in the margin. Without it other pixels would be inspected than those that were asked for, so no index is
            made.
    """
    path = reader.region_path(category)
    if path is None:
        return None
    if path not in listing:
        raise _unusable(reader, category, path, "is not there: draw it, white where images are inspected")
    try:
        inspected = MaskRule().decode(files.read(path), path, turn=reader.decoding.turn).anomalous
    except ImageError as error:
        raise _unusable(reader, category, path, error.message.partition("; declare any other kind")[0]) from None
    except StorageError:
        raise
    except OSError as error:
        raise _unusable(reader, category, path, f"cannot be read ({error}): check its permissions") from None
    if not inspected.any():
        raise _unusable(reader, category, path, "is all black, so nothing is inspected: white is what is inspected")
    drawn_in = without_margin(inspected, reader.region_margin)
    if not drawn_in.any():
        why = f"has no pixel {reader.region_margin} px from its border: make roi_margin smaller, or the region larger"
        raise _unusable(reader, category, path, why)
    return RegionOfInterest(path, drawn_in)


def without_margin(inspected: Mask, margin: int) -> Mask:
    """A region without the pixels that are nearer to a pixel outside than a margin. An image's border is no border.

    Args:
        inspected: ``(H, W)`` bool.
        margin: pixels; 0: the region as it is.
    """
    if not margin or inspected.all():
        return inspected
    from scipy.ndimage import distance_transform_edt

    drawn_in: Mask = distance_transform_edt(inspected) > margin
    return drawn_in


def size_problems(
    reader: Reader,
    category: str,
    region: RegionOfInterest,
    candidates: Iterable[Candidate],
    scanned: Mapping[str, KnownFile],
) -> list[Problem]:
    """An error for each image of another size than the region.

    Raises:
        DatasetError: all of them are.
    """
    height, width = region.inspected.shape
    images = {candidate.path: scanned[candidate.path] for candidate in candidates if candidate.path in scanned}
    others = {path: image for path, image in images.items() if (image.width, image.height) != (width, height)}
    if others and len(others) == len(images):
        first = next(iter(others.values()))
        raise _unusable(
            reader,
            category,
            region.path,
            f"is of {width} x {height}, the images are of {first.width} x {first.height}: draw it at their size",
        )
    message = f"the region of interest {region.path} is of {width} x {height}: it says nothing of this image"
    return [
        Problem(path, f"is of {image.width} x {image.height}, {message}; remove it, or bring it to that size")
        for path, image in sorted(others.items())
    ]


def _unusable(reader: Reader, category: str, path: str, why: str) -> DatasetError:
    return DatasetError(f"region of interest of category {category!r} at {reader.root!r}", [Problem(path, why)])
