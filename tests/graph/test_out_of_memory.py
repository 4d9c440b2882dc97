"""A build that runs out of memory is tried with less, gives the same, and says at last what is missing."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ad_assets.backbones import backbone
from ad_assets.backbones.backbone import Backbone
from ad_assets.backbones.extraction import Extraction
from ad_assets.cli import main
from ad_assets.commands import doctor
from ad_assets.graph import out_of_memory
from ad_assets.graph.build import materialize
from ad_assets.graph.build_attempts import attempt_path, is_temporary
from ad_assets.graph.out_of_memory import NoMemoryError, build_within_memory, is_out_of_memory
from ad_assets.graph.progress import Progress
from ad_assets.kernels.budget import BudgetError
from ad_assets.settings.compute import Compute
from tests.support.bench_graph import Bench

OF_TORCH = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.50 GiB of which 1 GiB is free."
)
OF_CPU = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: you tried to allocate 4000000000 bytes."
OF_FAISS = (
    "StandardGpuResources: alloc fail type FlatData dev 0 size 1610612736 bytes (cudaMalloc error out of memory [2])"
)


@dataclass(frozen=True)
class Job:
    """What `build_within_memory` reads of a `Work`."""

    compute: Compute
    progress: Progress


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def job(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> Job:
    """On a card of 24 GB of which 3 are free, and one that is empty after others have left."""
    monkeypatch.setattr(Compute, "torch_device", lambda _: "cuda:0")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * 10**9, 24 * 10**9))
    log = SimpleNamespace(info=lines.append)
    return Job(Compute(batch_size=8, memory_gb=4), Progress(log, "parts/small/memory_bank [bolt]"))


def needing(images: int, error: Callable[[], Exception], tried: list[Compute]) -> Any:
    """A build for which memory suffices with so many images a batch."""

    def build(work: Job) -> dict[str, Any]:
        tried.append(work.compute)
        if work.compute.batch_size > images:
            raise error()
        return {"images": work.compute.batch_size}

    return build


@pytest.mark.parametrize(
    ("error", "where", "asked", "budgets"),
    [
        (lambda: torch.OutOfMemoryError(OF_TORCH), "cuda:0", "21.5 GB", [(4, None), (4, 0.75), (4, 0.375)]),
        (lambda: RuntimeError(OF_FAISS), "cuda:0", "1.61 GB", [(4, None), (4, 0.75), (4, 0.375)]),
        (lambda: RuntimeError("CUDA error: out of memory"), "cuda:0", "", [(4, None), (4, 0.75), (4, 0.375)]),
        (lambda: RuntimeError(OF_CPU), "main memory", "4 GB", [(4, None), (2, None), (1, None)]),
        (
            lambda: MemoryError("Unable to allocate 7.45 GiB for an array"),
            "main memory",
            "8 GB",
            [(4, None), (2, None)],
        ),
        (MemoryError, "main memory", "", [(4, None), (2, None)]),
    ],
)
def test_it_is_tried_with_half_of_the_memory_that_is_short(
    error: Callable[[], Exception],
    where: str,
    asked: str,
    budgets: list[tuple[float, float | None]],
    job: Any,
    lines: list[str],
) -> None:
    tried: list[Compute] = []
    assert build_within_memory(needing(8 >> (len(budgets) - 1), error, tried), job)
    assert [(each.memory_gb, each.device_memory_gb) for each in tried] == budgets
    assert [each.batch_size for each in tried] == [8, 4, 2][: len(budgets)]
    assert f"{where} is out of memory: {asked or 'how much'}" in lines[0]
    assert "4 images a batch" in lines[0]


def test_at_last_it_says_what_was_asked_what_is_free_and_what_to_lower(job: Any) -> None:
    tried: list[Compute] = []
    with pytest.raises(NoMemoryError) as failed:
        build_within_memory(needing(0, lambda: torch.OutOfMemoryError(OF_TORCH), tried), job)
    message = str(failed.value)
    assert message.startswith(
        "parts/small/memory_bank [bolt]: cuda:0 is out of memory: 21.5 GB were asked for, 3 of 24 GB"
    )
    assert "Lower compute.device_memory_gb or compute.batch_size" in message
    assert len(tried) == 3
    assert is_temporary(failed.value)  # other runs may end
    with pytest.raises(NoMemoryError, match=r"main memory is out of memory.*Lower compute\.memory_gb"):
        build_within_memory(needing(0, MemoryError, tried), job)


def test_a_smaller_budget_that_refuses_is_no_advice_to_raise_it(job: Any) -> None:
    errors: list[Exception] = [torch.OutOfMemoryError(OF_TORCH), BudgetError("raise compute.device_memory_gb")]

    def build(_: Any) -> dict[str, Any]:
        raise errors.pop(0)

    with pytest.raises(NoMemoryError, match=r"21\.5 GB were asked for"):
        build_within_memory(build, job)
    errors[:] = [BudgetError("raise compute.device_memory_gb")]
    with pytest.raises(BudgetError):
        build_within_memory(build, job)


def test_what_failed_holds_no_memory_when_it_is_tried_again(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = {"other": "a backbone that is kept for later"}
    monkeypatch.setattr(backbone, "_LOADED", loaded)
    held: list[weakref.ref[torch.Tensor]] = []

    def build(work: Any) -> dict[str, Any]:
        if held:
            assert held[0]() is None
            assert not loaded
            return {}
        large = torch.zeros(3)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError(OF_TORCH)

    assert build_within_memory(build, job) == {}


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("CUDA error: an illegal memory access")])
def test_other_errors_are_not_tried_again(error: Exception, job: Any) -> None:
    assert not is_out_of_memory(error)
    tried: list[Compute] = []
    with pytest.raises(type(error)):
        build_within_memory(needing(0, lambda: error, tried), job)
    assert len(tried) == 1


def test_a_build_with_less_memory_gives_the_same_features_or_fails_by_name(
    bench: Bench, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, log = bench.benchmark.store, SimpleNamespace(info=lines.append)
    index, features = (
        next(each for each in bench.stages if each.name == name)
        for name in ("parts/image_index", "parts/features/lite0")
    )

    def built() -> dict[str, dict[str, torch.Tensor]]:
        for stage in (index, features):
            materialize(stage, "bolt", store, bench.benchmark.compute, log, force=True)
        return {file.path: store.read_tensors(file.path) for file in store.files("features/")}

    expected = built()
    start, room = Backbone.start, 1

    def short(self: Backbone, batch: torch.Tensor) -> Extraction:
        if len(batch) > room:
            raise RuntimeError(OF_CPU)
        return start(self, batch)

    monkeypatch.setattr(Backbone, "start", short)
    monkeypatch.setattr(out_of_memory, "forget_backbones", lambda: None)  # to load it again takes seconds
    torch.testing.assert_close(built(), expected, rtol=0, atol=0)
    assert "tried again with 1 images a batch" in "".join(lines)
    room = 0
    with pytest.raises(NoMemoryError, match=r"parts/features/lite0 \[bolt\]: main memory is out of memory: 4 GB were"):
        built()
    attempt = store.read_json(attempt_path(features.key, "bolt"))
    assert attempt["error"] == ""  # automation may try it again, a few times


def test_a_command_that_runs_out_of_memory_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> None:
        raise errors.pop(0)

    errors: list[Exception] = [torch.OutOfMemoryError(OF_TORCH), RuntimeError("a bug")]
    monkeypatch.setattr(doctor, "examine", fails)
    assert main(["doctor"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ad-assets: out of memory: 21.5 GB were asked for. Try --set compute.batch_size=1")
    with pytest.raises(RuntimeError, match="a bug"):
        main(["doctor"])
