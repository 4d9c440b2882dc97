"""Runs of one byte in image files: what a copy leaves that was cut off in a file whose space was there already.

Such files decode: a JPEG becomes grey below the hole, a bitmap black. Sound files have such runs too, where a picture
is black or white to its end, so a run tells something only of a file whose like have none.
"""

from __future__ import annotations

_JPEG, _SCAN, _END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_HOLE = 64  # bytes of 0 that the coded part of no photograph has in a row
_LEAST, _LEAST_SHARE = 256, 1 / 16  # of an uncompressed file's end


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
    start, end = max(data.find(_SCAN), 0), data.rfind(_END)
    # Some cameras fill up what follows the end; without an end the hole goes to the end of the file.
    body = data[start : end if end > start else len(data)]
    longest, place = 0, body.find(bytes(_HOLE))
    while place >= 0:
        rest = body[place:]
        run = len(rest) - len(rest.lstrip(b"\0"))
        longest, place = max(longest, run), body.find(bytes(_HOLE), place + run)
    return longest
