"""The ids of images and masks: what all that is made of them is stored under.

An id is the sha256 of a file, followed by what is special in its decoding: ``-12bit`` for the depth that deeper pixels
were scaled by, ``-turned`` where EXIF turned it. So another way of decoding is another image to all that learns from it
or scores it, and plain images have plain ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_BIT = "bit"
TURNED = "turned"


def content_id(data: bytes) -> str:
    """The sha256 of some bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def joint_id(ids: Sequence[str]) -> str:
    """The id of all masks of an image; of one mask its own, of none ""."""
    return "".join(ids) if len(ids) < 2 else content_id("".join(ids).encode())


def image_id(sha256: str, depth: int | None, *, turned: bool) -> str:
    """The id of an image.

    Args:
        sha256: of its file.
        depth: that its pixels are scaled by, None for those of 8 bits.
        turned: whether EXIF turns it.
    """
    return "-".join([sha256, *([f"{depth}{_BIT}"] if depth else []), *([TURNED] if turned else [])])


def content_of(identity: str) -> str:
    """The sha256 of the file, of the id of an image or of masks."""
    return identity.partition("-")[0]


def depth_of(identity: str) -> int | None:
    """The bit depth in an image's id; None for images of 8 bits."""
    noted = [note.removesuffix(_BIT) for note in identity.split("-")[1:] if note.endswith(_BIT)]
    return int(noted[0]) if noted else None
