"""One table over several datasets: detectors side by side, means over categories, the best of each line marked.

The form of Table 2 of Zhang et al. (That's BAD, 2023): a block of lines for each setting, a column for each detector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ad_assets.metrics.catalogue import compared, find
from ad_assets.report.leaderboard import MEAN, STANDARD
from ad_assets.report.tables import TableCell, arranged, winners
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
        boards: their rows, as `leaderboard.build` makes them, in the order of the table; no label twice.
    """
    rows = boards[(boards["protocol"] == STANDARD) & (boards["category"] == MEAN) & boards["metric"].isin(compared())]
    best = {label for _, line in rows.groupby(["dataset", "metric"]) for label in winners(line)}
    cells = arranged(rows, ["dataset", "metric"], "detector", best)
    detectors = boards["detector"].unique()
    cells = cells.reindex(columns=detectors, fill_value=TableCell())
    order = [(d, m) for d in boards["dataset"].unique() for m in compared() if (d, m) in cells.index]
    lines = (
        ComparisonRow(dataset, find(metric).heading, tuple(cells.loc[dataset, metric])) for dataset, metric in order
    )
    boards_apart = boards.groupby("dataset", sort=False)
    notes = tuple(f"{dataset}: {note}" for dataset, board in boards_apart if (note := no_test_images(board)))
    return ComparisonTable(tuple(detectors), tuple(lines), notes)


def text_table(comparison: ComparisonTable) -> str:
    """The table for a terminal, in percent; * marks the best of a line, papers' numbers stand in brackets below."""
    wide = max((len(line.dataset) for line in comparison.lines), default=0)
    names = [""]
    rows = [list(comparison.detectors)]
    before = ""
    for line in comparison.lines:
        names.append(f"{line.dataset if line.dataset != before else '':<{wide}}  {line.metric}")
        rows.append([f"{cell.text}{'*' if cell.best else ' '}" for cell in line.cells])
        if any(cell.paper for cell in line.cells):
            names.append(f"{'':<{wide}}    paper")
            rows.append([f"({cell.paper})" if cell.paper else "" for cell in line.cells])
        before = line.dataset
    table = aligned([names, *zip(*rows, strict=True)])
    return "\n\n".join([table, comparison.statement(), *(["\n".join(comparison.notes)] if comparison.notes else [])])
