"""The device of this machine where `make verify-gpu` names a page, else the emulated one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.gpu.hardware import ON_GPU, PAGE, Hardware, Page
from tests.support.emulated_device import cuda_device


@pytest.fixture
def hardware() -> Iterator[Hardware]:
    if ON_GPU:
        yield Hardware("cuda:0", real=True)
    else:
        with cuda_device() as device:
            yield Hardware(device, real=False)


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    real = os.environ.get(PAGE)
    page = Page(torch.cuda.get_device_name(0) if real else "emulated device")
    yield page
    path = Path(real) if real else tmp_path_factory.mktemp("page") / "gpu.md"
    page.write(path)
    print(f"\n{path}")
