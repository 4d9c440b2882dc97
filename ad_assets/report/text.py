"""Tables for a terminal: aligned columns, and the leaderboard in them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ad_assets.metrics.catalogue import compared, find, registered
from ad_assets.report.approximate_search import approximate_lanes
from ad_assets.report.certainty import certainty
from ad_assets.report.joint import joint_lanes
from ad_assets.report.lane_settings import told_settings
from ad_assets.report.leaderboard import (
    BEST_EPOCH,
    INTERVAL,
    MEAN,
    NOMINAL,
    ORACLE_PREFIX,
    OUTLIER,
    SEED_INTERVAL,
    STANDARD,
    BoardRow,
    rows_of,
    untested,
)
from ad_assets.report.tables import DASH, TableCell, matrix, mean_cells, percent

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 110


def aligned(
    columns: Sequence[Sequence[str]], width: float = math.inf, justify: Callable[[str, int], str] = str.rjust
) -> str:
    """Columns of text side by side: the first on the left, again in each block of as many others as `width` holds.

    Raises:
        ValueError: a column does not fit.
    """
    names, *others = columns
    left = max(map(len, names))
    blocks: list[list[str]] = []
    room = 0.0
    for column in others:
        wide = max(map(len, column))
        if left + 2 + wide > width:
            raise ValueError(f"a column of {wide} characters beside {left} does not fit into {width:.0f}")
        if room < 2 + wide:
            blocks.append([name.ljust(left) for name in names])
            room = width - left
        blocks[-1] = [f"{line}  {justify(cell, wide)}" for line, cell in zip(blocks[-1], column, strict=True)]
        room -= 2 + wide
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks)


def text_table(board: pd.DataFrame, width: int = WIDTH) -> str:
    """A leaderboard as plain text, in percent.

    First image AUROC, categories x detectors; then the means of the compared metrics and of those of other packages;
    then the decisions at the nominal-only threshold and, apart, at the oracle threshold and epoch. Papers' numbers and
    the differences stand beside ours. Too many detectors for one line continue below. The lanes' settings come last.

    Raises:
        ValueError: `width` cannot hold one detector.
    """
    if board.empty:
        return "no metric rows"
    rows = rows_of(board)
    unit = "% (paper, difference)" if any(row.paper_value is not None for row in rows) else "%"
    auroc = matrix(rows, "image_auroc")
    columns = [["", *(category for category, _ in auroc.rows)]]
    columns += [[name, *(cells[k].beside for _, cells in auroc.rows)] for k, name in enumerate(auroc.columns)]
    blocks = [f"{rows[0].dataset}: image AUROC, {unit}", aligned(columns, width)]
    blocks += [no_test_images(rows)]
    measured = {row.metric for row in rows}
    names = dict.fromkeys([*compared(), *(metric.name for metric in registered() if metric.name in measured)])
    means = _columns(mean_cells(rows, STANDARD, list(names)))
    detectors = means[0][1:]
    for protocol, title in ((SEED_INTERVAL, "over seeds too"), (INTERVAL, "95 % interval")):
        if any(texts := [_ends(rows, name, protocol) for name in detectors]):
            means.insert(2, [title, *(text or DASH for text in texts)])
    blocks += [
        f"means over categories, {unit}",
        aligned(means, width),
        "\n".join([*joint_lanes(rows), *approximate_lanes(rows)]),
    ]
    blocks += ["\n".join(certainty(rows))]
    for protocol, title in (
        (NOMINAL, "threshold from nominal training images"),
        (OUTLIER, "threshold from the scores alone: median + 3 scaled median deviations"),
        (f"{ORACLE_PREFIX}f1", "ORACLE threshold, chosen on test labels: an upper bound, not a result"),
    ):
        decided = _columns(mean_cells(rows, protocol))
        blocks += [title, aligned(decided, width)] if decided[1:] else []
    chosen = mean_cells(rows, BEST_EPOCH, compared())
    chosen = {name: cells for name, cells in chosen.items() if cells["image_auroc"].text != DASH}
    if chosen:
        title = f"ORACLE epoch, chosen on test labels as the papers do: beside theirs, not a result; {unit}"
        blocks += [title, aligned(_columns(chosen), width)]
    blocks += ["\n".join(_settings(rows, width))]
    return "\n\n".join(block for block in blocks if block)


def _settings(rows: Sequence[BoardRow], width: int) -> list[str]:
    told = told_settings(rows)
    lines = [
        textwrap.wrap(f"{who}: {what}", width, initial_indent="  ", subsequent_indent="    ") for who, what in told
    ]
    return ["settings that are not defaults", *(line for block in lines for line in block)] if told else []


def _ends(rows: Sequence[BoardRow], detector: str, protocol: str) -> str:
    """``[84.0, 93.1]``: an interval of the mean image AUROC of a detector; empty where there is none."""
    own = {
        row.metric: row.value
        for row in rows
        if (row.detector, row.protocol, row.category) == (detector, protocol, MEAN)
    }
    low, high = (own.get(f"image_auroc_{end}") for end in ("low", "high"))
    return "" if low is None or high is None else f"[{percent(low)}, {percent(high)}]"


def no_test_images(board: Sequence[BoardRow]) -> str:
    """Which categories of a leaderboard have no test images, in words; empty where all have."""
    categories = untested(board)
    return f"no test images: {', '.join(categories)}" if categories else ""


def _columns(cells: Mapping[str, Mapping[str, TableCell]]) -> list[list[str]]:
    """The lines' names, then each metric's column: heads and texts, papers' numbers beside ours."""
    names = next(iter(cells.values()), {})
    return [
        ["", *cells],
        *([find(name).title, *(line[name].beside for line in cells.values())] for name in names),
    ]
