"""Sample sheets: nominal images evenly spread, every defect type before a second image of one."""

import numpy as np
import pytest

from ad_assets.report.panels import tile, title_tile
from ad_assets.report.pictures import GROUND, OUTLINE
from ad_assets.report.samples import choose_samples, sample_sheet


def rows(**types):
    good = [{"label": 0, "defect_type": "good", "path": f"good/{i}"} for i in range(types.pop("good", 0))]
    bad = [{"label": 1, "defect_type": t, "path": f"{t}/{i}"} for t, count in types.items() for i in range(count)]
    return [*bad, *good, {"label": None, "defect_type": "", "path": "unlabelled"}]


def test_samples_cover_every_type_before_any_twice():
    chosen = [row["path"] for row in choose_samples(rows(good=9, dent=1, crack=7, hole=2))]
    assert chosen == ["good/0", "good/3", "good/6", "crack/0", "crack/1", "dent/0", "hole/0", "hole/1"]
    assert [row["path"] for row in choose_samples(rows(good=2))] == ["good/0", "good/1"]
    assert choose_samples(rows()) == []


def test_a_tile_is_a_square_with_its_mask_and_a_caption():
    rgb = np.full((40, 20, 3), 90, np.uint8)
    mask = np.zeros((40, 20), bool)
    mask[10:20, 5:15] = True
    drawn = tile(rgb, mask, label=1, title="crack 001", size=80)
    assert drawn.shape == (80 + 18, 80, 3)
    square = drawn[18:]
    assert (square[:, :20] == GROUND).all()
    assert (square[:, 60:] == GROUND).all()
    assert (square == OUTLINE).all(axis=2).any()
    assert not (tile(rgb, None, label=0, title="train", size=80)[18:] == OUTLINE).all(axis=2).any()
    assert title_tile(["bolt", "x" * 500, *["more"] * 9], size=80).shape == drawn.shape
    with pytest.raises(ValueError, match="mask has the shape"):
        tile(rgb, mask[1:], label=1, title="")


def test_rows_of_a_sheet_are_filled_up():
    one = np.zeros((10, 10, 3), np.uint8)
    assert sample_sheet([[one, one, one], [one]]).shape == (2 * 16, 3 * 16, 3)
    for wrong in ([], [[one], []]):
        with pytest.raises(ValueError, match="tiles in every row"):
            sample_sheet(wrong)
