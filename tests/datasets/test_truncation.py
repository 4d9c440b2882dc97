"""Files that are whole and halves of files, whatever they are called."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ad_assets.datasets.truncation import is_whole

THUMBNAIL = io.BytesIO()
Image.new("RGB", (8, 8)).save(THUMBNAIL, "JPEG")


def encoded(kind: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def whole(data: bytes) -> bool:
    return is_whole(lambda start, end: data[start:end], len(data))


FILES = {
    "PNG": encoded("PNG"),
    "JPEG": encoded("JPEG", exif=b"Exif\0\0II*\0" + THUMBNAIL.getvalue()),
    "progressive": encoded("JPEG", progressive=True, quality=95),
    "restarts": encoded("JPEG", restart_marker_rows=1),
    "BMP": encoded("BMP"),
    "WEBP": encoded("WEBP"),
    "AVIF": encoded("AVIF"),
    "JPEG2000": encoded("JPEG2000"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_whole_by_its_content_and_its_halves_are_not(kind: str) -> None:
    data = FILES[kind]
    assert whole(data)
    cuts = [0, 2 if kind in ("PNG", "JPEG") else 40, len(data) // 3, len(data) // 2, len(data) - 200, len(data) - 1]
    assert not any(whole(data[:cut]) for cut in cuts if kind != "JPEG2000" or cut < len(data) - 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "progressive", "restarts"])
def test_a_long_trailer_makes_no_file_incomplete(kind: str) -> None:
    data = FILES[kind]
    assert whole(data + bytes(200_000))
    assert not whole(data[: len(data) // 2] + bytes(200_000))


def test_of_what_says_nothing_only_emptiness_is_told() -> None:
    assert whole(b"x")
    assert whole(encoded("TIFF")[:100])
    assert not whole(b"")
