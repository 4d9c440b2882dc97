"""What a plant's size costs: files that nobody asked for, images of one category, categories; and how that grows.

    python -m tests.benchmarks.bench_scale [--files 10000 ...] [--images 1000 ...] [--categories 60 ...] [--only ...]

Images are a few pixels, so that what is timed is the graph's own work. Files that nothing opens are links to one image;
heads, artifacts and Dagster's events (SQLite) are written as runs would have left them, in shared memory where there
is some. Each size has a process of its own. Figures are processor seconds of that process, which load of others hardly
touches, the best of three tries where nothing changes by trying; in brackets seconds of the clock. The exponent is that
of the growth from the second largest size to the largest.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILES, IMAGES, CATEGORIES = (10_000, 30_000, 100_000), (1_000, 3_000, 10_000), (60, 250, 1_000)
TRIES = 3
OWN = 25  # images of the one category that is asked for
A_FOLDER = 1_000  # files of another category
MEMORY = Path("/dev/shm")  # noqa: S108

Figures = dict[str, tuple[float, float]]  # processor seconds, seconds of the clock


def timed(figures: Figures, name: str, call: Callable[[], Any], tries: int = TRIES) -> Any:
    """Time a call; returns its last answer."""
    taken = []
    for _ in range(tries):
        worked, started = time.process_time(), time.perf_counter()
        answer = call()
        taken.append((time.process_time() - worked, time.perf_counter() - started))
    figures[name] = min(taken)
    return answer


def by_files(count: int) -> Figures:
    """A dataset that nobody watches: its definitions, and what one category of 25 images costs among all files."""
    from ad_assets.defs.build import build_definitions
    from ad_assets.graph.stages.image_index import changed_files
    from tests.support.bench_graph import Bench

    figures: Figures = {}
    with _bench(Bench) as bench:
        _write_category(bench.images / "own", OWN)
        _link_files(bench.images, count - OWN)
        figures |= _fresh(_definitions_alone, bench.folder / "bench.yaml")
        timed(figures, "definitions", lambda: build_definitions(bench.benchmark))
        bench.reload()
        index = bench.stages[0]
        timed(figures, "scan of one category of 25 images, first", lambda: _materialize(bench, index, "own"), 1)
        timed(figures, "the same again", lambda: _materialize(bench, index, "own"))
        dataset = bench.benchmark.datasets["parts"]
        assert not timed(
            figures,
            "what changed in that category",
            lambda: changed_files(dataset, bench.benchmark.store, ["own"]),
        )
    return figures


def by_images(count: int) -> Figures:
    """A watched category of many images: its first scan, and that of one image more, behind the gate."""
    from tests.support.bench_graph import Bench

    figures: Figures = {}
    with _bench(Bench) as bench:
        _write_category(bench.images / "own", count)
        bench.tree["datasets"]["parts"] |= {"detectors": {}, "production": _READY}
        bench.reload()
        [index] = [stage for stage in bench.stages if stage.kind == "image_index"]
        time.sleep(_READY["settle_seconds"])
        timed(figures, "first scan of a category", lambda: _materialize(bench, index, "own"), 1)
        timed(figures, "scan of it again, unchanged", lambda: _materialize(bench, index, "own"))
        _write_image(bench.images / "own" / "train" / "good", count)
        time.sleep(_READY["settle_seconds"])
        before = bench.files()
        made = timed(figures, "one image more", lambda: _materialize(bench, index, "own"), 1)
        assert sum(made.metadata[part] for part in ("train_images", "test_nominal", "test_anomalous")) == count + 1
        store = bench.benchmark.store
        written = sum(f.size for f in store.files() if bench.files().get(f.path) != before.get(f.path))
        figures["one image more: MB written"] = (written / 1e6, 0.0)
    return figures


def by_categories(count: int) -> Figures:
    """A watched dataset of many categories of 25 images, three lanes each, where all is current."""
    import dagster as dg

    from tests.support.living_graph import LivingGraph

    figures: Figures = {}
    with _folder() as folder, dg.DagsterInstance.local_temp(str(_made(folder / "home"))) as instance:
        graph = LivingGraph(folder, instance, count)
        graph.make_current()
        timed(figures, "definitions of all categories", graph.reload)
        cursor = graph.tick(None).cursor
        assert not timed(figures, "sensor, nothing changed", lambda: graph.tick(cursor)).run_requests

        def status(**options: Any) -> Any:
            graph.reload()  # cold: nothing is remembered of an earlier look
            return graph.plan(**options)

        assert not timed(figures, "status of one category", lambda: status(categories=[graph.names[count // 2]]))
        assert not timed(figures, "status of all", status, 1)
        graph.reload()
        asked, conditions = graph.evaluate(None)
        assert not asked
        asked, _ = timed(figures, "automation, nothing due", lambda: graph.evaluate(conditions))
        assert not asked
    return figures


_READY = {"settle_seconds": 1, "patience_seconds": 1}


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


@contextmanager
def _bench(kind: Callable[..., Any]) -> Iterator[Any]:
    import dagster as dg

    with _folder() as folder:
        _write_category(folder / "images" / "own", 1)
        yield kind(folder, dg.DagsterInstance.ephemeral())


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _materialize(bench: Any, stage: Any, category: str) -> Any:
    from ad_assets.graph.build import materialize

    log = logging.getLogger("ad_assets.bench")
    return materialize(stage, category, bench.benchmark.store, bench.benchmark.compute, log)


def _write_category(folder: Path, count: int) -> None:
    """A category in MVTec layout, a fifth of 25 of its images for testing, each of another content."""
    for number in range(count):
        _write_image(folder / ("test/spot" if number % 5 == 4 and number < OWN else "train/good"), number)


def _write_image(folder: Path, number: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    pixels = (number * 2_654_435_761 % 2**96).to_bytes(12) * 4
    Image.frombytes("RGB", (4, 4), pixels).save(folder / f"{number:07}.png", compress_level=1)


def _link_files(root: Path, count: int) -> None:
    """Links to one image, or where the file system has no more of them empty files, in other categories."""
    image = next((root / "own").rglob("*.png"))
    for number in range(count):
        folder = root / f"other_{number // A_FOLDER:05}" / "train" / "good"
        if number % A_FOLDER == 0:
            folder.mkdir(parents=True)
        try:
            os.link(image, folder / f"{number:07}.png")
        except OSError:
            (folder / f"{number:07}.png").touch()


def _fresh(figure: Callable[..., Figures], *arguments: Any) -> Figures:
    """Figures of a process of their own."""
    warnings.simplefilter("ignore")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(figure, *arguments).result()


def _definitions_alone(config: Path) -> Figures:
    """The memory that a process has grown by once it has loaded the definitions, in MB, as if it were seconds."""
    from ad_assets.config.load import load_config
    from ad_assets.defs.build import build_definitions
    from tests.benchmarks.measure import peak_extra_megabytes

    benchmark = load_config(config, environ={})
    return {"definitions: MB of memory": (peak_extra_megabytes(lambda: build_definitions(benchmark)), 0.0)}


SWEEPS: dict[str, Callable[[int], Figures]] = {"files": by_files, "images": by_images, "categories": by_categories}


def main() -> None:
    """Measure and print a table a sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=FILES, help="files of a dataset")
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES, help="images of one watched category")
    parser.add_argument("--categories", type=int, nargs="+", default=CATEGORIES, help="categories of 25 images")
    parser.add_argument("--only", choices=SWEEPS, nargs="+", default=list(SWEEPS))
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    logging.getLogger("dagster").setLevel(logging.WARNING)
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    every: dict[str, dict[int, Figures]] = {}
    for sweep in options.only:
        sizes: Sequence[int] = sorted(getattr(options, sweep))
        every[sweep] = {size: _fresh(SWEEPS[sweep], size) for size in sizes}
        print(f"\n| {sweep} | {' | '.join(f'{size:,}' for size in sizes)} | exponent |\n|{'---|' * (len(sizes) + 2)}")
        for name in every[sweep][sizes[0]]:
            row = [every[sweep][size][name] for size in sizes]
            told = (f"{worked:.2f} ({clock:.2f})" if clock else f"{worked:.2f}" for worked, clock in row)
            print(f"| {name} | {' | '.join(told)} | {_exponent(sizes, row)} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(every, indent=1))


def _exponent(sizes: Sequence[int], row: Sequence[tuple[float, float]]) -> str:
    if len(sizes) < 2 or min(row[-2][0], row[-1][0]) <= 0:
        return "-"
    return f"{math.log(row[-1][0] / row[-2][0]) / math.log(sizes[-1] / sizes[-2]):.2f}"


if __name__ == "__main__":
    main()
