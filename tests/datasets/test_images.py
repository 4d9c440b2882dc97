"""Decoding of every mode by value, damaged files, and the geometry that image and mask share."""

import io
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as torchvision

from ad_assets.datasets.images import (
    ImageError,
    centre_box,
    decode_mask,
    decode_rgb,
    fit_image,
    fit_mask,
    resized_shape,
)


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
    decoded = decode_rgb(encoded(image, kind), "x")
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == [[list(pixel) for pixel in expected]]


def test_palettes_are_looked_up_with_and_without_transparency():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 250, 240, 230])
    image.putdata([2, 0, 1])
    expected = [[[250, 240, 230], [10, 20, 30], [40, 50, 60]]]
    assert decode_rgb(encoded(image), "x").tolist() == expected
    assert decode_rgb(encoded(image, transparency=b"\x00\x80\xff"), "x").tolist() == expected


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_whole_range(kind):
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], dtype=np.uint16)
    expected = [round(value / 257) for value in values[0].tolist()]  # 65535 / 255 = 257
    assert expected[0] == 0
    assert expected[-1] == 255
    decoded = decode_rgb(encoded(Image.fromarray(values), kind), "x")
    assert decoded[0, :, 0].tolist() == expected
    assert (decoded == decoded[..., :1]).all()


def test_modes_without_a_range_are_refused():
    wide = Image.fromarray(np.array([[0, 70000]], dtype=np.int32))
    real = Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32))
    with pytest.raises(ImageError, match=r"a\.tif: .*0 to 70000, expected 0\.\.65535"):
        decode_rgb(encoded(wide, "TIFF"), "a.tif")
    with pytest.raises(ImageError, match=r"b\.tif: .*floating point"):
        decode_rgb(encoded(real, "TIFF"), "b.tif")


def test_exif_rotation_is_ignored_because_masks_would_not_follow():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert decode_rgb(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif), "x").shape == (4, 8, 3)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0, 0.02, 0.5, 0.9])
def test_a_file_cut_short_names_itself(kind, part):
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)), kind)
    with pytest.raises(ImageError, match=r"^cut/x: .*(remove|copy)"):
        decode_rgb(data[: int(len(data) * part)], "cut/x")
    with pytest.raises(ImageError, match=r"^cut/x: "):
        decode_mask(data[: int(len(data) * part)], "cut/x")


def test_text_and_bombs_are_refused(monkeypatch):
    with pytest.raises(ImageError, match="not an image"):
        decode_rgb(b"once upon a time", "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ImageError, match="too large"):
        decode_rgb(encoded(Image.new("L", (20, 20))), "x.png")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (row(0, 127, 128, 255, mode="L"), [0, 0, 1, 1]),  # grey edges are cut halfway
        (row(0, 90, 176, mode="L"), [0, 0, 1]),
        (row(0, 1, 0, mode="L"), [0, 1, 0]),
        (row(0, 3, 17, mode="L"), [0, 1, 1]),  # numbered defects
        (row(0, 0, mode="L"), [0, 0]),
        (row(0, 1, mode="1"), [0, 1]),
        (row((0, 0, 0), (255, 0, 0), (0, 0, 140), mode="RGB"), [0, 1, 1]),
        (row((0, 0, 0, 255), (255, 255, 255, 255), mode="RGBA"), [0, 1]),
    ],
)
def test_masks_are_binarised_once_by_one_rule(image, expected):
    mask = decode_mask(encoded(image), "x")
    assert mask.dtype == np.bool_
    assert mask[0].tolist() == [bool(value) for value in expected]


def test_sixteen_bit_masks_by_the_same_rule():
    def decoded(*values: int) -> list[bool]:
        return decode_mask(encoded(Image.fromarray(np.array([values], dtype=np.uint16))), "x")[0].tolist()

    assert decoded(0, 1) == [False, True]
    assert decoded(0, 255) == [False, True]
    assert decoded(0, 32767, 32768, 65535) == [False, False, True, True]


def ties(old: int, new: int) -> list[bool]:
    """Whether an output pixel's centre lies exactly between two input pixels, both of which are then nearest."""
    return [(Fraction(2 * i + 1, 2) * old / new).denominator == 1 for i in range(new)]


sides = st.integers(3, 40)


@given(sides, sides, st.one_of(st.integers(3, 50), st.tuples(st.integers(3, 50), st.integers(3, 50))), st.data())
def test_image_and_mask_share_every_pixel(h, w, resize, data):
    new_h, new_w = resized_shape(h, w, resize)
    crop = data.draw(st.one_of(st.none(), st.integers(1, min(new_h, new_w))))
    mask = np.random.default_rng(h * 41 + w).random((h, w)) < 0.5
    rgb = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255

    fitted = fit_mask(mask, resize, crop)
    assert fitted.shape == fit_image(rgb, resize, crop).shape[:2]
    top, left, bottom, right = centre_box(new_h, new_w, crop)
    pillow = np.asarray(Image.fromarray(rgb).resize((new_w, new_h), Image.Resampling.NEAREST))
    clear = ~np.logical_or.outer(ties(h, new_h), ties(w, new_w))[top:bottom, left:right]
    assert np.array_equal(fitted[clear], pillow[top:bottom, left:right, 0][clear] > 0)


@given(sides, sides, st.integers(3, 50), st.data())
def test_geometry_is_torchvisions(h, w, resize, data):
    crop = data.draw(st.integers(1, resize))
    rgb = np.random.default_rng(h * 41 + w).integers(0, 256, (h, w, 3), dtype=np.uint8)
    expected = torchvision.center_crop(torchvision.resize(Image.fromarray(rgb), resize), [crop, crop])
    assert np.array_equal(fit_image(rgb, resize, crop), np.asarray(expected))


def test_a_crop_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match=r"crop 30 is larger than the resized image \(20 x 40\)"):
        fit_mask(np.zeros((10, 20), dtype=bool), 20, 30)


def test_a_mask_stays_on_its_object():
    # A white square on black: after any fit, the mask is where the image is bright.
    rgb, mask = np.zeros((90, 130, 3), dtype=np.uint8), np.zeros((90, 130), dtype=bool)
    rgb[30:60, 50:85] = 255
    mask[30:60, 50:85] = True
    for filter_name in ("bilinear", "bicubic", "lanczos"):
        image, fitted = fit_image(rgb, 64, 56, filter_name), fit_mask(mask, 64, 56)
        assert ((image[..., 0] > 127) != fitted).mean() < 0.01
