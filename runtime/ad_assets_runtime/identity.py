"""Ids of images and masks, under which everything computed from them is stored.

An id is the sha256 of the file, followed by suffixes for a decoding other than plain: ``-12bit`` for the bit depth that
pixels of more than 8 bits were scaled by, ``-turned`` where the EXIF orientation was applied. So a file that is decoded
in another way counts as another image.
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
    """The id of all masks of an image: of one mask its own id, of none ""."""
    return "".join(ids) if len(ids) < 2 else content_id("".join(ids).encode())


def image_id(sha256: str, depth: int | None, *, turned: bool) -> str:
    """The id of an image.

    Args:
        sha256: of its file.
        depth: bits that its pixels are scaled by; None for pixels of 8 bits.
        turned: whether its EXIF orientation is applied.
    """
    return "-".join([sha256, *([f"{depth}{_BIT}"] if depth else []), *([TURNED] if turned else [])])


def content_of(identity: str) -> str:
    """The sha256 part of the id of an image or mask."""
    return identity.partition("-")[0]


def depth_of(identity: str) -> int | None:
    """The bit depth in an image's id; None for images of 8 bits."""
    noted = [note.removesuffix(_BIT) for note in identity.split("-")[1:] if note.endswith(_BIT)]
    return int(noted[0]) if noted else None
