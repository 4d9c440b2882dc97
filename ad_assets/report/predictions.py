"""One page about inspected images for people: counts, decisions, the threshold with its rate, pictures."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ad_assets.report.picture_files import data_uri, jpeg_size
from ad_assets.report.templates import filled

MOST_ROWS = 2000


def predictions_page(
    place: str,
    rows: Sequence[Mapping[str, Any]],
    shown: Sequence[tuple[str, bytes]],
    *,
    threshold: float | None,
    pixel_threshold: float | None,
    promise: str,
    versions: Mapping[str, str],
) -> str:
    """The page as HTML text, which loads nothing from anywhere; write it as UTF-8.

    Args:
        place: dataset, detector and category.
        rows: the predictions in order, with ``image``, ``decision``, ``score``, ``p_value``, ``regions``, ``area`` and
            ``error``.
        shown: name and JPEG of the pictures, most important first.
        threshold: of the image scores; None: there is none.
        pixel_threshold: of the regions; None: there is none.
        promise: what the threshold promises, in a sentence.
        versions: detector -> address of its fitted state.
    """
    counts = Counter(row["decision"] for row in rows)
    facts = [("Images", str(len(rows)))]
    facts += [(name.capitalize(), str(counts[name])) for name in ("anomalous", "nominal", "failed") if counts[name]]
    facts += [("Threshold", _number(threshold)), ("Pixel threshold", _number(pixel_threshold))]
    facts += [(f"State of {name}", version) for name, version in versions.items()]
    figures = []
    for name, jpeg in shown:
        width, height = jpeg_size(jpeg)
        figures.append({"name": name, "uri": data_uri(jpeg), "width": width, "height": height})
    return filled(
        "predictions.html",
        place=place,
        created=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        facts=facts,
        promise=promise,
        heading="Anomalous images, highest score first" if threshold is not None else "Highest scores",
        figures=figures,
        left_out=max(0, counts["anomalous"] - len(figures)),
        rows=[_shown(row) for row in rows[:MOST_ROWS]],
        rows_left_out=max(0, len(rows) - MOST_ROWS),
    )


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    failed = row["error"] is not None
    return {
        "image": row["image"],
        "decision": row["decision"],
        "score": _number(row["score"]),
        "p_value": _number(row["p_value"]),
        "regions": "" if failed else str(len(row["regions"])),
        "area": f"{row['area']:,}" if row["area"] else "",
        "error": row["error"] or "",
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
