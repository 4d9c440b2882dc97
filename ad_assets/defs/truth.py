"""Labels and masks of test images: what metrics and studies compare scores with, and nothing else may see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from ad_assets.datasets.files import ImageFiles
from ad_assets.defs.galleries import read_mask
from ad_assets.extractor import Extractor

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Truth:
    """The test rows of an image index, found by image id. One image may lie in the test set under several names."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self.rows = sorted(rows, key=lambda row: (row["image_id"], row["path"]))
        self.labels = [int(row["label"]) for row in self.rows]
        self.positions: dict[str, list[int]] = {}
        for position, row in enumerate(self.rows):
            self.positions.setdefault(row["image_id"], []).append(position)

    @classmethod
    def of(cls, index_rows: Iterable[dict[str, Any]], place: str) -> Truth:
        """The truth in an image index.

        Raises:
            dagster.Failure: it has no test images.
        """
        truth = cls(row for row in index_rows if row["split"] == "test")
        if not truth.rows:
            raise dg.Failure(f"{place} has no test images, so there is nothing to measure")
        return truth

    def masks(
        self, image_ids: Sequence[str], size: tuple[int, ...], files: ImageFiles, extractor: Extractor
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Masks (B, H, W) bool in the frame of an extractor, and which of them are known (B,) bool.

        An anomalous image whose mask is not known says nothing about pixels.
        """
        import numpy as np

        masks = np.zeros((len(image_ids), *size), bool)
        known = np.ones(len(image_ids), bool)
        for place, image_id in enumerate(image_ids):
            for position in self.positions.get(image_id, []):
                row = self.rows[position]
                mask = read_mask(files, row, extractor)
                if mask is not None:
                    masks[place] = mask
                known[place] = mask is not None or not row["label"]
        return masks, known
