"""Few-shot rows, against means worked out in loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ad_assets.report.few_shot import Shots, build, from_table, table, text_table, to_table

SHOTS = [Shots("shots", f"bank, train_images={n}", "bank", n) for n in (1, 2)]
DRAWS, CATEGORIES = 3, ("bolt", "nut")


def study_rows() -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    return [
        {
            "category": category,
            "variant": each.variant,
            "draw": draw,
            "metric": metric,
            "defect_type": defect,
            "value": float(random.uniform(0.5, 1)),
            "n": 7,
            "fingerprint": f"{category} {draw}",
        }
        for each in (*SHOTS, Shots("shots", "bank, all", "bank", 0))
        for draw in range(DRAWS)
        for category in CATEGORIES
        for metric, defect in (("image_auroc", ""), ("image_auroc", "spot"), ("pixel_auroc", ""), ("fit_seconds", ""))
    ]


def test_means_and_spreads_are_over_draws_and_then_over_categories() -> None:
    rows = study_rows()
    found = build("parts", SHOTS, {"shots": rows[::-1], "others": rows})
    assert [(row.train_images, row.metric, row.category) for row in found] == [
        (n, metric, category)
        for n in (1, 2)
        for metric in ("image_auroc", "pixel_auroc")
        for category in (*CATEGORIES, "mean")
    ]
    for row in found:
        own = np.array(
            [
                [
                    next(
                        each["value"]
                        for each in rows
                        if (each["variant"], each["draw"], each["category"], each["metric"], each["defect_type"])
                        == (row.variant, draw, category, row.metric, "")
                    )
                    for category in (CATEGORIES if row.category == "mean" else (row.category,))
                ]
                for draw in range(DRAWS)
            ]
        )
        assert row.value == pytest.approx(own.mean())
        assert row.spread == pytest.approx(own.mean(axis=1).std(ddof=1))
        assert (row.draws, row.n) == (DRAWS, 2 if row.category == "mean" else 7)
    assert from_table(to_table(found)) == found


def test_no_mean_is_made_where_a_category_lacks_the_metric() -> None:
    rows = study_rows()
    for row in rows:
        if (row["category"], row["draw"], row["metric"]) == ("nut", 1, "image_auroc"):
            row["value"] = None
    found = build("parts", SHOTS[:1], {"shots": rows})
    values = {(row.metric, row.category): row.value for row in found}
    assert values["image_auroc", "nut"] is None
    assert ("image_auroc", "mean") not in values
    assert values["pixel_auroc", "mean"] is not None
    header, [line] = table(found, 2)
    assert header[3:5] == ["image AUROC", "pixel AUROC"]
    assert line[:4] == ["bank, train_images=1", "1", "3", "–"]
    assert "±" in line[4]
    assert line[-1] == "2 of 2"


def test_names_tell_lane_and_study_and_a_single_draw_has_no_spread() -> None:
    assert Shots("a", "train_images=1", "bank", 1).title == "bank, train_images=1"
    rows = [row for row in study_rows() if row["draw"] == 0]
    twice = [SHOTS[0], Shots("again", SHOTS[0].variant, "bank", 1)]
    text = text_table(build("parts", twice, {"shots": rows, "again": rows}), 4)
    assert "bank, train_images=1 (shots)" in text
    assert "bank, train_images=1 (again)" in text
    assert "2 of 4" in text
    assert "±" not in text.split("\n\n")[1]
    assert text_table([], 4) == ""
