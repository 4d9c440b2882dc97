"""Decoding of every mode by value, of damaged files, and of formats that nobody expects."""

import io

import numpy as np
import pytest
from PIL import Image

from ad_assets.datasets.decoding import Decoding
from ad_assets_runtime.images import ImageError

DECODING = Decoding()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def row(*pixels: object, mode: str) -> Image.Image:
    image = Image.new(mode, (len(pixels), 1))
    image.putdata(pixels)
    return image


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (row(0, 130, 255, mode="L"), "PNG", [(0,) * 3, (130,) * 3, (255,) * 3]),
        (row((7, 0), (90, 128), mode="LA"), "PNG", [(7,) * 3, (90,) * 3]),
        (row((1, 2, 3), (200, 100, 50), mode="RGB"), "PNG", [(1, 2, 3), (200, 100, 50)]),
        # Alpha is dropped, not blended, even where it hides the pixel.
        (row((1, 2, 3, 0), (200, 100, 50, 128), mode="RGBA"), "PNG", [(1, 2, 3), (200, 100, 50)]),
        (row(0, 1, mode="1"), "PNG", [(0,) * 3, (255,) * 3]),
        (row((0, 0, 0, 0), (255, 0, 0, 0), mode="CMYK"), "TIFF", [(255, 255, 255), (0, 255, 255)]),
    ],
)
def test_each_mode_decodes_to_its_colours(image, kind, expected):
    decoded = DECODING.rgb(encoded(image, kind), "x")
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == [[list(pixel) for pixel in expected]]


def test_palettes_are_looked_up_with_and_without_transparency():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 250, 240, 230])
    image.putdata([2, 0, 1])
    expected = [[[250, 240, 230], [10, 20, 30], [40, 50, 60]]]
    assert DECODING.rgb(encoded(image), "x").tolist() == expected
    assert DECODING.rgb(encoded(image, transparency=b"\x00\x80\xff"), "x").tolist() == expected


def test_floating_point_is_refused():
    real = Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32))
    with pytest.raises(ImageError, match=r"b\.tif: .*floating point"):
        DECODING.rgb(encoded(real, "TIFF"), "b.tif")


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0, 0.02, 0.5, 0.9])
def test_a_file_cut_short_names_itself(kind, part):
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)), kind)
    with pytest.raises(ImageError, match=r"^cut/x: .*(remove|copy)"):
        DECODING.rgb(data[: int(len(data) * part)], "cut/x")
    with pytest.raises(ImageError, match=r"^cut/x: "):
        DECODING.mask(data[: int(len(data) * part)], "cut/x")


def test_text_and_bombs_are_refused(monkeypatch):
    with pytest.raises(ImageError, match="not an image"):
        DECODING.rgb(b"once upon a time", "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ImageError, match="too large"):
        DECODING.rgb(encoded(Image.new("L", (20, 20))), "x.png")
