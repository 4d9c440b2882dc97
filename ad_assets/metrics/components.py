"""Connected defects of ground-truth masks, 8-connectivity, by runs of pixels instead of pixels.

PRO (Bergmann et al., IJCV 2021) counts every connected component alike, so a pixel weighs 1 / area of its component.
Masks are sparse and smooth: their horizontal runs are few, runs that touch in neighbouring rows are the edges of a
small graph, and its components are those of the masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def component_weights(masks: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Where the anomalous pixels are and what each weighs; an image never shares a component with another.

    Args:
        masks: (B, H, W) bool.

    Returns:
        Positions (n,) in the flattened masks, ascending, their weights 1 / area (n,), and the number of components.
    """
    _, height, width = masks.shape
    pixels = np.flatnonzero(masks)
    if len(pixels) == 0:
        return pixels, np.empty(0), 0
    starts_run = np.ones(len(pixels), dtype=np.bool_)
    starts_run[1:] = (np.diff(pixels) != 1) | (pixels[1:] % width == 0)
    first = np.flatnonzero(starts_run)
    lengths = np.diff(first, append=len(pixels))
    row, column = np.divmod(pixels[first], width)
    component, count = _join(row, column, lengths, height, width)
    areas = np.bincount(component, lengths, minlength=count)
    return pixels, np.repeat(1.0 / areas[component], lengths), count


def _join(
    row: NDArray[np.int64], column: NDArray[np.int64], lengths: NDArray[Any], height: int, width: int
) -> tuple[NDArray[Any], int]:
    """Component of every run, and the number of components. Rows are numbered through all images."""
    # On a line where each row takes width + 2 places, runs of different rows cannot meet: both ends ascend.
    start = row * (width + 2) + column
    end = start + lengths
    # A run touches those of the next row that end at or after its first column and start at or before its end column.
    low = np.searchsorted(end, start + (width + 2), side="left")
    high = np.searchsorted(start, end + (width + 2), side="right")
    touching = np.where((row + 1) % height == 0, 0, high - low)
    upper = np.repeat(np.arange(len(row)), touching)
    lower = np.arange(len(upper)) - np.repeat(touching.cumsum() - touching, touching) + np.repeat(low, touching)
    graph = coo_array((np.ones(len(upper), dtype=np.int8), (upper, lower)), shape=(len(row), len(row)))
    count, component = connected_components(graph, directed=False)
    return component, int(count)
