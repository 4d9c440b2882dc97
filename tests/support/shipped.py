"""The benchmark files that the package ships."""

import pytest
import yaml

from ad_assets.config.benchmark import Benchmark
from ad_assets.config.load import CONFIGS, load_config
from ad_assets.datasets import READERS

NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def shipped(name: str) -> Benchmark:
    """One of them; skips the test where no reader of that name is registered."""
    tree = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    absent = {section["reader"] for section in tree["datasets"].values()} - set(READERS)
    if absent:
        pytest.skip(f"{name}.yaml needs a reader called {', '.join(sorted(absent))}")
    return load_config(name, environ={})
