"""The leaderboard for other tools: tidy rows as CSV, Parquet or JSON, one metric as a LaTeX table."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa

from ad_assets.metrics.catalogue import find
from ad_assets.report.leaderboard import MEAN, STANDARD, is_oracle, rows_of, to_table
from ad_assets.report.tables import TableCell, matrix

if TYPE_CHECKING:
    import pandas as pd

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
    "±": r"$\pm$",
}


def to_csv(board: pd.DataFrame) -> bytes:
    """Leaderboard rows as UTF-8 CSV with a header; numbers keep all their digits, undefined ones are empty."""
    return board.to_csv(index=False, lineterminator="\n").encode()


def to_parquet(board: pd.DataFrame) -> bytes:
    """Leaderboard rows as a Parquet table of `leaderboard.SCHEMA`."""
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(to_table(board), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def to_json(board: pd.DataFrame) -> bytes:
    """Leaderboard rows as a JSON list of objects; numbers keep all their digits, undefined ones are null."""
    return (json.dumps(to_table(board).to_pylist(), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


TIDY: dict[str, Callable[[pd.DataFrame], bytes]] = {"csv": to_csv, "parquet": to_parquet, "json": to_json}


def to_latex(board: pd.DataFrame, metric: str = "image_auroc", protocol: str = STANDARD) -> str:
    """One metric of one dataset as a table for the package booktabs: categories x detectors.

    The best of a row is bold; a paper's number follows in brackets. A mean over some of the categories says over how
    many, and a protocol that looked at test labels says so in the caption.

    Args:
        board: built leaderboard rows of one dataset.
        metric: such as ``image_auroc``.
        protocol: such as ``standard``.

    Raises:
        ValueError: several datasets, or no row has the metric under that protocol; the message lists what there is.
    """
    import pandas as pd

    datasets = sorted(board["dataset"].unique())
    if len(datasets) != 1:
        raise ValueError(f"a LaTeX table is of one dataset, but the rows are of {', '.join(datasets) or 'none'}")
    rows = rows_of(board)
    table = matrix(rows, metric, protocol)
    if not table.rows:
        known = sorted({f"{row.metric} ({row.protocol})" for row in rows})
        raise ValueError(
            f"{datasets[0]} has no metric {metric} under the protocol {protocol}; it has: {', '.join(known)}"
        )
    cells = pd.DataFrame(
        [map(_cell, line) for _, line in table.rows],
        index=[escape(category) for category, _ in table.rows],
        columns=[escape(detector) for detector in table.columns],
    )
    text = cells.style.to_latex(
        hrules=True,
        position_float="centering",
        column_format=f"l{'r' * len(table.columns)}",
        caption=_caption(datasets[0], table.title, metric, protocol, paper=table.has_paper, spread=table.has_spread),
        label=f"tab:{datasets[0]}-{metric}",
    )
    return text.replace(f"\n{MEAN} &", f"\n\\midrule\n{MEAN} &")


def escape(text: str) -> str:
    r"""Any text as LaTeX that prints it.

    >>> print(escape("hetmm_60 & 50%"))
    hetmm\_60 \& 50\%
    """
    return "".join(_ESCAPES.get(character, character) for character in text)


def _cell(cell: TableCell) -> str:
    text = escape(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    text += f" {escape(cell.spread)}" if cell.spread else ""
    paper = f" ({escape(cell.paper)})" if cell.paper else ""
    part = rf" [{escape(cell.part)}]" if cell.part else ""
    return text + paper + part


def _caption(dataset: str, title: str, metric: str, protocol: str, *, paper: bool, spread: bool) -> str:
    unit = " in percent" if find(metric).is_share else ""
    how = "" if protocol == STANDARD else f", protocol {protocol}"
    oracle = " (chosen on test labels: an upper bound, not a result)" if is_oracle(protocol) else ""
    brackets = " In brackets: as published." if paper else ""
    over = " After ±: standard deviation over seeds." if spread else ""
    return escape(f"{title}{unit} on {dataset}{how}{oracle}; the best is bold.{brackets}{over}")
