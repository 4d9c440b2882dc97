"""Which patches of an image are of the object, by the first principal component of its own tokens (AnomalyDINO).

Foundation backbones put most of the variance of an image's tokens between object and background. What lies beyond a
threshold along that component is the object; the side of the component is free, and the one is taken on which enough of
the image's centre lies. What is kept is dilated and closed by 3 x 3 cells. Damm et al., WACV 2025, section 3, and their
public code, which has the threshold, the centre and the share below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BORDER = 0.2  # of each side of the grid, around its centre
FEWEST_KEPT = 0.35  # of the centre


def object_mask(tokens: Tensor, grid: tuple[int, int], threshold: float) -> Tensor:
    """The patches of the object.

    Args:
        tokens: (P, D) of one image, row by row of the grid.
        grid: rows and columns.
        threshold: how far along the component the object begins, units of the tokens.

    Returns:
        (P,) bool; none of them where no token lies beyond the threshold on either side.
    """
    import torch
    from torch.nn.functional import max_pool2d

    centred = tokens.double() - tokens.double().mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    axis = axes[:, -1]
    # The side on which the largest loading is positive, so that no library's choice decides.
    along = centred @ (axis * axis[axis.abs().argmax()].sign())
    kept = along > threshold
    rows, columns = (slice(int(side * BORDER), int(side * (1 - BORDER))) for side in grid)
    centre = kept.reshape(grid)[rows, columns]
    kept = torch.where(centre.sum() <= FEWEST_KEPT * centre.numel(), -along > threshold, kept)

    def dilated(cells: Tensor) -> Tensor:
        return max_pool2d(cells, 3, stride=1, padding=1)

    cells = dilated(dilated(kept.reshape(1, *grid).float()))
    return (-dilated(-cells)).flatten() > 0.5
