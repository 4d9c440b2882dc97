"""Steps of training as CUDA graphs: what a step asks of a GPU is captured once, and launched at once from then on.

A graph computes with the same tensors every time. So what a step reads is copied into tensors that stay where they are,
what it changes is changed in place, and it draws nothing: noise is among what it reads. Every size of a batch has a
graph of its own. Its first step is computed as it is, which makes the moments of optimisers and the handles of
libraries that a capture must find; the second is captured, and launched like all that follow. A capture computes
nothing, so the steps, and their results, are those of a training without graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    Losses = dict[str, Tensor]
    Compute = Callable[[list[Tensor]], Losses]

_LOG = logging.getLogger(__name__)


@dataclass
class _Captured:
    """The steps of one size of batch: what they read, and once they are captured the graph and its losses."""

    inputs: list[Tensor]
    graph: Any = None
    losses: Losses | None = None


class CapturedSteps:
    """Computes steps on a GPU.

    Args:
        optimizers: those that steps move weights with.
        device: name of the GPU.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], device: str) -> None:
        self._optimizers, self._device = optimizers, torch.device(device)
        self._known: dict[tuple[torch.Size, ...], _Captured] = {}
        self._stream = torch.cuda.Stream(self._device)
        self._pool: Any = None
        self._refused = False

    def __call__(self, compute: Compute, inputs: Sequence[Sequence[Tensor]]) -> Losses:
        """One step.

        Args:
            compute: a whole step, from its inputs to its losses, weights moved; it waits for nothing of the device,
                and is the same every time. (It is not kept: what it belongs to keeps this.)
            inputs: parts (1, ...) of each of the step's inputs, which it gets as one tensor (parts, ...).
        """
        shapes = tuple(torch.Size([len(parts), *parts[0].shape[1:]]) for parts in inputs)
        with torch.no_grad(), torch.cuda.device(self._device):
            steps = self._known.get(shapes)
            if steps is None:
                steps = self._known[shapes] = _Captured([torch.cat(list(parts)) for parts in inputs])
                return self._uncaptured(compute, steps)
            for tensor, parts in zip(steps.inputs, inputs, strict=True):
                torch.cat(list(parts), out=tensor)
            if steps.graph is None and not self._refused:
                self._capture(compute, steps)
            if steps.graph is None or steps.losses is None:
                return self._uncaptured(compute, steps)
            steps.graph.replay()
            return {name: loss.clone() for name, loss in steps.losses.items()}  # the next step writes there

    def _uncaptured(self, compute: Compute, steps: _Captured) -> Losses:
        """On the stream of the capture, which must find nothing of a step's that belongs to another."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            losses = compute(steps.inputs)
        here.wait_stream(self._stream)
        return losses

    def _capture(self, compute: Compute, steps: _Captured) -> None:
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile. Graphs share their memory, for they never compute at the same time.
        how: dict[str, Any] = {"pool": self._pool, "stream": self._stream, "capture_error_mode": "thread_local"}
        try:
            with _capturable(self._optimizers), torch.cuda.graph(graph, **how):
                losses = compute(steps.inputs)
        except RuntimeError as error:
            self._refused = True
            _LOG.warning("training goes on without CUDA graphs, which is slower: a step was not captured: %s", error)
            return
        steps.graph, steps.losses, self._pool = graph, losses, graph.pool()


@contextmanager
def _capturable(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """Optimisers, whose fused kernels read rates and counts of steps on the device as it is, know of the capture."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    earlier = [group["capturable"] for group in groups]
    try:
        for group in groups:
            group["capturable"] = True
        yield
    finally:
        for group, value in zip(groups, earlier, strict=True):
            group["capturable"] = value
