"""The cells of a numbered table: ours and the paper's number, in the unit that the paper prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Row = Mapping[str, Any]

TRAINING = "training"  # the protocol under which a trained model's own numbers are handed in


@dataclass(frozen=True)
class Measured:
    """What the store holds for one part.

    Args:
        rows: of metrics with `category`, `detector`, `draw`, `protocol`, `metric`, `value`, `n`; of a study as it keeps
            them; of images with `category` and the part's metrics.
        categories: all of the dataset.
        chosen: those that were asked for.
        variants: of the study, in the order of the benchmark file.
        curves: detector -> category and draw -> curve -> x and y; of a loss, its values epoch by epoch.
        same_data: whether the dataset is read as the paper's protocol has it.
        without: the draws of lanes that are not up to date in all categories in which the first is.
    """

    rows: Sequence[Row]
    categories: tuple[str, ...]
    chosen: tuple[str, ...]
    variants: tuple[str, ...] = ()
    curves: Mapping[str, Mapping[tuple[str, int], Mapping[str, Any]]] = field(default_factory=dict)
    same_data: bool = True
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """Ours beside the paper's, in the printed unit; None: not there.

    `lane` says whether the project has something that could measure it, `compared` whether both are of the same,
    `covered` of how many categories ours is where that is not all.
    """

    ours: float | None = None
    paper: float | None = None
    spread: float = 0.0
    paper_spread: float = 0.0
    decimals: int | None = 1
    lane: bool = True
    compared: bool = True
    covered: int | None = None

    @property
    def difference(self) -> float | None:
        """Ours - the paper's, where both are of the same."""
        known = self.compared and self.ours is not None and self.paper is not None
        return self.ours - self.paper if known and self.ours is not None and self.paper is not None else None


@dataclass(frozen=True)
class Block:
    """Named lines of cells under columns; `corner` says what the lines are."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Cell, ...]], ...]
    corner: str = ""

    @property
    def cells(self) -> list[Cell]:
        """All cells."""
        return [cell for _, cells in self.lines for cell in cells]


def joined(found: Iterable[Block]) -> list[Block]:
    """Blocks with those that follow one another under the same heads made one."""
    kept: list[Block] = []
    for block in found:
        last = kept[-1] if kept else None
        if last and (last.title, last.columns, last.corner) == (block.title, block.columns, block.corner):
            kept[-1] = replace(last, lines=last.lines + block.lines)
        else:
            kept.append(block)
    return kept
