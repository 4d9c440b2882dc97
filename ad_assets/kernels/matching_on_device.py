"""The table of `local_matching` on a GPU: blocks of places are one product, and all else a few operations on the whole.

A loop over rows and offsets, as on a CPU, would launch more than a thousand kernels a layer, most of them tiny.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ad_assets.kernels.parallel import spans

NEVER = float("-inf")
NOBODY = -1  # in place of a template's number, where an image meets none


def fill_table(
    best: Tensor, which: Tensor | None, query: Tensor, templates: Tensor, places: int, excluded: Tensor | None
) -> None:
    """Fill the table of the largest cosines, in place.

    Args:
        best: (H, W, m, m, B) float32 of `Matches`.
        which: the same in int32, the template that has it; None where it is not asked for.
        query: (H, W, B, C).
        templates: (H, W, T, C) of the same dtype.
        places: how many are compared at once.
        excluded: (H, W, T, B) bool, templates that an image does not meet.
    """
    height, width, span, _, images = best.shape
    radius = span // 2
    padded = functional.pad(query, (0, 0) * 2 + (radius, radius) * 2)
    windows = padded.unfold(0, span, 1).unfold(1, span, 1).permute(0, 1, 4, 5, 2, 3)  # (H, W, m, m, B, C)
    for rows in spans(height, max(1, places // width)):
        for columns in spans(width, places):
            block = best[rows, columns]
            # Windows overlap: copied, a place's is one matrix.
            inside = windows[rows, columns].reshape(block.shape[0] * block.shape[1], span * span * images, -1)
            cosines = torch.bmm(templates[rows, columns].flatten(0, 1), inside.mT)
            unmet = excluded[rows, columns].flatten(0, 1) if excluded is not None else None
            if unmet is not None:
                of_image = cosines.unflatten(2, (-1, images))
                of_image.masked_fill_(unmet[:, :, None], NEVER)
                of_image.masked_fill_(unmet.all(dim=1)[:, None, None], 0)
            if which is None:
                block.copy_(cosines.amax(dim=1).view(block.shape))
                continue
            top, index = cosines.max(dim=1)
            if unmet is not None:
                index.unflatten(1, (-1, images)).masked_fill_(unmet.all(dim=1)[:, None], NOBODY)
            block.copy_(top.view(block.shape))
            which[rows, columns] = index.view(block.shape).to(which.dtype)
    offsets = torch.arange(span, device=best.device) - radius
    below, right = ((torch.arange(side, device=best.device)[:, None] + offsets) for side in (height, width))
    outside_y, outside_x = (below < 0) | (below >= height), (right < 0) | (right >= width)
    best.masked_fill_(outside_y[:, None, :, None, None] | outside_x[None, :, None, :, None], NEVER)


def highest(best: Tensor, radius: int, *, with_offsets: bool) -> tuple[Tensor, Tensor | None]:
    """(H, W, B) the largest cosine of every query place within a radius, and the offset e at which it is.

    The entry for query place y and offset e lies at template place y - e, so its address is affine in y and e: one view
    of the table has all entries of a query place side by side.

    Args:
        best: (H, W, m, m, B) of `Matches`.
        radius: half a window, at most m // 2.
        with_offsets: whether offsets are asked for, numbered row by row; the first of equal cosines counts.
    """
    height, width, span, _, images = best.shape
    first, last = span // 2 - radius, 2 * radius
    inside = best[:, :, first : first + last + 1, first : first + last + 1]
    padded = functional.pad(inside, (0, 0) * 3 + (radius, radius) * 2, value=NEVER).contiguous()
    of_y, of_x, of_ey, of_ex, of_image = padded.stride()
    size = (height, width, last + 1, last + 1, images)
    strides = (of_y, of_x, of_y - of_ey, of_x - of_ex, of_image)
    from_last = padded.as_strided(size, strides, last * (of_ey + of_ex))
    if not with_offsets:
        return from_last.amax(dim=(2, 3)), None
    top, number = from_last.flip(2, 3).flatten(2, 3).max(dim=2)
    return top, (number // (last + 1) + first) * span + number % (last + 1) + first
