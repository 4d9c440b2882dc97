"""CUDA graphs of the emulated device: a capture writes operations down, and a replay computes them.

As on a GPU nothing that is captured takes effect before the first replay; a replay reads and writes the same tensors
every time, takes scalars of the CPU as they were, and is one launch; what the capture made holds no numbers until then.
A wait of the host or a draw from a generator ends the capture with an error.
"""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Any, NamedTuple

import torch

from tests.support.device_counts import Counts, Held


class CaptureError(RuntimeError):
    """What a stream that is captured does not permit."""


class _Slot(NamedTuple):
    """Stands for a tensor that the capture made."""

    number: int


class _Made(NamedTuple):
    """A tensor that a capture made; `outside`: a view of memory that was there before."""

    number: int
    outside: bool
    by: Recording


class _Done(NamedTuple):
    """One operation: its arguments, the slots that its results go to, and those that nothing after it reads."""

    operation: Any
    args: Any
    kwargs: dict[str, Any]
    results: list[int | None]
    unread: list[int]


class Recording:
    """What one capture asked of the device, in order. `current`: the one that is under way."""

    current: Recording | None = None

    def __init__(self, counts: Counts) -> None:
        self._counts, self._before = counts, counts.copied()
        self._operations, self._waits = counts.operations.copy(), counts.waits.copy()
        counts.peak_bytes = counts.live_bytes
        self._done: list[_Done] = []
        self._made: list[weakref.ref[Any]] = []  # tensors of the device, by slot
        self._before_written: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._outputs: dict[int, torch.Tensor] = {}
        self._launches = 0
        self._pool: Held | None = None

    def check(self) -> None:
        """Refuse what has made the host wait since the capture began.

        Raises:
            CaptureError: something has.
        """
        if self._counts.synchronisations > self._before.synchronisations:
            waits = ", ".join(self._counts.waits - self._waits)
            raise CaptureError(f"operation not permitted when stream is capturing: {waits}")

    def keep(self, written: list[Any]) -> None:
        """Note what tensors hold that are about to be written to and that the capture has not made."""
        for tensor in written:
            storage = tensor.numbers.untyped_storage()
            if not _is_new(tensor) and storage.data_ptr() not in self._before_written:
                whole = torch.empty(0, dtype=torch.uint8).set_(storage)
                self._before_written[storage.data_ptr()] = whole, whole.clone()

    def add(self, operation: Any, args: Any, kwargs: dict[str, Any], results: Any, own: set[int]) -> None:
        """Write down an operation; `own` are the ids of results that are arguments of it, changed in place."""
        frozen = _frozen(args), {key: _frozen(value) for key, value in kwargs.items()}
        if frozen[1].get("device") is not None:
            frozen[1]["device"] = torch.device("cpu")
        numbers: list[int | None] = []
        outside = operation.is_view and not any(_is_new(tensor) for tensor in args if hasattr(tensor, "numbers"))
        for tensor in _tensors(results):
            if id(tensor) in own:
                numbers.append(None)
                continue
            numbers.append(len(self._made))
            tensor.slot = _Made(len(self._made), outside, self)
            self._made.append(weakref.ref(tensor))
        self._done.append(_Done(operation, *frozen, numbers, []))

    def end(self) -> None:
        """Undo what was computed, and see which of the tensors made outlive the capture."""
        for whole, earlier in self._before_written.values():
            whole.copy_(earlier)
        self._before_written.clear()
        for number, reference in enumerate(self._made):
            tensor = reference()
            if tensor is not None and not tensor.slot.outside:
                self._outputs[number] = tensor.numbers
                if tensor.numbers.is_floating_point():
                    tensor.numbers.fill_(torch.nan)
        last: dict[int, int] = {}
        for place, done in enumerate(self._done):
            read = [slot.number for slot in _slots([done.args, *done.kwargs.values()])]
            last |= dict.fromkeys([*read, *(made for made in done.results if made is not None)], place)
        for number, place in last.items():
            if number not in self._outputs:
                self._done[place].unread.append(number)
        counts = self._counts
        self._launches, counts.launches = counts.launches - self._before.launches, self._before.launches
        counts.operations.clear()
        counts.operations.update(self._operations)
        # The memory of a graph is its own as long as it lives.
        self._pool = Held(counts, max(0, counts.peak_bytes - counts.live_bytes))
        counts.peak_bytes = max(counts.peak_bytes, self._before.peak_bytes)

    def replay(self) -> None:
        """Compute all of it."""
        made: dict[int, torch.Tensor] = {}
        for done in self._done:
            kwargs = {key: _filled(value, made) for key, value in done.kwargs.items()}
            found = done.operation(*_filled(done.args, made), **kwargs)
            results = zip(done.results, _tensors(found), strict=True)
            made |= {number: tensor for number, tensor in results if number is not None}
            for number in done.unread:
                del made[number]
        for number, tensor in self._outputs.items():
            tensor.copy_(made[number])
        self._counts.launches += 1
        self._counts.operations["replay"] += 1
        self._counts.replayed += self._launches


class CudaGraph:
    """Stands for `torch.cuda.CUDAGraph`."""

    recording: Recording | None = None

    def replay(self) -> None:
        assert self.recording is not None, "nothing was captured"
        self.recording.replay()

    def pool(self) -> object:
        return self.recording


def capturing(counts: Any) -> Any:
    """What stands for `torch.cuda.graph`; `counts` gives those of the device."""

    class _Capture:
        def __init__(self, graph: CudaGraph, **_: Any) -> None:
            self._graph = graph

        def __enter__(self) -> None:
            counts().wait("capture")
            assert Recording.current is None, "only one capture may be under way"
            Recording.current = Recording(counts())

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
        ) -> None:
            recording, Recording.current = Recording.current, None
            assert recording is not None
            recording.end()
            self._graph.recording = recording if error is None else None

    return _Capture


def _is_new(tensor: Any) -> bool:
    """Whether the memory of a tensor of the device is one that the capture took."""
    slot = _slot(tensor)
    return slot is not None and not slot.outside


def _slot(tensor: Any) -> _Made | None:
    made = getattr(tensor, "slot", None)
    return made if made is not None and made.by is Recording.current else None


def _frozen(value: Any) -> Any:
    """An argument as a replay needs it."""
    if isinstance(value, list | tuple):
        return type(value)([_frozen(entry) for entry in value])
    if not isinstance(value, torch.Tensor):
        return value
    if not hasattr(value, "numbers"):
        return value if value.dim() else value.clone()
    slot = _slot(value)
    return value.numbers if slot is None else _Slot(slot.number)


def _filled(value: Any, made: dict[int, torch.Tensor]) -> Any:
    if isinstance(value, _Slot):
        return made[value.number]
    return type(value)([_filled(entry, made) for entry in value]) if isinstance(value, list | tuple) else value


def _slots(value: Any) -> list[_Slot]:
    if isinstance(value, _Slot):
        return [value]
    return [slot for entry in value for slot in _slots(entry)] if isinstance(value, list | tuple) else []


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [tensor for entry in value for tensor in _tensors(entry)]
    return [value] if isinstance(value, torch.Tensor) else []
