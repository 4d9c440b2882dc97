"""One percent more nominal images: what an update costs beside a fit from scratch, end to end, method by method.

    python -m tests.benchmarks.bench_updates [--tiles FOLDER] [--nominal 300] [--test 150] [--lanes padim ...]
        [--extractor wide_resnet50_2]

Images are those of the demo's `brick`, or magnetic tiles (the folder that holds MT_Free). Each figure is of a process
of its own, as the daemon starts one for each run, with one lane: image index, features, state, neighbours, score maps,
metrics, leaderboard, report. What is compared is the processor's time of these stages, for the clock depends on who
else is there; interpreter, imports and definitions (start) and Dagster's runs are shown apart. Metrics of the update
must be those of a fit from scratch where that is promised.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from tests.support.places import REPOSITORY

EXTRACTORS = {
    "lite0": {
        "backbone": "tf_efficientnet_lite0",
        "weights": "bundled",
        "taps": ["blocks.1", "blocks.2", "blocks.4"],
        "resize": [256, 256],
    },
    # That of the papers. Time does not depend on the weights, so none are needed; metrics mean nothing.
    "wide_resnet50_2": {
        "backbone": "wide_resnet50_2",
        "weights": "random(0)",
        "taps": ["layer1", "layer2", "layer3"],
        "resize": [224, 224],
    },
}
PATCHES = {"layers": [2, 3], "pooling": "concat", "coreset_ratio": 0.1}
EVERY = {"layers": [3], "pooling": "concat", "coreset_ratio": 1}  # 256 patches an image
LANES: dict[str, dict[str, Any]] = {
    "patchcore_1": {"method": "patchcore", **PATCHES, "coreset_ratio": 0.01},
    "patchcore_10": {"method": "patchcore", **PATCHES},
    "patchcore_all": {"method": "patchcore", **EVERY},
    "patchcluster_10": {"method": "patchcluster", **PATCHES},
    "patchcore_lof": {"method": "patchcore_lof", **EVERY, "neighbours": 20},
    "anomalydino": {"method": "anomalydino", **EVERY},
    "superadd": {"method": "superadd", "layers": [3], "max_rows": None},
    "hetmm_all": {"method": "hetmm", "layers": [1, 2], "preset": "mtd"},
    "hetmm_60": {"method": "hetmm", "layers": [1, 2], "preset": "mtd", "sheets": 60},
    "padim": {"method": "padim", "layers": [2, 3]},
    "spade": {"method": "spade", "layers": [2, 3]},
    "rad": {"method": "rad", "layers": [2, 3]},
}
# A coreset keeps its rows, and goes on among the new patches.
UNEQUAL = {"patchcore_1", "patchcore_10", "patchcluster_10"}


def main() -> None:
    """Measure and print a table; fail where an update should equal a fit from scratch and does not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=Path)
    parser.add_argument("--nominal", type=int, default=10_000, help="nominal training images at most")
    parser.add_argument("--test", type=int, default=10_000, help="test images at most")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--lanes", nargs="+", choices=LANES, default=list(LANES))
    parser.add_argument("--extractor", choices=EXTRACTORS, default="lite0")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--profile", type=Path, help="write a profile of each update here")
    asked = parser.parse_args()
    if asked.run:
        _run(asked.run)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = _tiles(folder, asked.tiles) if asked.tiles else _demo(folder)
        new = _thinned(images, folder / "new", asked.nominal, asked.test)
        trained = len(list((images / "parts/train/good").iterdir()))
        tested = len(list((images / "parts/test").glob("*/*")))
        print(f"{trained} nominal images, {len(new)} more, {tested} test images", flush=True)
        base = _child(_config(folder, "base", images, asked.lanes, asked.extractor))
        print(f"all lanes before: {_sum(base, 1):.1f} s of the processor", flush=True)
        for image in new:
            shutil.copy(image, images / "parts/train/good" / image.name)
        for lane in asked.lanes:
            _compare(folder, images, lane, asked.repeats, asked.profile, asked.extractor)


def _compare(folder: Path, images: Path, lane: str, repeats: int, profile: Path | None, extractor: str) -> None:
    updates, fits = [], []
    for number in range(repeats):
        for kind, answers in (("update", updates), ("scratch", fits)):
            name = f"{kind}-{lane}-{number}"
            if kind == "update":
                shutil.copytree(folder / "base", folder / name, copy_function=os.link)
            options = {"PROFILE": str(profile / f"{name}.pstats")} if profile and kind == "update" else {}
            answers.append(_child(_config(folder, name, images, [lane], extractor), options))
            shutil.rmtree(folder / name)
    shares = [100 * _sum(a, 1) / _sum(b, 1) for a, b in zip(updates, fits, strict=True)]
    middle = sorted(range(repeats), key=shares.__getitem__)[repeats // 2]
    update, fit = updates[middle], fits[middle]
    spread = f" ({min(shares):.1f} to {max(shares):.1f})" if repeats > 1 else ""
    equal = all(
        one[:2] == other[:2] and (one[2] == other[2] or math.isclose(one[2] or 0, other[2] or 0, rel_tol=1e-4))
        for one, other in zip(update["rows"], fit["rows"], strict=True)
    )
    print(
        f"{lane}: processor {_sum(update, 1):.2f} of {_sum(fit, 1):.2f} s, {shares[middle]:.1f} %{spread}; clock "
        f"{_sum(update, 0):.2f} of {_sum(fit, 0):.2f} s; Dagster beside it {update['dagster']:.2f} and "
        f"{fit['dagster']:.2f} s of the processor; start {update['start']:.1f} s; equal metrics {equal}"
    )
    for asset in update["assets"]:
        (clock, worked), (_, whole) = update["assets"][asset], fit["assets"].get(asset, (math.nan, math.nan))
        print(f"    {asset}: {worked:.3f} of {whole:.3f} s ({clock:.3f} s of the clock)")
    sys.stdout.flush()
    assert equal or lane in UNEQUAL, lane


def _sum(answer: dict[str, Any], which: int) -> float:
    """Seconds of all stages, of the clock (0) or of the processor (1)."""
    return sum(seconds[which] for seconds in answer["assets"].values())


def _config(folder: Path, name: str, images: Path, lanes: list[str], extractor: str) -> Path:
    """A benchmark file with an own store."""
    (folder / name).mkdir(exist_ok=True)
    detectors = {lane: {"extractor": extractor, **LANES[lane]} for lane in lanes}
    tree = {
        "store": {"root": str(folder / name / "store")},
        "compute": {"device": "cpu", "batch_size": 16, "memory_gb": 4},
        "extractors": {extractor: EXTRACTORS[extractor]},
        "datasets": {"parts": {"reader": "folder", "on_problem": "skip", "root": str(images), "detectors": detectors}},
    }
    path = folder / name / "bench.yaml"
    path.unlink(missing_ok=True)  # it may be a link to that of another
    path.write_text(yaml.safe_dump(tree))
    return path


def _child(config: Path, options: dict[str, str] | None = None) -> dict[str, Any]:
    environ = {**os.environ, "STARTED": str(time.time()), **(options or {})}
    command = [sys.executable, "-m", "tests.benchmarks.bench_updates", "--run", str(config)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environ, check=True, stdout=subprocess.PIPE)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _run(config: Path) -> None:
    """Materialize what is stale, and print the seconds."""
    import cProfile

    import dagster as dg
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import scipy.ndimage  # noqa: F401
    import timm  # noqa: F401
    import torch  # noqa: F401

    from ad_assets.config.load import load_config
    from ad_assets.defs import assets
    from ad_assets.defs.build import build_definitions
    from ad_assets.defs.partitions import register_categories
    from ad_assets.defs.plan import plan
    from ad_assets.defs.runs import execute
    from ad_assets.graph.build import Materialized, materialize
    from ad_assets.graph.graph import Graph
    from ad_assets.graph.stage import Stage

    seconds: dict[str, tuple[float, float]] = {}

    def timed(stage: Stage, *rest: Any, **more: Any) -> Materialized:
        clock, worked = time.perf_counter(), time.process_time()
        made = materialize(stage, *rest, **more)
        seconds["/".join(stage.key[1:])] = time.perf_counter() - clock, time.process_time() - worked
        return made

    assets.materialize = timed  # type: ignore[attr-defined]
    benchmark = load_config(config, environ={})
    definitions, stages = build_definitions(benchmark)
    with dg.DagsterInstance.ephemeral() as instance:
        register_categories(stages, instance)
        begun, worked = time.time(), time.process_time()
        profiler = cProfile.Profile(time.process_time)
        if "PROFILE" in os.environ:
            profiler.enable()
        outcome = execute(plan(benchmark, Graph(stages, benchmark.store), instance), definitions, instance)
        if "PROFILE" in os.environ:
            profiler.dump_stats(os.environ["PROFILE"])
        worked = time.process_time() - worked
        assert not outcome.failures, outcome.failures
    store, rows = benchmark.store, []
    for stage in stages:
        if stage.kind == "metrics":
            head = store.read_head(stage.key, "parts")
            assert head is not None
            own = store.read_json(store.artifact("metrics", head["version"]).at("rows.json"))
            rows += [[row["protocol"], row["metric"], row["value"]] for row in own if row["protocol"] != "timing"]
    within = sum(own for _, own in seconds.values())
    start = begun - float(os.environ["STARTED"])
    print(json.dumps({"start": start, "dagster": worked - within, "assets": seconds, "rows": rows}))


def _demo(folder: Path) -> Path:
    """The demo's brick as a category of a folder."""
    from ad_assets.datasets.readers.demo.reader import DemoReader

    DemoReader(root=str(folder / "demo")).prepare("brick")
    (folder / "images").mkdir()
    (folder / "demo/brick").rename(folder / "images/parts")
    return folder / "images"


def _tiles(folder: Path, tiles: Path) -> Path:
    """Magnetic tiles in MVTec layout, by the split of the papers."""
    from ad_assets.datasets.readers.mtd import CATEGORY, MtdReader

    paths = [str(path.relative_to(tiles)) for path in tiles.glob("MT_*/Imgs/*")]
    for each in MtdReader(root=str(tiles)).assign(paths)[CATEGORY]:
        kind = each.defect_type
        place = folder / "images/parts" / each.split / kind / Path(each.path).name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiles / each.path, place)
        for path in each.masks:
            mask = folder / "images/parts/ground_truth" / kind / f"{place.stem}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.open(tiles / path).convert("L").point(lambda value: 255 * (value > 127)).save(mask)  # edges are grey
    return folder / "images"


def _thinned(images: Path, aside: Path, nominal: int, test: int) -> list[Path]:
    """Take away images beyond a number, and put a hundredth of the nominal ones aside, one at least."""
    draw = random.Random(0)  # noqa: S311
    trained = sorted((images / "parts/train/good").iterdir())
    draw.shuffle(trained)
    aside.mkdir()
    count = max(1, min(nominal, len(trained)) // 100)
    for image in trained[nominal:]:
        image.unlink()
    tested = sorted((images / "parts/test").glob("*/*"))
    draw.shuffle(tested)
    for image in tested[test:]:
        image.unlink()
        (images / "parts/ground_truth" / image.parent.name / f"{image.stem}_mask.png").unlink(missing_ok=True)
    return [image.rename(aside / image.name) for image in trained[:nominal][:count]]


if __name__ == "__main__":
    main()
