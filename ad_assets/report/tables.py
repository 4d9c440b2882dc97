"""Leaderboard rows as tables of cells: text, tooltip, the paper's number, the best of a row or column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ad_assets.metrics.catalogue import compared, find, rank
from ad_assets.report.leaderboard import MEAN, STANDARD, is_oracle

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Sequence

    import pandas as pd

DASH = "–"


def percent(value: float) -> str:
    """A fraction as a percentage with one decimal, as papers print it.

    >>> percent(0.9876)
    '98.8'
    """
    return f"{100 * value:.1f}"


def signed_percent(value: float) -> str:
    """A difference of fractions in percentage points with its sign, never a signed zero.

    >>> signed_percent(-0.0123), signed_percent(-0.0001)
    ('-1.2', '0.0')
    """
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


@dataclass(frozen=True)
class TableCell:
    """One number: text, the unrounded value as tooltip, how it stands to the paper and to its neighbours."""

    text: str = DASH
    hint: str = "not measured"
    paper: str = ""
    delta: str = ""
    trend: str = ""  # up | down | same, against the paper
    best: bool = False
    part: str = ""  # "3 of 15" where a mean covers fewer categories than the dataset has
    lack: int = 0  # 0..100, the tint of the cell: from a perfect value down to 80 % and less

    @property
    def beside(self) -> str:
        """``99.1 (99.0, +0.1)``: ours, the paper's, the difference."""
        return f"{self.text} ({self.paper}, {self.delta})" if self.delta else self.text


@dataclass(frozen=True)
class Table:
    """Named rows of cells under columns: detectors x metrics, or categories x detectors of one metric."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[TableCell, ...]], ...]

    @property
    def has_paper(self) -> bool:
        """Whether any cell has a paper's number beside it."""
        return any(cell.paper for _, cells in self.rows for cell in cells)


def arranged(
    rows: pd.DataFrame, index: str | list[str], columns: str, best: Collection[Hashable], categories: int = 0
) -> pd.DataFrame:
    """Cells of leaderboard rows, index x columns; an empty cell where there is no row.

    Args:
        rows: of a leaderboard.
        index: the column, or columns, that the lines are named by.
        columns: the column that the columns are named by.
        best: the labels of the rows that are marked as best.
        categories: how many a complete mean covers.
    """
    known = rows.astype(object).where(rows.notna(), None)
    made = [_cell(row, best=row.Index in best, categories=categories) for row in known.itertuples()]
    table = rows.assign(cell=made).pivot(index=index, columns=columns, values="cell")
    return table.where(table.notna(), TableCell())


def _cell(row: Any, *, best: bool, categories: int) -> TableCell:
    """What a table shows of one leaderboard row."""
    if row.value is None:
        return TableCell()
    metric = find(row.metric)
    over = f"{row.aggregate} over {row.n} categories" if row.aggregate else f"n = {row.n}"
    seed = [] if row.seed is None else [f"seed {row.seed}"]
    delta = "" if row.delta is None else signed_percent(row.delta)
    shortfall = row.value if metric.better == "lower" else 1 - row.value
    return TableCell(
        text=metric.text(row.value),
        hint=", ".join([f"{row.value:.6g}", over, *seed, f"fingerprint {row.fingerprint[:12]}"]),
        paper="" if row.paper_value is None else percent(row.paper_value),
        delta=delta,
        trend="" if not delta else "same" if delta == "0.0" else "down" if delta.startswith("-") else "up",
        best=best,
        part=f"{row.n} of {categories}" if row.category == MEAN and row.n < categories else "",
        lack=round(100 * min(1.0, max(0.0, shortfall / 0.2))) if metric.is_share else 0,
    )


def winners(rows: pd.DataFrame) -> set[Hashable]:
    """The labels of the rows, all of one metric, that show the best value."""
    known = rows.dropna(subset="value")
    if known.empty:
        return set()
    metric = find(known["metric"].iloc[0])
    best = metric.best(known["value"])
    return set() if best is None else set(known.index[known["value"].map(metric.text) == metric.text(best)])


def _marked(rows: pd.DataFrame, apart: str) -> set[Hashable]:
    """The winners of the complete rows of each line or column; none where all show the same."""
    found: set[Hashable] = set()
    for _, group in rows.dropna(subset="value").groupby(apart):
        rivals = group[(group["n"] == group["n"].max()) | (group["category"] != MEAN)]
        best = winners(rivals)
        found |= best if len(best) < len(rivals) else set()
    return found


def mean_cells(board: pd.DataFrame, protocol: str, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Means under one protocol, all detectors x metrics.

    Args:
        board: a leaderboard.
        protocol: such as ``standard``.
        metrics: None: all that have a mean under the protocol and say which detector is better.
    """
    rows = board[(board["protocol"] == protocol) & (board["category"] == MEAN)]
    metrics = _directed(rows) if metrics is None else metrics
    rows = rows[rows["metric"].isin(metrics)]
    total = board.loc[board["category"] != MEAN, "category"].nunique()
    cells = arranged(rows, "detector", "metric", _marked(rows, "metric"), total)
    return cells.reindex(index=board["detector"].unique(), columns=metrics, fill_value=TableCell())


def _directed(rows: pd.DataFrame) -> list[str]:
    """The metrics of some rows that say which detector is better, in the order of the catalogue."""
    return sorted((name for name in rows["metric"].unique() if find(name).better != "neither"), key=rank)


def means(board: pd.DataFrame, protocol: str, metrics: Sequence[str] | None = None) -> Table:
    """Means under one protocol; what has no number at all is left out. Arguments as `mean_cells`."""
    cells = mean_cells(board, protocol, metrics)
    there = cells.map(lambda cell: cell != TableCell())
    cells = cells.loc[there.any(axis=1), there.any(axis=0)]
    return Table(protocol, tuple(find(name).heading for name in cells), _lines(cells))


def further(board: pd.DataFrame) -> Table:
    """Standard metrics beside the compared ones: average precision, kinds of anomalies, those of other packages."""
    names = _directed(board[board["protocol"] == STANDARD])
    return means(board, STANDARD, [name for name in names if name not in compared()])


def oracles(board: pd.DataFrame) -> list[Table]:
    """One table for each protocol that looked at test labels."""
    protocols = sorted(filter(is_oracle, board["protocol"].unique()))
    return [table for protocol in protocols if (table := means(board, protocol)).columns]


def matrix(board: pd.DataFrame, metric: str, protocol: str = STANDARD) -> Table:
    """One metric under one protocol, categories x detectors; empty where no row has it."""
    rows = board[(board["metric"] == metric) & (board["protocol"] == protocol)]
    categories = sorted(rows["category"].unique(), key=lambda name: (name == MEAN, name))
    total = len(set(categories) - {MEAN})
    cells = arranged(rows, "category", "detector", _marked(rows, "category"), total)
    cells = cells.reindex(index=categories, columns=rows["detector"].unique())
    return Table(find(metric).heading, tuple(cells.columns), _lines(cells))


def _lines(cells: pd.DataFrame) -> tuple[tuple[str, tuple[TableCell, ...]], ...]:
    return tuple((name, tuple(line)) for name, line in zip(cells.index, cells.to_numpy(), strict=True))
