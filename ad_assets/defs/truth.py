"""Labels and masks of test images: what metrics and studies compare scores with, and nothing else may see."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from ad_assets.datasets.files import ImageFiles
from ad_assets.defs.galleries import read_masks
from ad_assets.defs.stages import Stage, Work
from ad_assets.extractor import Extractor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class Truth:
    """The test rows of an image index, found by image id. One image may lie in the test set under several names."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self.rows = sorted(rows, key=lambda row: (row["image_id"], row["path"]))
        self.labels = [int(row["label"]) for row in self.rows]
        self.positions: dict[str, list[int]] = {}
        for position, row in enumerate(self.rows):
            self.positions.setdefault(row["image_id"], []).append(position)

    @property
    def kinds(self) -> list[str]:
        """The kinds of anomalies that the dataset tells apart, sorted; none where it does not."""
        return sorted({row["anomaly_kind"] for row in self.rows if row["label"]} - {""})

    def subset(self, kind: str) -> list[int]:
        """Positions of the nominal rows and of the anomalous ones of one kind."""
        return [i for i, row in enumerate(self.rows) if not row["label"] or row["anomaly_kind"] == kind]

    @classmethod
    def of(cls, work: Work, index: Stage) -> Truth:
        """The truth in the image index that an asset reads.

        Raises:
            dagster.Failure: it has no test images.
        """
        table = work.store.read_table(work.input(index).at("index.parquet"))
        truth = cls(row for row in table.to_pylist() if row["split"] == "test")
        if not truth.rows:
            raise dg.Failure(f"{index.key[0]} [{work.partition}] has no test images, so there is nothing to measure")
        return truth


FPR_LIMIT = 0.3


class Comparison:
    """Scores of test images beside the truth, batch by batch.

    `scores` (rows of the truth,) float32, `pixels` and `per_image` hold what was seen so far. Where the truth has its
    regions apart, with saturations, `regions` holds statistics that weigh them so, for each kind of anomaly with all
    nominal images.
    """

    def __init__(self, truth: Truth, files: ImageFiles, extractor: Extractor, memory_gb: float) -> None:
        import numpy as np

        from ad_assets.metrics.per_image import PerImageOverlap
        from ad_assets.metrics.pixels import PixelStatistics

        self._truth = truth
        self._files = files
        self._extractor = extractor
        self.scores = np.zeros(len(truth.rows), np.float32)
        kinds = truth.kinds if any(row["mask_saturations"] for row in truth.rows) else ()
        # Exact while all pixels fit an eighth of the budget (kept and sorted, 4 bytes each, with room for the copies).
        exact = int(memory_gb * 1e9 / 32) // (1 + len(kinds))
        self.pixels = PixelStatistics(exact_pixels=exact)
        self.regions = {kind: PixelStatistics(exact_pixels=exact) for kind in kinds}
        self.per_image = PerImageOverlap(FPR_LIMIT)

    def add(self, image_ids: Sequence[str], maps: Tensor, image_scores: Tensor) -> None:
        """Take in maps (B, H, W) and image scores (B,); each image once."""
        import numpy as np

        masks = np.zeros(maps.shape, bool)
        known = np.ones(len(image_ids), bool)
        for place, image_id in enumerate(image_ids):
            for position in self._truth.positions.get(image_id, []):
                self.scores[position] = image_scores[place]
                row = self._truth.rows[position]
                parts = read_masks(self._files, row, self._extractor)
                for part in parts:
                    masks[place] |= part
                # An anomalous image whose mask is not known says nothing about pixels.
                known[place] = bool(parts) or not row["label"]
                self._add_regions(row, maps[place].numpy()[None], parts)
        if known.any():
            self.pixels.update(maps.numpy()[known], masks[known])
            self.per_image.update(maps.numpy()[known], masks[known])

    def _add_regions(self, row: dict[str, Any], score_map: NDArray[Any], parts: list[NDArray[Any]]) -> None:
        from ad_assets.metrics.regions import Region

        for kind, statistics in self.regions.items():
            if not row["label"] or (row["anomaly_kind"] == kind and parts):
                regions = [Region(*each) for each in zip(parts, row["mask_saturations"], strict=True)]
                union = functools.reduce(operator.or_, parts) if parts else score_map[0] != score_map[0]
                statistics.update(score_map, union[None], [regions])

    @property
    def has_both(self) -> bool:
        """Whether there are nominal and anomalous pixels, so that pixel metrics are defined."""
        return 0 < self.pixels.anomalous_pixels < self.pixels.pixels


def quality(truth: Truth, comparison: Comparison) -> Iterator[tuple[str, str, float | None, int]]:
    """Yield (metric, defect type or empty for all, value or None where it is not defined, n)."""
    from ad_assets.metrics import ranking

    labels, scores, statistics = truth.labels, comparison.scores, comparison.pixels
    both = 0 < sum(labels) < len(labels)
    yield "image_auroc", "", ranking.auroc(scores, labels) if both else None, len(labels)
    for defect in sorted({row["defect_type"] for row in truth.rows if row["label"]}) if both else ():
        kept = [i for i, row in enumerate(truth.rows) if not row["label"] or row["defect_type"] == defect]
        yield "image_auroc", defect, ranking.auroc(scores[kept], [labels[i] for i in kept]), len(kept)
    yield "pixel_auroc", "", statistics.pixel_auroc() if comparison.has_both else None, statistics.pixels
    yield f"aupro_{FPR_LIMIT:.2f}", "", statistics.aupro(FPR_LIMIT) if comparison.has_both else None, statistics.pixels
