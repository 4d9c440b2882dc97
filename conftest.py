"""What holds for doctests, which pytest looks for in every module."""

import gc
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

# Importing and collecting leaves no garbage: looking for it takes a sixth of that.
gc.disable()

# Modules of other packages, which register what they bring.
collect_ignore = ["tests/data"]
if not find_spec("dagster_celery"):
    collect_ignore.append("ad_assets/defs/celery_launcher.py")

# Their examples read the results of a benchmark file `parts.yaml`.
OF_A_STORE = {"ad_assets.prediction", "ad_assets.results"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish() -> None:
    """What is imported by now stays: searching it for garbage takes a tenth of the suite."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    gc.enable()


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `parts.yaml`, its images and store, and `new.png`; it is the working directory."""
    shutil.copytree(Path(__file__).parent / "tests" / "data" / "earlier_store", tmp_path, dirs_exist_ok=True)
    (tmp_path / "bench.yaml").rename(tmp_path / "parts.yaml")
    shutil.copy(tmp_path / "images" / "bolt" / "test" / "spot" / "000.png", tmp_path / "new.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _in_parts(request: pytest.FixtureRequest) -> None:
    if isinstance(request.node, pytest.DoctestItem) and request.node.name.startswith(tuple(OF_A_STORE)):
        request.getfixturevalue("parts")
