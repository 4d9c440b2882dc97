"""Where numerics run: the ``compute:`` section of the benchmark file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ad_assets.settings.model import Settings

Precision = Literal["float32", "tf32", "float16", "bfloat16"]

FREE_SHARE = 0.5  # of the free memory of a device, for temporary tensors; banks and images take theirs of the rest
_GPUS = ("nvidia[0-9]*", "dxg", "kfd")  # as drivers name them: NVIDIA's, that of Windows below WSL, AMD's


class Compute(Settings):
    """Device, batch size, memory budgets and threads, which change no number; precision and engine of extractors."""

    device: str = Field(
        "auto",
        examples=["cpu", "cuda:1"],
        description="auto (a GPU where there is one), cpu, cuda or cuda:<number>; of several GPUs auto and cuda take "
        "one that no other run computes on",
    )
    precision: Precision = Field(
        "float32",
        description="precision of the extractors that name none; see there",
    )
    engine: Literal["torch", "openvino", "onnxruntime"] = Field(
        "torch",
        description="engine of the extractors that name none; see there",
    )
    batch_size: int = Field(16, ge=1, le=65_536, description="images a batch")
    memory_gb: float = Field(4.0, gt=0, le=1e6, description="budget in GB for temporary tensors in main memory")
    device_memory_gb: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="budget in GB for temporary tensors on the GPU; null: half of what is free there when an asset is "
        "begun, for what they are computed from takes its room too",
    )
    checkpoint_steps: int = Field(100, ge=1, le=1e9, description="steps of a training between two checkpoints")
    threads: int = Field(
        0,
        ge=0,
        le=4096,
        description="CPU threads; 0: the cores that the process may use, by its affinity and its container's quota, "
        "divided by the runs that may be at work on the machine at once",
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", device):
            raise ValueError(f"unknown device {device!r}; allowed: auto, cpu, cuda, cuda:<number>")
        return device

    def torch_device(self, *, lease: bool = True) -> str:
        """The device's exact name: ``cpu`` or ``cuda:<number>``.

        Args:
            lease: the process computes there, and others keep off; False: it asks which one that would be.

        Raises:
            RuntimeError: a CUDA device is asked for that torch does not see.
        """
        if self.device == "cpu":
            return "cpu"
        import torch

        from ad_assets.settings import device_lease

        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.device == "auto" and not seen:
            return "cpu"
        chosen = self.device.partition(":")[2]
        number = int(chosen or 0)
        if number >= seen:
            devices = ", ".join(["cpu", *(f"cuda:{i}" for i in range(seen))])
            raise RuntimeError(
                f"compute.device: {self.device} is not there; torch {torch.__version__} sees: {devices}. "
                "Write device: auto or cpu, or install a CUDA build of torch and its driver"
            )
        cards = [card for card in device_lease.visible_cards() if card.number == number or not chosen]
        held = device_lease.lease(cards) if lease else device_lease.current_lease()
        number = held.card.number if held and held.card in cards else number
        if lease:
            torch.cuda.set_device(number)  # what names no device, such as pinned memory, would open number 0 as well
        return f"cuda:{number}"

    def device_budget_gb(self, device: str) -> float | None:
        """Budget in GB for temporary tensors on a device of `torch_device`; None: it is a CPU, and has `memory_gb`."""
        if device == "cpu":
            return None
        return self.device_memory_gb or FREE_SHARE * free_gb(device)

    def may_use_gpu(self) -> bool:
        """Whether runs may use a GPU, as far as the system tells without torch, which takes seconds to import."""
        if self.device == "auto":
            return any(next(Path("/dev").glob(name), None) for name in _GPUS)
        return self.device != "cpu"

    def thread_count(self, runs: int = 1) -> int:
        """The CPU threads of one of so many runs that may be at work on this machine at once."""
        return self.threads or max(1, usable_cores() // runs)

    def apply_threads(self, runs: int = 1) -> None:
        """Let this process compute on so many CPU threads: its kernels' tasks. No library has threads of its own."""
        from ad_assets.kernels.parallel import use_threads

        use_threads(self.thread_count(runs))


def free_gb(device: str) -> float:
    """Memory in GB that a CUDA device has left for this process: what nobody holds, and what its own cache does."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return 1e-9 * (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def usable_cores() -> int:
    """The cores that this process may use: what its affinity and the CPU quota of its container leave of the machine.

    ``LOKY_MAX_CPU_COUNT`` lowers it.
    """
    from loky import cpu_count

    return int(cpu_count())
