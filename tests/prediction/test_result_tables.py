"""Tables of predictions for spreadsheets and browsers: nothing that a file name holds is run by them."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from ad_assets.prediction.result_tables import PredictionRow, csv_of
from ad_assets.report.inspection_picture import LARGEST, SMALLEST, inspection_picture, tile_size
from ad_assets.report.panels import GAP
from ad_assets.report.picture_files import to_jpeg
from ad_assets.report.pictures import OUTLINE
from ad_assets.report.predictions import predictions_page
from ad_assets_runtime.defect_regions import DefectRegion

REGIONS = (DefectRegion((3, 4, 10, 6), 9, 8.5, (6.04, 4.5)), DefectRegion((0, 0, 1, 1), 1, 8.0, (0.0, 0.0)))


def cells(row: PredictionRow) -> dict[str, str]:
    data = csv_of([row])
    assert data.startswith(b"\xef\xbb\xbfimage,")  # the mark by which Excel takes UTF-8 for UTF-8
    [found] = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    return found


def test_a_row_tells_all_regions_and_the_strongest() -> None:
    found = cells(PredictionRow("b\u00e4d, one.png", 7.25, 5.0, 0.016, anomalous=True, regions=REGIONS))
    assert found["image"] == "b\u00e4d, one.png"
    assert [found[name] for name in ("decision", "score", "regions", "area")] == ["anomalous", "7.25", "2", "10"]
    place = [found[name] for name in ("left", "top", "width", "height", "peak", "x", "y")]
    assert place == ["3", "4", "7", "2", "8.5", "6.0", "4.5"]
    assert cells(PredictionRow("x.png", error="cut off"))["regions"] == ""


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(A1)", "\tx", "%x"])
def test_no_name_becomes_a_formula(name: str) -> None:
    assert cells(PredictionRow(name, -1.0, anomalous=False))["image"] == f"'{name}"
    assert cells(PredictionRow(name, -1.0, anomalous=False))["score"] == "-1.0"


def test_the_page_escapes_names_and_is_bounded() -> None:
    name = "<script>alert(1)</script>\udcff.png"
    row = {"image": name, "decision": "anomalous", "score": 7.0, "p_value": None, "regions": REGIONS, "area": 10}
    page = predictions_page(
        "parts/small [bolt]",
        [{**row, "error": None}] * 3000,
        [(name, to_jpeg(np.zeros((8, 8, 3), np.uint8)))],
        threshold=5.0,
        pixel_threshold=None,
        promise="At most 5 % <false> alarms",
        versions={"small": "abc"},
    )
    page.encode()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "5 % &lt;false&gt; alarms" in page
    assert "1000 more rows are in predictions.csv" in page
    assert "2999 more are in the folder of pictures" in page


@pytest.mark.parametrize("shape", [(8, 6), (300, 400), (3000, 4000)])
def test_pictures_are_large_enough_to_see_and_small_enough_to_send(shape: tuple[int, int]) -> None:
    height, width = tile_size(shape)
    assert SMALLEST <= max(height, width) <= LARGEST
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.01)


def test_regions_are_outlined_in_the_third_tile_alone() -> None:
    score_map = np.zeros((256, 300), np.float32)
    score_map[100:120, 50:90] = 5
    score_map[:20] = np.nan  # not looked at
    picture = inspection_picture(
        np.full((256, 300, 3), 90, np.uint8),
        score_map,
        (0.0, 4.0),
        [(50, 100, 90, 120)],
        3.0,
        seen=~np.isnan(score_map),
        head="anomalous",
        colour=(255, 0, 0),
        title="score 5",
    )
    outlined = (picture == OUTLINE).all(axis=2)[18:-18]
    assert not outlined[:, : 2 * (300 + GAP)].any()
    third = outlined[:, 2 * (300 + GAP) :]
    assert third[99, 50:90].all()  # just above the region
    assert third[97, 47:93].all()  # its box
    assert not third[101:119, 51:89].any()
