"""What features cost where there are many: bytes, writes and processor seconds an image, measured; of a plant, a year.

``python -m tests.benchmarks.bench_plant`` prints the tables of docs/plant.md. Prices are a public list's, see there.
"""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ad_assets.config.parse import SectionParser
from ad_assets.graph.build import materialize
from ad_assets.graph.lanes import stages_of
from ad_assets.kernels.parallel import use_threads
from tests.support.bench_graph import LITE0

LOG = logging.getLogger(__name__)
IMAGES, SIDE = 32, 1024
PRODUCTS, IMAGES_EACH = 2_000, 25_000
FITS = 12  # how often a year all features are read
TAPS = {
    "EfficientNet-Lite0, 256": {**LITE0, "resize": [256, 256]},
    "WideResNet50, 224": {
        "backbone": "wide_resnet50_2",
        "weights": "random(0)",
        "taps": ["layer2", "layer3"],
        "resize": [224, 224],
    },
}


@dataclass(frozen=True)
class Prices:
    """US dollars."""

    gb_month: tuple[tuple[float, float], ...] = ((50e3, 0.023), (450e3, 0.022), (float("inf"), 0.021))  # up to GB
    write: float = 0.005 / 1000
    read: float = 0.0004 / 1000
    core_hour: float = 0.0816 / 2
    gpu_hour: float = 1.006

    def storage(self, gigabytes: float) -> float:
        """Of a year.

        >>> round(Prices().storage(600e3))
        157800
        """
        cost, left = 0.0, gigabytes
        for size, price in self.gb_month:
            cost += 12 * price * min(left, size)
            left -= min(left, size)
        return cost


@dataclass(frozen=True)
class Unit:
    """What one image takes."""

    stored: float
    writes: float
    seconds: float


def measure(extractor: dict[str, Any]) -> Unit:
    """Extract features of photographs in process, on one thread; decoding is part of it, loading is not."""
    from skimage.data import chelsea

    from ad_assets.backbones.backbone import load_backbone

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photograph = np.asarray(Image.fromarray(chelsea()).resize((SIDE, SIDE)))
        for number in range(IMAGES):
            path = root / "images/part/train/good" / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.roll(photograph, 7 * number, axis=1)).save(path)
        tree = {
            "store": {"root": str(root / "store")},
            "compute": {"device": "cpu"},
            "extractors": {"one": extractor},
            "datasets": {
                "parts": {
                    "reader": "folder",
                    "root": str(root / "images"),
                    "detectors": {"bank": {"method": "patchcore", "extractor": "one"}},
                }
            },
        }
        benchmark = SectionParser("bench").benchmark(tree)
        store, compute = benchmark.store, benchmark.compute
        stages = {stage.name: stage for stage in stages_of(benchmark)}
        materialize(stages["parts/image_index"], "part", store, compute, LOG)
        load_backbone(benchmark.extractors["one"], compute).probe()
        begun = time.process_time()
        materialize(stages["parts/features/one"], "part", store, compute, LOG)
        seconds = time.process_time() - begun
        shards = list((root / "store/features").rglob("*.safetensors"))
        return Unit(sum(file.stat().st_size for file in shards) / IMAGES, len(shards) / IMAGES, seconds / IMAGES)


def main() -> None:
    """Print the tables."""
    use_threads(1)
    units = {
        f"{name}, {storage}": measure({**extractor, "storage": storage})
        for name, extractor in TAPS.items()
        for storage in ("float32", "float16")
    }
    print("| features | kB an image | writes an image | processor seconds an image |\n|---|---|---|---|")
    for name, unit in units.items():
        print(f"| {name} | {unit.stored / 1e3:,.0f} | {unit.writes:.3f} | {unit.seconds:.3f} |")
    prices, images = Prices(), prod((PRODUCTS, IMAGES_EACH))
    print(f"\n{images:,} images, dollars a year:\n")
    print("| features | TB | storage | writes | reads of images, once | reads of features | core hours | of cores |")
    print("|---|---|---|---|---|---|---|---|")
    for name, unit in units.items():
        gigabytes, hours = unit.stored * images / 1e9, unit.seconds * images / 3600
        writes, reads = unit.writes * images, unit.writes * images * FITS
        costs = (prices.storage(gigabytes), writes * prices.write, images * prices.read, reads * prices.read)
        cells = " | ".join(f"{cost:,.0f}" for cost in costs)
        print(f"| {name} | {gigabytes / 1e3:,.1f} | {cells} | {hours:,.0f} | {hours * prices.core_hour:,.0f} |")
    print("\nGPU hours and dollars at so many images a second of one GPU:\n")
    print("| images/s | hours | dollars |\n|---|---|---|")
    for rate in (100, 300, 1000):
        print(f"| {rate:,} | {images / rate / 3600:,.0f} | {images / rate / 3600 * prices.gpu_hour:,.0f} |")


if __name__ == "__main__":
    main()
