"""A matrix that is read in blocks of rows, or row by row, so that it may be larger than main memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

WHOLE = slice(None)


class Rows(ABC):
    """(N, D) float32.

    Attributes:
        shape: N and D.
    """

    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def blocks(self, size: int, part: slice = WHOLE) -> Iterator[Tensor]:
        """Yield the rows of a part, in order, so many at once, the last block perhaps of fewer; in main memory."""

    @abstractmethod
    def gather(self, numbers: Tensor) -> Tensor:
        """Rows by number (M,), in that order; in main memory, or mapped into it."""


class HeldRows(Rows):
    """A tensor (N, D) as `Rows`."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self.shape = (rows.shape[0], rows.shape[1])

    def blocks(self, size: int, part: slice = WHOLE) -> Iterator[Tensor]:
        """As `Rows.blocks`; no rows are copied."""
        yield from self._rows[part].split(size)

    def gather(self, numbers: Tensor) -> Tensor:
        """As `Rows.gather`."""
        return self._rows[numbers.to(self._rows.device)]
