"""Tiles: an image passes the backbone piece by piece, and its maps are put together again.

Neighbouring tiles overlap, and each map takes of the overlap the half that is nearer to the middle of its own tile.
Tiles start on the grid of the coarsest map, so that all maps fit together cell by cell. The last tile of a row or
column is moved inwards to end at the border of the image: all tiles have one size, and nothing is padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from ad_assets.settings.model import Settings


class Tiles(Settings):
    """How an image is cut into tiles.

    >>> [(one.start, one.first, one.last) for one in Tiles(size=64, overlap=32).along(112, grid=16)]
    [(0, 0, 48), (32, 48, 64), (48, 64, 112)]
    """

    size: Annotated[int, Field(ge=8, le=16_384, description="side of the square tiles, pixels of the resized image")]
    overlap: Annotated[
        int, Field(ge=0, le=8_192, description="pixels that neighbouring tiles share; more hides the seams better")
    ]

    @model_validator(mode="after")
    def _advances(self) -> Tiles:
        if self.overlap > self.size // 2:
            raise ValueError(f"overlap: {self.overlap} is more than half of the tiles' size ({self.size})")
        return self

    def along(self, length: int, grid: int) -> list[Span]:
        """The tiles of one axis.

        Args:
            length: of the image, a multiple of `grid`; an axis shorter than a tile is one tile.
            grid: pixels to a cell of the coarsest map, of which the size and the overlap are multiples.
        """
        size = min(self.size, length)
        starts = [*range(0, length - size, self.size - self.overlap), length - size]
        cuts = [(after + (before + size - after) // 2) // grid * grid for before, after in pairwise(starts)]
        return [Span(*each) for each in zip(starts, [0, *cuts], [*cuts, length], strict=True)]

    def count(self, height: int, width: int) -> int:
        """Tiles of an image."""
        return len(self.along(height, 1)) * len(self.along(width, 1))


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in pixels of the image: where it starts, and the part that is taken of its maps."""

    start: int
    first: int
    last: int

    def kept(self, step: int) -> tuple[slice, slice]:
        """The cells that are taken, in the whole map and in the tile's own.

        Args:
            step: pixels to a cell.
        """
        whole = slice(self.first // step, self.last // step)
        return whole, slice(whole.start - self.start // step, whole.stop - self.start // step)
