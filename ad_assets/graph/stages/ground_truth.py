"""Labels, masks and pictures of test images: what metrics and studies compare scores with; no detector sees them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ad_assets.backbones.extractor import Extractor
from ad_assets.datasets.base import Reader
from ad_assets.datasets.files import ImageFiles, read_image_bytes, read_mask_bytes
from ad_assets.datasets.geometry import fit_mask, fit_regions
from ad_assets.datasets.masks import MaskPixels
from ad_assets.graph.stage import Stage, Work
from ad_assets.graph.stages.image_index import read_index
from ad_assets.graph.stages.region_of_interest import in_frame
from ad_assets.graph.stages.score_maps import read_maps
from ad_assets.production.test_set_openings import record_opening
from ad_assets.store.store import Artifact
from ad_assets_runtime.geometry import Mask, fit_image, unfit_map

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def read_masks(reader: Reader, row: dict[str, Any]) -> list[MaskPixels]:
    """The masks of an image in the frame of the file, one a region where its dataset has them apart.

    Raises:
        ChangedFileError: a mask is not the one that was indexed.
    """
    read = zip(read_mask_bytes(ImageFiles(reader.root), row), row["mask_paths"], strict=True)
    return [reader.decoding.mask(data, path) for data, path in read]


def read_mask(reader: Reader, row: dict[str, Any], extractor: Extractor) -> NDArray[Any] | None:
    """All that is anomalous in an image, in the frame of an extractor; None where it has no mask."""
    shrink = reader.decoding.masks.shrink
    masks = [fit_mask(mask.anomalous, *extractor.map_geometry, shrink) for mask in read_masks(reader, row)]
    return functools.reduce(operator.or_, masks) if masks else None


class GroundTruth:
    """The test rows of an image index, found by image id. One image may lie in the test set under several names.

    For unlabelled test sets, such as those of a server, `labelled` is False and labels are placeholders that no metric
    reads.
    """

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self.rows = sorted(rows, key=lambda row: (row["image_id"], row["path"]))
        self.labelled = all(row["label"] is not None for row in self.rows)
        self.labels = [int(row["label"] or 0) for row in self.rows]
        self.positions: dict[str, list[int]] = {}
        for position, row in enumerate(self.rows):
            self.positions.setdefault(row["image_id"], []).append(position)

    @property
    def has_both(self) -> bool:
        """Whether there are nominal and anomalous images, so that image metrics are defined."""
        return 0 < sum(self.labels) < len(self.labels)

    @property
    def kinds(self) -> list[str]:
        """The kinds of anomalies that the dataset tells apart, sorted; none where it does not."""
        return sorted({row["anomaly_kind"] for row in self.rows if row["label"]} - {""})

    def subset(self, kind: str) -> list[int]:
        """Positions of the nominal rows and of the anomalous ones of one kind."""
        return [i for i, row in enumerate(self.rows) if not row["label"] or row["anomaly_kind"] == kind]

    @classmethod
    def of(cls, work: Work, index: Stage, *, sealed: bool) -> GroundTruth:
        """The truth in the image index that an asset reads; without rows where there are no test images.

        Where the test set is sealed, that it was read is recorded first.
        """
        if sealed:
            name, category, address = work.stage.key[0], work.partition or "", work.artifact.path.rpartition("/")[2]
            record_opening(work.store, name, category, "/".join(work.stage.key), address)
        return cls(row for row in read_index(work.input(index)) if row["split"] == "test")


FPR_LIMIT = 0.3


class MeasuredScores:
    """Scores of test images with their ground truth, batch by batch.

    `scores` (rows of the truth,) float32, `pixels` and `per_image` hold what was seen so far. Where the truth has its
    regions apart, with saturations, `regions` holds statistics that weigh them so, for each kind of anomaly with all
    nominal images. With `original`, maps are brought to the size of each image, one by one; else masks to that of the
    maps, as the dataset's rule for masks has it; `vanished` counts the regions that this leaves without a pixel.

    With a region of interest, ``(H, W)`` bool in the frame of the images, no pixel outside counts; `outside` counts the
    images that are anomalous outside alone, which no detector can see and whose labels still say anomalous.
    """

    def __init__(
        self,
        truth: GroundTruth,
        reader: Reader,
        extractor: Extractor,
        memory_gb: float,
        *,
        original: bool = False,
        inspected: Mask | None = None,
    ) -> None:
        from ad_assets.metrics.per_image import PerImageOverlap
        from ad_assets.metrics.pixels import PixelStatistics

        self._truth = truth
        self._reader = reader
        self._extractor = extractor
        self._original = original
        self.vanished = self.outside = 0
        self._inspected = inspected if inspected is None or original else in_frame(inspected, extractor)
        self.scores = np.zeros(len(truth.rows), np.float32)
        kinds = truth.kinds if any(row["mask_saturations"] for row in truth.rows) else ()
        # Exact while all pixels fit an eighth of the budget (kept and sorted, 4 bytes each, with room for the copies).
        exact = int(memory_gb * 1e9 / 32) // (1 + len(kinds))
        self.pixels = PixelStatistics(exact_pixels=exact)
        self.regions = {kind: PixelStatistics(exact_pixels=exact) for kind in kinds}
        self.per_image = PerImageOverlap(FPR_LIMIT)

    def add(self, image_ids: Sequence[str], maps: Tensor, image_scores: Tensor) -> None:
        """Take in maps (B, H, W) and image scores (B,); each image once."""
        for image_id, score_map, score in zip(image_ids, maps.numpy(), image_scores.tolist(), strict=True):
            for position in self._truth.positions.get(image_id, []):
                self.scores[position] = score
            if self._truth.positions.get(image_id):
                # The same image under another name has the same mask, and counts once among pixels.
                self._add_pixels(self._truth.rows[self._truth.positions[image_id][-1]], score_map)

    def _add_pixels(self, row: dict[str, Any], score_map: NDArray[Any]) -> None:
        from ad_assets.metrics.regions import Region

        if row["label"] is None:
            return
        if row["label"] and not row["mask_paths"]:
            return  # an anomalous image whose mask is not known says nothing about pixels
        parts, ignored = self._masks(row)
        if self._original:
            score_map = unfit_map(score_map, (row["height"], row["width"]), *self._extractor.map_geometry)
        if self._inspected is not None:
            inside = [part & self._inspected for part in parts]
            self.outside += any(part.any() for part in parts) and not any(part.any() for part in inside)
            parts, ignored = inside, ~self._inspected if ignored is None else ignored | ~self._inspected
        mask = functools.reduce(operator.or_, parts, np.zeros(score_map.shape, bool))
        out = None if ignored is None else ignored[None] & ~mask[None]
        self.pixels.update(score_map[None], mask[None], ignored=out)
        self.per_image.update(score_map[None], mask[None], ignored=out)
        for kind, statistics in self.regions.items():
            if not row["label"] or row["anomaly_kind"] == kind:
                regions = [Region(*each) for each in zip(parts, row["mask_saturations"], strict=True)]
                statistics.update(score_map[None], mask[None], [regions], ignored=out)

    def _masks(self, row: dict[str, Any]) -> tuple[list[NDArray[Any]], NDArray[Any] | None]:
        """The masks of an image in the frame of the scores, and which pixels no metric counts, if any."""
        found = read_masks(self._reader, row)
        hidden = [mask.ignored for mask in found if mask.ignored is not None]
        ignored = functools.reduce(operator.or_, hidden) if hidden else None
        if self._original:
            return [mask.anomalous for mask in found], ignored
        shrink = self._reader.decoding.masks.shrink
        parts = []
        for mask in found:
            part, vanished = fit_regions(mask.anomalous, *self._extractor.map_geometry, shrink)
            parts.append(part)
            self.vanished += vanished
        return parts, None if ignored is None else fit_mask(ignored, *self._extractor.map_geometry)

    @property
    def has_both(self) -> bool:
        """Whether there are nominal and anomalous pixels, so that pixel metrics are defined."""
        return 0 < self.pixels.anomalous_pixels < self.pixels.pixels


def quality(truth: GroundTruth, comparison: MeasuredScores) -> Iterator[tuple[str, str, float | None, int]]:
    """Yield (metric, defect type or empty for all, value or None where it is not defined, n)."""
    from ad_assets.metrics import ranking

    labels, scores, statistics = truth.labels, comparison.scores, comparison.pixels
    yield "image_auroc", "", ranking.auroc(scores, labels) if truth.has_both else None, len(labels)
    for defect in sorted({row["defect_type"] for row in truth.rows if row["label"]}) if truth.has_both else ():
        kept = [i for i, row in enumerate(truth.rows) if not row["label"] or row["defect_type"] == defect]
        yield "image_auroc", defect, ranking.auroc(scores[kept], [labels[i] for i in kept]), len(kept)
    if truth.has_both:
        for metric, value, n in kinds_apart(truth, scores):
            yield metric, "", value, n
    yield "pixel_auroc", "", statistics.pixel_auroc() if comparison.has_both else None, statistics.pixels
    yield f"aupro_{FPR_LIMIT:.2f}", "", statistics.aupro(FPR_LIMIT) if comparison.has_both else None, statistics.pixels


def kinds_apart(truth: GroundTruth, scores: NDArray[Any]) -> list[tuple[str, float, int]]:
    """Metric, value, n: image AUROC of each kind of anomaly against all nominal images, and the mean of the kinds.

    As MVTec LOCO AD has it; nothing where the dataset does not tell kinds.
    """
    from ad_assets.metrics import ranking

    found = []
    for kind in truth.kinds:
        kept = truth.subset(kind)
        found.append((f"image_auroc_{kind}", ranking.auroc(scores[kept], [truth.labels[i] for i in kept]), len(kept)))
    if found:
        found.append(("image_auroc_kinds", sum(value for _, value, _ in found) / len(found), len(found)))
    return found


@dataclass(frozen=True)
class Picture:
    """One scored test image in the frame that the detector saw.

    Args:
        row: its row of the image index.
        score: its image score.
        rgb: ``(H, W, 3)`` uint8, resized and cropped.
        mask: ``(H, W)`` bool, or None where it has none.
        score_map: ``(H, W)`` float32 raw scores.
    """

    row: dict[str, Any]
    score: float
    rgb: NDArray[Any]
    mask: NDArray[Any] | None
    score_map: NDArray[Any]


def read_pictures(
    reader: Reader,
    extractor: Extractor,
    score_maps: Artifact,
    rows: Sequence[dict[str, Any]],
    inspected: Mask | None = None,
) -> Iterator[Picture]:
    """Read images, masks and maps of some rows of an image index, one by one; with a region, its border is drawn."""
    from ad_assets.report import pictures

    files = ImageFiles(reader.root)
    region = None if inspected is None else in_frame(inspected, extractor)
    scored = read_maps(score_maps, [row["image_id"] for row in rows])
    for row, (score_map, score) in zip(rows, scored, strict=True):
        rgb = reader.decoding.of(row["image_id"]).rgb(read_image_bytes(files, row), row["path"])
        rgb = fit_image(rgb, *extractor.map_geometry, extractor.interpolation)
        yield Picture(
            row,
            score,
            rgb if region is None else pictures.inspected(rgb, region),
            read_mask(reader, row, extractor),
            score_map.numpy(),
        )
