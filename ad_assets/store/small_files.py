"""Small files of an artifact on an object store lie in its record: both are there at once, by one request.

Each keeps its name, size and checksum in the record's list of files, as if it were an object of its own, so that the
fingerprint of what an artifact holds is the same wherever it lies. Tensors, pictures and whatever else is read by other
programs stay objects.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from typing import Any

from ad_assets.store.checksums import DamagedError

SMALL = "small"  # in a record: name -> content
MOST_A_FILE = 1 << 20  # bytes
MOST_A_RECORD = 1 << 18  # characters of all contents together: a record is read by whoever reads one of them


def packed(data: bytes) -> str:
    """The content of a file as text."""
    return base64.b64encode(zlib.compress(data, 6)).decode()


def unpacked(text: str) -> bytes:
    """The content of a file from its text.

    Raises:
        DamagedError: it is none.
    """
    try:
        return zlib.decompress(base64.b64decode(text, validate=True))
    except (ValueError, zlib.error, binascii.Error) as error:
        raise DamagedError("it cannot be unpacked from the record of its artifact") from error


def fitted(files: Mapping[str, bytes]) -> dict[str, str]:
    """Those of some files that a record has room for, by name, as text; the smallest come first."""
    found: dict[str, str] = {}
    room = MOST_A_RECORD
    for name, data in sorted(files.items(), key=lambda item: (len(item[1]), item[0])):
        text = packed(data)
        if len(text) <= room:
            found[name] = text
            room -= len(text)
    return found


def bytes_of(record: Mapping[str, Any]) -> int:
    """About how much memory a record takes."""
    return 1_000 + 200 * len(record.get("files", ())) + sum(map(len, record.get(SMALL, {}).values()))
