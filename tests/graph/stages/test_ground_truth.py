"""What studies and metrics measure of image scores where a dataset tells kinds of anomalies apart."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ad_assets.graph.stages.ground_truth import GroundTruth, MeasuredScores, kinds_apart, quality
from ad_assets.metrics.ranking import auroc


def rows(*kinds: str) -> list[dict[str, Any]]:
    """One nominal row for each empty kind, one anomalous row for each other."""
    return [
        {
            "image_id": f"{n:02}",
            "path": str(n),
            "label": bool(kind),
            "defect_type": kind or "good",
            "anomaly_kind": kind,
        }
        for n, kind in enumerate(kinds)
    ]


def test_each_kind_is_against_all_nominal_images():
    truth = GroundTruth(rows("", "", "", "structural", "structural", "logical"))
    scores = np.array([1, 2, 3, 2.5, 4, 0], np.float32)
    structural, logical = auroc(scores[:5], [0, 0, 0, 1, 1]), auroc(scores[[0, 1, 2, 5]], [0, 0, 0, 1])
    expected = {
        "image_auroc_structural": structural,
        "image_auroc_logical": logical,
        "image_auroc_kinds": (structural + logical) / 2,
    }
    found = {metric: value for metric, value, _ in kinds_apart(truth, scores)}
    assert found == pytest.approx(expected)
    assert found["image_auroc_logical"] == 0
    comparison = cast(MeasuredScores, SimpleNamespace(scores=scores, pixels=SimpleNamespace(pixels=0), has_both=False))
    measured = {metric: value for metric, defect, value, _ in quality(truth, comparison) if not defect}
    assert expected.items() <= measured.items()


def test_without_kinds_there_is_nothing_to_tell_apart():
    truth = GroundTruth([{**row, "anomaly_kind": ""} for row in rows("", "crack")])
    assert kinds_apart(truth, np.array([0, 1], np.float32)) == []
