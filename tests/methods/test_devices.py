"""Every method computes on a CUDA device what it does on the CPU, and leaves nothing there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ad_assets.methods import Runtime
from ad_assets.methods.training.base import TrainedMethod
from tests.support.emulated_device import cuda_device
from tests.support.method_lanes import REFUSED, Variant, configured, lane, tensors, tiny_images, variants


@pytest.mark.parametrize(("name", "key", "value"), sorted(REFUSED))
def test_what_is_not_tried_is_refused(name: str, key: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        configured(name, {key: value})


@pytest.mark.parametrize("variant", variants(), ids=str)
def test_a_lane_on_a_device_is_that_on_the_cpu(variant: Variant) -> None:
    method, images = configured(*variant), tiny_images()
    resume = not variant.options  # a checkpoint, and a warm start from a state, are alike whatever is trained
    expected = lane(method, Runtime("cpu", 0.1), images, resume=resume)
    with cuda_device() as device:
        found = lane(method, Runtime(device, 0.1, device_memory_gb=0.1), images, resume=resume)
    assert found.keys() == expected.keys()
    # Adam makes whole steps of gradients that are but rounding.
    tolerance = 1e-3 if isinstance(method, TrainedMethod) else 1e-4
    for step in expected:
        pairs = list(zip(tensors(found[step]), tensors(expected[step]), strict=True))
        assert {own.device.type for own, _ in pairs} <= {"cpu"}, f"{step} is left on the device"
        assert all(type(own) is torch.Tensor for own, _ in pairs)
        for own, other in pairs:
            torch.testing.assert_close(own, other, rtol=1e-3, atol=tolerance)
