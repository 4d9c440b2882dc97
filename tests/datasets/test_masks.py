"""What masks mean: two values as they are, any other kind as declared or not at all."""

import numpy as np
import pytest
from PIL import Image

from ad_assets.datasets.masks import AS_PUBLISHED, MaskRule
from ad_assets_runtime.images import ImageError
from tests.datasets.test_images import encoded, row

SIDE = 32


def square(top: int = 6, left: int = 18, size: int = 8) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[top : top + size, left : left + size] = True
    return mask


def read(image: Image.Image, rule: MaskRule = MaskRule(), kind: str = "PNG", **options: object) -> np.ndarray:  # noqa: B008
    return rule.decode(encoded(image, kind, **options), "x").anomalous


def voc(indices: np.ndarray) -> Image.Image:
    image = Image.frombytes("P", indices.shape[::-1], indices.astype(np.uint8).tobytes())
    palette = np.zeros((256, 3), np.uint8)
    palette[1], palette[8], palette[255] = (128, 0, 0), (64, 0, 0), (224, 224, 192)
    image.putpalette(palette.tobytes())
    return image


def overlay(alpha: np.ndarray, opaque: tuple[int, int, int], hidden: tuple[int, int, int]) -> Image.Image:
    pixels = np.zeros((*alpha.shape, 4), np.uint8)
    pixels[...] = (*hidden, 0)
    pixels[alpha] = (*opaque, 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (row(0, 255, mode="L"), [0, 1]),
        (row(0, 1, mode="L"), [0, 1]),
        (row(0, 60, mode="L"), [0, 1]),  # below any half
        (row(0, 0, mode="L"), [0, 0]),
        (row(7, 7, mode="L"), [1, 1]),
        (row(0, 1, mode="1"), [0, 1]),
        (row((0, 0, 0), (0, 0, 140), mode="RGB"), [0, 1]),
        (row((0, 0, 0, 255), (255, 255, 255, 255), mode="RGBA"), [0, 1]),
        (row((0, 0, 0, 0), (255, 0, 0, 255), mode="RGBA"), [0, 1]),  # transparency and colour agree
        (row((0, 255), (255, 255), mode="LA"), [0, 1]),
        (Image.fromarray(np.array([[0, 300]], np.uint16)), [0, 1]),
        (voc(np.array([[0, 8]])), [0, 1]),
    ],
)
def test_a_mask_of_two_values_is_read_as_it_is(image, expected):
    mask = read(image)
    assert mask.dtype == np.bool_
    assert mask[0].tolist() == [bool(value) for value in expected]


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (row(0, 1, 255, mode="L"), r"mask of 3 values: 0 \(33 %\), 1 \(33 %\), 255 \(33 %\)"),
        (row(60, 200, mode="L"), "60 .*200"),
        (row(1, 255, mode="L"), "1 .*255"),
        (row((255, 255, 255), (255, 0, 0), mode="RGB"), "colour 255, 0, 0 .*colour 255, 255, 255"),
        (overlay(square(), (255, 0, 0), (255, 255, 255)), "colour 255, 0, 0"),
        (overlay(square(), (0, 0, 0), (0, 0, 0)), "transparency .*6.2 % of the image is opaque, 0 %"),
        (voc(np.array([[0, 1, 8]])), r"1 \(colour 128, 0, 0\) .*8 \(colour 64, 0, 0\)"),
        (voc(np.array([[1, 8]])), "1 .*8"),
        (Image.fromarray(np.array([[0, 300, 9]], np.uint16)), "9 .*300"),
    ],
)
def test_any_other_kind_is_refused_with_the_values_found(image, told):
    with pytest.raises(ImageError, match=told) as failure:
        read(image)
    assert "declare" in str(failure.value)


def test_long_lists_of_values_are_cut_short():
    with pytest.raises(ImageError, match=r"mask of 256 values: .* and 248 more") as failure:
        read(Image.fromarray(np.arange(256, dtype=np.uint8)[None]))
    assert len(str(failure.value)) < 600


def test_declared_values_ignored_ones_and_channels():
    ignored = square().astype(np.uint8)
    ignored[:2] = ignored[-2:] = 255
    labels = Image.fromarray(ignored)
    for rule in (MaskRule(ignore=((255, 255),)), MaskRule(values=((1, 1),), ignore=((255, 255),))):
        decoded = rule.decode(encoded(labels), "x")
        assert np.array_equal(decoded.anomalous, square())
        assert np.array_equal(decoded.ignored, ignored == 255)
    assert np.array_equal(read(labels, MaskRule(values=((1, 1),))), square())
    # An ignored value is never anomalous, whatever else is declared.
    assert not read(labels, MaskRule(values=((1, 255),), ignore=((1, 255),))).any()
    both = square() | square(24, 2, 5)
    greys = Image.fromarray((square() * 60 + square(24, 2, 5) * 200).astype(np.uint8))
    assert np.array_equal(read(greys, MaskRule(values=((60, 60), (200, 200)))), both)
    assert np.array_equal(read(greys, MaskRule(values=((50, 255),))), both)
    assert np.array_equal(read(voc(square() * 1 + square(24, 2, 5) * 8), MaskRule(values=((1, 1), (8, 8)))), both)
    assert np.array_equal(
        read(Image.fromarray((~square()).astype(np.uint8) * 255), MaskRule(values=((0, 0),))), square()
    )
    alpha = MaskRule(channel="alpha")
    assert np.array_equal(read(overlay(square(), (255, 0, 0), (255, 255, 255)), alpha), square())
    assert np.array_equal(read(overlay(square(), (0, 0, 0), (0, 0, 0)), alpha), square())
    red = np.zeros((SIDE, SIDE, 3), np.uint8)
    red[square(), 0], red[square(24, 2, 5), 1] = 255, 255
    assert np.array_equal(read(Image.fromarray(red), MaskRule(channel="red")), square())


@pytest.mark.parametrize(
    ("image", "rule", "told"),
    [
        (row((1, 2, 3), (0, 0, 0), mode="RGB"), MaskRule(values=((1, 1),)), "mask_channel"),
        (row((1, 2, 3), (0, 0, 0), mode="RGB"), MaskRule(channel="alpha"), "no alpha"),
        (row(0, 1, mode="L"), MaskRule(channel="red"), "grey"),
    ],
)
def test_a_declaration_that_a_file_does_not_suit_is_refused(image, rule, told):
    with pytest.raises(ImageError, match=told):
        read(image, rule)


@pytest.mark.parametrize("quality", [60, 75, 90, 100])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_the_noise_of_formats_with_losses_is_no_value(kind, quality):
    drawn = square(3, 5, 20)
    decoded = read(Image.fromarray(drawn.astype(np.uint8) * 255), kind=kind, quality=quality)
    assert (decoded != drawn).mean() < 0.01
    assert not read(Image.new("L", (SIDE, SIDE)), kind=kind, quality=quality).any()


def test_label_maps_in_formats_with_losses_are_refused():
    classes = Image.fromarray((square() * 60 + square(24, 2, 5) * 200).astype(np.uint8))
    with pytest.raises(ImageError, match="lossy format"):
        read(classes, kind="JPEG", quality=90)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (row(0, 127, 128, 255, mode="L"), [0, 0, 1, 1]),  # grey edges are cut halfway
        (row(0, 90, 176, mode="L"), [0, 0, 1]),
        (row(0, 1, 0, mode="L"), [0, 1, 0]),
        (row(0, 3, 17, mode="L"), [0, 1, 1]),  # numbered defects
        (row(0, 0, mode="L"), [0, 0]),
        (row((0, 0, 0), (255, 0, 0), (0, 0, 140), mode="RGB"), [0, 1, 1]),
        (row((0, 0, 0, 255), (255, 255, 255, 255), mode="RGBA"), [0, 1]),
        (Image.fromarray(np.array([[0, 255]], np.uint16)), [0, 1]),
        (Image.fromarray(np.array([[0, 32767, 32768, 65535]], np.uint16)), [0, 0, 1, 1]),
    ],
)
def test_published_masks_are_cut_at_half_of_their_range(image, expected):
    assert read(image, AS_PUBLISHED)[0].tolist() == [bool(value) for value in expected]
