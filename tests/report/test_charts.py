"""Thinned curves stay where they were, and bad ones are named."""

import itertools
import re

import numpy as np
import pytest

from ad_assets.report.charts import HEIGHT, TOLERANCE, WIDTH, charts


def distance_to_polyline(point, line):
    """Distance of a point to the nearest segment, the long way."""
    nearest = np.inf
    for a, b in itertools.pairwise(line):
        for t in np.linspace(0, 1, 51):
            nearest = min(nearest, float(np.hypot(*(a + t * (b - a) - point))))
    return nearest


def path_points(path):
    return np.array([[float(v) for v in pair.split()] for pair in re.split("[ML]", path)[1:]])


@pytest.mark.parametrize("seed", range(4))
def test_every_measured_point_lies_on_the_drawn_line(seed):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.random(200)), np.sort(rng.random(200)) ** 0.3
    (chart,) = charts({"pc": {"roc": (x, y)}}, ["pc"])
    line = path_points(chart.lines[0].path)
    assert len(line) < 180
    points = np.stack([x * WIDTH, (1 - y) * HEIGHT], axis=-1)
    assert max(distance_to_polyline(point, line) for point in points[::7]) <= TOLERANCE + 0.1  # 0.1: what is written


def test_a_curve_of_a_million_pixels_becomes_short_and_stays_true():
    x = np.linspace(0, 1, 1_000_000)
    (chart,) = charts({"pc": {"roc": (x, x**0.1)}}, ["pc"])
    (line,) = chart.lines
    assert len(line.path) < 2_000
    points = path_points(line.path)
    assert points[0] == pytest.approx([0, HEIGHT])
    assert points[-1] == pytest.approx([WIDTH, 0])
    expected = HEIGHT * (1 - (points[:, 0] / WIDTH) ** 0.1)
    inner = points[:, 0] > 1
    assert np.abs(points[inner, 1] - expected[inner]).max() < 0.8


def test_a_step_stays_a_step():
    (chart,) = charts({"pc": {"image_roc": ([0, 0, 0.5, 0.5, 1], [0, 0.5, 0.5, 1, 1])}}, ["pc"])
    assert chart.lines[0].path.startswith("M0.0 200.0L0.0 100.0L132.0 100.0L132.0 0.0L264.0 0.0")


def test_kinds_and_colours():
    x = [0.0, 1.0]
    curves = {"b": {"pro": (x, x), "roc": (x, x)}, "a": {"roc": (x, x)}}
    made = charts(curves, ["a", "b", "c"])
    assert [chart.kind.title for chart in made] == ["ROC, pixels", "PRO, defect regions"]
    assert [(line.detector, line.colour) for line in made[0].lines] == [("a", 0), ("b", 1)]
    assert [(line.detector, line.colour) for line in made[1].lines] == [("b", 1)]


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({"x": {"roc": ([0, 1], [0, 1])}}, "a curve of 'x'"),
        ({"pc": {"rock": ([0, 1], [0, 1])}}, "curve pc/rock: expected one of"),
        ({"pc": {"roc": ([0, 1], [0])}}, r"curve pc/roc: x and y must be \(P,\)"),
        ({"pc": {"roc": ([], [])}}, r"curve pc/roc: x and y must be \(P,\)"),
        ({"pc": {"roc": ([0, np.nan], [0, 1])}}, "curve pc/roc: x or y holds a value that is not finite"),
    ],
)
def test_bad_curves_are_named(curves, message):
    with pytest.raises(ValueError, match=message):
        charts(curves, ["pc"])
