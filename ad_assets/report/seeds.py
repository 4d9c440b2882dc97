"""Draws of a lane as one: fits with several seeds become their mean, with its standard deviation over seeds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ad_assets.metrics.catalogue import find

Row = dict[str, Any]


def over_seeds(
    board: Iterable[Row], draws: Mapping[str, Sequence[str]], unseeded: Collection[str], apart: Collection[str]
) -> list[Row]:
    """Rows of lanes in place of those of their draws, each with `draws` and `seed_std`.

    What says how good a lane is becomes the mean over the draws that have it, of the same categories. Thresholds, rates
    and intervals stay those of the first draw: a mean of them means nothing.

    Args:
        board: rows of single categories and of all, one of a detector, category, protocol and metric.
        draws: lane -> the names of its draws after the first, which has the lane's name.
        unseeded: detectors in which no seed has a part: their standard deviation over seeds is 0.
        apart: protocols whose rows stay those of the first draw.

    Returns:
        The rows without those of further draws. `seed_std` is the sample standard deviation over seeds; None where it
        is not known, of one draw.
    """
    rows = list(board)
    found = {(row["detector"], *_place(row)): row for row in rows}
    further = {name for names in draws.values() for name in names}
    kept = []
    for row in rows:
        if row["detector"] in further:
            continue
        own = [found.get((name, *_place(row))) for name in draws.get(row["detector"], ())]
        alike = [each for each in own if each and each["value"] is not None and _covered(each) == _covered(row)]
        metric = find(row["metric"])
        if row["value"] is None or row["protocol"] in apart or metric.aggregate not in ("mean", "sum"):
            kept.append({**row, "draws": 1, "seed_std": None})
        elif not alike:
            known = row["detector"] in unseeded and metric.unit in ("share", "count")
            kept.append({**row, "draws": 1, "seed_std": 0.0 if known else None})
        else:
            kept.append({**row, **_mean([row, *alike])})
    return kept


def _place(row: Row) -> tuple[str, ...]:
    return row["category"], row["protocol"], row["metric"]


def _covered(row: Row) -> tuple[Any, ...]:
    """Of what images or categories a value is."""
    return row["n"], row["aggregate"]


def _mean(rows: Sequence[Row]) -> Row:
    values = [row["value"] for row in rows]
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    whole = hashlib.sha256("\n".join(row["fingerprint"] for row in rows).encode()).hexdigest()
    return {"value": mean, "seed_std": math.sqrt(variance), "draws": len(values), "fingerprint": whole}
