"""Leaderboard rows as tables of cells: text, tooltip, the paper's number, the best of a row or column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ad_assets.metrics.catalogue import compared, find, rank
from ad_assets.report.certainty import surely_best
from ad_assets.report.leaderboard import MEAN, STANDARD, BoardRow, is_oracle

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    Cells = Mapping[str, Mapping[str, "TableCell"]]  # name of the line -> name of the column -> cell

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
    spread: str = ""  # "±0.6", the standard deviation over seeds, where there are several
    part: str = ""  # "3 of 15" where a mean covers fewer categories than the dataset has
    lack: int = 0  # 0..100, the tint of the cell: from a perfect value down to 80 % and less

    @property
    def number(self) -> str:
        """``99.1 ±0.2``: the value, and its standard deviation over seeds."""
        return f"{self.text} {self.spread}".rstrip()

    @property
    def beside(self) -> str:
        """``99.1 ±0.2 (99.0, +0.1) [1 of 4]``: ours, over seeds, the paper's, the difference, how many categories."""
        number = f"{self.number} ({self.paper}, {self.delta})" if self.delta else self.number
        return f"{number} [{self.part}]" if self.part else number


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

    @property
    def has_spread(self) -> bool:
        """Whether any cell is a mean over seeds."""
        return any(cell.spread for _, cells in self.rows for cell in cells)


def cells_of(rows: Sequence[BoardRow], best: Collection[int]) -> list[TableCell]:
    """What a table shows of each leaderboard row.

    Args:
        rows: of a leaderboard.
        best: the places of the rows that are marked as best.
    """
    return [_cell(row, best=place in best) for place, row in enumerate(rows)]


def _cell(row: BoardRow, *, best: bool) -> TableCell:
    """What a table shows of one leaderboard row."""
    if row.value is None:
        return TableCell()
    metric = find(row.metric)
    over = f"{row.aggregate.partition(',')[0]} over {row.n} categories" if row.aggregate else f"n = {row.n}"
    several = (row.draws or 1) > 1
    seed = [] if row.seed is None else [f"{row.draws} seeds from {row.seed} on" if several else f"seed {row.seed}"]
    delta = "" if row.delta is None else signed_percent(row.delta)
    shortfall = row.value if metric.better == "lower" else 1 - row.value
    return TableCell(
        text=metric.text(row.value),
        hint=", ".join([f"{row.value:.6g}", over, *seed, f"fingerprint {row.fingerprint[:12]}"]),
        paper="" if row.paper_value is None else percent(row.paper_value),
        delta=delta,
        trend="" if not delta else "same" if delta == "0.0" else "down" if delta.startswith("-") else "up",
        best=best,
        spread=f"±{metric.text(row.seed_std)}" if several and row.seed_std is not None else "",
        part=f"{row.n} of {row.complete}" if row.n < row.complete else "",
        lack=round(100 * min(1.0, max(0.0, shortfall / 0.2))) if metric.is_share else 0,
    )


def complete_ones(rows: Sequence[BoardRow], places: Iterable[int]) -> list[int]:
    """Of some places of rows those of single categories and of the means over most: no others are comparable."""
    known = [place for place in places if rows[place].value is not None]
    most = max((rows[place].n for place in known), default=0)
    return [place for place in known if rows[place].n == most or rows[place].category != MEAN]


def winners(rows: Sequence[BoardRow], places: Iterable[int]) -> set[int]:
    """Which of some places of rows, all of one metric, show the best value."""
    known = {place: value for place in places if (value := rows[place].value) is not None}
    if not known:
        return set()
    metric = find(rows[next(iter(known))].metric)
    best = metric.best(known.values())
    return set() if best is None else {place for place in known if metric.text(known[place]) == metric.text(best)}


def _marked(rows: Sequence[BoardRow]) -> set[int]:
    """The places of the winners of the complete rows of each category; none where all show the same."""
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row.value is not None:
            groups.setdefault(row.category, []).append(place)
    found: set[int] = set()
    for group in groups.values():
        rivals = complete_ones(rows, group)
        best = winners(rows, rivals)
        found |= best if len(best) < len(rivals) else set()
    return found


def mean_cells(
    board: Sequence[BoardRow], protocol: str, metrics: Sequence[str] | None = None, category: str = MEAN
) -> Cells:
    """Means under one protocol, all detectors x metrics; a detector is best where it surely is, over categories.

    Args:
        board: rows of a leaderboard.
        protocol: such as ``standard``.
        metrics: None: all that have a mean under the protocol and say which detector is better.
        category: in place of the means, the values of this category.
    """
    rows = [row for row in board if row.protocol == protocol and row.category == category]
    shown = _directed(row.metric for row in rows) if metrics is None else list(metrics)
    rows = [row for row in rows if row.metric in shown]
    best = {metric: surely_best(board, protocol, metric) for metric in shown} if category == MEAN else {}
    cells = cells_of(rows, [place for place, row in enumerate(rows) if best.get(row.metric) == row.detector])
    found = {(row.detector, row.metric): cell for row, cell in zip(rows, cells, strict=True)}
    return {
        detector: {metric: found.get((detector, metric), TableCell()) for metric in shown}
        for detector in dict.fromkeys(row.detector for row in board)
    }


def _directed(metrics: Iterable[str]) -> list[str]:
    """The metrics that say which detector is better, each once, in the order of the catalogue."""
    return sorted((name for name in set(metrics) if find(name).better != "neither"), key=rank)


def means(
    board: Sequence[BoardRow], protocol: str, metrics: Sequence[str] | None = None, category: str = MEAN
) -> Table:
    """Means under one protocol; what has no number at all is left out. Arguments as `mean_cells`."""
    cells = mean_cells(board, protocol, metrics, category)
    there = {(line, name) for line, own in cells.items() for name, cell in own.items() if cell != TableCell()}
    named = {name for _, name in there}
    lines = {
        line: {name: cell for name, cell in own.items() if name in named}
        for line, own in cells.items()
        if line in {line for line, _ in there}
    }
    names = next(iter(lines.values()), {})
    return Table(protocol, tuple(find(name).heading for name in names), _lines(lines))


def further(board: Sequence[BoardRow], category: str = MEAN) -> Table:
    """Standard metrics beside the compared ones: average precision, kinds of anomalies, those of other packages."""
    names = _directed(row.metric for row in board if row.protocol == STANDARD)
    return means(board, STANDARD, [name for name in names if name not in compared()], category)


def oracles(board: Sequence[BoardRow], category: str = MEAN) -> list[Table]:
    """One table for each protocol that looked at test labels."""
    protocols = sorted(filter(is_oracle, {row.protocol for row in board}))
    return [table for protocol in protocols if (table := means(board, protocol, category=category)).columns]


def matrix(board: Sequence[BoardRow], metric: str, protocol: str = STANDARD) -> Table:
    """One metric under one protocol, categories x detectors; empty where no row has it."""
    rows = [row for row in board if row.metric == metric and row.protocol == protocol]
    categories = sorted({row.category for row in rows}, key=lambda name: (name == MEAN, name))
    cells = cells_of(rows, _marked(rows))
    found = {(row.category, row.detector): cell for row, cell in zip(rows, cells, strict=True)}
    detectors = tuple(dict.fromkeys(row.detector for row in rows))
    lines = {
        category: {detector: found.get((category, detector), TableCell()) for detector in detectors}
        for category in categories
    }
    return Table(find(metric).heading, detectors, _lines(lines))


def _lines(cells: Cells) -> tuple[tuple[str, tuple[TableCell, ...]], ...]:
    return tuple((name, tuple(line.values())) for name, line in cells.items())
