"""Which images show what a category looks like, and a sheet of them: nominal ones, then every kind of defect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ad_assets.report.panels import contact_sheet
from ad_assets.report.pictures import GROUND
from ad_assets_runtime.images import RgbImage

NOMINAL_SAMPLES = 3
ANOMALOUS_SAMPLES = 5


def choose_samples(
    rows: Sequence[dict[str, Any]], nominal: int = NOMINAL_SAMPLES, anomalous: int = ANOMALOUS_SAMPLES
) -> list[dict[str, Any]]:
    """Rows of an image index: nominal ones evenly spread, then one of each defect type in turn.

    Args:
        rows: of one category; those without a label are passed over.
        nominal: at most so many of them.
        anomalous: at most so many of them.
    """
    good = [row for row in rows if row["label"] == 0]
    types: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["label"] == 1:
            types[row["defect_type"]].append(row)
    in_turn = [
        of_type[place] for place in range(anomalous) for _, of_type in sorted(types.items()) if place < len(of_type)
    ]
    shown = min(nominal, len(good))
    # By type again, so that images of one stand side by side.
    defects = sorted(in_turn[:anomalous], key=lambda row: (row["defect_type"], row["path"]))
    return [*(good[place * len(good) // shown] for place in range(shown)), *defects]


def sample_sheet(rows: Sequence[Sequence[RgbImage]]) -> RgbImage:
    """Rows of tiles under each other, shorter ones filled up.

    Raises:
        ValueError: no row, or one without tiles.
    """
    if not rows or not all(rows):
        raise ValueError("a sample sheet needs tiles in every row")
    columns = max(len(row) for row in rows)
    empty = np.full((1, 1, 3), GROUND, np.uint8)
    return contact_sheet([tile for row in rows for tile in [*row, *[empty] * (columns - len(row))]], columns)
