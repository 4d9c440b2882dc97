"""What an image index holds, in numbers for people."""

from __future__ import annotations

from typing import Any

from ad_assets.datasets.index import ImageIndex
from ad_assets.production.hold_out import stated


def summary_of(index: ImageIndex) -> dict[str, Any]:
    """Counts of images by split and label, held-out ones, defect types, modes, bytes, and the first problems."""
    rows = index.rows
    test = [row for row in rows if row["split"] == "test"]
    types = sorted({row["defect_type"] for row in test if row["label"]})
    unlabelled = sum(row["label"] is None for row in test)
    summary: dict[str, Any] = {
        "train_images": len(rows) - len(test),
        "test_nominal": sum(row["label"] == 0 for row in test),
        "test_anomalous": sum(row["label"] == 1 for row in test),
        **({"test_unlabelled": unlabelled} if unlabelled else {}),
        "defect_types": ", ".join(f"{t} {sum(row['defect_type'] == t for row in test)}" for t in types) or "none",
        "modes": ", ".join(sorted({row["mode"] for row in rows})),
        "bytes": sum(row["bytes"] for row in rows),
        "problems": len(index.problems),
    }
    if held_out := stated(rows):
        summary["held_out"] = held_out
    if index.problems:
        summary["first_problems"] = "\n".join(map(str, index.problems[:20]))
    return summary
