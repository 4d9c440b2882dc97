"""Patch-to-patch template matching: the alternative that HETMM is compared with (Chen et al., section 4.4, table 8).

A query patch is compared with the patches at the same place of the templates, as wholes. The vectors in a patch are of
unit length, so the cosine of two patches, each the concatenation of its vectors, is the mean of the cosines of their
places: a box filter over a map of cosines.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ad_assets.kernels.nearest.bounds import full_precision
from ad_assets.kernels.parallel import each, spans

# Of one task of a thread.
TASK_PLACES = 256
TASK_TEMPLATES = 8


def match_patches(
    query: Tensor, templates: Tensor, size: int, *, memory_gb: float = 1.0, excluded: Tensor | None = None
) -> Tensor:
    """Cosine distances of query patches to the nearest template patch at the same place.

    Args:
        query: (B, C, H, W) float32, unit length over C.
        templates: (T, C, H, W) float32, unit length over C. A permuted view of (H, W, T, C) is not copied.
        size: odd side of a patch, in places; patches are cut off at the border.
        memory_gb: budget in GB for temporary tensors; bounds how many templates are compared at a time.
        excluded: (B, T, H, W) bool, vectors that an image does not meet: the first other one at the place is in their
            stead, and where there is none, the cosine is 0.

    Returns:
        (B, H, W) float32 in [0, 2].

    Raises:
        ValueError: an even size.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"the side of a patch must be odd, so that it has a middle, got {size}")
    images, _, height, width = query.shape
    rows = templates.permute(2, 3, 0, 1).contiguous().flatten(0, 1)
    places = query.permute(2, 3, 1, 0).reshape(height * width, -1, images)
    step = max(1, int(memory_gb * 1e9 / (12 * places.shape[0] * images)))
    best = query.new_full((images, height, width), -1)
    unmet = excluded.permute(2, 3, 1, 0).flatten(0, 1) if excluded is not None else None
    with full_precision():
        stead = _first_met(rows, places, unmet) if unmet is not None else None
        for first in range(0, rows.shape[1], step):
            some = rows[:, first : first + step]
            cosines = some.new_empty(*some.shape[:2], images)

            def compare(band: slice, first: int = first, some: Tensor = some, cosines: Tensor = cosines) -> None:
                torch.bmm(some[band], places[band], out=cosines[band])
                if unmet is not None and stead is not None:
                    own = unmet[band, first : first + step]
                    cosines[band] = torch.where(own, stead[band, None], cosines[band])

            def largest_mean(few: Tensor) -> Tensor:
                maps = few.unflatten(0, (height, width)).permute(3, 2, 0, 1)
                means = functional.avg_pool2d(maps, size, stride=1, padding=size // 2, count_include_pad=False)
                return means.amax(dim=1)

            list(each(compare, spans(height * width, TASK_PLACES), query.device.type))
            for means in each(largest_mean, cosines.split(TASK_TEMPLATES, dim=1), query.device.type):
                best = torch.maximum(best, means)
    return (1 - best).clamp(0, 2)


def _first_met(rows: Tensor, places: Tensor, excluded: Tensor) -> Tensor:
    """(places, B): the cosine of the first template (of P, T, C) that is not excluded (P, T, B), or 0."""
    met = ~excluded
    number = met.to(torch.uint8).argmax(dim=1)  # (P, B)
    vectors = rows.gather(1, number[..., None].expand(-1, -1, rows.shape[2]))
    return torch.linalg.vecdot(vectors, places.mT) * met.any(dim=1)
