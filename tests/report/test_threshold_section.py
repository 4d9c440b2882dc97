"""The section of thresholds: bars count what there is, recall and rates equal a count by hand, oracles say so."""

import re

import numpy as np
import pytest

from ad_assets.metrics.alarm_rates import RATES, alarm_rates, recall_by_type
from ad_assets.metrics.thresholds import nominal_quantile
from ad_assets.report.threshold_section import (
    BAR,
    BINS,
    ORACLE_RECALL,
    LaneScores,
    score_chart,
    threshold_section,
    threshold_text,
)

TYPES = ["good", "good", "scratch", "scratch", "dent", "dent", "dent"]
LABELS = [0, 0, 1, 1, 1, 1, 1]


def lane(**given):
    values = {
        "detector": "pc",
        "scores": [0.1, 0.9, 0.4, 0.7, 0.65, 0.2, 40.0],
        "labels": LABELS,
        "defect_types": TYPES,
        "threshold": 0.6,
        "rate": 0.2,
        "nominal": [0.3, 0.1, 0.6, 0.5],
    }
    return LaneScores(**{**values, **given})


def test_recall_is_a_count_of_what_lies_above():
    assert recall_by_type(lane().scores, LABELS, TYPES, 0.6) == {"dent": (2, 3), "scratch": (1, 2)}
    assert recall_by_type(lane().scores, LABELS, TYPES, 0.7) == {"dent": (1, 3), "scratch": (0, 2)}


@pytest.mark.parametrize("groups", [[], [0, 1, 1, 2, 3, 3, 3, 4]])
def test_a_rate_expects_what_one_new_image_among_the_others_would_see(groups):
    scores = np.array([3.0, 1.0, 2.0, 5.0, 5.0, 0.0, 7.0, 4.0])
    found = alarm_rates(scores, groups, 0.3)
    assert [each.rate for each in found] == sorted({*RATES, 0.3})
    for each in found:
        assert each.threshold == nominal_quantile(scores, each.rate, groups)
        own = groups or list(range(8))
        sizes = {group: own.count(group) for group in own}
        above = sum(1 / sizes[group] for score, group in zip(scores, own, strict=True) if score > each.threshold)
        expected = (1 + above) / (len(sizes) + 1)  # the new one is as likely to be the highest as any other
        assert each.expected == pytest.approx(expected)
        assert each.missing or each.expected <= each.rate + 1e-9
    assert [each.missing for each in alarm_rates(scores, [], 0.2)] == [991, 91, 41, 11, 1, 0]


def test_bars_count_every_image_and_the_last_one_those_far_beyond():
    chart = score_chart(lane())
    assert [(row.kind, row.told) for row in chart.rows] == [
        ("good, in training", "good, in training: 4 images, 0 above the threshold"),
        ("good, in test", "good, in test: 2 images, 1 above the threshold"),
        ("anomalous", "anomalous: 5 images, 3 above the threshold"),
    ]
    assert (chart.low, chart.beyond) == (0.1, True)
    wide = chart.width / BINS
    for row, scores in zip(chart.rows, lane().kinds.values(), strict=True):
        bars = re.findall(r"M([\d.]+) \d+v-([\d.]+)", row.path)
        places = [min(BINS - 1, int((s - chart.low) / (chart.high - chart.low) * (BINS - 1))) for s in scores]
        most = max(map(places.count, places))
        assert [float(x) for x, _ in bars] == [round(place * wide, 1) for place in sorted(set(places))]
        drawn = [float(high) for _, high in bars]
        assert drawn == pytest.approx([BAR * places.count(p) / most for p in sorted(set(places))], abs=0.06)
    assert all(row.told in chart.told for row in chart.rows)


def test_what_test_labels_say_of_other_rates_stands_under_oracle_alone():
    section = threshold_section("parts", "bolt", [lane(), lane(detector="blind", nominal=[])])
    assert section.recall == [
        ("dent", ["67 % (2 of 3)"] * 2),
        ("scratch", ["50 % (1 of 2)"] * 2),
        ("all", ["60 % (3 of 5)"] * 2),
    ]
    [table] = section.tables
    assert table.columns[-1] == ORACLE_RECALL
    [now] = [cells for cells, is_now in table.rows if is_now]
    assert now == ("20 %", "0.6", "200", "60 % (3 of 5)")
    assert table.rows[0][0][0] == "0.1 % (995 nominal images too few)"
    assert section.keys[1] == "datasets.parts.decision.categories.bolt.false_alarm_rate"
    others = threshold_section("parts", "bolt", [lane(labels=[1 - label for label in LABELS])])
    assert [cells[:-1] for cells, _ in others.tables[0].rows] == [cells[:-1] for cells, _ in table.rows]
    unknown = threshold_section("parts", "bolt", [lane(labels=[None] * 7)])
    assert unknown.recall == []
    assert ORACLE_RECALL not in unknown.tables[0].columns
    assert threshold_section("parts", "bolt", []) is None


def test_the_text_names_the_key_and_the_rate_that_is_set():
    text = threshold_text(lane(defect_types=["good", "good", "a\nb", "a\nb", "dent", "dent", "dent"]))
    assert re.search(r"a b +1 of 2 +50 %\n", text)
    assert re.search(r"\n20 % \* +0\.6 +200 +60 % \(3 of 5\)", text)
    assert "decision.false_alarm_rate" in text
    assert threshold_text(lane(labels=[None] * 7, nominal=[])) == ""


def test_scores_that_are_all_alike_are_drawn():
    chart = score_chart(lane(scores=[1.0] * 7, nominal=[1.0], threshold=1.0))
    assert (chart.low, chart.high, chart.at) == (1.0, 2.0, 0.0)
