"""Product codes on a GPU: when faiss-gpu is asked, for what, and that its answers are those of the CPU.

A stand-in with faiss-gpu's interface searches the index that it was given, and refuses what faiss-gpu refuses.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from ad_assets.kernels.nearest import ivfpq_gpu
from ad_assets.kernels.nearest.ivfpq import build
from tests.kernels.nearest.test_ivfpq import clustered
from tests.support.emulated_device import cuda_device


class GpuIndex:
    """What `index_cpu_to_gpu` returns."""

    def __init__(self, index: Any) -> None:
        self.index, self.ntotal = index, index.ntotal
        self.asked: list[tuple[int, int]] = []

    def search(self, points: np.ndarray, k: int, *, params: Any) -> Any:
        assert params.sel is None, "faiss-gpu knows no selection"
        assert max(k, params.nprobe) <= 2048, "faiss-gpu finds 2048 at most"
        self.asked.append((k, params.nprobe))
        return self.index.search(points, k, params=params)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A faiss with one GPU; the options of all copies made there."""
    made: list[Any] = []

    def copy(resources: Any, number: int, index: Any, options: Any) -> GpuIndex:
        assert (resources.memory, number) == (ivfpq_gpu.TEMPORARY_BYTES, 0)
        made.append(options)
        return GpuIndex(index)

    class Resources:
        def setTempMemory(self, size: int) -> None:  # noqa: N802
            self.memory = size

    ivfpq_gpu._resources.cache_clear()
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", Resources, raising=False)
    monkeypatch.setattr(faiss, "GpuClonerOptions", SimpleNamespace, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", copy, raising=False)
    return made


def test_a_gpu_answers_as_the_cpu_with_and_without_rows_left_out(copies: list[Any]) -> None:
    bank, queries = clustered(0, 1200, 24), clustered(1, 60, 24)
    of_cpu = build(bank, lists=12, subquantisers=8)
    assert of_cpu.on_gpu is None
    allowed = torch.ones(1200, dtype=torch.bool)
    allowed[200:320] = False
    with cuda_device() as device:
        of_gpu = build(bank.to(device), lists=12, subquantisers=8)
        for probes, only, k in [(1, None, 3), (12, None, 3), (3, allowed, 3), (1, allowed, 700), (1, None, 1200)]:
            expected = of_cpu.search(queries, k, probes=probes, allowed=only)
            found = of_gpu.search(queries.to(device), k, probes=probes, allowed=only)
            assert all(each.device.type == "cuda" for each in found)
            assert torch.equal(found[0].cpu(), expected[0])
            assert torch.equal(found[1].cpu(), expected[1])
    assert (3 + 120, 3) in of_gpu.on_gpu.asked
    assert (700 + 120, 12) in of_gpu.on_gpu.asked  # lists that hold too few rows
    assert [vars(options) for options in copies] == [{"useFloat16": False, "use_cuvs": False}]


def test_more_than_a_gpu_finds_is_searched_on_the_cpu(copies: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivfpq_gpu, "MOST", 100)
    bank = clustered(0, 1200, 8)
    allowed = torch.arange(1200) >= 98
    with cuda_device() as device:
        index = build(bank.to(device), lists=12, subquantisers=4)
        of_cpu = build(bank, lists=12, subquantisers=4)
        for k, only in [(101, None), (3, allowed)]:
            found = index.search(bank[:5].to(device), k, probes=12, allowed=only)
            expected = of_cpu.search(bank[:5], k, probes=12, allowed=only)
            assert torch.equal(found[1].cpu(), expected[1])
        assert index.on_gpu.asked == []
        index.search(bank[:5].to(device), 2, allowed=allowed)
        assert index.on_gpu.asked == [(100, 1)]


@pytest.mark.parametrize(
    ("subquantisers", "bits", "made"),
    [(8, 8, [False]), (48, 8, [False]), (56, 8, [True]), (64, 8, [True]), (8, 5, []), (5, 8, []), (72, 8, [])],
)
def test_codes_that_faiss_searches_on_a_gpu(subquantisers: int, bits: int, made: list[bool], copies: list[Any]) -> None:
    with cuda_device() as device:
        index = build(clustered(2, 400, 80).to(device), lists=2, subquantisers=subquantisers, bits=bits)
    assert [options.useFloat16 for options in copies] == made
    assert (index.on_gpu is not None) == bool(made)


def test_without_faiss_gpu_the_cpu_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    bank = clustered(3, 500, 16)
    expected = build(bank, lists=4, subquantisers=8).search(bank[:9], 2)
    with cuda_device() as device:
        index = build(bank.to(device), lists=4, subquantisers=8)
        assert index.on_gpu is None
        assert torch.equal(index.search(bank[:9].to(device), 2)[1].cpu(), expected[1])
