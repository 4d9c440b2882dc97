"""Detects truncated image files from their bytes, without decoding them.

`is_whole` checks the declared end. PNG and JPEG end with a marker, after which cameras may append notes of any length;
BMP, WebP, AVIF and JPEG 2000 declare their length. Other formats declare nothing.

`gap_in` finds long runs of one byte, which an interrupted copy leaves where the space had been allocated already. Such
files decode: a JPEG becomes grey below the gap, a bitmap black. Sound files of black or white pictures have such runs
too, so a run means something only where the other files of a dataset have none.
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
_JPEG_SCAN = b"\xff\xda"
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_HOLE = 64  # bytes of 0 that the coded part of no photograph has in a row
_LEAST, _LEAST_SHARE = 256, 1 / 16  # of an uncompressed file's end


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
        if marker == _JPEG_SCAN[1]:
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


def gap_in(data: bytes) -> float:
    """The part of a file that one run of a single byte takes, if that run is suspiciously long; else 0.

    Args:
        data: the file's bytes.
    """
    if not data:
        return 0.0
    size = _hole(data) if data.startswith(_JPEG) else len(data) - len(data.rstrip(data[-1:]))
    enough = _HOLE if data.startswith(_JPEG) else max(_LEAST, int(_LEAST_SHARE * len(data)))
    return size / len(data) if size >= enough else 0.0


def _hole(data: bytes) -> int:
    """The longest run of zeros in the coded part of a JPEG; 0 where none has `_HOLE` of them."""
    start, end = max(data.find(_JPEG_SCAN), 0), data.rfind(_JPEG_END)
    # Some cameras fill up what follows the end; without an end the hole goes to the end of the file.
    body = data[start : end if end > start else len(data)]
    longest, place = 0, body.find(bytes(_HOLE))
    while place >= 0:
        rest = body[place:]
        run = len(rest) - len(rest.lstrip(b"\0"))
        longest, place = max(longest, run), body.find(bytes(_HOLE), place + run)
    return longest
