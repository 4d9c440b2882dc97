"""Pictures small enough for Dagster's events, whose database keeps four copies of each."""

from __future__ import annotations

import base64
import io
import re

MOST_BYTES = 4_500  # of a picture, whose ``data:`` address is a third longer
_EMBEDDED = re.compile(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)")
_SMALLEST = 16  # pixels


def kind_of(picture: bytes) -> str:
    """``png`` or ``jpeg``, whichever a picture is."""
    return "png" if picture.startswith(b"\x89PNG") else "jpeg"


def thumbnail_uri(picture: bytes, most_bytes: int = MOST_BYTES) -> str:
    """A JPEG or PNG as a ``data:`` address, with fewer colours or pixels where it has more than `most_bytes`.

    Raises:
        PIL.UnidentifiedImageError: the bytes are no picture.
    """
    from PIL import Image

    kind = kind_of(picture)
    with Image.open(io.BytesIO(picture), formats=["PNG", "JPEG"]) as opened:
        image = opened.convert("RGB")
    while len(picture) > most_bytes and max(image.size) > _SMALLEST:
        buffer = io.BytesIO()
        if kind == "png":
            image.quantize(16).save(buffer, "PNG")  # `optimize` takes eight times as long for a twentieth of its bytes
        else:
            image.save(buffer, "JPEG", quality=55, optimize=True)
        picture = buffer.getvalue()
        share = max(0.5, min(0.85, (most_bytes / len(picture)) ** 0.5))
        image = image.resize([max(1, round(side * share)) for side in image.size], Image.Resampling.LANCZOS)
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def with_thumbnails(markdown: str) -> str:
    """Markdown with its embedded pictures made small, as those of artifacts of earlier releases."""
    return _EMBEDDED.sub(lambda found: thumbnail_uri(base64.b64decode(found[1])), markdown)
