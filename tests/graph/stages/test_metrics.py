"""Metrics of other packages: measured where they are defined, and named where they fail."""

import numpy as np
import pytest

from ad_assets.graph.stage import StageError
from ad_assets.graph.stages.metric_rows import MetricRows, add_registered_rows
from ad_assets.metrics import Metric, catalogue, register_metric
from ad_assets.metrics.pixels import PixelStatistics


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "METRICS", dict(catalogue.METRICS))


def test_a_metric_of_pixels_gets_the_statistics_and_one_of_images_scores_and_labels() -> None:
    register_metric(Metric("pixel_mine", "mine", level="pixel", version=1))(lambda pixels: pixels.best_iou()[0])
    register_metric(Metric("image_mine", "mine", version=1))(lambda scores, labels: scores[labels == 1].min())
    statistics = PixelStatistics()
    statistics.update(np.array([[[0.0, 1.0], [0.0, 3.0]]]), np.array([[[0, 1], [0, 1]]]))
    rows = MetricRows(seed=None)
    add_registered_rows(rows, "pixel", True, 4, statistics)
    add_registered_rows(rows, "image", True, 3, np.array([0.5, 2.0, 4.0]), np.array([0, 1, 1]))
    add_registered_rows(rows, "image", False, 3, np.array([0.5, 2.0, 4.0]), np.array([0, 0, 0]))
    found = [(row["protocol"], row["metric"], row["value"], row["n"]) for row in rows.rows]
    assert found == [
        ("standard", "pixel_mine", 1.0, 4),
        ("standard", "image_mine", 2.0, 3),
        ("standard", "image_mine", None, 3),
    ]


def test_a_metric_that_fails_is_named() -> None:
    register_metric(Metric("mine", "mine", version=1))(lambda scores, labels: scores[labels])
    with pytest.raises(StageError, match="metric mine cannot be measured: TypeError"):
        add_registered_rows(MetricRows(seed=None), "image", True, 2, np.array([0.5, 2.0]), np.array([0, 1]))
