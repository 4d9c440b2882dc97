"""The one rule by which a dataset's files become pixels: bit depth, orientation, and the ids that tell of both."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from ad_assets.datasets.decoding import PUBLISHED, Decoding
from ad_assets_runtime.identity import content_of, depth_of
from ad_assets_runtime.images import ImageError
from tests.datasets.test_images import encoded


def tiff(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, ``(H, W, C)`` for C in 2, 3, 4, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("depth", [8, 10, 12, 14, 16])
def test_deep_grey_keeps_its_whole_range(kind, depth):
    top = 2**depth - 1
    values = np.linspace(0, top, 256).round().astype(np.uint16)[None]
    expected = [round(255 * value / top) for value in values[0].tolist()]
    assert (expected[0], expected[-1]) == (0, 255)
    decoded = Decoding(bit_depth=depth).rgb(encoded(Image.fromarray(values), kind), "x")
    assert decoded[0, :, 0].tolist() == expected
    assert (decoded == decoded[..., :1]).all()


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_colours_keep_their_range_too(channels):
    values = np.random.default_rng(0).integers(0, 4096, (5, 7, channels), dtype=np.uint16)
    values[0, 0] = 4095
    colours = values[..., [0, 0, 0]] if channels == 2 else values[..., :3]
    expected = (colours.astype(int) * 255 + 2047) // 4095
    assert np.array_equal(Decoding(bit_depth=12).rgb(deep_png(values), "x"), expected)
    if channels > 2:
        for order in "<>":
            for options in (
                {},
                {"compression": "zlib"},
                {"compression": "zlib", "predictor": True},
                {"rowsperstrip": 2},
            ):
                data = tiff(values, photometric="rgb", byteorder=order, **options)
                assert np.array_equal(Decoding(bit_depth=12).rgb(data, "x"), expected)
        apart = tiff(np.moveaxis(values, 2, 0), photometric="rgb", planarconfig="separate")
        with pytest.raises(ImageError, match="of 16 bits arranged as"):
            Decoding(bit_depth=12).rgb(apart, "x")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_may_be_zero_in_any_depth(dtype):
    values = np.array([[0, 100, 255]], dtype)
    decoded = Decoding(bit_depth=8).rgb(tiff(values, photometric="miniswhite"), "x")
    assert decoded[0, :, 0].tolist() == [255, 155, 0]


def test_a_depth_is_found_by_tags_or_by_the_largest_value():
    def found(data: bytes) -> int | None:
        return Decoding().inspect(data, "x").depth

    def grey(largest: int) -> np.ndarray:
        return np.array([[0, largest]], np.uint16)

    by_value = {0: 8, 255: 8, 256: 10, 1023: 10, 1024: 12, 4095: 12, 4096: 14, 16384: 16, 65535: 16}
    for largest, depth in by_value.items():
        assert found(encoded(Image.fromarray(grey(largest)))) == depth
        assert found(tiff(grey(largest))) == depth
    assert found(tiff(grey(600), extratags=[(281, "H", 1, 4095, True)])) == 12
    assert found(tiff(grey(6000), extratags=[(281, "H", 1, 4095, True)])) == 14  # tags may lie
    # Pillow spreads what it reads of these over 16 bits, whatever the maximum in their header.
    assert found(b"P5 2 1 4095\n" + grey(600).astype(">u2").tobytes()) == 16
    assert found(encoded(Image.new("L", (2, 2)))) is None


def test_a_depth_that_is_too_small_or_not_known_is_refused():
    data = encoded(Image.fromarray(np.array([[0, 5000]], np.uint16)))
    with pytest.raises(
        ImageError, match=r"^a\.png: has a pixel of 5000, but images are read with 12 bits \(up to 4095\)"
    ):
        Decoding(bit_depth=12).rgb(data, "a.png")
    with pytest.raises(ImageError, match=r"^a\.png: .*more than 8 bits, up to 5000.*bit_depth"):
        Decoding().rgb(data, "a.png")
    wide = Image.fromarray(np.array([[0, 70000]], dtype=np.int32))
    with pytest.raises(ImageError, match=r"a\.tif: .*0 to 70000, expected 0\.\.65535"):
        Decoding(bit_depth=16).rgb(encoded(wide, "TIFF"), "a.tif")


def test_an_id_names_the_file_and_how_it_was_decoded():
    deep = encoded(Image.fromarray(np.array([[0, 900]], np.uint16)))
    plain = encoded(Image.new("L", (2, 1), 9))
    ten, twelve = (Decoding(bit_depth=depth).identified(deep, "x")[0] for depth in (10, 12))
    assert ten != twelve
    assert content_of(ten) == content_of(twelve)
    assert (depth_of(ten), depth_of(twelve)) == (10, 12)
    ids = {Decoding(bit_depth=depth).identified(plain, "x")[0] for depth in (None, 10, 12)}
    assert len(ids) == 1
    assert depth_of(ids.pop()) is None
    assert Decoding().of(ten, "0" * 64).bit_depth == 10
    assert Decoding(bit_depth=14).of("0" * 64).bit_depth == 14


@pytest.mark.parametrize("how", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_images_and_masks_are_turned_as_viewers_show_them(kind, how):
    from PIL import ImageOps

    stored = np.zeros((6, 10), np.uint8)
    stored[:2, :3] = 255
    exif = Image.Exif()
    exif[0x0112] = how
    data = encoded(Image.fromarray(np.kron(stored, np.ones((8, 8), np.uint8))), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("L")) > 127
    assert np.array_equal(Decoding().rgb(data, "x")[..., 0] > 127, shown)
    assert np.array_equal(Decoding().mask(data, "x").anomalous, shown)
    identity = Decoding().identified(data, "x")[0]
    assert identity.endswith("-turned") == (how > 1 and kind != "TIFF")
    if kind != "TIFF":  # which Pillow itself turns
        assert PUBLISHED.rgb(data, "x").shape == (48, 80, 3)
        assert PUBLISHED.identified(data, "x")[0] == content_of(identity)


def test_deep_colours_are_turned_as_well():
    values = np.zeros((4, 6, 3), np.uint16)
    values[0, 0] = 4095
    data = tiff(values, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    decoded = Decoding(bit_depth=12).rgb(data, "x")
    assert decoded.shape == (6, 4, 3)
    assert decoded[0, 3].tolist() == [255, 255, 255]
