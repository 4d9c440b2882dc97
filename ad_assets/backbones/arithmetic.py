"""What `Extractor.precision` means to PyTorch: which products may be rounded, and to what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from ad_assets.kernels.nearest.bounds import full_precision

if TYPE_CHECKING:
    from ad_assets.settings.compute import Precision

_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def check_device(precision: Precision, device: torch.device) -> None:
    """Refuse a precision that a device does not have, and would replace by another in silence.

    Raises:
        ValueError: it has not.
    """
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(
            "precision: tf32 is an arithmetic of CUDA devices, and the device is cpu, which would compute float32 "
            "under its name; write precision: float32, or compute on a GPU"
        )


def halved(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Convolutions and products of this thread in half precision, where that is asked for; norms stay float32."""
    half = _HALVES.get(precision)
    return torch.autocast(device.type, half) if half else nullcontext()


@contextmanager
def float32_as(precision: Precision) -> Iterator[None]:
    """Whether float32 convolutions and products of this process round their factors to TF32, torch's own default.

    It would make float32 depend on the card. Convolutions are computed the same way each time.
    """
    tf32 = precision == "tf32"
    with (
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32),
        _tf32_products() if tf32 else full_precision(),
    ):
        yield


@contextmanager
def _tf32_products() -> Iterator[None]:
    matmul: Any = torch.backends.cuda.matmul
    name, value = ("fp32_precision", "tf32") if hasattr(matmul, "fp32_precision") else ("allow_tf32", True)
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        yield
    finally:
        setattr(matmul, name, before)
