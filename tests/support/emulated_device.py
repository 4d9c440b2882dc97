"""A CUDA device for machines that have none: it computes on the CPU, refuses what CUDA refuses, and counts.

    with cuda_device() as device:
        method.fit(features, Runtime(device, 0.1))
    assert device.counts.launches < 100

Within `cuda_device` the tensors of ``cuda:0`` hold numbers that only operations on the device reach. An operation
between devices fails as there: all tensors of it lie on one, but for scalars of the CPU in elementwise operations, and
for indices of the CPU into tensors of the device. ``.numpy()``, and with it numba, fails in torch itself. Random
numbers of the device come from its own generators. A build of torch that knows CUDA is needed, and no GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, Self
from unittest import mock

import torch
import torch.optim.optimizer as optimisers
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.device_counts import Counts, Held
from tests.support.emulated_graphs import CaptureError, CudaGraph, Recording, capturing

DEVICE = "cuda:0"
MEMORY_BYTES = 16 * 10**9
FREE_BYTES = MEMORY_BYTES // 2  # while no tensor lies there
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


class Device(str):
    """The name of a device, and what was asked of it."""

    __slots__ = ("counts",)
    counts: Counts

    def __new__(cls, counts: Counts) -> Self:
        made = super().__new__(cls, DEVICE)
        made.counts = counts
        return made


class DeviceTensor(torch.Tensor):
    """A tensor on the device; `numbers` is where they really are."""

    numbers: torch.Tensor
    held: Held | None
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
        made.held = _counts.held(numbers)
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

    def get_device(self) -> int:
        return 0

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(operation, args, kwargs or {})


_counts = Counts()
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
            _counts.copy_out(args[0], "tolist")
            return args[0].numbers.tolist()
        if function is torch.Tensor.pin_memory:
            return _counts.pin(args[0].clone())
        if function is torch.Tensor.is_pinned:
            return not args[0].is_cuda and _counts.is_pinned(args[0])
        if kwargs.pop("pin_memory", False):
            return _counts.pin(function(*args, **kwargs))
        on_device = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        generator = kwargs.get("generator")
        if generator is not None and isinstance(generator, _DeviceGenerator) != on_device:
            raise DevicesDifferError(f"{function}: the generator is of another device than its numbers")
        if on_device and generator is not None:
            if Recording.current:
                raise CaptureError(f"{function}: a capture does not know the generator")
            _counts.launches += 1
            _counts.operations[function.__name__] += 1
            return DeviceTensor(function(*args, **{**kwargs, "device": "cpu"}))
        if on_device and function in (torch.tensor, torch.as_tensor):
            return function(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return function(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Operations that make tensors of the device, or move them there, from none of it."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors: list[torch.Tensor] = []
    inner_args, inner_kwargs = _inner(args, tensors), {key: _inner(value, tensors) for key, value in kwargs.items()}
    _check(operation, args, kwargs, tensors)
    held = {id(tensor.numbers): tensor for tensor in tensors if isinstance(tensor, DeviceTensor)}
    on_device = bool(held)
    if operation is _aten.copy_.default:
        on_device = isinstance(args[0], DeviceTensor)
    if kwargs.get("device") is not None:
        on_device = torch.device(kwargs["device"]).type != "cpu"
        inner_kwargs["device"] = torch.device("cpu")
    if not (held or on_device):
        return operation(*inner_args, **inner_kwargs)
    _counts.operation(operation, args, kwargs, on_device=on_device)
    recording = Recording.current
    if recording:
        recording.check()
        recording.keep(_written(operation, args, kwargs))
    result = operation(*inner_args, **inner_kwargs)
    outer = _outer(result, held) if on_device else result
    if recording:
        recording.add(operation, args, kwargs, outer, {id(tensor) for tensor in held.values()})
    return outer


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


def _check(operation: Any, args: Any, kwargs: dict[str, Any], tensors: list[torch.Tensor]) -> None:
    strangers = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
    if operation in _COPIES or not strangers or len(strangers) == len(tensors):
        return
    if operation in _INDEXED and isinstance(args[0], DeviceTensor):
        values = args[2:3]
        if all(isinstance(value, DeviceTensor) or not value.dim() for value in values):
            return
    elif torch.Tag.pointwise in operation.tags and not any(tensor.dim() for tensor in strangers):
        if all(isinstance(tensor, DeviceTensor) for tensor in _written(operation, args, kwargs)):
            return
    elif operation.namespace == "aten" and operation._schema.name.startswith("aten::_fused_"):
        return  # optimisers keep their steps and rates where they like
    found = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
    raise DevicesDifferError(f"{operation} expects all tensors on one device, found {found}")


def _written(operation: Any, args: Any, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that an operation writes to."""
    schema = operation._schema.arguments
    values = [args[place] if place < len(args) else kwargs.get(each.name) for place, each in enumerate(schema)]
    changed = [each.alias_info is not None and each.alias_info.is_write for each in schema]
    written = [value for value, one in zip(values, changed, strict=True) if one and value is not None]
    return [tensor for value in written for tensor in (value if isinstance(value, list | tuple) else [value])]


class _Stream:
    """A stream or an event; everything is computed at once, in the order in which it was asked for."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = torch.device(DEVICE)

    def synchronize(self) -> None:
        _counts.wait("synchronize")

    def wait_stream(self, stream: Any) -> None: ...
    def wait_event(self, event: Any) -> None: ...
    def wait(self, stream: Any = None) -> None: ...
    def record(self, stream: Any = None) -> None: ...
    def record_event(self, event: Any = None) -> _Stream:
        return event or _Stream()

    def query(self) -> bool:
        return True

    def elapsed_time(self, _end: Any) -> float:
        return 0.0


_CUDA = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda *_, **__: "emulated on the CPU",
    "get_device_properties": lambda *_, **__: SimpleNamespace(name="emulated on the CPU", total_memory=MEMORY_BYTES),
    "get_device_capability": lambda *_, **__: (9, 0),
    "is_bf16_supported": lambda *_, **__: True,
    "mem_get_info": lambda *_, **__: (FREE_BYTES - _counts.live_bytes, MEMORY_BYTES),
    "memory_allocated": lambda *_, **__: _counts.live_bytes,
    "memory_reserved": lambda *_, **__: _counts.live_bytes,
    "max_memory_allocated": lambda *_, **__: _counts.peak_bytes,
    "reset_peak_memory_stats": lambda *_, **__: setattr(_counts, "peak_bytes", _counts.live_bytes),
    "empty_cache": lambda: None,
    "synchronize": lambda *_, **__: _counts.wait("synchronize"),
    "set_device": lambda *_, **__: None,
    "Stream": _Stream,
    "Event": _Stream,
    "current_stream": lambda *_, **__: _Stream(),
    "default_stream": lambda *_, **__: _Stream(),
    "stream": lambda *_, **__: nullcontext(),
    "is_current_stream_capturing": lambda: Recording.current is not None,
    "device": lambda *_: nullcontext(),
    "CUDAGraph": CudaGraph,
    "graph": capturing(lambda: _counts),
    "_lazy_init": lambda: None,
}


def _check_capturable(optimiser: torch.optim.Optimizer) -> None:
    if Recording.current and not all(group["capturable"] for group in optimiser.param_groups):
        raise CaptureError("attempting capture of step(), but param_groups' capturable is False")


@contextmanager
def cuda_device() -> Iterator[Device]:
    """The emulated device, for this thread and those that are started meanwhile; `Device.counts` begins at zero."""
    global _counts
    before, _counts = _counts, Counts()
    thread_runs = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        with _Functions(), _Operations():
            thread_runs(thread)

    supported = [*optimisers._foreach_supported_types, DeviceTensor]
    moved_modules = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        for name, replacement in _CUDA.items():
            stack.enter_context(mock.patch(f"torch.cuda.{name}", replacement))
        for name, replacement in {
            "torch.Generator": _Generator,
            "ad_assets.settings.device_lease.lease": lambda _: None,  # no process computes there
            "torch.optim.Optimizer._accelerator_graph_capture_health_check": _check_capturable,
            "threading.Thread.run": run,
        }.items():
            stack.enter_context(mock.patch(name, replacement))
        stack.enter_context(mock.patch.object(optimisers, "_foreach_supported_types", supported))
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, moved_modules)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(_Functions())
        stack.enter_context(_Operations())
        try:
            yield Device(_counts)
        finally:
            _counts = before
