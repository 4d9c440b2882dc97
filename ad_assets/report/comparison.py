"""One table over several datasets: detectors side by side, means over categories, the best of each line marked.

The form of Table 2 of Zhang et al. (That's BAD, 2023): a block of lines for each setting, a column for each detector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ad_assets.metrics.catalogue import compared, find
from ad_assets.report.leaderboard import MEAN, pivot
from ad_assets.report.tables import Cell, cell

Row = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One metric on one dataset."""

    dataset: str
    metric: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Comparison:
    """The table.

    Args:
        detectors: the columns, in the order of the datasets' leaderboards.
        lines: metrics within datasets, without those that no detector has (image AUROC of anomalous images alone).
    """

    detectors: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def has_paper(self) -> bool:
        """Whether any cell has a paper's number beside it."""
        return any(cell.paper for line in self.lines for cell in line.cells)

    def leads(self) -> dict[str, int]:
        """Detector -> on how many lines it is best, alone or with others that show the same; most first."""
        counts = {
            detector: sum(line.cells[place].best for line in self.lines)
            for place, detector in enumerate(self.detectors)
        }
        return dict(sorted(((d, n) for d, n in counts.items() if n), key=lambda item: -item[1]))

    def statement(self) -> str:
        """Who leads how often, in words."""
        leads = ", ".join(f"{detector} {count}" for detector, count in self.leads().items())
        return f"best on so many of {len(self.lines)} lines: {leads or 'none'}"


def compare(boards: Mapping[str, Sequence[Row]]) -> Comparison:
    """Arrange leaderboards as one table.

    Args:
        boards: dataset -> rows as `leaderboard.build` makes them, in the order of the table.
    """
    detectors = tuple(dict.fromkeys(row["detector"] for rows in boards.values() for row in rows))
    lines = []
    for dataset, rows in boards.items():
        for metric in map(find, compared()):
            table = pivot(rows, metric.name)
            means = [table.cell(detector, MEAN) for detector in detectors]
            shown = [cell(row) for row in means]
            if all(row is None or row["value"] is None for row in means):
                continue
            best = metric.best(float(one.text) for one in shown if one.text != Cell().text)
            marked = (
                cell(row, best=one.text != Cell().text and float(one.text) == best)
                for row, one in zip(means, shown, strict=True)
            )
            lines.append(Line(dataset, metric.heading, tuple(marked)))
    return Comparison(detectors, tuple(lines))


def text_table(comparison: Comparison) -> str:
    """The table for a terminal, in percent; * marks the best of a line, papers' numbers stand in brackets below."""
    header = ["", "", *comparison.detectors]
    rows = []
    for place, line in enumerate(comparison.lines):
        again = place and comparison.lines[place - 1].dataset == line.dataset
        rows.append(
            ["" if again else line.dataset, line.metric, *(f"{c.text}{'*' if c.best else ' '}" for c in line.cells)]
        )
        if any(c.paper for c in line.cells):
            rows.append(["", "  paper", *(f"({c.paper})" if c.paper else "" for c in line.cells)])
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join(
            [
                *(c.ljust(w) for c, w in zip(row[:2], widths[:2], strict=True)),
                *(c.rjust(w) for c, w in zip(row[2:], widths[2:], strict=True)),
            ]
        ).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join([*lines, "", comparison.statement()])
