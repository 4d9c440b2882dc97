"""A memory bank for each layer: tokens of the training images, and where each comes from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.methods.state import State

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.methods.runtime import Runtime


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

    @classmethod
    def joined(cls, states: Sequence[LayerBanks]) -> LayerBanks:
        """One state with the rows of several, layer by layer as `MemoryBank.joined` has it.

        Raises:
            ValueError: no states, or ones of other layers, grids or dimensions.
        """
        layers = {len(state.rows) for state in states}
        if len(layers) != 1:
            raise ValueError(f"banks of {sorted(layers)} layers cannot be joined: one extractor makes all of them")
        banks = [MemoryBank.joined([state.bank(layer) for state in states]) for layer in range(layers.pop())]
        return cls(*_parts(banks), banks[0].image_ids, [bank.grid for bank in banks])

    def without(self, image_ids: Collection[str], runtime: Runtime) -> LayerBanks:
        """The rows that do not come from some images.

        Raises:
            ValueError: of some layer none is left.
        """
        banks = [self.bank(layer).without(image_ids, runtime) for layer in range(len(self.rows))]
        rows, source, place = _parts(banks)
        return replace(self, rows=rows, source=source, place=place, image_ids=banks[0].image_ids)


def _parts(banks: Sequence[MemoryBank]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    return [bank.rows for bank in banks], [bank.source for bank in banks], [bank.place for bank in banks]
