"""Annotated regions that count as found once enough of them is: the weights of saturated per-region overlap.

sPRO (Bergmann et al., "Beyond Dents and Scratches", IJCV 2022, MVTec LOCO AD) is the mean over regions of
min(covered area / s, 1), s being the region's saturation area. As the threshold falls, a region is covered from its
highest score down, so the pixels that count are known once the map is: each of the floor(s) highest weighs 1 / s, the
next one what is left of 1, and the others nothing. Among equal scores it does not matter which pixel has the weight,
since all of them pass at the same threshold. These weights turn the area under PRO into the area under sPRO, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Region:
    """One annotated region of an image; regions may overlap, touch or consist of several parts.

    Args:
        mask: (H, W) bool; an empty one is left out of every mean, since a crop or a resize can empty it.
        saturation: in (0, 1], the share of the area from which on the region counts as found. A share holds at any
            resolution; a saturation area of p pixels is min(p / area, 1). 1 is the plain overlap of the region.

    Raises:
        ValueError: a mask that is not (H, W) bool, or a saturation outside (0, 1].
    """

    mask: NDArray[np.bool_]
    saturation: float = 1.0

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise ValueError(f"a region's mask must be (H, W) bool, got {self.mask.dtype} of shape {self.mask.shape}")
        if not 0 < self.saturation <= 1:
            raise ValueError(f"saturation is a share of the region's area, in (0, 1], got {self.saturation}")


def check_regions(masks: NDArray[np.bool_], regions: Sequence[Sequence[Region]]) -> None:
    """Make sure that regions and masks say the same.

    Args:
        masks: (B, H, W) bool.
        regions: the regions of each of the B images, none for a good one.

    Raises:
        ValueError: another number of images or shape, or an image whose regions together are not its mask.
    """
    if len(regions) != len(masks):
        raise ValueError(f"regions must be given for each of {len(masks)} images, got {len(regions)}")
    for image, (mask, parts) in enumerate(zip(masks, regions, strict=True)):
        union = np.zeros_like(mask)
        for region in parts:
            if region.mask.shape != mask.shape:
                raise ValueError(f"regions[{image}] has a mask of shape {region.mask.shape}, the image {mask.shape}")
            union |= region.mask
        different = int((union != mask).sum())
        if different:
            raise ValueError(f"regions[{image}] together must be the image's mask; they differ in {different} pixels")


def region_weights(
    maps: NDArray[Any], masks: NDArray[np.bool_], regions: Sequence[Sequence[Region]]
) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Where the anomalous pixels are and what each weighs, summed over the regions that hold it.

    Args:
        maps: (B, H, W) floating point scores; higher is more anomalous.
        masks: (B, H, W) bool, the union of each image's regions, as `check_regions` wants it.
        regions: the regions of each image.

    Returns:
        Positions (n,) in the flattened masks, ascending, their weights (n,), 1 a region in sum, and the number of
        regions that are not empty.
    """
    weights = np.zeros((len(masks), masks[0].size if len(masks) else 0))
    count = 0
    for image, parts in enumerate(regions):
        scores = maps[image].ravel()
        for region in parts:
            pixels = np.flatnonzero(region.mask)
            if len(pixels) == 0:
                continue
            area = region.saturation * len(pixels)
            counted = math.ceil(area)
            if counted < len(pixels):
                pixels = pixels[np.argpartition(-scores[pixels], counted - 1)[:counted]]
            # Partitioned like this the lowest score of those that count comes last: it has the fractional rest.
            weights[image, pixels[:-1]] += 1 / area
            weights[image, pixels[-1]] += 1 - (counted - 1) / area
            count += 1
    positions = np.flatnonzero(masks)
    return positions, weights.ravel()[positions], count
