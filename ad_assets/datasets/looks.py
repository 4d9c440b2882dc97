"""What some images of a category look like: sizes, modes, bit depth, and borders in which nothing is to be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ad_assets.datasets.base import Candidate, Problem
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.files import ImageFiles
from ad_assets_runtime.deep import found_depth
from ad_assets_runtime.images import ImageError, RgbImage

OPENED = 12  # images of a category
_STILL = 3.0  # grey levels: a cell that varies less, within each image and from image to image, shows nothing
_GRID = 32  # cells along each side


@dataclass(frozen=True)
class Looks:
    """What some images of a category look like.

    Args:
        opened: how many were opened.
        sizes: height and width of these.
        modes: their PIL modes.
        bit_depth: bits of pixels that are stored in 16, of the deepest; None: all have 8.
        still: shares of the picture, at top, right, bottom and left, where all show the same and nothing; 0..1.
        unreadable: those that cannot be read, with the reasons.
    """

    opened: int
    sizes: frozenset[tuple[int, int]]
    modes: tuple[str, ...]
    bit_depth: int | None
    still: tuple[float, float, float, float]
    unreadable: tuple[Problem, ...]


def looks_of(files: ImageFiles, images: Sequence[Candidate]) -> Looks:
    """Open some images, evenly chosen.

    Args:
        files: of the dataset.
        images: of one category.
    """
    chosen = images[:: max(1, len(images) // OPENED)][:OPENED]
    sizes, modes, depths, unread, cells = set(), set(), set(), [], []
    for each in chosen:
        try:
            read = Decoding().inspect(files.read(each.path), each.path)
        except (ImageError, OSError) as error:
            unread.append(Problem(each.path, error.message if isinstance(error, ImageError) else str(error)))
            continue
        sizes.add(read.rgb.shape[:2])
        modes.add(read.mode)
        if read.largest is not None:
            depths.add(found_depth(read.largest, read.told_depth))
        cells.append(_cells(read.rgb))
    return Looks(
        len(cells),
        frozenset(sizes),
        tuple(sorted(modes)),
        max(depths, default=None),
        _still_borders(cells) if len(cells) > 1 else (0.0, 0.0, 0.0, 0.0),
        tuple(unread),
    )


def _cells(rgb: RgbImage) -> np.ndarray:
    """Mean and spread of the grey of a grid over an image: ``(2, 32, 32)`` float64, fewer cells of a smaller one."""
    grey = rgb.mean(axis=2)
    rows, columns = (np.array_split(np.arange(side), min(_GRID, side)) for side in grey.shape)
    bands = [[grey[row[0] : row[-1] + 1, column[0] : column[-1] + 1] for column in columns] for row in rows]
    return np.array(
        [[[cell.mean() for cell in band] for band in bands], [[cell.std() for cell in band] for band in bands]]
    )


def _still_borders(cells: Sequence[np.ndarray]) -> tuple[float, float, float, float]:
    """Shares of the picture at top, right, bottom and left in which every image shows the same and nothing."""
    if len({each.shape for each in cells}) > 1:
        return (0.0, 0.0, 0.0, 0.0)
    means, spreads = np.array(cells).swapaxes(0, 1)
    busy = (means.std(axis=0) > _STILL) | (spreads.max(axis=0) > _STILL)
    if not busy.any():
        return (0.0, 0.0, 0.0, 0.0)
    rows, columns = (np.flatnonzero(busy.any(axis=axis)) for axis in (1, 0))
    height, width = busy.shape
    return (rows[0] / height, 1 - (columns[-1] + 1) / width, 1 - (rows[-1] + 1) / height, columns[0] / width)
