"""The table M of `kernels.local_matching` as operations of a scoring graph.

It is made row of the window by row of the window: the cosines of all templates with what lies in one row of their
windows are in memory at once, and no more.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

NEVER = float("-inf")


class WindowedCosines(nn.Module):
    """The largest cosines of vectors of an image with templates within windows.

    Args:
        grid: rows and columns.
        reach: cells from the middle of the largest window to its side.
    """

    def __init__(self, grid: tuple[int, int], reach: int) -> None:
        super().__init__()
        self.grid, self.reach = grid, reach
        self._columns: Tensor
        self._inside: Tensor
        self.register_buffer("_columns", _columns(grid[1], 2 * reach + 1))
        self.register_buffer("_inside", _inside(grid[1], 2 * reach + 1))

    def tables(
        self,
        query: Tensor,
        templates: Tensor,
        *,
        counted: Tensor | None = None,
        met: Tensor | None = None,
        unmet: float = NEVER,
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Yield for each row of the window its offset, the first row of templates in it, and the rows of M.

        Args:
            query: (H, W, C) unit vectors.
            templates: (H, W, K, C) unit vectors.
            counted: (K,) bool, the templates that there are; None: all.
            met: (H, W) bool, the places whose templates are met; None: all.
            unmet: the cosines at the others.

        Yields:
            down, first and (rows, W, span) float32.
        """
        height, _ = self.grid
        padded = pad(query, (0, 0, self.reach, self.reach))
        for down in range(-self.reach, self.reach + 1):
            first, last = max(0, -down), min(height, height - down)
            if last <= first:
                continue
            # (rows, W, C, span): what lies in this row of the window of each template place.
            around = padded[first + down : last + down].unfold(1, 2 * self.reach + 1, 1)
            cosines = templates[first:last] @ around
            if counted is not None:
                cosines = torch.where(counted[:, None], cosines, NEVER)
            best = cosines.amax(dim=2)
            if met is not None:
                best = torch.where(met[first:last, :, None], best, unmet)
            yield down, first, torch.where(self._inside, best, NEVER)

    def of_queries(self, best: Tensor, reach: int) -> Tensor:
        """(rows, W): rows of M by query place: what the templates around it, each at its own offset, have with it."""
        table = pad(best.flatten(1), (0, 1), value=NEVER)
        return table[:, self._columns[:, self._side(reach)]].amax(dim=2)

    def of_templates(self, best: Tensor, reach: int) -> Tensor:
        """(rows, W): rows of M by template place."""
        return best[:, :, self._side(reach)].amax(dim=2)

    def placed(self, values: Tensor, first: int) -> Tensor:
        """Rows from `first` on as all rows (H, W); nothing is in the others."""
        return pad(values, (0, 0, first, self.grid[0] - first - values.shape[0]), value=NEVER)

    def _side(self, reach: int) -> slice:
        return slice(self.reach - reach, self.reach + reach + 1)


def _columns(width: int, span: int) -> Tensor:
    """(W, span) int64: where in a flattened row (W, span) of M the entries of a query column are; beyond its end where
    there is none."""
    query, offset = torch.arange(width)[:, None], torch.arange(span)[None]
    template = query - (offset - span // 2)
    return torch.where((template >= 0) & (template < width), template * span + offset, width * span)


def _inside(width: int, span: int) -> Tensor:
    """(W, span) bool: which entries are of a query column inside the image."""
    query = torch.arange(width)[:, None] + torch.arange(span)[None] - span // 2
    return (query >= 0) & (query < width)
