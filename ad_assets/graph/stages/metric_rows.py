"""Scores and their ground truth as tidy metric rows; the protocols are those of `metrics`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ad_assets.graph.stage import StageError
from ad_assets.graph.stages.ground_truth import FPR_LIMIT, GroundTruth, MeasuredScores, kinds_apart
from ad_assets.methods.data import NominalScores
from ad_assets.metrics.catalogue import registered

if TYPE_CHECKING:
    import numpy as np

INTERVAL = 0.95


class Measuring(Protocol):
    """What of the settings of `metrics` the rows follow from."""

    @property
    def fpr_limits(self) -> tuple[float, ...]:
        """Limits of AUPRO."""

    @property
    def nominal_false_positive_rate(self) -> float:
        """What the threshold from nominal images aims at."""

    @property
    def seed(self) -> int | None:
        """Of the method."""


class MetricRows:
    """Tidy metric rows of one lane; the leaderboard adds dataset, category and detector."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self.rows: list[dict[str, Any]] = []

    def add(self, protocol: str, metric: str, value: float | None, n: int, seconds: float | None = None) -> None:
        """Add a row; a value that is not defined (one class only, no mask) is None."""
        defined = value is not None and math.isfinite(value)
        self.rows.append(
            {
                "protocol": protocol,
                "metric": metric,
                "value": float(value) if value is not None and defined else None,
                "n": n,
                "seconds": seconds,
                "seed": self._seed,
            }
        )

    def headline(self) -> dict[str, float]:
        """Numbers for the UI, which plots them over time."""
        return {
            row["metric"] if row["protocol"] == "standard" else f"{row['protocol']}/{row['metric']}": row["value"]
            for row in self.rows
            if row["value"] is not None
        }


def measured_rows(
    scores: np.ndarray,
    truth: GroundTruth,
    nominal: NominalScores,
    settings: Measuring,
    pixels: MeasuredScores | None,
) -> list[dict[str, Any]]:
    """The rows that `metrics` would have of scores that are not stored; `pixels`: of their maps, for pixel metrics."""
    rows = MetricRows(settings.seed)
    if pixels is not None:
        add_pixel_rows(rows, pixels, settings.fpr_limits)
        add_registered_rows(rows, "pixel", pixels.has_both, pixels.pixels.pixels, pixels.pixels)
    import numpy as np

    add_image_rows(rows, scores, truth, nominal, settings, {})
    add_registered_rows(rows, "image", truth.has_both, len(scores), scores, np.array(truth.labels))
    return rows.rows


def add_pixel_rows(rows: MetricRows, comparison: MeasuredScores, fpr_limits: Sequence[float]) -> dict[str, Any]:
    statistics = comparison.pixels
    n = statistics.pixels
    if comparison.vanished:
        rows.add("standard", "regions_vanished", comparison.vanished, statistics.components)
    if comparison.outside:
        rows.add("standard", "images_outside_roi", comparison.outside, len(comparison.scores))
    if not comparison.has_both:
        for metric in ("pixel_auroc", "pixel_ap", *(f"aupro_{limit:.2f}" for limit in fpr_limits)):
            rows.add("standard", metric, None, n)
        return {}
    rows.add("standard", "pixel_auroc", statistics.pixel_auroc(), n)
    rows.add("standard", "pixel_ap", statistics.pixel_ap(), n)
    for limit in fpr_limits:
        rows.add("standard", f"aupro_{limit:.2f}", statistics.aupro(limit), statistics.components)
    rows.add("oracle_threshold", "best_iou", statistics.best_iou()[0], n)
    if comparison.per_image.images:
        rows.add("per_image_fpr", f"aupro_{FPR_LIMIT:.2f}", comparison.per_image.mean, comparison.per_image.images)
    for limit in fpr_limits if comparison.regions else ():
        metric = f"au_spro_{limit:.2f}"
        kinds = {kind: each.aupro(limit) for kind, each in comparison.regions.items() if each.components}
        for kind, value in kinds.items():
            rows.add("standard", f"{metric}_{kind}", value, comparison.regions[kind].components)
        rows.add("standard", metric, sum(kinds.values()) / len(kinds) if kinds else None, len(kinds))
    return {
        "roc": _points(statistics.roc_points()),
        "pr": _points(statistics.pr_points()),
        "pro": _points(statistics.pro_points()),
    }


def add_registered_rows(rows: MetricRows, level: str, defined: bool, n: int, *arguments: Any) -> None:
    """The metrics of other packages, None where one class or kind of pixels is missing."""
    for metric in registered():
        if metric.level == level and metric.measure:
            try:
                value = float(metric.measure(*arguments)) if defined else None
            except Exception as error:  # whatever another package does
                raise StageError(f"metric {metric.name} cannot be measured: {type(error).__name__}: {error}") from error
            rows.add("standard", metric.name, value, n)


def _points(curve: tuple[Any, Any]) -> list[list[float]]:
    return [[round(float(value), 6) for value in axis] for axis in curve]


def add_image_rows(
    rows: MetricRows,
    scores: np.ndarray,
    truth: GroundTruth,
    nominal: NominalScores,
    settings: Measuring,
    curves: dict[str, Any],
) -> float | None:
    """Image metrics; returns a threshold that no label has set; None where there are no scores at all."""
    from ad_assets.metrics import ranking, thresholds, uncertainty

    labels, n = truth.labels, len(truth.labels)
    if truth.has_both:
        rows.add("standard", "image_auroc", ranking.auroc(scores, labels), n)
        rows.add("standard", "image_ap", ranking.average_precision(scores, labels), n)
        low, high = uncertainty.auroc_interval(scores, labels, INTERVAL)
        rows.add("interval_95", "image_auroc_low", low, n)
        rows.add("interval_95", "image_auroc_high", high, n)
        for metric, value, count in kinds_apart(truth, scores):
            rows.add("standard", metric, value, count)
        curves["image_roc"] = _points(ranking.roc_curve_points(scores, labels))
        curves["image_pr"] = _points(ranking.pr_curve_points(scores, labels))
        best, alarms, misses = thresholds.f1_optimal(scores, labels)
        _decision_rows(rows, "oracle_f1", best, alarms, misses, truth)
    else:
        rows.add("standard", "image_auroc", None, n)
        rows.add("standard", "image_ap", None, n)
    if nominal.scores:
        protocol = "nominal_threshold"
        rate = settings.nominal_false_positive_rate
        threshold = thresholds.nominal_quantile(nominal.scores, rate, nominal.groups)
    elif n:  # a blind setting, or one training image, which cannot be scored left-out
        protocol, threshold = "outlier_threshold", thresholds.outlier_fence(scores)
    else:
        return None
    if not n:  # no decision was made, so there are no errors to count: the scores are those of training images
        rows.add(protocol, "threshold", threshold, len(nominal.scores))
    elif truth.labelled:
        alarms, misses = thresholds.errors_at(scores, labels, threshold, inclusive=False)
        _decision_rows(rows, protocol, threshold, alarms, misses, truth)
    else:
        rows.add(protocol, "threshold", threshold, n)
    return threshold


def _decision_rows(
    rows: MetricRows, protocol: str, threshold: float, alarms: int, misses: int, truth: GroundTruth
) -> None:
    n, hits = len(truth.labels), sum(truth.labels) - misses
    rows.add(protocol, "threshold", threshold, n)
    rows.add(protocol, "image_f1", 2 * hits / (2 * hits + alarms + misses) if any(truth.labels) else None, n)
    rows.add(protocol, "false_positives", alarms, n)
    rows.add(protocol, "false_negatives", misses, n)


def add_timing_rows(rows: MetricRows, record: Mapping[str, Any]) -> None:
    n = record["test_images"] or record["nominal_images"]
    for metric in ("features_images_per_second", "fit_seconds", "score_images_per_second"):
        if record.get(metric) and n:
            rows.add("timing", metric, record[metric], n)
