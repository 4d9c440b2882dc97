"""Which rows of a leaderboard are of one model for all categories, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ad_assets.report.leaderboard import BoardRow

# Metrics that rows of joint lanes have.
JOINED_CATEGORIES = "joined_categories"
OWN_CATEGORY = "own_category_share"


def joint_lanes(board: Sequence[BoardRow]) -> list[str]:
    """A line for each joint lane: of how many categories its bank was when its rows were made, and how many there are.

    Args:
        board: rows of a leaderboard.
    """
    counts: dict[str, set[int]] = {}
    for row in board:
        if row.metric == JOINED_CATEGORIES and not row.aggregate and row.value is not None:
            counts.setdefault(row.detector, set()).add(round(row.value))
    total = len({row.category for row in board if not row.aggregate})
    own = {row.detector: row.value for row in board if row.metric == OWN_CATEGORY and row.aggregate}
    return [
        f"{detector}: one bank of {' or '.join(map(str, sorted(found)))} categories for all, not one for each"
        + (f"; there are {total}" if found != {total} else "")
        + (f"; nearest to a row of their own category: {100 * share:.1f} % of patches" if share is not None else "")
        for detector, found in counts.items()
        for share in [own.get(detector)]
    ]
