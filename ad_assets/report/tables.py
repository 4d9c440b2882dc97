"""Leaderboard rows as tables of cells: text, tooltip, the paper's number, the best of a row or column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ad_assets.metrics.catalogue import Metric, compared, find, rank
from ad_assets.report.leaderboard import (
    MEAN,
    STANDARD,
    Row,
    is_oracle,
    percent,
    pivot,
    signed_percent,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Cell:
    """One number: text, the unrounded value as tooltip, how it stands to the paper and to its neighbours."""

    text: str = "–"
    hint: str = "not measured"
    paper: str = ""
    delta: str = ""
    trend: str = ""  # up | down | same, against the paper
    best: bool = False
    part: str = ""  # "3 of 15" where a mean covers fewer categories than the dataset has
    lack: int = 0  # 0..100, the tint of the cell: from a perfect value down to 80 % and less


@dataclass(frozen=True)
class Table:
    """Named rows of cells under columns: detectors x metrics, or categories x detectors of one metric."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]

    @property
    def has_paper(self) -> bool:
        """Whether any cell has a paper's number beside it."""
        return any(cell.paper for _, cells in self.rows for cell in cells)


def cell(row: Row | None, *, best: bool = False, categories: int = 0) -> Cell:
    """What a table shows of one leaderboard row; `categories` is how many a complete mean covers."""
    if row is None or row["value"] is None:
        return Cell()
    value, metric = row["value"], find(row["metric"])
    hint = [f"{value:.6g}", f"n = {row['n']}"]
    if row["aggregate"]:
        hint[1] = f"{row['aggregate']} over {row['n']} categories"
    if row["seed"] is not None:
        hint.append(f"seed {row['seed']}")
    hint.append(f"fingerprint {str(row['fingerprint'])[:12]}")
    delta = signed_percent(row["delta"])
    trend = "" if not delta else "same" if delta == "0.0" else "down" if delta.startswith("-") else "up"
    shortfall = value if metric.better == "lower" else 1 - value
    partial = row["category"] == MEAN and row["n"] < categories
    return Cell(
        text=metric.text(value),
        hint=", ".join(hint),
        paper="" if row["paper_value"] is None else percent(row["paper_value"]),
        delta=delta.replace("-", "−"),
        trend=trend,
        best=best,
        part=f"{row['n']} of {categories}" if partial else "",
        lack=round(100 * min(1.0, max(0.0, shortfall / 0.2))) if metric.is_share else 0,
    )


def _best(cells: Sequence[Row | None], metric: Metric) -> set[int]:
    """Positions of the best shown value among the complete ones; none where all show the same."""
    rows = [(k, row) for k, row in enumerate(cells) if row is not None and row["value"] is not None]
    most = max((row["n"] for _, row in rows), default=0)
    rivals = [(k, row["value"]) for k, row in rows if row["n"] == most or row["category"] != MEAN]
    best = metric.best(value for _, value in rivals)
    winners = set() if best is None else {k for k, value in rivals if metric.text(value) == metric.text(best)}
    return winners if len(winners) < len(rivals) else set()


def means(rows: Sequence[Row], detectors: Sequence[str], protocol: str, metrics: Sequence[str] | None = None) -> Table:
    """Means of several metrics under one protocol; metrics that no detector has are left out.

    Args:
        rows: of a leaderboard.
        detectors: the lines.
        protocol: such as ``standard``.
        metrics: None: all under the protocol that say which detector is better.
    """
    total = len({row["category"] for row in rows} - {MEAN})
    if metrics is None:
        metrics = _directed(rows, protocol)
    columns: list[str] = []
    cells: dict[str, list[Cell]] = {detector: [] for detector in detectors}
    for name in metrics:
        found = [pivot(rows, name, protocol).cell(detector, MEAN) for detector in detectors]
        if not any(found):
            continue
        columns.append(find(name).heading)
        best = _best(found, find(name))
        for k, (detector, row) in enumerate(zip(detectors, found, strict=True)):
            cells[detector].append(cell(row, best=k in best, categories=total))
    kept = tuple((name, tuple(line)) for name, line in cells.items() if any(cell != Cell() for cell in line))
    return Table(protocol, tuple(columns), kept)


def _directed(rows: Sequence[Row], protocol: str) -> list[str]:
    """The metrics of a protocol that say which detector is better, in the order of the catalogue."""
    names = {row["metric"] for row in rows if row["protocol"] == protocol}
    return sorted((name for name in names if find(name).better != "neither"), key=rank)


def further(rows: Sequence[Row], detectors: Sequence[str]) -> Table:
    """Standard metrics beside the compared ones: average precision, kinds of anomalies, those of other packages."""
    return means(rows, detectors, STANDARD, [name for name in _directed(rows, STANDARD) if name not in compared()])


def oracles(rows: Sequence[Row], detectors: Sequence[str]) -> list[Table]:
    """One table for each protocol that looked at test labels."""
    protocols = sorted({row["protocol"] for row in rows if is_oracle(row["protocol"])})
    return [table for protocol in protocols if (table := means(rows, detectors, protocol)).columns]


def matrix(rows: Sequence[Row], metric: str, protocol: str = STANDARD) -> Table:
    """One metric under one protocol, categories x detectors."""
    table = pivot(rows, metric, protocol)
    total = len([name for name in table.categories if name != MEAN])
    lines = []
    for category in table.categories:
        found = [table.cell(detector, category) for detector in table.detectors]
        best = _best(found, find(metric))
        cells = (cell(row, best=k in best, categories=total) for k, row in enumerate(found))
        lines.append((category, tuple(cells)))
    return Table(find(metric).heading, table.detectors, tuple(lines))
