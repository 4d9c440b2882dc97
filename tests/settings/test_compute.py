"""Devices and limits."""

import pytest
import torch
from pydantic import ValidationError
from threadpoolctl import threadpool_info

from ad_assets.kernels.parallel import map_single_threaded, threads, use_threads
from ad_assets.settings import device_lease
from ad_assets.settings.compute import Compute


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "allowed: auto, cpu, cuda, cuda:<number>"),
        ({"precision": "int8"}, "'float32', 'tf32', 'float16' or 'bfloat16'"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"memory_gb": 0}, "greater than 0"),
        ({"device_memory_gb": 0}, "greater than 0"),
        ({"memory": 4}, "Extra inputs"),
    ],
)
def test_faults(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Compute.model_validate(options)


@pytest.mark.parametrize(
    ("device", "cards", "expected"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda:0"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda:0"), ("cuda:1", 2, "cuda:1")],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, device: str, cards: int, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(device_lease, "lease", lambda _: None)  # see test_device_lease.py
    monkeypatch.setattr(torch.cuda, "set_device", (chosen := []).append)
    assert Compute(device=device).torch_device() == expected
    assert [f"cuda:{number}" for number in chosen] == [expected] * (expected != "cpu")


def test_an_absent_card_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RuntimeError, match=r"cuda:1 is not there; torch .* sees: cpu, cuda:0"):
        Compute(device="cuda:1").torch_device()


def test_the_budget_of_a_card_is_half_of_what_it_has_left_or_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: {"cuda:1": (6 * 10**9, 24 * 10**9)}[device])
    cached, used = 3 * 10**9, 10**9  # so that two more are free for this process
    monkeypatch.setattr(torch.cuda, "memory_reserved", {"cuda:1": cached}.__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_allocated", {"cuda:1": used}.__getitem__)
    assert Compute(memory_gb=3).device_budget_gb("cuda:1") == pytest.approx(4)
    assert Compute(device_memory_gb=11).device_budget_gb("cuda:1") == 11
    assert Compute(device_memory_gb=11).device_budget_gb("cpu") is None


def test_threads_are_the_usable_cores_among_the_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert Compute().thread_count() == 1
    monkeypatch.setattr("ad_assets.settings.compute.usable_cores", lambda: 8)
    assert [Compute().thread_count(runs) for runs in (1, 2, 3, 100)] == [8, 4, 2, 1]
    assert Compute(threads=3).thread_count(runs=4) == 3


def test_only_the_kernels_get_threads() -> None:
    before = threads()
    try:
        torch.set_num_threads(2)
        Compute(threads=3).apply_threads()
        assert threads() == 3
        assert torch.get_num_threads() == 1
        assert all(library["num_threads"] == 1 for library in threadpool_info())
        inside = map_single_threaded(lambda _: (threads(), torch.get_num_threads()), range(5))
        assert set(inside) == {(1, 1)}
    finally:
        use_threads(before)
