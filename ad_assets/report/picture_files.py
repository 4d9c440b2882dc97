"""Pictures as files, JPEG or PNG, and as addresses that hold all of them."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from ad_assets_runtime.images import RgbImage

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def to_jpeg(rgb: RgbImage, quality: int = 85, max_bytes: int | None = None) -> bytes:
    """The picture as JPEG; where it exceeds `max_bytes`, with less quality first, smaller then.

    Raises:
        ValueError: even a picture of 16 pixels exceeds `max_bytes`.
    """
    from PIL import Image

    image = Image.fromarray(rgb)
    qualities = [quality, *(step for step in (75, 65, 55) if step < quality)]
    while True:
        for step in qualities:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=step, optimize=True)
            if max_bytes is None or buffer.tell() <= max_bytes:
                return buffer.getvalue()
        if min(image.size) <= 16:
            raise ValueError(f"no JPEG of this picture fits into {max_bytes} bytes: allow more")
        width, height = (max(16, round(side * 0.85)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)


def to_png(rgb: RgbImage) -> bytes:
    """The picture as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """A JPEG as a ``data:`` address, for HTML and markdown that must not load anything."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def figure_png(figure: Figure) -> bytes:
    """A matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def png_uri(png: bytes) -> str:
    """A PNG as a ``data:`` address."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """Width and height of a JPEG in pixels.

    Raises:
        ValueError: the bytes are no JPEG.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            return image.size
    except UnidentifiedImageError as error:
        raise ValueError(f"{len(jpeg)} bytes that are no JPEG: make pictures with to_jpeg") from error
