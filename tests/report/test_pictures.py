"""Pictures against slow loops and sizes that can be counted."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib import colormaps
from PIL import Image

from ad_assets.report import panels, picture_files, pictures
from ad_assets_runtime.colours import INFERNO

GREY = np.full((20, 30, 3), 100, np.uint8)


def picture(rgb, scores, mask=None, seen=None):
    return panels.ScoredPicture(rgb, scores, (0, 1), mask, seen)


def decoded(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def test_heat_map_follows_the_scale_and_leaves_the_scores_alone():
    scores = np.linspace(-5, 15, 400, dtype=np.float32).reshape(20, 20)
    before = scores.copy()
    heat = pictures.heat_map(scores, 0.0, 10.0)
    assert heat.shape == (20, 20, 3)
    assert heat.dtype == np.uint8
    assert np.array_equal(scores, before)
    # Inferno rises evenly in lightness, so brightness must never fall along rising scores.
    lightness = heat.reshape(-1, 3) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) >= -0.75).all()  # the last step of rounding to 8 bits a channel
    assert (heat[scores <= 0] == heat[0, 0]).all()
    assert (heat[scores >= 10] == heat[-1, -1]).all()
    assert np.array_equal(INFERNO, colormaps["inferno"](np.arange(256), bytes=True)[:, :3])
    assert np.array_equal(heat[[0, -1], [0, -1]], INFERNO[[0, -1]])


def test_one_scale_makes_pictures_comparable():
    weak, strong = np.full((4, 4), 2.0), np.full((4, 4), 8.0)
    both = pictures.heat_map(np.stack([weak, strong]).reshape(8, 4), 0, 10)
    assert np.array_equal(both[:4], pictures.heat_map(weak, 0, 10))
    assert np.array_equal(both[4:], pictures.heat_map(strong, 0, 10))
    assert np.array_equal(pictures.heat_map(weak, 2, 2), pictures.heat_map(weak, 2, 5))  # no spread, no error


@pytest.mark.parametrize(
    ("scores", "low", "high", "message"),
    [
        (np.zeros((2, 2, 2)), 0, 1, r"shape \(H, W\)"),
        (np.array([[0.0, np.nan]]), 0, 1, "not finite"),
        (np.zeros((2, 2)), 1, 0, "low must not exceed high"),
        (np.zeros((2, 2)), np.nan, 0, "low must not exceed high"),
    ],
)
def test_heat_map_refuses(scores, low, high, message):
    with pytest.raises(ValueError, match=message):
        pictures.heat_map(scores, low, high)


def test_overlay_runs_from_image_to_heat_map():
    scores = np.linspace(0, 1, 600).reshape(20, 30)
    assert np.array_equal(pictures.overlay(GREY, scores, 0, 1, 0.0), GREY)
    assert np.array_equal(pictures.overlay(GREY, scores, 0, 1, 1.0), pictures.heat_map(scores, 0, 1))
    half = pictures.overlay(GREY, scores, 0, 1, 0.5).astype(int)
    assert np.abs(half * 2 - GREY - pictures.heat_map(scores, 0, 1)).max() <= 1
    with pytest.raises(ValueError, match=r"score map has the shape \(20, 29\), its image \(20, 30\)"):
        pictures.overlay(GREY, scores[:, :29], 0, 1)


def test_what_was_not_looked_at_looks_like_no_heat_map():
    scores = np.full((20, 30), np.nan)
    scores[:, 10:] = 0.5
    seen = np.isfinite(scores)
    shown = pictures.overlay(GREY, scores, 0, 1, seen=seen)
    assert np.array_equal(shown[:, 10:], pictures.overlay(GREY[:, 10:], scores[:, 10:], 0, 1))
    unseen = shown[:, :10]
    assert np.array_equal(unseen.max(axis=2), unseen.min(axis=2))  # grey, which no colour of the scale is but black
    assert len(np.unique(unseen)) > 1  # lines
    with pytest.raises(ValueError, match="not finite"):  # where it looked, a score is a number
        pictures.overlay(GREY, scores, 0, 1, seen=np.ones_like(seen))
    everywhere = panels.strip(picture(GREY, np.zeros((20, 30))), 30)
    assert not np.array_equal(panels.strip(picture(GREY, scores, seen=seen), 30), everywhere)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_outline_is_the_ring_around_the_mask(mask):
    rows, columns = mask.shape
    rgb = np.zeros((rows, columns, 3), np.uint8)
    drawn = (pictures.outline(rgb, mask) == pictures.OUTLINE).all(axis=2)
    for y in range(rows):
        for x in range(columns):
            around = [
                mask[v, u]
                for v in range(max(0, y - 1), min(rows, y + 2))
                for u in range(max(0, x - 1), min(columns, x + 2))
            ]
            on_frame = y in (0, rows - 1) or x in (0, columns - 1)
            assert drawn[y, x] == (on_frame if mask[y, x] else any(around))
    assert not rgb.any()  # drawn on a copy


def test_strip_shows_three_tiles_and_even_the_thinnest_defect():
    rgb = np.full((400, 200, 3), 90, np.uint8)
    mask = np.zeros((400, 200), bool)
    mask[50:350, 101] = True
    scores = np.zeros((400, 200))
    strip = panels.strip(picture(rgb, scores, mask), 100)
    assert strip.shape == (100, 3 * 50 + 2 * panels.GAP, 3)
    image, outlined = strip[:, :50], strip[:, 50 + panels.GAP : 100 + panels.GAP]
    assert (image == 90).all()
    assert (outlined == pictures.OUTLINE).all(axis=2).sum() > 150
    plain = panels.strip(picture(rgb, scores), 100)
    assert np.array_equal(plain[:, :50], plain[:, 50 + panels.GAP : 100 + panels.GAP])
    with pytest.raises(ValueError, match="mask has the shape"):
        panels.strip(picture(rgb, scores, mask[:300]))


def test_panel_has_a_caption_that_no_name_can_break():
    scores = np.zeros((20, 30))
    plain = panels.panel(picture(GREY, scores), score=0.5, label=0, size=60)
    assert plain.shape == (40 + panels.CAPTION_HEIGHT, 3 * 60 + 2 * panels.GAP, 3)
    for title in ("scratch", "x" * 400, "bad\udcffbytes", "two\nlines", "日本語", "\u202eevil"):
        named = panels.panel(picture(GREY, scores), score=0.5, label=0, title=title, size=60)
        assert named.shape == plain.shape
        assert np.array_equal(named[panels.CAPTION_HEIGHT :], plain[panels.CAPTION_HEIGHT :])
    anomalous = panels.panel(picture(GREY, scores), score=0.5, label=1, size=60)
    assert not np.array_equal(anomalous, plain)
    with pytest.raises(ValueError, match=r"0 \(nominal\) or 1 \(anomalous\), not 2"):
        panels.panel(picture(GREY, scores), score=0.5, label=2)


def test_contact_sheet_places_panels_row_by_row():
    shades = [np.full((4 + k, 6, 3), 40 * k + 50, np.uint8) for k in range(5)]
    sheet = panels.contact_sheet(shades, 2)
    cell_height, cell_width = 8 + 2 * panels.GAP, 6 + 2 * panels.GAP
    assert sheet.shape == (3 * cell_height, 2 * cell_width, 3)
    for k, shade in enumerate(shades):
        top, left = panels.GAP + k // 2 * cell_height, panels.GAP + k % 2 * cell_width
        assert (sheet[top : top + shade.shape[0], left : left + 6] == 40 * k + 50).all()
    assert (sheet[2 * cell_height :, cell_width:] == pictures.GROUND).all()
    assert panels.contact_sheet(shades[:1], 4).shape == (4 + 2 * panels.GAP, cell_width, 3)
    with pytest.raises(ValueError, match="not 0 and 2"):
        panels.contact_sheet([], 2)
    with pytest.raises(ValueError, match="not 5 and 0"):
        panels.contact_sheet(shades, 0)


def test_jpeg_keeps_what_fits_and_refuses_what_cannot():
    smooth = np.tile(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], (60, 1, 3))
    jpeg = picture_files.to_jpeg(smooth, 90)
    assert np.abs(decoded(jpeg).astype(int) - smooth).max() <= 8
    assert picture_files.to_jpeg(smooth, 90, max_bytes=len(jpeg)) == jpeg
    assert len(picture_files.to_jpeg(smooth, 90, max_bytes=len(jpeg) - 1)) < len(jpeg)
    with pytest.raises(ValueError, match="fits into 100 bytes"):
        picture_files.to_jpeg(smooth, max_bytes=100)
    prefix, _, body = picture_files.data_uri(jpeg).partition(",")
    assert prefix == "data:image/jpeg;base64"
    assert base64.b64decode(body) == jpeg


def test_png_keeps_every_pixel():
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    assert np.array_equal(decoded(picture_files.to_png(noise)), noise)
