"""Features of a batch on their way from the device of a backbone to main memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from ad_assets.backbones.extractor import Extractor
    from ad_assets.backbones.feature_maps import Shape

Begun = TypeVar("Begun")


class Extraction:
    """Features of a batch, which a GPU may still be computing.

    Args:
        taps: ``(B, C, h, w)`` in main memory, which the device fills.
        finite: ``(B,)`` bool beside them.
        seconds: of the batch, where the taps are filled by now.
        events: of a GPU, before the batch and behind it.
    """

    def __init__(
        self, taps: list[Tensor], finite: Tensor, seconds: float, events: tuple[Any, Any] | None = None
    ) -> None:
        self._taps, self._finite, self._seconds, self._events = taps, finite, seconds, events

    def wait(self) -> None:
        """Wait until all is in main memory: the one time in a batch that the caller waits for a GPU."""
        if self._events:
            begun, done = self._events
            done.synchronize()
            self._seconds = begun.elapsed_time(done) / 1000
            self._events = None

    @property
    def taps(self) -> list[Tensor]:
        """For each tap ``(B, C, h, w)``, as stored; waits."""
        self.wait()
        return self._taps

    @property
    def finite(self) -> list[bool]:
        """For each image whether all its features are finite numbers; waits."""
        self.wait()
        return [bool(each) for each in self._finite.tolist()]

    @property
    def seconds(self) -> float:
        """What the batch took on its device; waits."""
        self.wait()
        return self._seconds


def overlapped(begun: Iterable[Begun], ahead: int) -> Iterator[Begun]:
    """Each of what is begun, in order, once so many more were begun too, with which a GPU goes on meanwhile."""
    waiting: deque[Begun] = deque()
    for each in begun:
        waiting.append(each)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def all_finite(taps: Sequence[Tensor]) -> Tensor:
    """``(B,)`` bool: whether all values of an image are finite, of taps ``(B, C, h, w)``, on their device."""
    import torch

    # NaN or infinite where one value of an image is; on a CPU this takes a tenth of the time of asking each value.
    largest = [tap.flatten(1).abs().amax(1) for tap in taps]
    return torch.stack(largest).isfinite().all(0)


def whole_shape(extractor: Extractor, tap: str, shape: Shape, step: int | None) -> Shape:
    """``(C, h, w)`` of a tap of a whole image, from that of one tile.

    Raises:
        ValueError: the tap does not shrink a tile by exactly its reduction.
    """
    channels, rows, columns = shape
    height, width = extractor.frame_size
    if not step or (rows * step, columns * step) != (height, width):
        raise ValueError(
            f"tiles: {tap} makes {rows}x{columns} cells of a tile of {height}x{width}, which do not fit together at a "
            f"reduction of {step}; choose another tap"
        )
    height, width = extractor.input_size
    return channels, height // step, width // step
