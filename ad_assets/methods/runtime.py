"""Where a method runs and what it may use: device, memory budget, progress, checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ad_assets.kernels.budget import BudgetError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ProgressReport = Callable[[str, int, int], None]
NEAR = 0.8  # of the most images that fit the budget: from here on `growth_warning` speaks


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

    def most_images(self, bytes_each: int) -> int:
        """How many images of so many bytes each the budget in main memory holds at once."""
        return int(self.memory_gb * 1e9 // bytes_each)

    def check_images(self, what: str, images: int, bytes_each: int, parts: str, remedy: str) -> None:
        """Refuse more images at once than `most_images`.

        Raises:
            BudgetError: as `check_budget`.
        """
        if images > self.most_images(bytes_each):
            raise BudgetError(self._refusal(what, 1e-9 * images * bytes_each, parts, remedy))

    def _refusal(self, what: str, need_gb: float, parts: str, remedy: str) -> str:
        return (
            f"{what} need {need_gb:.3g} GB ({parts}), the budget is {self.memory_gb:g} GB: raise "
            f"compute.memory_gb if this machine has more, or {remedy}"
        )


def growth_warning(images: int, most: int) -> str:
    """Warns that a detector's nominal images will soon be, or are, too many for the budget; empty while they are few.

    An update reads the new images alone, so a detector may grow past what a fit of all takes, and fail at its next fit.

    Args:
        images: nominal images of the detector.
        most: how many fit the budget (`Method.most_images`).
    """
    if images <= NEAR * most:
        return ""
    so_far = "so the next fit of all, or scoring, is refused" if images > most else f"{most + 1} will be refused"
    return (
        f"{images} nominal images, and {most} are the most that fit compute.memory_gb: {so_far}; raise it if this "
        "machine has more, or take fewer images or smaller features"
    )
