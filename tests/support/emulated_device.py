"""A CUDA device for machines that have none: it computes on the CPU, and refuses what CUDA refuses.

Within `cuda_device` the tensors of ``cuda:0`` hold numbers that only operations on the device reach. An operation
between devices fails as there: all tensors of it lie on one, but for scalars of the CPU in elementwise operations, and
for indices of the CPU into tensors of the device. ``.numpy()`` fails in torch itself. Random numbers of the device come
from its own generators. A build of torch that knows CUDA is needed, and no GPU; with one, the real device is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = "cuda:0"
FREE_BYTES = 8 * 10**9  # of the emulated device
_aten = torch.ops.aten
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
_INDEXED = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}


class DevicesDifferError(RuntimeError):
    """An operation met tensors of both devices."""


class DeviceTensor(torch.Tensor):
    """A tensor on the device; `numbers` is where they really are."""

    numbers: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> Self:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=torch.device("meta"),  # torch's own code asks no driver about it
        )
        made.numbers = numbers
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.numbers!r} on {DEVICE}"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device(DEVICE)

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, args, kwargs or {})


_CpuGenerator = torch.Generator


class _DeviceGenerator(_CpuGenerator):
    """Random numbers of the device."""


class _Generator:
    """Stands for `torch.Generator`."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return _DeviceGenerator() if torch.device(device).type == "cuda" else _CpuGenerator(device)


class _Functions(TorchFunctionMode):
    """What torch would do before it asks the dispatcher."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.tolist and isinstance(args[0], DeviceTensor):
            return args[0].numbers.tolist()
        on_device = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        generator = kwargs.get("generator")
        if generator is not None and isinstance(generator, _DeviceGenerator) != on_device:
            raise DevicesDifferError(f"{function}: the generator is of another device than its numbers")
        if on_device and (generator is not None or function in (torch.tensor, torch.as_tensor)):
            return function(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return function(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Operations that make tensors of the device, or move them there, from none of it."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors: list[torch.Tensor] = []
    inner_args, inner_kwargs = _inner(args, tensors), {key: _inner(value, tensors) for key, value in kwargs.items()}
    _check(operation, args, tensors)
    held = {id(tensor.numbers): tensor for tensor in tensors if isinstance(tensor, DeviceTensor)}
    on_device = bool(held)
    if operation is _aten.copy_.default:
        on_device = isinstance(args[0], DeviceTensor)
    if kwargs.get("device") is not None:
        on_device = torch.device(kwargs["device"]).type != "cpu"
        inner_kwargs["device"] = torch.device("cpu")
    result = operation(*inner_args, **inner_kwargs)
    return _outer(result, held) if on_device else result


def _inner(value: Any, tensors: list[torch.Tensor]) -> Any:
    """A value with what tensors of the device hold in place of them; lists all tensors."""
    if isinstance(value, list | tuple):
        return type(value)([_inner(entry, tensors) for entry in value])
    if isinstance(value, torch.Tensor):
        tensors.append(value)
    return value.numbers if isinstance(value, DeviceTensor) else value


def _outer(value: Any, held: dict[int, DeviceTensor]) -> Any:
    """A result on the device; what an operation changed in place stays the tensor that it was."""
    if isinstance(value, list | tuple):
        return type(value)([_outer(entry, held) for entry in value])
    if isinstance(value, torch.Tensor):
        return held.get(id(value)) if id(value) in held else DeviceTensor(value)
    return value


def _check(operation: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    strangers = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
    if operation in _COPIES or not strangers or len(strangers) == len(tensors):
        return
    if operation in _INDEXED and isinstance(args[0], DeviceTensor):
        values = args[2:3]
        if all(isinstance(value, DeviceTensor) or not value.dim() for value in values):
            return
    elif torch.Tag.pointwise in operation.tags and not any(tensor.dim() for tensor in strangers):
        return
    found = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
    raise DevicesDifferError(f"{operation} expects all tensors on one device, found {found}")


@contextmanager
def cuda_device() -> Iterator[str]:
    """The name of a CUDA device, real or emulated in this thread."""
    if torch.cuda.is_available():
        yield DEVICE
        return
    moved_modules = torch.__future__.get_overwrite_module_params_on_conversion()
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda._lazy_init"),
        mock.patch("torch.cuda.mem_get_info", return_value=(FREE_BYTES, 2 * FREE_BYTES)),
        mock.patch("torch.Generator", _Generator),
        mock.patch("torch.optim.Optimizer._accelerator_graph_capture_health_check"),
        _Functions(),
        _Operations(),
    ):
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield DEVICE
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(moved_modules)
