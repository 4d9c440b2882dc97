"""AUROC and average precision: the fixture, scikit-learn, and counting pairs by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from ad_assets.metrics.ranking import auroc, average_precision, pr_curve_points, roc_curve_points
from tests.support.fixtures import fixture


def test_image_scores_of_the_fixture():
    data = fixture("metrics")
    scores, labels = data["image_scores"], data["labels"]
    assert auroc(scores, labels) == pytest.approx(float(data["image_auroc"]), abs=1e-10)
    assert auroc(np.full_like(scores, 0.3), labels) == float(data["constant_image_auroc"])


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=40))
def test_equal_to_scikit_learn_and_to_counted_pairs(items):
    scores = np.array([score for score, _ in items]) / 7
    labels = np.array([label for _, label in items])
    if labels.all() or not labels.any():
        with pytest.raises(ValueError, match="both classes"):
            auroc(scores, labels)
        return
    pairs = [(high > low) + 0.5 * (high == low) for high in scores[labels] for low in scores[~labels]]
    assert auroc(scores, labels) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_scores_that_a_sigmoid_would_merge():
    scores = np.linspace(20, 44, 400)
    labels = np.arange(400) % 3 == 0
    labels[300:] |= np.arange(100) % 2 == 0
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels), abs=1e-12)


def test_points_for_plots():
    rng = np.random.default_rng(0)
    labels = rng.random(5000) < 0.3
    scores = rng.normal(size=5000) + labels
    false_positives, recall = roc_curve_points(scores, labels)
    assert len(recall) <= 200
    assert (false_positives[0], recall[0], false_positives[-1], recall[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert np.trapezoid(recall, false_positives) == pytest.approx(auroc(scores, labels), abs=1e-3)
    recall, precision = pr_curve_points(scores, labels)
    assert len(recall) <= 200
    assert recall[-1] == 1.0
    assert np.trapezoid(precision, recall) == pytest.approx(average_precision(scores, labels), abs=1e-2)
    few = roc_curve_points([1.0, 2.0, 3.0], [0, 1, 1])
    assert few[0].tolist() == [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, np.nan], [0, 1], r"scores\[1\] is nan"),
        ([0.1, 0.2, np.inf], [0, 1, 1], r"scores\[2\] is inf"),
        ([[0.1, 0.2]], [0, 1], r"scores must be \(n,\)"),
        ([0.1, 0.2], [0, 1, 1], r"labels must be \(2,\)"),
        ([0.1, 0.2], [0, 2], "0 .nominal. or 1"),
        ([0.1, 0.2], [1, 1], "no nominal image among 2"),
        ([0.1, 0.2], [0, 0], "no anomalous image among 2"),
        ([], [], "both classes"),
    ],
)
def test_refused_input(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        auroc(scores, labels)
