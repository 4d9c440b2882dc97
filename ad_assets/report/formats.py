"""The leaderboard for other tools: tidy rows as CSV, Parquet or JSON, one metric as a LaTeX table."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pyarrow as pa

from ad_assets.metrics.catalogue import find
from ad_assets.report.leaderboard import MEAN, STANDARD, Row, is_oracle
from ad_assets.report.tables import Cell, matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEADERBOARD_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("dataset", "category", "detector", "protocol", "metric")),
        ("value", pa.float64()),  # null: not defined
        ("n", pa.int64()),
        ("seconds", pa.float64()),
        ("seed", pa.int64()),
        *((name, pa.string()) for name in ("fingerprint", "aggregate", "paper_system", "paper_dataset")),
        ("paper_value", pa.float64()),
        ("delta", pa.float64()),
    ]
)
_ESCAPES = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "−": "$-$",
}


def to_csv(rows: Sequence[Row]) -> bytes:
    """Leaderboard rows as UTF-8 CSV with a header; numbers keep all their digits, undefined ones are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, LEADERBOARD_SCHEMA.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: row[name] for name in LEADERBOARD_SCHEMA.names} for row in rows)
    return text.getvalue().encode()


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Leaderboard rows as a Parquet table of `LEADERBOARD_SCHEMA`."""
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(list(rows), schema=LEADERBOARD_SCHEMA), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def to_json(rows: Sequence[Row]) -> bytes:
    """Leaderboard rows as a JSON list of objects; undefined numbers are null."""
    plain = [{name: row[name] for name in LEADERBOARD_SCHEMA.names} for row in rows]
    return (json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


TIDY: dict[str, Callable[[Sequence[Row]], bytes]] = {"csv": to_csv, "parquet": to_parquet, "json": to_json}


def to_latex(rows: Sequence[Row], metric: str = "image_auroc", protocol: str = STANDARD) -> str:
    """One metric of one dataset as a table for the package booktabs: categories x detectors.

    The best of a row is bold; a paper's number follows in brackets. A mean over some of the categories says over how
    many, and a protocol that looked at test labels says so in the caption.

    Args:
        rows: built leaderboard rows of one dataset.
        metric: such as ``image_auroc``.
        protocol: such as ``standard``.

    Raises:
        ValueError: several datasets, or no row has the metric under that protocol; the message lists what there is.
    """
    datasets = sorted({row["dataset"] for row in rows})
    if len(datasets) != 1:
        raise ValueError(f"a LaTeX table is of one dataset, but the rows are of {', '.join(datasets) or 'none'}")
    table = matrix(rows, metric, protocol)
    if not table.rows:
        known = sorted({f"{row['metric']} ({row['protocol']})" for row in rows})
        raise ValueError(
            f"{datasets[0]} has no metric {metric} under the protocol {protocol}; it has: {', '.join(known)}"
        )
    lines = []
    for category, cells in table.rows:
        if category == MEAN:
            lines.append(r"\midrule")
        lines.append(" & ".join([escape(category), *map(_cell, cells)]) + r" \\")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_caption(datasets[0], table.title, metric, protocol, paper=table.has_paper)}}}",
            rf"\label{{tab:{datasets[0]}-{metric}}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            " & ".join(["", *map(escape, table.columns)]) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    r"""Any text as LaTeX that prints it.

    >>> print(escape("hetmm_60 & 50%"))
    hetmm\_60 \& 50\%
    """
    return "".join(_ESCAPES.get(character, character) for character in text)


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    paper = f" ({escape(cell.paper)})" if cell.paper else ""
    part = rf" [{escape(cell.part)}]" if cell.part else ""
    return text + paper + part


def _caption(dataset: str, title: str, metric: str, protocol: str, *, paper: bool) -> str:
    unit = " in percent" if find(metric).is_share else ""
    how = "" if protocol == STANDARD else f", protocol {protocol}"
    oracle = " (chosen on test labels: an upper bound, not a result)" if is_oracle(protocol) else ""
    brackets = " In brackets: as published." if paper else ""
    return escape(f"{title}{unit} on {dataset}{how}{oracle}; the best is bold.{brackets}")
