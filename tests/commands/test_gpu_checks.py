"""What `doctor` says of GPUs, on stand-ins for torch's and the driver's answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ad_assets.commands import gpu_checks
from ad_assets.commands.gpu_checks import idle_gpu
from ad_assets.settings.compute import Compute
from ad_assets.settings.device_lease import Card


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two H100, of which the driver knows one, one leased; `told(cards=..., ...)` replaces answers."""

    def examine(method: Any = None, device: str = "auto", **answers: Any) -> dict[str, tuple[bool, str]]:
        usual: dict[str, Any] = {
            "visible_cards": lambda: [Card(0, "aa", "H100"), Card(1, "bb", "H100")],
            "ask_driver": lambda *_: [
                {
                    "uuid": "GPU-bb",
                    "driver_version": "580.95",
                    "memory.free": "70000",
                    "memory.total": "81559",
                }
            ],
            "holders": {"aa": [], "bb": [17, 18]}.__getitem__,
            "faiss_builds": lambda: ("faiss-cpu 1.15.1",),
        }
        for name, answer in {**usual, **answers}.items():
            monkeypatch.setattr(gpu_checks, name, answer)
        monkeypatch.setattr(gpu_checks, "holders", lambda card: usual["holders"](card.identity))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (9, number))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
        lanes = {"lane": SimpleNamespace(method=method)}
        benchmark: Any = SimpleNamespace(
            compute=Compute(device=device), datasets={"parts": SimpleNamespace(detectors=lanes)}
        )
        return {subject: (healthy, message) for subject, healthy, message in gpu_checks.gpu_checks(benchmark)}

    return examine


def test_each_gpu_is_described_with_its_memory_and_who_computes_there(told: Any) -> None:
    found = told()
    assert found["GPU cuda:0"] == (True, "H100, aa, compute capability 9.0, taken by no run")
    assert found["GPU cuda:1"][1] == (
        "H100, bb, compute capability 9.1, 73.4 of 85.5 GB free, driver 580.95, taken by process 17, 18"
    )


def test_a_gpu_without_memory_of_its_own_is_described_without(told: Any) -> None:
    facts = {"uuid": "GPU-aa", "driver_version": "580.95", "memory.free": "[N/A]", "memory.total": "[N/A]"}
    found = told(ask_driver=lambda *_: [facts])
    assert found["GPU cuda:0"][1] == "H100, aa, compute capability 9.0, driver 580.95, taken by no run"


def test_a_torch_that_is_not_built_for_a_gpu_is_warned_about(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "built_for", lambda major, minor, _: (major, minor) != (9, 1))
    found = told()
    assert "warning" not in found["GPU cuda:0"][1]
    assert "is built for sm_80 sm_90: install a build for this GPU" in found["GPU cuda:1"][1]


@pytest.mark.parametrize(
    ("version", "init", "there", "expected"),
    [
        (None, "", True, "is a build for CPUs: all is computed on the CPU"),
        (
            "13.0",
            "The NVIDIA driver on your system is too old (found version 11040). Please",
            True,
            "found version 11040",
        ),
        ("13.0", "", True, "CUDA_VISIBLE_DEVICES hides it"),
        (None, "", False, ""),
        ("13.0", "Found no NVIDIA driver", False, ""),
    ],
)
def test_a_gpu_that_stays_idle_is_explained(
    version: str | None, init: str, there: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin() -> None:
        if init:
            raise RuntimeError(init)

    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "init", begin)
    monkeypatch.setattr(Compute, "may_use_gpu", lambda _: False)
    assert bool(idle_gpu(Compute(), there)) == there
    assert expected in idle_gpu(Compute(), there)
    monkeypatch.setattr(Compute, "may_use_gpu", lambda _: there)  # by its file in /dev
    assert expected in idle_gpu(Compute(), False)


def test_an_idle_gpu_is_a_warning_but_where_the_cpu_is_asked_for(told: Any) -> None:
    nothing = {"visible_cards": list, "idle_gpu": lambda *_: "why"}
    assert told(**nothing)["GPU"] == (True, "warning: why")
    assert "GPU" not in told(device="cpu", **nothing)


def test_faiss_is_named_with_the_gpus_that_it_sees(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "import_module", lambda _: SimpleNamespace(get_num_gpus=lambda: 0))
    assert told()["faiss"] == (True, "faiss-cpu 1.15.1, sees 0 GPUs")
    codes = SimpleNamespace(search="ivfpq")
    assert "pip uninstall --yes faiss-cpu, then pip install 'ad-assets[gpu]'" in told(codes)["faiss"][1]
    assert told(codes, visible_cards=list, idle_gpu=lambda *_: "")["faiss"] == told()["faiss"]
    assert "faiss" not in told(faiss_builds=tuple)
    both = "faiss-cpu 1.15.1 and faiss-gpu 1.15.1 are installed"
    assert told(faiss_builds=lambda: ("a", "b"), faiss_fault=lambda: both)["faiss"] == (False, both)
