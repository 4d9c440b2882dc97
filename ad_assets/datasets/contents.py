"""Reading what an image index names: the bytes must be those that were indexed.

What is made of an image is stored under the hash of its bytes. Whoever reads an image or a mask after the index reads
it here, so that nothing is ever stored or shown under the hash of other bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.identity import content_id, content_of, joint_id
from ad_assets.datasets.images import ImageError

_SHOWN = 12  # digits of a hash in messages
_REMEDY = "index it again with ad-assets materialize; if that finds nothing to do, with --force"


class ChangedFileError(ImageError):
    """A file that is not what the index says of it; the message names it and the remedy."""


def read_image(files: ImageFiles, row: Mapping[str, Any]) -> bytes:
    """The bytes of an image.

    Args:
        files: of its dataset.
        row: of the image index.

    Raises:
        ChangedFileError: they are not those that were indexed, or are gone.
        OSError: it cannot be read; `StorageError` if its storage does not answer.
    """
    return _read(files, [row["path"]], row["image_id"])[0]


def read_masks(files: ImageFiles, row: Mapping[str, Any]) -> list[bytes]:
    """The bytes of the masks of an image, in the order of its row; errors as `read_image`."""
    return _read(files, row["mask_paths"], row["mask_id"])


def _read(files: ImageFiles, paths: Sequence[str], indexed: str) -> list[bytes]:
    contents, indexed = [], content_of(indexed)
    for path in paths:
        try:
            contents.append(files.read(path))
        except FileNotFoundError:
            raise ChangedFileError(path, f"is gone since it was indexed: put it back, or {_REMEDY}") from None
    read = joint_id([content_id(data) for data in contents])
    if read != indexed:
        others = "" if len(paths) == 1 else f" (or one of the {len(paths)} masks of its image)"
        was = f"sha256 {indexed[:_SHOWN] or 'none'}, now {read[:_SHOWN] or 'none'}"
        raise ChangedFileError(", ".join(paths[:1]), f"changed since it was indexed{others}: {was}; {_REMEDY}")
    return contents
