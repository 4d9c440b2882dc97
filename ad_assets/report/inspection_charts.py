"""Small pictures of what was inspected: scores, the rate of alarms over time, and the wealth of drift tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import datetime
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPANS = 24  # bars of alarms over time
BINS = 40


def inspection_chart(
    times: Sequence[datetime.datetime], scores: Sequence[float], anomalous: Sequence[bool], threshold: float | None
) -> Figure:
    """The histogram of scores, and beside it the rate of alarms in spans of equally many images.

    Args:
        times: (n,) of the inspections, ascending, n at least 1.
        scores: (n,) their scores.
        anomalous: (n,) their decisions.
        threshold: of the last of them; drawn as a line.
    """
    figure, (left, right) = _figure(2)
    decided = np.asarray(anomalous, bool)
    values = np.asarray(scores, np.float64)
    bins = np.histogram_bin_edges(values, BINS).tolist()
    left.hist([values[~decided], values[decided]], bins, stacked=True, color=["#4c78a8", "#e45756"])
    if threshold is not None:
        left.axvline(threshold, color="black", linewidth=1, linestyle="--")
    left.set_xlabel("score; dashed: threshold now", fontsize=8)
    left.set_ylabel("images", fontsize=8)
    spans = [span for span in np.array_split(np.arange(len(values)), SPANS) if len(span)]
    right.bar(range(len(spans)), [100 * decided[span].mean() for span in spans], color="#e45756")
    shown = sorted({0, len(spans) // 2, len(spans) - 1})
    right.set_xticks(shown, [f"{times[spans[number][0]]:%m-%d %H:%M}" for number in shown])
    right.set_ylabel("% anomalous", fontsize=8)
    right.set_xlabel("UTC, spans of equally many images", fontsize=8)
    return figure


def drift_chart(paths: Sequence[tuple[str, Sequence[float], float]]) -> Figure:
    """The wealth of drift tests, on a logarithmic scale.

    Args:
        paths: detector, its wealth after each image, and the wealth at which it speaks.
    """
    figure, (axes,) = _figure(1)
    for detector, wealth, limit in paths:
        [line] = axes.plot(range(1, len(wealth) + 1), wealth, label=detector, linewidth=1.2)
        axes.axhline(limit, color=line.get_color(), linestyle="--", linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("images since the test began", fontsize=8)
    axes.set_ylabel("wealth; dashed: drift", fontsize=8)
    axes.legend(fontsize=7)
    return figure


def _figure(count: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * count, 2.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, count, number + 1) for number in range(count)]
    for each in axes:
        each.tick_params(labelsize=7)
    return figure, axes
