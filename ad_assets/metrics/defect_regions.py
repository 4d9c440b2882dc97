"""Connected regions of a score map above a pixel threshold: where an image is defective, how large and how strongly."""

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
    above = score_map > threshold
    if not above.any():
        return ()
    from scipy import ndimage

    labels, count = ndimage.label(above, np.ones((3, 3)))
    numbers = np.arange(1, count + 1)
    peaks = ndimage.maximum(score_map, labels, numbers)
    # Ties in the order of the labels, which run from the top to the bottom.
    chosen = np.argsort(-np.asarray(peaks), kind="stable")[:MOST_REGIONS]
    boxes = ndimage.find_objects(labels)
    found = []
    for index in chosen:
        rows, columns = boxes[index]
        y, x = np.nonzero(labels[rows, columns] == index + 1)
        box = (columns.start, rows.start, columns.stop, rows.stop)
        centroid = float(x.mean()) + box[0], float(y.mean()) + box[1]
        found.append(DefectRegion(box, len(x), float(peaks[index]), centroid))
    return tuple(found)
