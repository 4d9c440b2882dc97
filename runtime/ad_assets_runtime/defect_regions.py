"""Connected regions of a score map above a pixel threshold: where an image is defective, how large and how strongly.

By horizontal runs of pixels: score maps are smooth, so runs are few, and those that touch in neighbouring rows are the
edges of a small graph whose components are the regions. Without SciPy, which is too large for a line's computer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_REGIONS = 100  # of one image; a map that is above the threshold nearly everywhere may fall into thousands


@dataclass(frozen=True)
class DefectRegion:
    """One connected region, in pixels counted from 0 at the top left corner.

    Args:
        box: left, top, right, bottom; right and bottom are the first column and row outside.
        area: number of pixels.
        peak: its highest score.
        centroid: x and y of the mean of its pixels.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    centroid: tuple[float, float]


def defect_regions(score_map: NDArray[Any], threshold: float) -> tuple[DefectRegion, ...]:
    """The connected regions (8-connectivity) with scores above a threshold, the highest peak first.

    With a threshold that is a conformal quantile of the highest scores of nominal maps (`nominal_quantile`), at most
    that share of nominal images has any region.

    Args:
        score_map: ``(H, W)`` scores; NaN, where nothing was looked at, belongs to no region.
        threshold: scores above it belong to regions.

    Returns:
        At most `MOST_REGIONS`.
    """
    width = score_map.shape[1]
    pixels = np.flatnonzero(score_map > threshold)
    if not len(pixels):
        return ()
    starts_run = np.ones(len(pixels), np.bool_)
    starts_run[1:] = (np.diff(pixels) != 1) | (pixels[1:] % width == 0)
    first = np.flatnonzero(starts_run)
    lengths = np.diff(first, append=len(pixels))
    row, column = np.divmod(pixels[first], width)
    # Regions in the order of their first pixel, from the top to the bottom, which decides between equal peaks.
    _, region = np.unique(_joined(row, column, column + lengths, width), return_inverse=True)
    count = int(region.max()) + 1
    peaks = np.full(count, -np.inf)
    np.maximum.at(peaks, region, np.maximum.reduceat(score_map.ravel()[pixels], first))
    left, top = np.full(count, width), np.full(count, len(score_map))
    right, bottom = np.zeros(count, np.intp), np.zeros(count, np.intp)
    np.minimum.at(left, region, column)
    np.maximum.at(right, region, column + lengths)
    np.minimum.at(top, region, row)
    np.maximum.at(bottom, region, row + 1)
    area = np.bincount(region, lengths)
    x = np.bincount(region, lengths * (2 * (column - left[region]) + lengths - 1) / 2) / area + left
    y = np.bincount(region, lengths * (row - top[region])) / area + top
    return tuple(
        DefectRegion(
            (int(left[n]), int(top[n]), int(right[n]), int(bottom[n])),
            int(area[n]),
            float(peaks[n]),
            (float(x[n]), float(y[n])),
        )
        for n in np.argsort(-peaks, kind="stable")[:MOST_REGIONS]
    )


def _joined(row: NDArray[Any], start: NDArray[Any], end: NDArray[Any], width: int) -> NDArray[np.intp]:
    """Of each run the first run of its region; runs are sorted by row and column, `end` is the column after the last.

    The smaller name of two runs that touch goes to all of the other's, and names of names are followed to the end,
    until nothing changes (Shiloach and Vishkin 1982).
    """
    # On a line where each row takes width + 2 places, runs of different rows cannot meet: both ends ascend.
    begins, ends = row * (width + 2) + start, row * (width + 2) + end
    low = np.searchsorted(ends, begins + (width + 2), side="left")
    touching = np.searchsorted(begins, ends + (width + 2), side="right") - low
    upper = np.repeat(np.arange(len(row)), touching)
    lower = np.arange(len(upper)) - np.repeat(touching.cumsum() - touching, touching) + np.repeat(low, touching)
    name = np.arange(len(row))
    while True:
        smaller = np.minimum(name[upper], name[lower])
        after = name.copy()
        np.minimum.at(after, name[upper], smaller)
        np.minimum.at(after, name[lower], smaller)
        while (followed := after[after]).tobytes() != after.tobytes():
            after = followed
        if (after == name).all():
            return name
        name = after
