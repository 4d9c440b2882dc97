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

HEAD = 32  # bytes that identify the format
TAIL = 1024  # bytes that contain the end marker of nearly all files
SMALL = 1 << 18  # bytes that contain the thumbnails of a JPEG, which have end markers too: such files are read whole

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
    """Whether a file ends as its format declares; for other formats, whether it is not empty.

    Args:
        read: returns the bytes from a start to an end offset.
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
    offset = len(_PNG)
    while offset + 8 <= len(data):
        length, kind = _u32(data, offset, ">"), data[offset + 4 : offset + 8]
        offset += 12 + length
        if kind == b"IEND":
            return offset <= len(data)
    return False


def _ends_as_jpeg(data: bytes) -> bool:
    """Whether the end marker of the image itself is there: embedded thumbnails have one too."""
    offset = len(_JPEG)
    while True:
        marker_match = _MARKER.match(data, offset)
        if marker_match is None:
            return False
        marker, offset = data[marker_match.end() - 1], marker_match.end()
        if marker == _JPEG_END[1]:
            return True
        if marker not in _ALONE:
            if offset + 2 > len(data):
                return False
            offset += struct.unpack_from(">H", data, offset)[0]
        if marker == _JPEG_SCAN[1]:
            following = _MARKER.search(data, offset)
            offset = following.start() if following else len(data)


def _boxes_end(read: Callable[[int, int], bytes], size: int) -> bool:
    """Whether the boxes of a file (AVIF, JPEG 2000), each with its length, end where the file does."""
    offset = 0
    while offset < size:
        head = read(offset, min(offset + 16, size))
        if len(head) < 8:
            return False
        length = _u32(head, 0, ">")
        if length == 0:  # extends to the end of the file
            return True
        if length == 1:
            length = struct.unpack_from(">Q", head, 8)[0] if len(head) == 16 else 0
        if length < 8:
            return True  # not such a file after all: the decoder reports it
        offset += length
    return offset == size


def _u32(data: bytes, offset: int, order: str) -> int:
    return int(struct.unpack_from(f"{order}I", data, offset)[0])


def gap_in(data: bytes) -> float:
    """The share of a file, 0..1, taken by a suspiciously long run of one byte; 0 without such a run.

    Args:
        data: the file's bytes.
    """
    if not data:
        return 0.0
    size = _hole(data) if data.startswith(_JPEG) else len(data) - len(data.rstrip(data[-1:]))
    enough = _HOLE if data.startswith(_JPEG) else max(_LEAST, int(_LEAST_SHARE * len(data)))
    return size / len(data) if size >= enough else 0.0


def _hole(data: bytes) -> int:
    """Length of the longest run of at least `_HOLE` zeros in the coded part of a JPEG; 0 for none."""
    start, end = max(data.find(_JPEG_SCAN), 0), data.rfind(_JPEG_END)
    # Some cameras pad the file after the end marker; without an end marker the run extends to the end of the file.
    body = data[start : end if end > start else len(data)]
    longest, offset = 0, body.find(bytes(_HOLE))
    while offset >= 0:
        rest = body[offset:]
        run = len(rest) - len(rest.lstrip(b"\0"))
        longest, offset = max(longest, run), body.find(bytes(_HOLE), offset + run)
    return longest
