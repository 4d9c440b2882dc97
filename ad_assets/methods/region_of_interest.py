"""The region of interest on the grid of a method: outside it nothing scores, and nothing there enters a score.

A region is given as pixels of the extractor's input, `(H, W)` bool. A cell of a grid is inspected if any pixel that the
map draws it over is, so every inspected pixel has the score of its own cell. Ahead of any maximum, resizing or blur,
the cells outside take the scores of the nearest inspected cells: no maximum and no neighbourhood then holds a score of
the outside. At the end the pixels outside get the lowest score inside of the same map: a finite number, and one that
stays below every inspected pixel whatever resizes, fuses or draws the map later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def inspected_cells(region: Tensor, grid: Sequence[int]) -> Tensor:
    """(h, w) bool: which cells of a grid (h, w) hold an inspected pixel of (H, W).

    Raises:
        ValueError: no pixel is inspected.
    """
    from torch.nn.functional import adaptive_max_pool2d

    if not region.any():
        raise ValueError("the region of interest is empty: no pixel of the extractor's input is inspected")
    # Its bins run from floor(i H / h) to ceil((i + 1) H / h): every pixel that a cell covers, if only in part.
    return adaptive_max_pool2d(region[None].float(), tuple(grid))[0] > 0


def learnt_places(region: Tensor | None, grid: Sequence[int]) -> Tensor:
    """(n,) int64, ascending: the cells of a grid, row by row, that a fit inside a region may learn; None: all."""
    import torch

    if region is None:
        return torch.arange(grid[0] * grid[1])
    return inspected_cells(region, grid).flatten().nonzero().flatten()


class InspectedGrid:
    """A grid of cells with a region of interest.

    Args:
        region: `(H, W)` bool, pixels of the extractor's input; None: all are inspected.
        grid: rows and columns.
    """

    def __init__(self, region: Tensor | None, grid: Sequence[int]) -> None:
        self._nearest = None if region is None else _nearest_inspected(inspected_cells(region, grid))

    def filled(self, values: Tensor) -> Tensor:
        """Values (B, cells, ...), those of cells outside replaced by those of the nearest inspected cell."""
        return values if self._nearest is None else values[:, self._nearest.to(values.device)]

    def filled_tap(self, tap: Tensor) -> Tensor:
        """As `filled`, of features (B, C, h, w) on this grid."""
        if self._nearest is None:
            return tap
        return tap.flatten(2)[:, :, self._nearest.to(tap.device)].reshape(tap.shape)

    def places(self, cells: Tensor) -> Tensor:
        """Cells that filled values were found at -> the inspected cells that the values are of."""
        return cells if self._nearest is None else self._nearest.to(cells.device)[cells]


def without_outside(maps: Tensor, region: Tensor | None) -> Tensor:
    """Maps (B, H, W) with the lowest inspected score of each map wherever nothing is inspected."""
    import torch

    if region is None:
        return maps
    region = region.to(maps.device)
    return torch.where(region, maps, maps[:, region].amin(dim=1)[:, None, None])


def _nearest_inspected(cells: Tensor) -> Tensor:
    """(h w,) int64: for each cell the nearest inspected one, which is itself where it is inspected."""
    import torch
    from scipy import ndimage

    rows, columns = ndimage.distance_transform_edt(~cells.numpy(), return_distances=False, return_indices=True)
    return torch.from_numpy((rows * cells.shape[1] + columns).ravel()).long()
