"""Thresholds on image scores: the best F1 by trying each, and false alarm rates that exchangeable images keep."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ad_assets.metrics.thresholds import (
    errors_at,
    f1_optimal,
    images_for_rate,
    nominal_quantile,
    outlier_fence,
    promise,
)
from ad_assets_runtime.conformal import p_values
from tests.support.fixtures import fixture


def test_best_f1_of_the_fixture():
    data = fixture("metrics")
    threshold, false_positives, false_negatives = f1_optimal(data["image_scores"], data["labels"])
    assert np.float32(threshold) == np.float32(data["f1_threshold"])
    assert (false_positives, false_negatives) == (int(data["f1_fp"]), int(data["f1_fn"]))


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30))
def test_best_f1_among_all_thresholds(items):
    scores = np.array([float(score) for score, _ in items])
    labels = np.array([label for _, label in items])
    if labels.all() or not labels.any():
        return
    found = {}
    for threshold in sorted(set(scores), reverse=True):
        wrong = errors_at(scores, labels, threshold, inclusive=True)
        hits = labels.sum() - wrong[1]
        found.setdefault(2 * hits / (2 * hits + sum(wrong)), (threshold, *wrong))
    assert f1_optimal(scores, labels) == found[max(found)]


@given(
    scores=st.lists(st.integers(0, 50), min_size=2, max_size=40),
    rate=st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5]),
)
def test_each_nominal_image_left_out_in_turn_keeps_the_rate(scores, rate):
    alarms = sum(
        scores[left_out] > nominal_quantile(scores[:left_out] + scores[left_out + 1 :], rate, ())
        for left_out in range(len(scores))
    )
    assert alarms <= max(rate * len(scores) + 1e-9, 1)  # too few images for the rate: one alarm at most


def test_quantiles_by_hand():
    assert (
        nominal_quantile(np.arange(1, 20), 0.05, ()) == 19.0
    )  # ceil(20 * 0.95) = 19, a whole number in spite of rounding
    assert nominal_quantile(np.arange(1, 40), 0.05, ()) == 38.0
    assert nominal_quantile(np.arange(1, 100), 0.1, ()) == 90.0
    assert nominal_quantile([3.0, 1.0, 2.0], 0.05, ()) == 3.0
    assert nominal_quantile([3.0, 1.0, 2.0], 0.75, ()) == 1.0


@given(
    nominal=st.lists(st.integers(0, 20), min_size=1, max_size=60),
    scores=st.lists(st.integers(-1, 21), min_size=1, max_size=5),
    rate=st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.3, 0.5]),
)
def test_a_p_value_decides_as_the_threshold_does_where_there_are_images_enough(nominal, scores, rate):
    values = p_values(scores, nominal, ())
    for score, value in zip(scores, values, strict=True):
        assert value == (1 + sum(each >= score for each in nominal)) / (len(nominal) + 1)
        if len(nominal) >= images_for_rate(rate):
            assert (value <= rate + 1e-12) == (score > nominal_quantile(nominal, rate, ()))


@given(
    drawn=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 30)), min_size=1, max_size=60),
    score=st.integers(-1, 21),
    rate=st.sampled_from([0.03, 0.1, 0.3, 0.5]),
)
def test_of_images_in_groups_each_group_counts_as_one(drawn, score, rate):
    nominal, groups = ([each[part] for each in drawn] for part in (0, 1))
    by_group = {group: [value for value, own in drawn if own == group] for group in set(groups)}
    shares = [sum(value >= score for value in own) / len(own) for own in by_group.values()]
    (value,) = p_values([score], nominal, groups)
    assert value == pytest.approx((1 + sum(shares)) / (len(by_group) + 1))
    threshold = nominal_quantile(nominal, rate, groups)
    if len(by_group) >= images_for_rate(rate):
        assert (value <= rate + 1e-9) == (score > threshold)
    else:
        assert threshold == max(nominal)
    alone = list(range(len(nominal)))
    assert nominal_quantile(nominal, rate, alone) == nominal_quantile(nominal, rate, ())
    assert p_values([score], nominal, alone) == pytest.approx(p_values([score], nominal, ()))


def test_a_rate_that_few_images_cannot_promise_is_said_with_the_number_needed():
    assert [images_for_rate(rate) for rate in (0.5, 0.05, 0.01, 0.001)] == [1, 19, 99, 999]
    assert "at most 5 %" in promise(19, 0.05)
    assert "needs 19 nominal scores, there are 18" in promise(18, 0.05)
    assert "promises 5.26 %" in promise(18, 0.05)
    assert "no rate" in promise(0, 0.05)
    grouped = promise(60, 0.05, [0] * 53 + [*range(1, 8)], "by near-copies")
    assert "needs 19 groups of nominal images, there are 8 (60 nominal scores in 8 groups)" in grouped
    assert "promises 11.1 %; left out by near-copies" in grouped
    assert "no rate of false alarms is promised by 60 nominal images: all are copies" in promise(
        60, 0.05, [0] * 60, "all are copies"
    )
    with pytest.raises(ValueError, match="at least one nominal"):
        p_values([1.0], [], ())


def test_a_fence_ignores_what_stands_out():
    normal = np.random.default_rng(0).normal(10, 2, 10_001)
    fence = outlier_fence(normal)
    assert fence == pytest.approx(16, abs=0.2)  # three standard deviations
    assert outlier_fence([*normal, *[1e9] * 500]) == pytest.approx(16.3, abs=0.3)
    assert outlier_fence([5.0]) == 5.0
    with pytest.raises(ValueError, match="at least one image"):
        outlier_fence([])


def test_errors_at_a_threshold():
    scores, labels = [0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]
    assert errors_at(scores, labels, 0.5, inclusive=True) == (1, 0)
    assert errors_at(scores, labels, 0.5, inclusive=False) == (0, 1)
    assert errors_at(scores, [0, 0, 0, 0], 0.5, inclusive=True) == (3, 0)


@pytest.mark.parametrize(
    ("scores", "rate", "message"),
    [
        ([], 0.05, "no nominal scores"),
        ([1.0, np.nan], 0.05, r"scores\[1\]"),
        ([1.0], 0.0, "rate"),
        ([1.0], 1.0, "rate"),
    ],
)
def test_refused_input(scores, rate, message):
    with pytest.raises(ValueError, match=message):
        nominal_quantile(scores, rate, ())
