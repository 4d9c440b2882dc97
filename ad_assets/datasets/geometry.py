"""Resizing and cropping of masks, as `ad_assets_runtime.geometry` does with images, so that they stay aligned."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ad_assets_runtime.geometry import Mask, Resize, centre_box, cropped, nearest, resized_shape

# Which pixels of a smaller frame a region covers: those whose centre is in it (nearest); for regions without such a
# pixel, those that they touch (regions); or for all regions those that they touch (any_pixel).
Shrink = Literal["nearest", "regions", "any_pixel"]


def fit_mask(mask: Mask, resize: Resize, crop: int | None, shrink: Shrink = "nearest") -> Mask:
    """Resize, then crop, as `fit_image` does: ``(H, W)`` bool -> ``(h, w)``.

    Args:
        mask: a decoded mask, of its image's size.
        resize: as the image's.
        crop: as the image's.
        shrink: see `Shrink`.

    Raises:
        ValueError: the crop is larger than the resized mask.
    """
    return fit_regions(mask, resize, crop, shrink)[0]


def fit_regions(mask: Mask, resize: Resize, crop: int | None, shrink: Shrink) -> tuple[Mask, int]:
    """As `fit_mask`, with the number of connected regions that have no pixel left (too small, or cropped away)."""
    old_h, old_w = mask.shape
    h, w = resized_shape(old_h, old_w, resize)
    top, left, bottom, right = box = centre_box(h, w, crop)
    rows, columns = nearest(old_h, h), nearest(old_w, w)
    resized: Mask = mask[rows[:, None], columns]
    whole = (top, left, bottom, right) == (0, 0, h, w)
    if not mask.any() or (whole and h >= old_h and w >= old_w):  # every pixel is still there
        return cropped(resized, box), 0
    from scipy import ndimage

    # Masks are sparse: regions are labelled in the rectangle around them.
    (first_y, last_y), (first_x, last_x) = (np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0))
    regions, count = ndimage.label(mask[first_y : last_y + 1, first_x : last_x + 1], np.ones((3, 3)))
    y, x = np.nonzero(resized)
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    sampled = regions[rows[y] - first_y, columns[x] - first_x]
    present = np.zeros(count + 1, np.bool_)
    present[sampled[inside]] = True
    if shrink != "nearest":
        missing = np.ones(count + 1, np.bool_)
        missing[0] = False
        if shrink == "regions":
            missing[sampled] = False
        old_y, old_x = np.nonzero(missing[regions])
        # The new pixel that contains the old one's centre.
        y, x = nearest(h, old_h)[old_y + first_y], nearest(w, old_w)[old_x + first_x]
        resized[y, x] = True
        inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
        present[regions[old_y[inside], old_x[inside]]] = True
    return cropped(resized, box), count - int(present[1:].sum())
