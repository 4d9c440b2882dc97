"""What makes temporary tensors gets the budget of the memory that they lie in: of the device, or of the machine."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ad_assets.kernels import coreset, coverage, local_matching, patch_matching, proxies
from ad_assets.kernels.nearest import all_pairs, search
from ad_assets.methods import Runtime
from ad_assets.methods.fod import references
from tests.support.emulated_device import cuda_device
from tests.support.method_lanes import SMALL, configured, lane, tensors, tiny_images

HOST_GB, DEVICE_GB = 0.1, 0.2
KERNELS = [
    (coreset, "greedy_coreset"),
    (coverage, "covering_radius"),
    (coverage, "radius_of_picks"),
    (references, "greedy_coreset"),
    (references, "nearest"),
    (proxies, "learned_proxies"),
    (all_pairs, "all_pairs"),
    (search, "nearest"),
    (local_matching, "match"),
    (patch_matching, "match_patches"),
]
WAYS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in SMALL),
    ("fod", {"reference": "codebook"}),
    ("fod", {"reference": "coreset"}),
    ("hetmm", {"matching": "patch"}),
    ("patchcore", {"subsampling": "random"}),
    ("patchcore", {"subsampling": "proxies"}),
    ("patchcore", {"coreset_ratio": 1.0, "skip": "self"}),
    ("rad", {"radius": None}),
]


@pytest.mark.parametrize(("name", "options"), WAYS, ids=[f"{name} {options}" for name, options in WAYS])
def test_a_kernel_gets_the_budget_of_the_memory_that_it_fills(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, str, float]] = []

    def watched(kernel: Callable[..., Any]) -> Callable[..., Any]:
        parameters = inspect.signature(kernel)

        def call(*args: Any, **kwargs: Any) -> Any:
            bound = parameters.bind(*args, **kwargs)
            # What comes last is on the device that computes, while what comes first may stay in main memory.
            *_, rows = (value for value in bound.arguments.values() if isinstance(value, torch.Tensor))
            where = torch.device(bound.arguments.get("device") or rows.device).type
            if "memory_gb" in bound.arguments:
                given.append((kernel.__name__, where, bound.arguments["memory_gb"]))
            return kernel(*args, **kwargs)

        return call

    for module, kernel in KERNELS:
        monkeypatch.setattr(module, kernel, watched(getattr(module, kernel)))
    with cuda_device() as device:
        lane(configured(name, options), Runtime(device, HOST_GB, device_memory_gb=DEVICE_GB), tiny_images())
    assert [each for each in given if each[2] != {"cpu": HOST_GB, "cuda": DEVICE_GB}[each[1]]] == []
    if name not in ("padim", "simplenet") and (name, options) not in (("fod", {}), ("rad", {})):
        assert "cuda" in {where for _, where, _ in given}


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("hetmm", {"sheets": None}, "the templates"),
        ("patchcore", {}, "the patches to select from"),
        ("fod", {}, "training steps"),
        ("simplenet", {}, "training steps"),
    ],
)
def test_what_would_not_fit_the_device_is_refused_before_it_is_tried(
    name: str, options: dict[str, Any], what: str
) -> None:
    with (
        cuda_device() as device,
        pytest.raises(ValueError, match=rf"{what} need .* on {device}, the budget there is .*device_memory_gb"),
    ):
        lane(configured(name, options), Runtime(device, HOST_GB, device_memory_gb=1e-8), tiny_images())


@pytest.mark.parametrize(
    ("name", "options"),
    [("padim", {}), ("patchcore", {}), ("patchcore", {"coreset_ratio": 1.0, "skip": "self"}), ("spade", {})],
)
def test_no_number_depends_on_the_budget_of_the_device(name: str, options: dict[str, Any]) -> None:
    method = configured(name, options)
    with cuda_device() as device:
        ample, scarce = (
            tensors(lane(method, Runtime(device, HOST_GB, device_memory_gb=budget), tiny_images()))
            for budget in (1.0, 4e-6)
        )
    assert len(ample) == len(scarce)
    for one, other in zip(ample, scarce, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
