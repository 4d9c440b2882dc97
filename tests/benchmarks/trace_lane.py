"""What a reader crosses from a benchmark file to a row of the leaderboard: files, functions and lines that run.

A PatchCore lane of one category is materialized in this process, and each line of this project that runs is noted.

    python -m tests.benchmarks.trace_lane [method]
"""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, Self

import yaml

from tests.support.bench_graph import config_tree, write_dataset
from tests.support.places import REPOSITORY

OURS = tuple(f"{REPOSITORY / name}{os.sep}" for name in ("ad_assets", "resources"))
OPTIONS: dict[str, dict[str, Any]] = {
    "patchcore": {"pooling": "concat", "coreset_ratio": 0.5},
    "hetmm": {"windows": [3, 3], "sheets": 3},
}


class Trace:
    """The lines of this project that run while it is on.

    Left out are the bodies of modules and classes and what they call: these say what there is.
    """

    def __init__(self) -> None:
        self.lines: set[tuple[str, int]] = set()
        self.functions: set[tuple[str, str, int]] = set()

    def __enter__(self) -> Self:
        threading.settrace(self._call)
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(OURS) or any(map(_declares, (frame, frame.f_back))):
            return None
        self.functions.add((code.co_filename, code.co_qualname, code.co_firstlineno))
        return self._line(frame, event, argument)

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        del event, argument
        self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def _declares(frame: FrameType | None) -> bool:
    """Whether a frame is the body of a module or a class."""
    return frame is not None and not frame.f_code.co_flags & inspect.CO_OPTIMIZED


def main(method: str = "patchcore") -> None:
    """Trace a lane and print."""
    from ad_assets.cli import main as command

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "images", ("bolt",))
        tree = config_tree(folder)
        tree["datasets"]["parts"]["detectors"] = {"lane": {"method": method, "extractor": "lite0", **OPTIONS[method]}}
        (folder / "bench.yaml").write_text(yaml.safe_dump(tree))
        os.environ["DAGSTER_HOME"] = str(folder / "home")
        with Trace() as trace:
            status = command(["materialize", "--config", str(folder / "bench.yaml")])
    if status:
        raise SystemExit(status)
    places = Counter(Path(file).relative_to(REPOSITORY).parts[:2] for file in {file for file, _ in trace.lines})
    lines = Counter(Path(file).relative_to(REPOSITORY).parts[:2] for file, _ in trace.lines)
    for place, count in sorted(lines.items(), key=lambda item: -item[1]):
        print(f"{'/'.join(place):24} {places[place]:4} files {count:6} lines")
    files = len({file for file, _ in trace.lines})
    print(f"{method}: {files} files, {len(trace.functions)} functions, {len(trace.lines)} lines")


if __name__ == "__main__":
    main(*sys.argv[1:])
