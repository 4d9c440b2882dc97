"""All patches that a bank may keep: held where the memory budget suffices, else read again from the stored features.

To embed patches anew costs less than to write them to a disk and read them back: they are larger than the features.
Batches are always whole, so that rows are the same to the last bit however often and in whatever part they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ad_assets.kernels.rows import WHOLE, Rows
from ad_assets.methods.data import Features, LoadTaps
from ad_assets.methods.runtime import Runtime

if TYPE_CHECKING:
    from torch import Tensor

Embed = Callable[["list[Tensor]", str], "Tensor"]


class PatchRows(Rows):
    """Patches (N * n, D) of N images, of the places (N, n) that were drawn of each; direction by direction, as many of
    each, where the images were turned too (`Features.turned`).

    Args:
        features: of the images.
        embed: taps and a device to patches (B, P, D) there.
        grid_shape: P and D.
        places: (N, n) int64, ascending for each image; as `MemoryBank.place` has them.
        runtime: device and memory budget.

    Attributes:
        held: all rows, in main memory or mapped into it; None while they are read again and again.
    """

    def __init__(
        self, features: Features, embed: Embed, grid_shape: tuple[int, int], places: Tensor, runtime: Runtime
    ) -> None:
        self.shape = (places.numel(), grid_shape[1])
        self.held: Tensor | None = None
        self._features, self._embed, self._grid_shape = features, embed, grid_shape
        self._places, self._runtime = places, runtime
        if runtime.fits(4 * self.shape[0] * self.shape[1]):
            self.hold()

    def hold(self) -> Tensor:
        """All rows, for what needs them in any order; beyond the budget they lie in a temporary file from now on.

        Raises:
            BudgetError: the disk has no room for them.
        """
        if self.held is None:
            rows, done = self._runtime.empty("the patches", *self.shape), 0
            for _, block in self._read():
                rows[done : done + len(block)] = block
                done += len(block)
            self.held = rows
        return self.held

    def blocks(self, size: int, part: slice = WHOLE) -> Iterator[Tensor]:
        """As `Rows.blocks`."""
        import torch

        if self.held is not None:
            yield from self.held[part].split(size)
            return
        start, stop, _ = part.indices(len(self))
        waiting: list[Tensor] = []
        for first, block in self._read(lambda first, end: first < stop and start < end):
            waiting.append(block[max(start - first, 0) : stop - first])
            if sum(map(len, waiting)) >= size:
                *whole, rest = torch.cat(waiting).split(size)
                # A copy: the rest would hold on to all rows that are split here.
                whole, waiting = ([*whole, rest], []) if len(rest) == size else (whole, [rest.clone()])
                yield from whole
                del whole, rest
        if waiting:
            yield torch.cat(waiting)

    def gather(self, numbers: Tensor) -> Tensor:
        """As `Rows.gather`."""
        import torch

        if self.held is not None:
            return self.held[numbers]
        rows = self._runtime.empty("the rows of the bank", len(numbers), self.shape[1])
        ascending, order = numbers.sort()

        def among(first: int, end: int) -> slice:
            return slice(*torch.searchsorted(ascending, torch.tensor([first, end])).tolist())

        for first, block in self._read(lambda first, end: len(ascending[among(first, end)]) > 0):
            here = among(first, first + len(block))
            rows[order[here]] = block[ascending[here] - first]
        return rows

    def _read(self, wanted: Callable[[int, int], bool] = lambda _first, _end: True) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of its first row, and the rows, of each batch of which something is wanted.

        Args:
            wanted: called with the numbers of the first row of a batch and of the first behind it.
        """
        features, each = self._features, self._places.shape[1]
        done = 0
        for ids in features.id_batches():
            some = slice(done, done + len(ids))
            done = some.stop
            if wanted(some.start * each, some.stop * each):
                yield some.start * each, self._drawn(ids, self._places[some])
                self._runtime.report("patches embedded", done, len(features))

    def _drawn(self, ids: tuple[str, ...], places: Tensor) -> Tensor:
        """(B * n, D) in main memory: those of the places (B, n) of a batch."""
        import torch

        loads = (self._features.load, *self._features.turned)
        each = places.unflatten(1, (len(loads), -1))
        numbers = each - self._grid_shape[0] * torch.arange(len(loads))[:, None]
        turned = [self._of_turn(ids, load, numbers[:, turn]) for turn, load in enumerate(loads)]
        return torch.stack(turned, dim=1).flatten(0, 2) if len(turned) > 1 else turned[0].flatten(0, 1)

    def _of_turn(self, ids: tuple[str, ...], load: LoadTaps, places: Tensor) -> Tensor:
        """(B, n, D) in main memory: those of the places (B, n) of a batch in one direction."""
        import torch

        batch = self._embed(load(ids, self._features.layers), self._runtime.device)
        if tuple(batch.shape[1:]) != self._grid_shape:
            raise ValueError(
                f"image {ids[0]} has {batch.shape[1]} patches of {batch.shape[2]} values, those before "
                f"{self._grid_shape[0]} of {self._grid_shape[1]}: extract all features with one extractor"
            )
        numbers = places + torch.arange(len(ids))[:, None] * batch.shape[1]
        drawn = batch.flatten(0, 1).index_select(0, numbers.flatten().to(batch.device))
        return drawn.unflatten(0, numbers.shape).cpu()
