"""Where a method runs and what it may use: device, memory budget, progress, checkpoints."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ad_assets.kernels.budget import BudgetError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TAKEN_ROWS = 1 << 14  # of a matrix, that are copied at once
ProgressReport = Callable[[str, int, int], None]


def _no_report(what: str, done: int, total: int) -> None:
    del what, done, total


class Checkpoints(ABC):
    """Where training keeps what a run that was killed goes on from; every write is atomic.

    Args:
        every: optimiser steps between two checkpoints.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    @abstractmethod
    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and JSON values of the last checkpoint, or None."""

    @abstractmethod
    def save(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Replace the checkpoint."""

    @abstractmethod
    def keep(self, epoch: int, weights: dict[str, Tensor]) -> None:
        """Keep the weights after an epoch, for protocols that choose an epoch."""


@dataclass(frozen=True)
class Runtime:
    """Where a method runs and what it may use.

    Args:
        device: torch device name, such as ``cpu`` or ``cuda:0``.
        memory_gb: budget in GB for temporary tensors of one call in main memory.
        report: called as ``report(what, done, total)`` from time to time.
        precision: of the products in training; sums, losses and weights are float32 either way.
        checkpoints: None where an interrupted training may start again.
        device_memory_gb: the budget on the device, where that is no CPU; None: as large as that in main memory.
    """

    device: str = "cpu"
    memory_gb: float = 1.0
    report: ProgressReport = _no_report
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoints: Checkpoints | None = None
    device_memory_gb: float | None = None

    def budget_gb(self, device: str | torch.device) -> float:
        """Budget in GB for temporary tensors on a device; ask it of the device of the tensors that are computed with.

        >>> tools = Runtime("cuda:0", memory_gb=4, device_memory_gb=40)
        >>> tools.budget_gb("cpu"), tools.budget_gb(tools.device)
        (4, 40)
        """
        on_host = str(device).startswith("cpu") or self.device_memory_gb is None
        return self.memory_gb if on_host else self.device_memory_gb  # type: ignore[return-value]

    def check_budget(self, what: str, need_gb: float, parts: str, remedy: str) -> None:
        """Refuse what would not fit the budget in main memory.

        Raises:
            BudgetError: with what was asked for (`parts`), and the remedy.
        """
        if need_gb > self.memory_gb:
            raise BudgetError(self._refusal(what, need_gb, parts, remedy))

    def check_device(self, what: str, need_gb: float, parts: str, remedy: str) -> None:
        """Refuse what would not fit the budget on the device; on a CPU, where `check_budget` is asked, nothing is.

        Raises:
            BudgetError: as `check_budget`.
        """
        budget = self.budget_gb(self.device)
        if not self.device.startswith("cpu") and need_gb > budget:
            raise BudgetError(
                f"{what} need {need_gb:.3g} GB ({parts}) on {self.device}, the budget there is {budget:.3g} GB: raise "
                f"compute.device_memory_gb if the device has more, write device: cpu, or {remedy}"
            )

    def empty(self, what: str, *shape: int, dtype: torch.dtype | None = None, beside: int = 0) -> Tensor:
        """A tensor to be filled: in main memory or, beyond the budget there, in a temporary file that is mapped.

        No result depends on which it is.

        Args:
            what: it will be, for people.
            shape: of the tensor.
            dtype: of its values; None: float32.
            beside: bytes of tensors that are held at the same time.

        Raises:
            BudgetError: the disk has no room for it.
        """
        import torch

        from ad_assets.kernels.scratch import mapped

        kind = dtype or torch.float32
        if self.fits(math.prod(shape) * kind.itemsize + beside):
            return torch.empty(shape, dtype=kind)
        return mapped(shape, kind, what)

    def merged(self, what: str, parts: Sequence[Tensor], order: Tensor) -> Tensor:
        """Rows (N, D) of several parts, one after another, in another order; in `empty`.

        Args:
            what: as of `empty`.
            parts: each (n, D) float32.
            order: (N,) int64, which row of all parts comes first, second, ...
        """
        import torch

        rows = self.empty(what, len(order), parts[0].shape[1])
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        first = 0
        for part in parts:  # one after the other: all together would take their room twice
            rows[rank[first : first + len(part)]] = part
            first += len(part)
        return rows

    def taken(self, what: str, rows: Tensor, numbers: Tensor) -> Tensor:
        """Some rows of a matrix (N, D), by number (M,); of one in main memory in `empty`.

        Args:
            what: as of `empty`.
            rows: float32.
            numbers: int64, on their device.
        """
        if rows.device.type != "cpu":
            return rows[numbers]
        found, first = self.empty(what, len(numbers), rows.shape[1]), 0
        for some in numbers.split(TAKEN_ROWS):
            found[first : first + len(some)] = rows[some]
            first += len(some)
        return found

    def fits(self, size: int) -> bool:
        """Whether the budget in main memory holds so many bytes at once."""
        return size <= self.memory_gb * 1e9

    def _refusal(self, what: str, need_gb: float, parts: str, remedy: str) -> str:
        return (
            f"{what} need {need_gb:.3g} GB ({parts}), the budget is {self.memory_gb:g} GB: raise "
            f"compute.memory_gb if this machine has more, or {remedy}"
        )
