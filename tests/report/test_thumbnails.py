"""Pictures in Dagster's events: small whatever they show, and untouched where they are."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ad_assets.report import picture_files
from ad_assets.report.thumbnails import MOST_BYTES, thumbnail_uri, with_thumbnails

NOISE = np.random.default_rng(0).integers(0, 256, (400, 900, 3), dtype=np.uint8)


@pytest.mark.parametrize("encoded", [picture_files.to_png(NOISE), picture_files.to_jpeg(NOISE)])
def test_even_noise_becomes_small_and_keeps_its_shape(encoded: bytes) -> None:
    assert len(encoded) > 200_000
    uri = thumbnail_uri(encoded)
    assert len(uri) < 10_000
    shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert shown.width / shown.height == pytest.approx(900 / 400, rel=0.1)
    told = f"before ![a](data:image/jpeg;base64,{base64.b64encode(encoded).decode()}) [after](x)"
    assert with_thumbnails(told) == f"before ![a]({uri}) [after](x)"
    assert len(thumbnail_uri(encoded, 2000)) < 2800


def test_what_is_small_is_left_as_it_is() -> None:
    encoded = picture_files.to_png(NOISE[:20, :20])
    assert len(encoded) <= MOST_BYTES
    told = f"![a](data:image/png;base64,{base64.b64encode(encoded).decode()})"
    assert with_thumbnails(told) == told
    with pytest.raises(OSError, match="cannot identify"):
        thumbnail_uri(b"GIF8")
