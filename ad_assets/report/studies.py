"""Studies as a table and a plot: means over draws, then over categories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ad_assets.metrics.catalogue import Metric, compared, find, rank
from ad_assets.report.markdown import one_line
from ad_assets.report.picture_files import figure_png
from ad_assets.report.text import aligned

if TYPE_CHECKING:
    import pandas as pd

RATES = ("score_images_per_second", "images_per_second")  # of the plot; the second includes the backbone
ROUNDING = 1e-12  # of the mean of equal numbers

Row = Mapping[str, Any]


@dataclass(frozen=True)
class StudyNumber:
    """One number of a study: the mean, the sample standard deviation over draws (0 for one), categories behind it."""

    mean: float
    spread: float
    categories: int


@dataclass(frozen=True)
class Summary:
    """A study as variants x metrics.

    Args:
        variants: in the order of the benchmark file.
        cells: (variant, metric, defect type or empty) -> number.
    """

    variants: tuple[str, ...]
    cells: Mapping[tuple[str, str, str], StudyNumber]

    def column(self, metric: str, defect: str = "") -> list[StudyNumber | None]:
        """One metric of all variants."""
        return [self.cells.get((variant, metric, defect)) for variant in self.variants]

    @property
    def defects(self) -> list[str]:
        """All defect types."""
        return sorted({defect for _, _, defect in self.cells if defect})


def summarise(rows: Iterable[Row]) -> Summary:
    """Tidy rows to means over draws and categories; values that are not defined are left out."""
    import pandas as pd

    frame = pd.DataFrame(rows, columns=["variant", "metric", "defect_type", "category", "draw", "value"])
    known = frame.dropna(subset="value").astype({"value": float})
    cells = {
        key: StudyNumber(*mean_and_spread(group.groupby("draw")["value"].mean()), group["category"].nunique())
        for key, group in known.groupby(["variant", "metric", "defect_type"])
    }
    return Summary(tuple(frame["variant"].unique()), cells)


def mean_and_spread(draws: pd.Series | Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of a whole benchmark's means, one a draw; 0 for one."""
    return float(np.mean(draws)), float(np.std(draws, ddof=1)) if np.ptp(draws) > ROUNDING else 0.0


def table(summary: Summary, *, defects: bool = False) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of text, in percent where a metric is a share.

    Args:
        summary: what to show.
        defects: a column of image AUROC for every defect type too.
    """
    metrics = [find(name) for name in sorted({name for _, name, defect in summary.cells if not defect}, key=rank)]
    columns = [(metric, "", metric.heading_with_unit) for metric in metrics if metric.is_share]
    columns += [(find("image_auroc"), name, one_line(name)) for name in (summary.defects if defects else ())]
    columns += [(metric, "", metric.heading_with_unit) for metric in metrics if not metric.is_share]
    rows = [
        [variant, *(_text(summary.cells.get((variant, metric.name, defect)), metric) for metric, defect, _ in columns)]
        for variant in summary.variants
    ]
    return ["variant", *(name for _, _, name in columns)], rows


def text_table(summary: Summary, *, defects: bool = False) -> str:
    """The table for a terminal."""
    header, rows = table(summary, defects=defects)
    return aligned(list(zip(header, *rows, strict=True)))


def _text(cell: StudyNumber | None, metric: Metric) -> str:
    if cell is None:
        return "-"
    return metric.text(cell.mean) + (f" ±{metric.text(cell.spread)}" if cell.spread and metric.is_share else "")


def plot(title: str, summary: Summary) -> bytes:
    """The study as a PNG: quality on the left, speed on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    quality, speed = figure.subplots(1, 2, width_ratios=[2, 1])
    places = range(len(summary.variants))
    for metric in map(find, compared()):
        _line(quality, metric.title, summary.column(metric.name), 100 if metric.is_share else 1)
    for metric in map(find, RATES):
        _line(speed, metric.title, summary.column(metric.name), 1)
    quality.set_title(title, loc="left", fontsize=10, parse_math=False)
    quality.set_ylabel("%")
    speed.set_ylabel("images/s")
    speed.set_ylim(bottom=0)
    for axes in (quality, speed):
        if axes.has_data():
            axes.legend(fontsize=8, frameon=False)
    labels = [_short(variant) for variant in summary.variants]
    for axes in (quality, speed):
        axes.set_xticks(list(places), labels, rotation=30, ha="right", fontsize=8, parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    return figure_png(figure)


def _line(axes: Any, name: str, column: Sequence[StudyNumber | None], factor: float) -> None:
    known = [(place, cell) for place, cell in enumerate(column) if cell]
    if known:
        axes.errorbar(
            [place for place, _ in known],
            [factor * cell.mean for _, cell in known],
            yerr=[factor * cell.spread for _, cell in known],
            label=name,
            marker="o",
            markersize=4,
            linewidth=1,
            capsize=2,
        )


def _short(variant: str, most: int = 24) -> str:
    return variant if len(variant) <= most else variant[: most - 1] + "…"
