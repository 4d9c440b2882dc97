"""Which rows of a leaderboard come from an approximate search, and how good that was, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ad_assets.methods.memory_bank.search_quality import DISTANCE, RECALL

if TYPE_CHECKING:
    from ad_assets.report.leaderboard import BoardRow


def approximate_lanes(board: Sequence[BoardRow]) -> list[str]:
    """A line for each lane whose nearest rows are sought among product codes: what that loses, by nominal images alone.

    Args:
        board: rows of a leaderboard.
    """
    mean = {(row.detector, row.metric): row.value for row in board if row.aggregate and row.value is not None}
    worst: dict[str, tuple[float, str]] = {}
    for row in board:
        if row.metric == RECALL and not row.aggregate and row.value is not None:
            worst[row.detector] = min(worst.get(row.detector, (2.0, "")), (row.value, row.category))
    return [
        f"{detector}: nearest rows are sought among product codes, which find {100 * mean[detector, RECALL]:.1f} % of "
        f"those of left-out nominal patches (recall@1; {category} {100 * low:.1f} %)"
        + (f", at distances {mean[detector, DISTANCE]:.3f} times theirs" if (detector, DISTANCE) in mean else "")
        for detector, (low, category) in worst.items()
    ]
