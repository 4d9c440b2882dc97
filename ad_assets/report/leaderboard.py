"""From tidy metric rows to a leaderboard: aggregates over categories, and the papers' numbers beside them.

Rows are plain dicts, so they travel as Parquet and need no data frame. A mean is made only where every
category of the detector has the metric: a mean over a subset looks better or worse than it is. A paper's
number stands beside ours only where both cover the same categories.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ad_assets.metrics.catalogue import compared, find, registered
from ad_assets.papers import published as paper_tables
from ad_assets.report.certainty import certainty

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ad_assets.metrics.uncertainty import Interval

Row = dict[str, Any]

MEAN = paper_tables.MEAN
STANDARD = "standard"
NOMINAL = "nominal_threshold"
OUTLIER = "outlier_threshold"
TIMING = "timing"
ORACLE_PREFIX = "oracle_"
BEST_EPOCH = "oracle_best_epoch"  # the protocol of the papers that train
INTERVAL = "interval_95"
COLUMNS = (
    "dataset",
    "category",
    "detector",
    "protocol",
    "metric",
    "value",
    "n",
    "seconds",
    "seed",
    "fingerprint",
)


def is_oracle(protocol: str) -> bool:
    """Whether a protocol looked at test labels to choose something."""
    return protocol.startswith(ORACLE_PREFIX)


def build(
    rows: Sequence[Mapping[str, Any]],
    papers: Mapping[str, tuple[str, str]],
    intervals: Mapping[str, Interval] | None = None,
) -> list[Row]:
    """The leaderboard of one dataset.

    Adds one row for each detector, protocol and metric with category ``"mean"`` and `n` = number of
    categories. Its column `aggregate` says what it is: ``"mean"``, ``"sum"`` (false alarms, misses, seconds)
    or ``"throughput"`` (images per second of all categories together); thresholds have none. Rows of the
    protocols ``standard`` and ``oracle_best_epoch`` get `paper_system`, `paper_dataset`, `paper_value` and
    `delta` (ours - paper, fractions) where published; where we ran a part of the paper's categories, its mean
    is over that part.

    Args:
        rows: tidy rows with at least the keys `COLUMNS`; a `value` of None or NaN means not defined.
        papers: detector -> (system, dataset) as `papers.published` takes them; others' entries are ignored.
        intervals: detector -> interval of its mean image AUROC over categories.

    Returns:
        Rows in the detectors' order of appearance, ``oracle_*`` protocols last, means after categories.

    Raises:
        ValueError: no rows, rows of several datasets, a missing key, a row given twice, a category called
            "mean", an unknown paper system or dataset.
    """
    plain = _checked(rows)
    detectors = list(dict.fromkeys(row["detector"] for row in plain))
    order = {name: position for position, name in enumerate(detectors)}
    made: list[Row] = []
    for detector in detectors:
        own = [row for row in plain if row["detector"] == detector]
        everywhere = {row["category"] for row in own}
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in sorted(own, key=lambda row: row["category"]):
            groups.setdefault((row["protocol"], row["metric"]), []).append(row)
        system, dataset = papers.get(detector, ("", ""))
        numbers = paper_tables.published(system, dataset) if system else {}
        for (protocol, metric), group in groups.items():
            measured = [row for row in group if row["value"] is not None]
            complete = {row["category"] for row in measured} == everywhere
            mean = _mean_row(metric, measured) if complete else None
            covered = {row["category"] for row in measured}
            printed = numbers.get(metric, {}) if protocol in (STANDARD, BEST_EPOCH) else {}
            if protocol == INTERVAL and complete and detector in (intervals or {}):
                mean = _end_of_interval(metric, measured, (intervals or {})[detector])
            for row in [*group, *([mean] if mean else [])]:
                paper_value = published_beside(printed, row["category"], covered, dataset)
                made.append(_with_paper(row, system, dataset, paper_value))
    return sorted(
        made,
        key=lambda row: (
            order[row["detector"]],
            _protocol_rank(row["protocol"]),
            row["metric"],
            row["category"] == MEAN,
            row["category"],
        ),
    )


@dataclass(frozen=True)
class Pivot:
    """One metric under one protocol as a table.

    Args:
        detectors: in order of appearance.
        categories: sorted, ``"mean"`` last where some detector has it.
        cells: (detector, category) -> leaderboard row.
    """

    metric: str
    protocol: str
    detectors: tuple[str, ...]
    categories: tuple[str, ...]
    cells: dict[tuple[str, str], Row]

    def cell(self, detector: str, category: str) -> Row | None:
        """The row of one cell, None where there is none."""
        return self.cells.get((detector, category))


def pivot(rows: Sequence[Row], metric: str, protocol: str = STANDARD) -> Pivot:
    """Arrange built rows as detectors x categories; empty where no row has the metric under that protocol."""
    chosen = [row for row in rows if row["metric"] == metric and row["protocol"] == protocol]
    names = sorted({row["category"] for row in chosen}, key=lambda name: (name == MEAN, name))
    return Pivot(
        metric,
        protocol,
        tuple(dict.fromkeys(row["detector"] for row in chosen)),
        tuple(names),
        {(row["detector"], row["category"]): row for row in chosen},
    )


def text_table(rows: Sequence[Row], width: int = 110) -> str:
    """Built rows as plain text for a terminal, in percent.

    First image AUROC, categories x detectors; then the means of image AUROC, pixel AUROC and AUPRO 0.30; then
    the decisions at the nominal-only threshold and, apart, at the oracle threshold and epoch. Papers' numbers
    and the differences stand beside ours. Too many detectors for one line continue below.

    Raises:
        ValueError: `width` cannot hold one detector.
    """
    if not rows:
        return "no metric rows"
    table = pivot(rows, "image_auroc")
    detectors = tuple(dict.fromkeys(row["detector"] for row in rows))
    unit = "% (paper, difference)" if any(row["paper_value"] is not None for row in rows) else "%"
    columns = [
        [detector, *(_beside_paper(table.cell(detector, category)) for category in table.categories)]
        for detector in table.detectors
    ]
    names = ["", *table.categories]
    blocks = [f"{rows[0]['dataset']}: image AUROC, {unit}", *aligned(names, columns, width)]
    measured = {row["metric"] for row in rows}
    means = [find(name) for name in dict.fromkeys([*compared(), *(m.name for m in registered() if m.name in measured)])]
    columns = [
        [metric.title, *(_beside_paper(pivot(rows, metric.name).cell(detector, MEAN)) for detector in detectors)]
        for metric in means
    ]
    intervals = [_interval(rows, detector) for detector in detectors]
    if any(intervals):
        columns.insert(1, ["95 % interval", *(text or "–" for text in intervals)])
    covered = {d: {row["category"] for row in rows if row["detector"] == d} - {MEAN} for d in detectors}
    total = len(set().union(*covered.values()))
    if any(len(own) < total for own in covered.values()):
        columns.append(["categories", *(f"{len(covered[detector])} of {total}" for detector in detectors)])
    blocks += [f"means over categories, {unit}", *aligned(["", *detectors], columns, width)]
    blocks += ["\n".join(lines) for lines in [certainty(rows)] if lines]
    for protocol, title in (
        (NOMINAL, "threshold from nominal training images"),
        (OUTLIER, "threshold from the scores alone: median + 3 scaled median deviations"),
        (f"{ORACLE_PREFIX}f1", "ORACLE threshold, chosen on test labels: an upper bound, not a result"),
    ):
        columns = _decisions(rows, detectors, protocol)
        if columns:
            blocks += [title, *aligned(["", *detectors], columns, width)]
    chosen = [detector for detector in detectors if pivot(rows, "image_auroc", BEST_EPOCH).cell(detector, MEAN)]
    if chosen:
        columns = [
            [m.title, *(_beside_paper(pivot(rows, m.name, BEST_EPOCH).cell(detector, MEAN)) for detector in chosen)]
            for m in means
            if not m.measure
        ]
        title = f"ORACLE epoch, chosen on test labels as the papers do: beside theirs, not a result; {unit}"
        blocks += [title, *aligned(["", *chosen], columns, width)]
    return "\n\n".join(blocks)


def _interval(rows: Sequence[Row], detector: str) -> str:
    """``[84.1, 92.0]``, the interval of the mean image AUROC; empty where there is none."""
    ends = [pivot(rows, f"image_auroc_{end}", INTERVAL).cell(detector, MEAN) for end in ("low", "high")]
    return f"[{', '.join(percent(end['value']) for end in ends if end)}]" if all(ends) else ""


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal, as papers print it; a dash for None.

    >>> percent(0.9876), percent(None)
    ('98.8', '–')
    """
    return "–" if value is None else f"{100 * value:.1f}"


def signed_percent(value: float | None) -> str:
    """A difference of fractions in percentage points with its sign, never a signed zero; empty for None.

    >>> signed_percent(-0.0123), signed_percent(-0.0001)
    ('-1.2', '0.0')
    """
    if value is None:
        return ""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def _beside_paper(row: Row | None) -> str:
    """``99.1 (99.0, +0.1)``: ours, the paper's, the difference."""
    if row is None or row["value"] is None:
        return "–"
    if row["delta"] is None:
        return find(row["metric"]).text(row["value"])
    return f"{percent(row['value'])} ({percent(row['paper_value'])}, {signed_percent(row['delta'])})"


def _decisions(rows: Sequence[Row], detectors: Sequence[str], protocol: str) -> list[list[str]]:
    """Columns F1, false alarms and misses over all categories; empty where no detector has them."""
    columns = []
    for metric in map(find, ("image_f1", "false_positives", "false_negatives")):
        cells = [pivot(rows, metric.name, protocol).cell(detector, MEAN) for detector in detectors]
        if any(cells):
            columns.append([metric.title, *map(_beside_paper, cells)])
    return columns


def aligned(names: list[str], columns: list[list[str]], width: int) -> list[str]:
    """Aligned blocks of text: `names` on the left of each, as many columns as fit into `width`."""
    left = max(map(len, names))
    blocks: list[list[str]] = []
    room = 0
    for column in columns:
        wide = max(map(len, column))
        if left + 2 + wide > width:
            raise ValueError(f"a column of {wide} characters beside {left} does not fit into {width}")
        if room < 2 + wide:
            blocks.append([name.ljust(left) for name in names])
            room = width - left
        blocks[-1] = [f"{line}  {cell.rjust(wide)}" for line, cell in zip(blocks[-1], column, strict=True)]
        room -= 2 + wide
    return ["\n".join(line.rstrip() for line in block) for block in blocks]


def _checked(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Copies of the rows with undefined values as None."""
    if not rows:
        raise ValueError("a leaderboard needs metric rows, but there are none: materialize the metrics first")
    seen: set[tuple[str, ...]] = set()
    plain = []
    for position, row in enumerate(rows):
        if missing := [column for column in COLUMNS if column not in row]:
            raise ValueError(f"metric row {position} lacks {', '.join(missing)}: expected {', '.join(COLUMNS)}")
        key = tuple(str(row[column]) for column in ("category", "detector", "protocol", "metric"))
        if key in seen:
            raise ValueError(f"metric row {position} repeats {' / '.join(key)}: give each value once")
        seen.add(key)
        if row["category"] == MEAN:
            raise ValueError(f"metric row {position}: the category name {MEAN!r} is taken by the aggregate rows")
        value = row["value"]
        defined = value is not None and not math.isnan(value)
        plain.append({**{column: row[column] for column in COLUMNS}, "value": float(value) if defined else None})
    if len(names := sorted({row["dataset"] for row in plain})) > 1:
        raise ValueError(f"a leaderboard is of one dataset, but the rows are of {', '.join(names)}")
    return plain


def _mean_row(metric: str, rows: list[Row]) -> Row | None:
    """The aggregate of one metric over its categories, None where an aggregate would mean nothing."""
    values = [row["value"] for row in rows]
    aggregate = find(metric).aggregate
    if aggregate == "none":
        return None
    if aggregate == "throughput":
        # Rates do not average: all images of all categories over all the time they took.
        weights = [row["n"] for row in rows]
        if not all(weight and weight > 0 and value > 0 for weight, value in zip(weights, values, strict=True)):
            return None
        seconds = [weight / value for weight, value in zip(weights, values, strict=True)]
        value = math.fsum(weights) / math.fsum(seconds)
    else:
        value = math.fsum(values) / (len(values) if aggregate == "mean" else 1)
    seeds = {row["seed"] for row in rows}
    return {
        **rows[0],
        "category": MEAN,
        "value": value,
        "n": len(rows),
        "seconds": math.fsum(row["seconds"] or 0.0 for row in rows),
        "seed": seeds.pop() if len(seeds) == 1 else None,
        "fingerprint": _joint_fingerprint(rows),
        "aggregate": aggregate,
    }


def _joint_fingerprint(rows: list[Row]) -> str:
    parts = "\n".join(f"{row['category']} {row['fingerprint']}" for row in rows)
    return hashlib.sha256(parts.encode()).hexdigest()


def _end_of_interval(metric: str, rows: list[Row], interval: Interval) -> Row:
    value = interval.low if metric.endswith("_low") else interval.high
    shared = {"category": MEAN, "n": len(rows), "fingerprint": _joint_fingerprint(rows)}
    return {**rows[0], **shared, "value": value, "aggregate": "interval of the mean"}


def published_beside(printed: Mapping[str, float], category: str, covered: set[str], dataset: str) -> float | None:
    """The published number to compare with, None where none covers the same categories."""
    if category != MEAN:
        return printed.get(category)
    known = {name for name in printed if name != MEAN}
    if covered == (known or paper_tables.categories(dataset) or covered):
        return printed.get(MEAN)
    if covered <= known:  # part of the dataset was run: average the paper over the same part
        return math.fsum(printed[name] for name in covered) / len(covered)
    return None


def _with_paper(row: Row, system: str, dataset: str, paper_value: float | None) -> Row:
    known = paper_value is not None and row["value"] is not None
    return {
        **row,
        "aggregate": row.get("aggregate", ""),
        "paper_system": system if paper_value is not None else "",
        "paper_dataset": dataset if paper_value is not None else "",
        "paper_value": paper_value,
        "delta": row["value"] - paper_value if known else None,
    }


def _protocol_rank(protocol: str) -> tuple[int, str]:
    ranks = {STANDARD: 0, INTERVAL: 0, NOMINAL: 1, OUTLIER: 1, TIMING: 2}
    return ranks.get(protocol, 4 if is_oracle(protocol) else 3), protocol
