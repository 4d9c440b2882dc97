"""What a computation asks of a CUDA device: launches, waits of the host, copies and memory, counted as they happen.

An operation that PyTorch sends to the device is one launch, whatever number of kernels it consists of there; views and
allocations are none. The host waits where it needs a number of the device, or a shape that depends on numbers of it,
and at every copy between host and device that is not `non_blocking` from or to pinned memory.
"""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch

_aten = torch.ops.aten
# Neither computes anything; those that torch itself calls views are found by their schema.
_NO_LAUNCH = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_", "_unsafe_view",
    "lift_fresh", "lift", "_local_scalar_dense", "record_stream",
}  # fmt: skip
_SHAPED_BY_NUMBERS = {
    "nonzero", "masked_select", "equal", "_unique", "_unique2", "unique_dim", "unique_consecutive",
    "unique_dim_consecutive", "bincount", "repeat_interleave", "_linalg_check_errors", "_assert_async",
}  # fmt: skip
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


@dataclass
class Counts:
    """Totals since `cuda_device` was entered, or since `reset`.

    Args:
        launches: operations that the host asked for; a graph that is replayed is one.
        replayed: operations of the graphs that were replayed.
        synchronisations: how often the host waited for the device.
        copies_in: copies from host to device; `bytes_in` with them.
        copies_out: copies from device to host; `bytes_out` with them.
        live_bytes: what the tensors on the device hold now; temporary memory inside an operation is not seen.
        peak_bytes: the most that they held at once.
    """

    launches: int = 0
    replayed: int = 0
    synchronisations: int = 0
    copies_in: int = 0
    bytes_in: int = 0
    copies_out: int = 0
    bytes_out: int = 0
    live_bytes: int = 0
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self._held: weakref.WeakValueDictionary[int, Held] = weakref.WeakValueDictionary()
        self._pinned: dict[int, torch.Tensor] = {}

    def reset(self) -> None:
        """Count from zero; what lies on the device stays."""
        for name in asdict(self):
            if name != "live_bytes":
                setattr(self, name, 0)
        self.peak_bytes = self.live_bytes
        self.operations.clear()
        self.waits.clear()

    def copied(self) -> Self:
        """The numbers as they are now."""
        return type(self)(**asdict(self))

    def wait(self, what: str) -> None:
        """The host waits for the device."""
        self.synchronisations += 1
        self.waits[what] += 1

    def copy_in(self, tensor: torch.Tensor, what: str, *, blocking: bool = True) -> None:
        """The host sends a tensor to the device."""
        self.copies_in += 1
        self.bytes_in += tensor.numel() * tensor.element_size()
        if blocking or not self.is_pinned(tensor):
            self.wait(what)

    def copy_out(self, tensor: torch.Tensor, what: str, *, blocking: bool = True) -> None:
        """The host takes a tensor from the device."""
        self.copies_out += 1
        self.bytes_out += tensor.numel() * tensor.element_size()
        if blocking:
            self.wait(what)

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Take a tensor of the CPU for page-locked."""
        self._pinned[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other gets its address
        return tensor

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor of the CPU lies in memory that was pinned."""
        return tensor.untyped_storage().data_ptr() in self._pinned

    def held(self, numbers: torch.Tensor) -> Held | None:
        """What the memory under `numbers` counts as long as any tensor on the device keeps it."""
        storage = numbers.untyped_storage()
        if not storage.nbytes():
            return None
        found = self._held.get(storage.data_ptr())
        if found is None:
            found = self._held[storage.data_ptr()] = Held(self, storage.nbytes())
        return found

    def operation(self, operation: Any, args: Any, kwargs: dict[str, Any], *, on_device: bool) -> None:
        """Count an operation of which a tensor, or the result, lies on the device; `on_device`: the result."""
        name = operation._schema.name.partition("::")[2]
        if name in ("_to_copy", "copy_") and self._copy(name, args, kwargs, on_device=on_device):
            return
        if name == "_local_scalar_dense" or (name in _SHAPED_BY_NUMBERS and _by_numbers(name, kwargs)):
            self.wait(name)
        if name in _INDEXED:
            self._index(name, args)
        if name not in _NO_LAUNCH and not operation.is_view:
            self.launches += 1
            self.operations[name] += 1

    def _copy(self, name: str, args: Any, kwargs: dict[str, Any], *, on_device: bool) -> bool:
        """Count a copy between devices; false: it is none."""
        source = args[1] if name == "copy_" else args[0]
        if source.is_cuda == on_device:
            return False
        non_blocking = kwargs.get("non_blocking", len(args) > 2 and args[2])
        if on_device:
            self.copy_in(source, f"{name} to the device", blocking=not non_blocking)
        else:
            pinned = name == "copy_" and self.is_pinned(args[0])
            self.copy_out(source, f"{name} from the device", blocking=not (non_blocking and pinned))
        return True

    def _index(self, name: str, args: Any) -> None:
        indices = [each for each in args[1] if each is not None]
        for each in indices:
            if not each.is_cuda:
                self.copy_in(each, f"{name} by indices of the CPU")
        truths = [each.dtype in (torch.bool, torch.uint8) for each in indices]
        one_number = len(args) > 2 and args[2].numel() == 1 and all(truths)  # torch fills where the mask is true
        if any(truths) and not one_number:
            self.wait(f"{name} by a mask")


class Held:
    """Memory of the device; it lives as long as any tensor of it."""

    def __init__(self, counts: Counts, size: int) -> None:
        self._counts, self._size = counts, size
        counts.live_bytes += size
        counts.peak_bytes = max(counts.peak_bytes, counts.live_bytes)

    def __del__(self) -> None:
        self._counts.live_bytes -= self._size


def _by_numbers(name: str, kwargs: dict[str, Any]) -> bool:
    return name != "repeat_interleave" or kwargs.get("output_size") is None
