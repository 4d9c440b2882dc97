"""Builds that run out of memory are tried again, with half the budget and half the images a batch, which change no
number. A build that needs more than there is then fails, saying what it asked for, what is free, and the remedy.
"""

from __future__ import annotations

import gc
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ad_assets.backbones.backbone import forget_backbones
from ad_assets.graph.stage import Build, StageError, Work
from ad_assets.kernels.budget import HOST_ALLOCATOR, BudgetError, lacks_memory
from ad_assets.settings.compute import Compute

HALVINGS = 2
MAIN = "main memory"
_ASKED = re.compile(r"(\d[\d.]*) ?([KMGT]?)(i?)(?:B\b|bytes)")


class NoMemoryError(StageError):
    """A build ran out of memory, with half of everything, and a quarter, too."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of a device, or of the machine, did not suffice."""
    return isinstance(error, NoMemoryError) or lacks_memory(error)


def shortage(error: Exception) -> str:
    """What to tell of an error that `is_out_of_memory`, where nothing is tried again."""
    return (
        f"out of memory: {_asked(error)}. Try --set compute.batch_size=1, lower compute.memory_gb, or on a GPU "
        "compute.device_memory_gb, shrink the images (resize), or write compute.device: cpu"
    )


def build_within_memory(build: Build, work: Work) -> dict[str, Any]:
    """What a build returns, at the first of a few tries that memory suffices for.

    Raises:
        NoMemoryError: it suffices for none.
    """
    compute, where, state = work.compute, "", ""
    for left in reversed(range(HALVINGS + 1)):
        try:
            return build(replace(work, compute=compute))
        except BudgetError:
            if not where:
                raise
            break  # what it must hold at once is more than the smaller budget
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            where, asked = _place(error, compute), _asked(error)
        # Only here: until now the error has held the tensors of the frames that it came through.
        _release()
        state = f"{where} is out of memory: {asked}, {_free(where)}"
        if left:
            compute, less = _less(compute, where)
            work.progress.note(f"{state}; tried again with {less}")
    key, remedy = "memory_gb", "stop what else uses it, or give the machine more"
    if where != MAIN:
        key, remedy = "device_memory_gb", "stop what else uses the GPU, or write device: cpu"
    raise NoMemoryError(
        f"{work.progress.title}: {state}, and no smaller batches and budgets helped. Lower compute.{key} or "
        f"compute.batch_size, of a training the detector's batch_size; shrink the images (resize); {remedy}"
    )


def _less(compute: Compute, where: str) -> tuple[Compute, str]:
    """Settings with half the images a batch, and half the budget of one memory; and these two in words."""
    images = max(1, compute.batch_size // 2)
    key, budget = "memory_gb", compute.memory_gb / 2
    if where != MAIN:
        key, budget = "device_memory_gb", (compute.device_budget_gb(where) or 0.0) / 2
    less = compute.model_copy(update={"batch_size": images, key: budget})
    return less, f"{images} images a batch and a budget of {budget:.3g} GB"


def _place(error: Exception, compute: Compute) -> str:
    on_host = isinstance(error, MemoryError) or HOST_ALLOCATOR in str(error)
    device = "cpu" if on_host else compute.torch_device()
    return MAIN if device == "cpu" else device


def _asked(error: Exception) -> str:
    found = _ASKED.search(str(error))
    if not found:
        return "how much was asked for is not known"
    number, prefix, binary = found.groups()
    bytes_asked = float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix or " ")
    return f"{1e-9 * bytes_asked:.3g} GB were asked for"


def _free(where: str) -> str:
    if where != MAIN:
        import torch

        free, total = torch.cuda.mem_get_info(where)
        return f"{1e-9 * free:.3g} of {1e-9 * total:.3g} GB are free"
    try:
        (kilobytes,) = re.findall(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except (OSError, ValueError):  # no Linux
        return "what is free is not known"
    return f"{1024e-9 * int(kilobytes):.3g} GB of the machine are free"


def _release() -> None:
    """Give back what nobody holds, and backbones that are loaded for later."""
    forget_backbones()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
