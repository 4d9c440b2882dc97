"""Industrial visual anomaly detection as a living Dagster asset graph.

``ad_assets.Benchmark`` is the Dagster component; it is imported when it is asked for, since all else does without
Dagster.
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "Benchmark":
        return import_module("ad_assets.defs.component").BenchmarkComponent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "Benchmark"]
