"""The emulated device refuses what CUDA refuses, and counts what a GPU would be asked."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

import pytest
import torch
from torch import Tensor

from tests.support.emulated_device import DevicesDifferError, cuda_device
from tests.support.emulated_graphs import CaptureError

MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda there, here: there + here,
    "product": lambda there, here: there @ here,
    "written on the CPU": lambda there, here: here.add_(there),
    "a scalar of the CPU written": lambda there, here: here[0, 0].add_(there[0, 0]),
    "a scalar of the device": lambda there, here: here * there[0, 0],
    "assigned by indices": lambda there, here: here.__setitem__(torch.tensor([0]), there[:1]),
    "taken by indices of the device": lambda there, here: here[(there[0] > 0).nonzero()],
    "joined": lambda there, here: torch.cat([there, here]),
}


@pytest.mark.parametrize("name", MIXED)
def test_devices_do_not_mix(name: str) -> None:
    with cuda_device() as device, pytest.raises(DevicesDifferError):
        MIXED[name](torch.ones(4, 4, device=device), torch.ones(4, 4))


def test_no_numbers_leave_but_by_a_copy() -> None:
    with cuda_device() as device:
        there = torch.ones(4, device=device)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        assert (there * torch.tensor(2.0)).cpu().numpy().tolist() == [2.0] * 4
    assert type(torch.ones(1)) is torch.Tensor


WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x[0].item(),
    "float": lambda x: float(x[0]),
    "truth": lambda x: bool(x[0] > 0),
    "list": lambda x: x.tolist(),
    "copy": lambda x: x.cpu(),
    "copy that does not wait, to memory that is not pinned": lambda x: x.to("cpu", non_blocking=True),
    "places": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "unique": lambda x: x.unique(),
    "numbers of the CPU": lambda x: x.copy_(torch.zeros(4)),
    "indices of the CPU": lambda x: x[torch.tensor([0, 1])],
    "synchronize": lambda _: torch.cuda.synchronize(),
}
NO_WAITS: dict[str, Callable[[Tensor], object]] = {
    "sum": lambda x: x.sum(),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "filled where true": lambda x: x.__setitem__(x > 0, 1.0),
    "indices of the device": lambda x: x[x.argsort()],
    "pinned": lambda x: torch.zeros(4).pin_memory().to(x.device, non_blocking=True),
    "to pinned memory": lambda x: torch.empty(4, pin_memory=True).copy_(x, non_blocking=True),
}


@pytest.mark.parametrize(("waits", "name"), [(1, name) for name in WAITS] + [(0, name) for name in NO_WAITS])
def test_the_host_waits_where_it_needs_what_the_device_computes(waits: int, name: str) -> None:
    with cuda_device() as device:
        x = torch.ones(4, device=device)
        device.counts.reset()
        (WAITS if waits else NO_WAITS)[name](x)
        assert device.counts.synchronisations == waits, device.counts.waits


def test_launches_copies_and_bytes_are_counted() -> None:
    with cuda_device() as device:
        counts = device.counts
        x = torch.ones(100).to(device)
        assert (counts.launches, counts.copies_in, counts.bytes_in) == (0, 1, 400)
        for _ in range(3):
            (x[:50] * 2).view(5, 10).T.unsqueeze(0)  # views are no launches, and what is dropped is free again
        assert (counts.launches, counts.live_bytes, counts.peak_bytes) == (3, 400, 600)
        x.cpu()
        assert (counts.copies_out, counts.bytes_out) == (1, 400)
        weights = [torch.nn.Parameter(torch.ones(2, device=device)) for _ in range(10)]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimiser = torch.optim.Adam(weights, fused=True)
        optimiser.step()
        counts.reset()
        optimiser.step()
        assert counts.operations == {"_foreach_add_": 1, "_fused_adam_": 1}
        assert not counts.synchronisations


def test_a_graph_is_captured_without_effect_and_replayed_at_once() -> None:
    with cuda_device() as device:
        weight, moved, scale = torch.ones(4, device=device), torch.zeros(4, device=device), torch.tensor(2.0)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            weight[:2].add_(1)
            found = weight * scale
            total = torch.empty((), device=device)
            torch.sum(moved.view(2, 2) + 1, dim=(0, 1), out=total)
        scale.fill_(100.0)  # was read
        assert weight.tolist() == [1, 1, 1, 1]
        assert all(number != number for number in found.tolist())
        device.counts.reset()
        for times, expected in ((1, [4, 4, 2, 2]), (2, [6, 6, 2, 2])):
            moved.fill_(times)
            graph.replay()
            assert found.tolist() == expected
            assert total.item() == 4 * (times + 1)
        assert device.counts.operations == {"fill_": 2, "replay": 2}
        assert device.counts.replayed == 2 * 4


REFUSED_IN_CAPTURES: dict[str, Callable[[Tensor], object]] = {
    "a wait": lambda x: x.sum().item(),
    "numbers of the CPU": lambda x: x.copy_(torch.zeros(4)),
    "a draw": lambda x: torch.randn(4, device=x.device, generator=torch.Generator(x.device)),
    "counts of steps that are not capturable": lambda x: torch.optim.Adam([torch.nn.Parameter(x)], fused=True).step(),
}


@pytest.mark.parametrize("name", REFUSED_IN_CAPTURES)
def test_a_capture_refuses_what_a_stream_does_not_permit(name: str) -> None:
    with cuda_device() as device:
        x = torch.ones(4, device=device)
        with pytest.raises(CaptureError), torch.cuda.graph(torch.cuda.CUDAGraph()):
            REFUSED_IN_CAPTURES[name](x)
        assert not torch.cuda.is_current_stream_capturing()


def test_threads_that_are_started_meanwhile_know_the_device() -> None:
    found: list[str] = []
    with cuda_device() as device:
        thread = Thread(target=lambda: found.append(torch.ones(1).to(device).device.type))
        thread.start()
        thread.join()
    assert found == ["cuda"]
