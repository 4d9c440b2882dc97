"""Connected defects of ground-truth masks, 8-connectivity.

PRO (Bergmann et al., IJCV 2021) counts every connected component alike, so a pixel weighs 1 / area of its component.
Masks are sparse: what is labelled of an image is the rectangle around its anomalous pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TOUCHING = np.ones((3, 3), np.bool_)


def component_weights(masks: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Where the anomalous pixels are and what each weighs; an image never shares a component with another.

    Args:
        masks: (B, H, W) bool.

    Returns:
        Positions (n,) in the flattened masks, ascending, their weights 1 / area (n,), and the number of components.
    """
    weights, count = [np.empty(0)], 0
    for mask in masks:
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            continue
        inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        labels, found = ndimage.label(inside, TOUCHING)
        own = labels[inside]  # row by row, as the pixels of the whole mask
        weights.append(1.0 / np.bincount(own)[own])
        count += int(found)
    return np.flatnonzero(masks), np.concatenate(weights), count
