"""Whether an image file is whole, by its own account of where it ends: its content tells its format, not its name.

PNG and JPEG end with a mark, after which cameras append notes of their own, of any length; BMP, WebP, AVIF and JPEG
2000 say how long they or their parts are. Of other formats nothing is known.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

HEAD = 32  # bytes that tell the format
TAIL = 1024  # bytes in which the end mark of nearly all files lies
SMALL = 1 << 18  # bytes in which the thumbnails of a JPEG lie, which have end marks of their own: read whole

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_JPEG = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
# In the coded pixels of a JPEG, FF is followed by 0 or by one of eight restarts; anything else is the next marker.
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_SCAN, _ALONE = 0xDA, {0x01, *range(0xD0, 0xD8)}


def is_whole(read: Callable[[int, int], bytes], size: int) -> bool:
    """Whether a file can be complete; where it does not say, whether it holds anything.

    Args:
        read: its bytes from one place to another.
        size: of the file, in bytes.
    """
    if size == 0:
        return False
    head = read(0, min(HEAD, size))
    end, parsed = {_PNG[:2]: (_PNG_END, _ends_as_png), _JPEG: (_JPEG_END, _ends_as_jpeg)}.get(head[:2], (b"", None))
    if parsed:
        return (size > SMALL and end in read(size - TAIL, size)) or parsed(read(0, size))
    if head[:2] == b"BM" and len(head) >= 6:
        return _u32(head, 2, "<") <= size
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _u32(head, 4, "<") + 8 <= size
    if head[4:8] in (b"ftyp", b"jP  "):
        return _boxes_end(read, size)
    return True


def _ends_as_png(data: bytes) -> bool:
    place = len(_PNG)
    while place + 8 <= len(data):
        length, kind = _u32(data, place, ">"), data[place + 4 : place + 8]
        place += 12 + length
        if kind == b"IEND":
            return place <= len(data)
    return False


def _ends_as_jpeg(data: bytes) -> bool:
    """Whether the end mark of the image itself is there: a thumbnail among its notes has one too."""
    place = len(_JPEG)
    while True:
        found = _MARKER.match(data, place)
        if found is None:
            return False
        marker, place = data[found.end() - 1], found.end()
        if marker == _JPEG_END[1]:
            return True
        if marker not in _ALONE:
            if place + 2 > len(data):
                return False
            place += struct.unpack_from(">H", data, place)[0]
        if marker == _SCAN:
            following = _MARKER.search(data, place)
            place = following.start() if following else len(data)


def _boxes_end(read: Callable[[int, int], bytes], size: int) -> bool:
    """Whether a row of boxes, each of which says how long it is, fits into the file."""
    place = 0
    while place < size:
        head = read(place, min(place + 16, size))
        if len(head) < 8:
            return False
        length = _u32(head, 0, ">")
        if length == 0:  # up to the end, wherever that is
            return True
        if length == 1:
            length = struct.unpack_from(">Q", head, 8)[0] if len(head) == 16 else 0
        if length < 8:
            return True  # not what it seemed to be: the decoder will tell
        place += length
    return place == size


def _u32(data: bytes, place: int, order: str) -> int:
    return int(struct.unpack_from(f"{order}I", data, place)[0])
