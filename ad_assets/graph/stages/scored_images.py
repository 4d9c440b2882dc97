"""Pictures of scored test images, for the contact sheet of a category and the report: reads files, draws nothing."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Dataset
from ad_assets.datasets.base import Reader
from ad_assets.datasets.files import ImageFiles, read_image_bytes, read_mask_bytes
from ad_assets.datasets.geometry import fit_image, fit_mask
from ad_assets.datasets.masks import MaskPixels
from ad_assets.graph.stages.score_maps import read_shard
from ad_assets.store.store import Artifact

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    masks = [fit_mask(mask.anomalous, *extractor.geometry, shrink) for mask in read_masks(reader, row)]
    return functools.reduce(operator.or_, masks) if masks else None


def read_pictures(
    dataset: Dataset, extractor: Extractor, score_maps: Artifact, rows: Sequence[dict[str, Any]]
) -> Iterator[Picture]:
    """Read images, masks and maps of some rows of an image index, one by one."""
    files = ImageFiles(dataset.reader.root)
    for row in rows:
        rgb = dataset.reader.decoding.of(row["image_id"]).rgb(read_image_bytes(files, row), row["path"])
        score_map, score = read_shard(score_maps, row["image_id"])
        yield Picture(
            row,
            score,
            fit_image(rgb, extractor.resize, extractor.crop, extractor.interpolation),
            read_mask(dataset.reader, row, extractor),
            score_map.numpy(),
        )
