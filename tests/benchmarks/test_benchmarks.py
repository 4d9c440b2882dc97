"""That the benchmarks, which no test runs, find what they import."""

from importlib import import_module
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py")))
def test_a_benchmark_finds_what_it_imports(name: str) -> None:
    assert import_module(f"{__package__}.{name}").main
