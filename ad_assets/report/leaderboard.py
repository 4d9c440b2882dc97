"""From tidy metric rows to a leaderboard: a data frame with aggregates over categories and the papers' numbers.

A mean is made only where every category of the detector has the metric: a mean over a subset looks better or worse than
it is. A paper's number stands beside ours only where both cover the same categories. Where a lane was fitted with
several seeds, its numbers are means over these.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ad_assets.metrics.catalogue import find
from ad_assets.papers import published as paper_tables
from ad_assets.report.lane_settings import row_settings
from ad_assets.report.seeds import over_seeds

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import pandas as pd

    from ad_assets.metrics.uncertainty import Interval

MEAN = paper_tables.MEAN
STANDARD = "standard"
NOMINAL = "nominal_threshold"
OUTLIER = "outlier_threshold"
TIMING = "timing"
ORACLE_PREFIX = "oracle_"
BEST_EPOCH = "oracle_best_epoch"  # the protocol of the papers that train
INTERVAL = "interval_95"
SEED_INTERVAL = "interval_95_seeds"  # over test images and seeds
_PART = re.compile(r", \d+ of (\d+) categories$")  # of an aggregate over a part of the dataset's categories
LANE = ["detector", "protocol", "metric"]
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("dataset", "category", *LANE)),
        ("value", pa.float64()),  # null: not defined
        ("n", pa.int64()),
        ("seconds", pa.float64()),
        ("seed", pa.int64()),
        *((name, pa.string()) for name in ("fingerprint", "aggregate", "paper_system", "paper_dataset")),
        ("paper_value", pa.float64()),
        ("delta", pa.float64()),
        ("draws", pa.int64()),
        ("seed_std", pa.float64()),
        ("settings", pa.string()),
    ]
)
COLUMNS = SCHEMA.names[: SCHEMA.names.index("aggregate")]  # of the rows that a leaderboard is made of


@dataclass(frozen=True, slots=True)
class BoardRow:
    """One row of a leaderboard, the columns of `SCHEMA`; None: not defined.

    `value` is the mean over `draws` fits with other seeds, the first with `seed`, and `seed_std` their sample standard
    deviation: 0 where no seed has a part in the detector, None where one seed of it is all that is known. `settings`
    tells those of the lane that are not at their defaults.
    """

    dataset: str
    category: str
    detector: str
    protocol: str
    metric: str
    value: float | None
    n: int
    seconds: float | None
    seed: int | None
    fingerprint: str
    aggregate: str
    paper_system: str
    paper_dataset: str
    paper_value: float | None
    delta: float | None
    draws: int | None = None
    seed_std: float | None = None
    settings: str = ""

    @property
    def complete(self) -> int:
        """How many categories an aggregate over all of them covers; 0: the row is of one category."""
        if not self.aggregate:
            return 0
        part = _PART.search(self.aggregate)
        return int(part[1]) if part else self.n


def is_oracle(protocol: str) -> bool:
    """Whether a protocol looked at test labels to choose something."""
    return protocol.startswith(ORACLE_PREFIX)


def build(
    rows: Sequence[Mapping[str, Any]],
    papers: Mapping[str, tuple[str, str]],
    intervals: Mapping[tuple[str, str, str], Interval] | None = None,
    categories: int = 0,
    draws: Mapping[str, Sequence[str]] | None = None,
    unseeded: Collection[str] = (),
    settings: Mapping[tuple[str, str], str] | None = None,
) -> pd.DataFrame:
    """The leaderboard of one dataset.

    Adds one row for each detector, protocol and metric with category ``"mean"`` and `n` = number of categories. Its
    column `aggregate` says what it is, as the catalogue of metrics has it: ``"mean"``, ``"sum"`` (false alarms, misses,
    seconds) or ``"throughput"`` (images per second of all categories together); thresholds have none. Where a detector
    has rows of a part of the dataset's categories alone, it says so: ``"mean, 1 of 4 categories"``. Rows of the
    protocols ``standard`` and ``oracle_best_epoch`` get `paper_system`, `paper_dataset`, `paper_value` and `delta`
    (ours - paper, fractions) where published; where a part of the paper's categories ran, its mean is over that part.
    Rows of draws are those of their lane (`over_seeds`).

    Args:
        rows: tidy rows with at least the keys `COLUMNS`; a `value` of None or NaN means not defined.
        papers: detector -> (system, dataset) as `papers.published` takes them; others' entries are ignored.
        intervals: (detector, category or ``"mean"``, protocol) -> interval of image AUROC, in place of that in the
            rows; the protocols are ``interval_95`` and ``interval_95_seeds``.
        categories: how many the dataset has; 0: those that have rows.
        draws: lane -> its draws after the first.
        unseeded: detectors in which no seed has a part.
        settings: (detector, category or ``"mean"``) -> its settings in words; a category without has those of the mean.

    Returns:
        The columns of `SCHEMA`, NaN or NA where something is not defined; rows in the detectors' order of appearance,
        ``oracle_*`` protocols last, means after categories.

    Raises:
        ValueError: no rows, rows of several datasets, a missing key, a row given twice, a category called "mean", an
            unknown paper system or dataset.
    """
    import pandas as pd

    own = _checked(rows)
    own_categories: dict[str, set[str]] = {}
    lanes: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in sorted(own, key=lambda row: row["category"]):
        if row["value"] is not None:
            lanes.setdefault((row["detector"], row["protocol"], row["metric"]), []).append(row)
    for row in own:
        own_categories.setdefault(row["detector"], set()).add(row["category"])
    total = categories or len(set().union(*own_categories.values()))
    covered = {lane: {row["category"] for row in members} for lane, members in lanes.items()}
    board = [{**row, "aggregate": ""} for row in own]
    for lane, members in lanes.items():
        if covered[lane] == own_categories[lane[0]]:
            part = f", {len(members)} of {total} categories" if len(members) < total else ""
            means = _aggregate(members, (intervals or {}).get((lane[0], MEAN, INTERVAL)))
            board += [{**mean, "aggregate": f"{mean['aggregate']}{part}"} for mean in means]
    board = over_seeds(board, draws or {}, unseeded, (INTERVAL, TIMING))
    board = [each for row in board for each in _with_intervals(row, intervals or {})]
    numbers = {name: paper_tables.published(*pair) for name, pair in papers.items() if name in own_categories}
    for row in board:
        row["settings"] = row_settings(settings or {}, row["detector"], row["category"])
        detector, protocol, metric = (row[name] for name in LANE)
        if detector not in numbers or protocol not in (STANDARD, BEST_EPOCH):
            continue
        system, dataset = papers[detector]
        here = covered.get((detector, protocol, metric), set())
        value = published_beside(numbers[detector].get(metric, {}), row["category"], here, dataset)
        if value is not None:
            delta = None if row["value"] is None else row["value"] - value
            row |= {"paper_system": system, "paper_dataset": dataset, "paper_value": value, "delta": delta}
    places = {detector: place for place, detector in enumerate(own_categories)}

    def order(row: Mapping[str, Any]) -> tuple[Any, ...]:
        protocol, category = row["protocol"], row["category"]
        place = places[row["detector"]]
        return place, _protocol_rank(protocol), protocol, row["metric"], category == MEAN, category

    return typed(pd.DataFrame(sorted(board, key=order)))


def untested(rows: Sequence[BoardRow]) -> list[str]:
    """The categories of a leaderboard that have no test images, so that no detector was measured on them."""
    images: dict[str, int] = {}
    for row in rows:
        if row.metric == "image_auroc" and row.protocol == STANDARD and row.category != MEAN:
            images[row.category] = max(images.get(row.category, 0), row.n)
    return sorted(category for category, most in images.items() if most == 0)


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """A data frame with the columns of `SCHEMA` in their types; texts that are not there are empty."""
    types = {pa.string(): "str", pa.int64(): "Int64", pa.float64(): "float64"}
    whole = frame.reindex(columns=SCHEMA.names)
    texts = dict.fromkeys((field.name for field in SCHEMA if field.type == pa.string()), "")
    return whole.astype({field.name: types[field.type] for field in SCHEMA}).fillna(texts)


def from_table(table: pa.Table) -> pd.DataFrame:
    """A stored leaderboard as `build` returned it; columns that earlier releases did not have are null."""
    for each in SCHEMA:
        if each.name not in table.column_names:
            table = table.append_column(each, pa.nulls(len(table), each.type))
    return typed(table.select(SCHEMA.names).cast(SCHEMA).to_pandas(integer_object_nulls=True))


def to_table(board: pd.DataFrame) -> pa.Table:
    """A leaderboard as a table of `SCHEMA`."""
    return pa.Table.from_pandas(board, SCHEMA, preserve_index=False).replace_schema_metadata()


def rows_of(board: pd.DataFrame) -> list[BoardRow]:
    """The rows of a leaderboard: tables are made of few of them, for which pandas takes milliseconds a step."""
    return [BoardRow(**row) for row in to_table(board).to_pylist()]


def _checked(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one dataset with the keys `COLUMNS`, None where a value is missing."""
    if not rows:
        raise ValueError("a leaderboard needs metric rows, but there are none: materialize the metrics first")
    for position, row in enumerate(rows):
        if missing := [column for column in COLUMNS if column not in row]:
            raise ValueError(f"metric row {position} lacks {', '.join(missing)}: expected {', '.join(COLUMNS)}")
    # Not by way of pandas, which takes milliseconds for a dozen of rows.
    schema = pa.schema([SCHEMA.field(name) for name in COLUMNS])
    plain = [{name: None if row[name] != row[name] else row[name] for name in COLUMNS} for row in rows]
    own = pa.Table.from_pylist(plain, schema).to_pylist()
    seen: set[tuple[str, ...]] = set()
    for position, row in enumerate(own):
        row |= {field.name: "" for field in schema if field.type == pa.string() and row[field.name] is None}
        lane = (row["category"], *(row[name] for name in LANE))
        if lane in seen:
            raise ValueError(f"metric row {position} repeats {' / '.join(lane)}: give each value once")
        seen.add(lane)
        if row["category"] == MEAN:
            raise ValueError(f"metric row {position}: the category name {MEAN!r} is taken by the aggregate rows")
    if len(datasets := {row["dataset"] for row in own}) > 1:
        raise ValueError(f"a leaderboard is of one dataset, but the rows are of {', '.join(sorted(datasets))}")
    return own


def _aggregate(rows: Sequence[Mapping[str, Any]], interval: Interval | None) -> list[dict[str, Any]]:
    """The row of one metric over its categories, none where an aggregate would mean nothing."""
    first = rows[0]
    parts = "\n".join(f"{row['category']} {row['fingerprint']}" for row in rows)
    shared = {"category": MEAN, "n": len(rows), "fingerprint": hashlib.sha256(parts.encode()).hexdigest()}
    if first["protocol"] == INTERVAL and interval:
        return [{**first, **shared, "aggregate": "interval of the mean"}]  # its ends: `_with_intervals`
    aggregate = find(first["metric"]).aggregate
    if aggregate == "none":
        return []
    if aggregate == "throughput":
        # Rates do not average: all images of all categories over all the time they took.
        if not all(row["n"] > 0 and row["value"] > 0 for row in rows):
            return []
        value = math.fsum(row["n"] for row in rows) / math.fsum(row["n"] / row["value"] for row in rows)
    else:
        value = math.fsum(row["value"] for row in rows) / (len(rows) if aggregate == "mean" else 1)
    return [
        {
            **first,
            **shared,
            "value": value,
            "seconds": math.fsum(row["seconds"] for row in rows if row["seconds"] is not None),
            "seed": first["seed"] if len({row["seed"] for row in rows}) == 1 else None,
            "aggregate": aggregate,
        }
    ]


def _with_intervals(row: dict[str, Any], intervals: Mapping[tuple[str, str, str], Interval]) -> list[dict[str, Any]]:
    """A row; of an end of an interval that of the lane, and the same end over seeds too."""
    if row["protocol"] != INTERVAL:
        return [row]
    of_images, of_seeds = (intervals.get((row["detector"], row["category"], p)) for p in (INTERVAL, SEED_INTERVAL))
    end = row["metric"].rpartition("_")[2]  # image_auroc_low, image_auroc_high
    own = [{**row, "value": getattr(of_images, end)} if of_images else row]
    return [*own, {**own[0], "protocol": SEED_INTERVAL, "value": getattr(of_seeds, end)}] if of_seeds else own


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


def _protocol_rank(protocol: str) -> int:
    ranks = {STANDARD: 0, INTERVAL: 0, SEED_INTERVAL: 0, NOMINAL: 1, OUTLIER: 1, TIMING: 2}
    return ranks.get(protocol, 4 if is_oracle(protocol) else 3)
