"""Backbones by PyTorch, OpenVINO and ONNX Runtime on one CPU: time, difference of features, and leaderboards.

Extraction is timed in turns, batch by batch, in one run; leaderboards are compared as their digits are shown.

    python -m tests.benchmarks.bench_engines [demo | /path/to/magnetic/tiles] [detector ...]
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from ad_assets.backbones.backbone import Backbone
from ad_assets.backbones.engines import TOLERANCE, difference
from ad_assets.config.load import load_config
from ad_assets.datasets.files import ImageFiles
from ad_assets.kernels.parallel import use_threads
from ad_assets.results import leaderboard
from ad_assets.settings.compute import usable_cores
from tests.support.places import REPOSITORY

ENGINES = ("torch", "openvino", "onnxruntime")
BATCH = 16
LEAST_RATIO = 1.5  # of OpenVINO for EfficientNet-Lite0
SHIPPED = REPOSITORY / "ad_assets" / "config" / "benchmarks"


def inputs(name: str, root: str, backbone: Backbone) -> list[torch.Tensor]:
    """All images of a dataset, decoded and normalised, in batches."""
    reader = load_config(name, overrides=[f"datasets.{name}.root={root}"]).datasets[name].reader
    reader.prepare()
    files = ImageFiles(reader.root)
    assigned = reader.assign(sorted(files.listing()))
    paths = sorted({candidate.path for own in assigned.values() for candidate in own})
    images = [backbone.preprocess(reader.decoding.rgb(files.read(path), path)) for path in paths]
    return list(torch.stack(images).split(BATCH))


def extraction(name: str, root: str) -> None:
    """Time the engines in turns over all images of a dataset."""
    extractor = load_config(name, overrides=[f"datasets.{name}.root={root}"]).extractors["lite0"]
    use_threads(usable_cores())
    backbones = {engine: Backbone.load(extractor.model_copy(update={"engine": engine})) for engine in ENGINES}
    batches = inputs(name, root, backbones["torch"])
    wall: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    cpu = dict.fromkeys(ENGINES, 0.0)
    apart = dict.fromkeys(ENGINES, 0.0)
    for engine in ENGINES:
        backbones[engine].extract(batches[0])
    for batch in batches:
        taps = {}
        for engine in ENGINES:
            started, before = time.perf_counter(), time.process_time()
            taps[engine] = backbones[engine].extract(batch)
            wall[engine].append((time.perf_counter() - started) / len(batch))
            cpu[engine] += time.process_time() - before
            apart[engine] = max(apart[engine], difference(taps[engine], taps["torch"], "float32"))
    count = sum(map(len, batches))
    medians = {engine: statistics.median(wall[engine]) for engine in ENGINES}
    for engine in ENGINES:
        print(
            f"{name}, {count} images, {usable_cores()} threads, {engine}: {1e3 * medians[engine]:.1f} ms an image "
            f"(CPU {1e3 * cpu[engine] / count:.1f}), ratio {medians['torch'] / medians[engine]:.2f} "
            f"(CPU {cpu['torch'] / cpu[engine]:.2f}), largest relative difference {apart[engine]:.1e}",
            flush=True,
        )
        assert apart[engine] <= TOLERANCE["float32"]
    assert medians["torch"] / medians["openvino"] > LEAST_RATIO


def one_image_at_a_time(name: str, root: str, count: int = 64) -> None:
    """Time single images, which have one thread."""
    extractor = load_config(name, overrides=[f"datasets.{name}.root={root}"]).extractors["lite0"]
    backbones = {engine: Backbone.load(extractor.model_copy(update={"engine": engine})) for engine in ENGINES}
    batches = inputs(name, root, backbones["torch"])
    wall: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for image in torch.cat(batches)[:count].split(1):
        for engine in ENGINES:
            started = time.perf_counter()
            backbones[engine].extract(image)
            wall[engine].append(time.perf_counter() - started)
    medians = {engine: statistics.median(wall[engine]) for engine in ENGINES}
    told = (f"{engine} {1e3 * own:.1f} ms (ratio {medians['torch'] / own:.2f})" for engine, own in medians.items())
    print(f"{name}, batches of one: {', '.join(told)}", flush=True)


def boards(name: str, root: str, detectors: Sequence[str]) -> None:
    """Compare the leaderboards of some detectors, with the digits that are shown."""
    shown = {}
    with tempfile.TemporaryDirectory() as folder:
        tree = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text(encoding="utf-8"))
        tree["store"]["root"] = str(Path(folder) / "store")
        dataset = tree["datasets"][name]
        del dataset["studies"]
        dataset["root"] = root
        dataset["detectors"] = {
            lane: settings for lane, settings in dataset["detectors"].items() if not detectors or lane in detectors
        }
        for engine in ENGINES:
            tree["compute"] |= {"engine": engine, "device": "cpu"}
            path = Path(folder) / f"{engine}.yaml"
            path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "ad_assets.cli", "materialize", "--config", str(path), name],
                cwd=REPOSITORY,
                env={**os.environ, "DAGSTER_HOME": str(Path(folder) / "home")},
                check=True,
                capture_output=True,
            )
            board = leaderboard(name, path)
            values = board[board["protocol"] == "standard"].set_index(["detector", "category", "metric"])["value"]
            shown[engine] = {key: f"{100 * value:.1f}" for key, value in values.items()}
            print(f"{name}, {engine}: {time.perf_counter() - started:.0f} s, {len(shown[engine])} values", flush=True)
    for engine in ENGINES[1:]:
        other = {key: (value, shown[engine].get(key)) for key, value in shown["torch"].items()}
        differing = {key: pair for key, pair in other.items() if pair[0] != pair[1]}
        # No assertion: where scores all but tie, the last bits of features may order two images otherwise.
        print(f"{name}: {len(differing)} of {len(other)} values of {engine} differ in a digit shown {differing or ''}")


def main() -> None:
    """Measure and print."""
    place, *detectors = sys.argv[1:] or ["demo"]
    with tempfile.TemporaryDirectory() as folder:
        name, root = ("demo", folder) if place == "demo" else ("mtd", place)
        extraction(name, root)
        one_image_at_a_time(name, root)
        boards(name, root, detectors)


if __name__ == "__main__":
    main()
