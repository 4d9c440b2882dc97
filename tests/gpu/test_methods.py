"""Methods on the device: scores as on the CPU, the same twice, and what each step takes."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from ad_assets.methods import METHODS, Method, Runtime
from tests.gpu.hardware import ON_GPU, TOLERANCE, Hardware, Page, apart, equal
from tests.support.method_lanes import Images, Variant, configured, images_of, lane, tiny_images, variants

pytestmark = pytest.mark.gpu
HOST_GB, DEVICE_GB = 4.0, 4.0
# A fit that draws on its device, or chooses by differences that are mere rounding, may fit another state.
CHOOSES = {"fod", "hetmm", "patchcluster", "patchcore", "patchcore_lof", "simplenet"}
TRAINED_FULL = {"epochs": 1, "batch_size": 8}
# Of the full run; the others at their defaults.
FULL: dict[str, dict[str, Any]] = {
    "hetmm": {"windows": (9, 7), "sheets": 20},
    "patchcore_lof": {"coreset_ratio": 0.1},
    "fod": {"epochs": 1},
    "simplenet": TRAINED_FULL,
}
# Without a GPU a few keep this code alive: tests/methods/test_devices.py compares every variant on the emulated device.
NAMES = list(METHODS) if ON_GPU else ["padim", "patchcore", "simplenet"]
VARIANTS = variants() if ON_GPU else [Variant(name, {}) for name in NAMES]


def middling_images() -> Images:
    """12 nominal, 2 new and 4 test images of 1,024 and 256 patches."""
    generator = torch.Generator().manual_seed(0)
    taps = [torch.randn(18, *shape, generator=generator) for shape in ((16, 32, 32), (24, 16, 16))]
    return images_of(taps, 12, 2, batch_size=4, map_size=(128, 128))


def full_images() -> Images:
    """40 nominal, 4 new and 8 test images as WideResNet50 gives them for 224 pixels."""
    generator = torch.Generator().manual_seed(0)
    taps = [torch.randn(52, *shape, generator=generator).relu() for shape in ((512, 28, 28), (1024, 14, 14))]
    return images_of(taps, 40, 4, batch_size=8, map_size=(224, 224))


class Steps:
    """Seconds and peak memory of the steps of a lane."""

    def __init__(self, *, on_device: bool) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self._on_device, self._started = on_device, time.perf_counter()
        if on_device:
            torch.cuda.reset_peak_memory_stats()

    def __call__(self, step: str) -> None:
        if self._on_device:
            torch.cuda.synchronize()
            self.peaks[step] = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        self.seconds[step] = time.perf_counter() - self._started
        self._started = time.perf_counter()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_scores_of_a_state_are_those_of_the_cpu(variant: Variant, hardware: Hardware, page: Page) -> None:
    method, images = configured(*variant), middling_images() if hardware.real else tiny_images()
    expected = lane(method, Runtime("cpu", HOST_GB), images)
    tools = Runtime(hardware.device, HOST_GB, device_memory_gb=DEVICE_GB)
    found = lane(method, tools, images, fitted=expected["fit"])
    worst = {step: apart(found[step], expected[step]) for step in expected if "score" in step}
    own = lane(method, tools, images)
    fits = apart(own["fit"], expected["fit"]) if variant.method not in CHOOSES else "chooses"
    page.row(
        "Scores against the CPU's, of one fitted state",
        ("method", "largest difference of scores", "difference of states fitted on each"),
        variant, max(worst.values()), fits,
    )  # fmt: skip
    assert max(worst.values()) <= TOLERANCE, worst
    assert isinstance(fits, str) or fits <= TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_are_equal_and_steps_are_measured(name: str, hardware: Hardware, page: Page) -> None:
    at_full_size: Method[Any] = METHODS[name](**FULL.get(name, {}))
    method = at_full_size if hardware.real else configured(name, {})
    images = full_images() if hardware.real else tiny_images()
    lane(method, Runtime("cpu", HOST_GB), images)  # compiles
    by_cpu = Steps(on_device=False)
    lane(method, Runtime("cpu", HOST_GB), images, by_cpu)
    tools = Runtime(hardware.device, HOST_GB, device_memory_gb=DEVICE_GB)
    first = lane(method, tools, images)
    by_gpu = Steps(on_device=True)
    second = lane(method, tools, images, by_gpu)
    for step, seconds in by_gpu.seconds.items():
        page.row(
            "Time and memory of a step",
            ("method", "step", "CPU, s", "GPU, s", "ratio", "peak on the GPU, MB"),
            name, step, by_cpu.seconds[step], seconds, by_cpu.seconds[step] / seconds, by_gpu.peaks[step] / 1e6,
        )  # fmt: skip
    differ = [step for step in first if not equal(first[step], second[step])]
    assert max(by_gpu.peaks.values()) <= DEVICE_GB * 1e9
    assert not differ, f"{name}: {differ} differ between two runs"


@pytest.mark.parametrize("name", ["simplenet", "fod"])
def test_steps_of_training_are_captured(
    name: str, hardware: Hardware, page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    longer = {"epochs": 3}
    method = METHODS[name](**{**FULL[name], **longer}) if hardware.real else configured(name, longer)
    images = (full_images() if hardware.real else tiny_images()).nominal
    tools = Runtime(hardware.device, HOST_GB, device_memory_gb=DEVICE_GB)
    method.fit(images, tools)  # libraries are loaded
    captured = hardware.measured(lambda: method.fit(images, tools))
    assert not caplog.records, "a step was not captured"

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("captures are refused, to compare")

    monkeypatch.setattr("torch.cuda.graph", refuse)
    plain = hardware.measured(lambda: method.fit(images, tools))
    found, expected = (torch.tensor(each.result.losses["loss"]) for each in (captured, plain))
    page.row(
        "Training with CUDA graphs, and operation by operation",
        ("method", "graphs, s", "operations, s", "ratio", "peaks, MB", "largest difference of losses"),
        name, captured.seconds, plain.seconds, plain.seconds / captured.seconds,
        f"{captured.peak_bytes / 1e6:.3g}, {plain.peak_bytes / 1e6:.3g}", apart(found, expected),
    )  # fmt: skip
    assert apart(found, expected) <= TOLERANCE


def test_a_profile_of_training_and_matching(hardware: Hardware, page: Page) -> None:
    images = full_images() if hardware.real else tiny_images()
    tools = Runtime(hardware.device, HOST_GB, device_memory_gb=DEVICE_GB)
    for name in ("simplenet", "fod", "hetmm") if hardware.real else ("simplenet",):
        method = METHODS[name](**FULL[name]) if hardware.real else configured(name, {})
        fitted = method.fit(images.nominal, tools)
        kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] * hardware.real)]
        with torch.profiler.profile(activities=kinds) as profile:
            method.fit(images.nominal, tools)
            lane(method, tools, images, fitted=fitted)
        order = "self_device_time_total" if hardware.real else "self_cpu_time_total"
        page.text(
            f"Profile of {name}", profile.key_averages().table(sort_by=order, row_limit=12, max_name_column_width=40)
        )
        assert profile.key_averages()
