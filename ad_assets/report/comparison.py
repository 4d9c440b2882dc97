"""One table over several datasets: detectors side by side, means over categories, the best of each line marked.

The form of Table 2 of Zhang et al. (That's BAD, 2023): a block of lines for each setting, a column for each detector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ad_assets.metrics.catalogue import compared, find
from ad_assets.report.leaderboard import MEAN, STANDARD, BoardRow, rows_of
from ad_assets.report.tables import TableCell, cells_of, complete_ones, winners
from ad_assets.report.templates import filled
from ad_assets.report.text import aligned, no_test_images

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ComparisonRow:
    """One metric on one dataset."""

    dataset: str
    metric: str
    cells: tuple[TableCell, ...]


@dataclass(frozen=True)
class ComparisonTable:
    """The table.

    Args:
        detectors: the columns, in the order of the datasets' leaderboards.
        lines: metrics within datasets, without those that no detector has (image AUROC of anomalous images alone).
        notes: what to know of datasets before their lines are read.
    """

    detectors: tuple[str, ...]
    lines: tuple[ComparisonRow, ...]
    notes: tuple[str, ...] = ()

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


def compare(boards: pd.DataFrame) -> ComparisonTable:
    """Arrange leaderboards as one table.

    Args:
        boards: their rows, as `leaderboard.build` makes them, in the order of the table.
    """
    everything = rows_of(boards)
    rows = [row for row in everything if row.protocol == STANDARD and row.category == MEAN and row.metric in compared()]
    lines: dict[tuple[str, str], list[int]] = {}
    for place, row in enumerate(rows):
        lines.setdefault((row.dataset, row.metric), []).append(place)
    best = {place for line in lines.values() for place in winners(rows, complete_ones(rows, line))}
    made = zip(rows, cells_of(rows, best), strict=True)
    cells = {(row.dataset, row.metric, row.detector): cell for row, cell in made}
    detectors = tuple(dict.fromkeys(row.detector for row in everything))
    datasets: dict[str, list[BoardRow]] = {}
    for row in everything:
        datasets.setdefault(row.dataset, []).append(row)
    order = [(d, m) for d in datasets for m in compared() if (d, m) in lines]
    table = tuple(
        ComparisonRow(d, find(m).heading, tuple(cells.get((d, m, detector), TableCell()) for detector in detectors))
        for d, m in order
    )
    notes = tuple(f"{dataset}: {note}" for dataset, board in datasets.items() if (note := no_test_images(board)))
    return ComparisonTable(detectors, table, notes)


def text_table(comparison: ComparisonTable) -> str:
    """The table for a terminal, in percent; * marks the best of a line, papers' numbers stand in brackets below."""
    wide = max((len(line.dataset) for line in comparison.lines), default=0)
    names = [""]
    rows = [list(comparison.detectors)]
    before = ""
    for line in comparison.lines:
        names.append(f"{line.dataset if line.dataset != before else '':<{wide}}  {line.metric}")
        parts = [f" [{cell.part}]" if cell.part else "" for cell in line.cells]
        marks = ["*" if cell.best else " " for cell in line.cells]
        rows.append([f"{cell.number}{part}{mark}" for cell, part, mark in zip(line.cells, parts, marks, strict=True)])
        if any(cell.paper for cell in line.cells):
            names.append(f"{'':<{wide}}    paper")
            rows.append([f"({cell.paper})" if cell.paper else "" for cell in line.cells])
        before = line.dataset
    table = aligned([names, *zip(*rows, strict=True)])
    return "\n\n".join([table, comparison.statement(), *(["\n".join(comparison.notes)] if comparison.notes else [])])


def render_comparison(name: str, comparison: ComparisonTable) -> str:
    """The table as a page of HTML text; write it as UTF-8."""
    return filled("comparison.html", name=name, table=comparison)
