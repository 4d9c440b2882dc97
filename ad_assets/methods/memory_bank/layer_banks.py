"""A memory bank for each layer: tokens of the training images, and where each comes from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.state import State

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LayerBanks(State):
    """Tokens of the training images, layer by layer.

    Args:
        rows: of each layer (M, C) float32, in the order of images and places.
        source: of each layer (M,) int64, which of `image_ids` a row comes from.
        place: of each layer (M,) int64, which cell of that image's grid, from 0.
        image_ids: the training images, sorted.
        grids: of each layer rows and columns.
    """

    rows: list[Tensor]
    source: list[Tensor]
    place: list[Tensor]
    image_ids: list[str]
    grids: list[list[int]]

    def bank(self, layer: int) -> MemoryBank:
        """The bank of one layer, from 0; how well it covers the tokens was never worked out."""
        parts = (self.rows[layer], self.source[layer], self.place[layer])
        return MemoryBank(*parts, self.image_ids, self.grids[layer], covering_radius=float("nan"))

    def without(self, image_ids: Collection[str]) -> LayerBanks:
        """The rows that do not come from some images.

        Raises:
            ValueError: of some layer none is left.
        """
        banks = [self.bank(layer).without(image_ids) for layer in range(len(self.rows))]
        rows, source, place = ([getattr(bank, name) for bank in banks] for name in ("rows", "source", "place"))
        return replace(self, rows=rows, source=source, place=place, image_ids=banks[0].image_ids)
