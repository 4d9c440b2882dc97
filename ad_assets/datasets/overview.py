"""Statistics of a category: image counts, defect types, image sizes and the share of an image that defects cover."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ad_assets.datasets.index import ImageIndex


@dataclass(frozen=True)
class Overview:
    """Statistics of one category.

    Args:
        category: its name.
        train: training images.
        test_good: nominal test images.
        test_anomalous: anomalous test images.
        defect_types: test images of each.
        kinds: test images of each kind of anomaly, where the dataset tells kinds apart.
        unmasked: anomalous test images without a mask.
        widths: smallest and largest, pixels.
        heights: smallest and largest, pixels.
        modes: PIL modes of the images.
        bytes: of all images, each file once.
        mask_shares: mean, smallest and largest share of an anomalous image that its masks cover; None without masks.
        problems: number of errors, whose files were left out, and warnings.
    """

    category: str
    train: int
    test_good: int
    test_anomalous: int
    defect_types: dict[str, int]
    kinds: dict[str, int]
    unmasked: int
    widths: tuple[int, int]
    heights: tuple[int, int]
    modes: tuple[str, ...]
    bytes: int
    mask_shares: tuple[float, float, float] | None
    problems: int

    @classmethod
    def of(cls, category: str, index: ImageIndex) -> Overview:
        """The statistics of an index, which holds at least one image."""
        rows: list[dict[str, Any]] = index.table.to_pylist()
        test = [row for row in rows if row["split"] == "test"]
        anomalous = [row for row in test if row["label"] == 1]
        widths, heights = ([row[side] for row in rows] for side in ("width", "height"))
        return cls(
            category=category,
            train=len(rows) - len(test),
            test_good=len(test) - len(anomalous),
            test_anomalous=len(anomalous),
            defect_types=_counted(row["defect_type"] for row in anomalous),
            kinds=_counted(row["anomaly_kind"] for row in anomalous if row["anomaly_kind"]),
            unmasked=sum(not row["mask_paths"] for row in anomalous),
            widths=(min(widths), max(widths)),
            heights=(min(heights), max(heights)),
            modes=tuple(sorted({row["mode"] for row in rows})),
            bytes=sum({row["path"]: row["bytes"] for row in rows}.values()),
            mask_shares=_shares([row for row in anomalous if row["mask_paths"]], index),
            problems=len(index.problems),
        )

    def lacks(self) -> list[str]:
        """Messages about what metrics need and the category does not have."""
        lacking = []
        if not self.test_anomalous:
            lacking.append("no anomalous test images: no AUROC is defined")
        elif not self.test_good:
            lacking.append("no nominal test images: the image AUROC is not defined")
        if self.unmasked and self.unmasked == self.test_anomalous:
            lacking.append("no masks: pixel metrics are not defined")
        elif self.unmasked:
            lacking.append(f"{self.unmasked} anomalous test images have no mask: pixel metrics leave them out")
        return lacking


def _counted(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _shares(masked: list[dict[str, Any]], index: ImageIndex) -> tuple[float, float, float] | None:
    # Regions of one image may overlap, so their sum is bounded by the image.
    areas = [sum(index.files[path].area or 0 for path in row["mask_paths"]) for row in masked]
    shares = [min(1.0, area / (row["width"] * row["height"])) for area, row in zip(areas, masked, strict=True)]
    return (sum(shares) / len(shares), min(shares), max(shares)) if shares else None
