"""Does a sign that reads nominal images alone tell which settings of a detector that trains are better?

    python -m tests.benchmarks.bench_trained simplenet|fod [--mtd /path/to/mtd] [--seeds 3] [--only SET ...]
        [--variants VARIANT ...]

A share of the nominal training images is held out. *Sign* is how well a detector that was trained on the others tells
them from the same images with faint defects drawn into them (`datasets/synthetic.py`): an image AUROC without a test
image. Beside it stands the image AUROC on the test images, of which nothing is chosen. Sets are the demo's categories,
and Magnetic Tile Defects with 48 and 200 training images (a quarter of the epochs: about as many steps), 40 held out,
100 good and 140 defective ones for the test. FOD reads the tap at 1/16 alone, as in `demo_trained_studies.yaml`.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ad_assets.backbones.backbone import Backbone, load_backbone
from ad_assets.config.load import load_config
from ad_assets.datasets import build_index
from ad_assets.datasets.synthetic import synthetic_anomalies
from ad_assets.methods import METHODS, Batch, Runtime
from ad_assets.metrics.ranking import auroc
from tests.support.tap_features import tap_features

RUNTIME = Runtime(memory_gb=2)
MANY = 100  # images, beyond which a training has a quarter of the epochs
STRENGTHS = (1, 2)  # of the drawn defects: the faint ones
SHARED: dict[str, dict[str, Any]] = {"simplenet": {"pooling": "concat"}, "fod": {"widths": [128]}}
# Departures from the preset `quick`. Twenty epochs of all patches, four images a step, are as many steps and patches.
VARIANTS: dict[str, dict[str, Mapping[str, Any]]] = {
    "simplenet": {
        "quick": {},
        **{f"noise {sigma:g}": {"noise_sigma": sigma} for sigma in (0.1, 0.25, 1.0)},
        "noise 0.25, whole images": {
            "noise_sigma": 0.25,
            "epochs": 20,
            "batch_size": 4,
            "patches_per_image": None,
        },
    },
    "fod": {
        "quick": {},
        "5 epochs": {"epochs": 5},
        "40 epochs": {"epochs": 40},
        "absolute unit": {"unit": "absolute"},
        "inter alone": {"intra": False},
        "intra alone": {"inter": False},
    },
}


@dataclass(frozen=True)
class Pictures:
    """One set: RGB images, and which test images are defective."""

    train: list[np.ndarray]
    held_out: list[np.ndarray]
    test: list[np.ndarray]
    labels: list[int]


def _opened(paths: Sequence[Path]) -> list[np.ndarray]:
    return [np.array(Image.open(path).convert("RGB")) for path in paths]


def tiles(root: Path) -> Pictures:
    """Of Magnetic Tile Defects, drawn once."""
    files = sorted(root.glob("MT_*/Imgs/*.jpg"))
    good, defects = ([each for each in files if ("MT_Free" in str(each)) == free] for free in (True, False))
    good, defects = random.Random(0).sample(good, 340), random.Random(1).sample(defects, 140)  # noqa: S311
    test = _opened(good[240:] + defects)
    return Pictures(_opened(good[:200]), _opened(good[200:240]), test, [0] * 100 + [1] * 140)


def demo(category: str) -> Pictures:
    """Of the demo, every sixth training image held out."""
    reader = load_config("demo_trained").datasets["demo"].reader
    rows = build_index(reader, category).rows
    path = {
        split: [Path(reader.root) / row["path"] for row in rows if row["split"] == split] for split in ("train", "test")
    }
    train = [each for number, each in enumerate(path["train"]) if number % 6]
    labels = [row["label"] for row in rows if row["split"] == "test"]
    return Pictures(_opened(train), _opened(path["train"][::6]), _opened(path["test"]), labels)


def _taps(backbone: Backbone, images: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """The last two taps of images, each (N, C, h, w) float32."""
    parts = [
        [
            tap.half()
            for tap in backbone.extract(torch.stack([backbone.preprocess(each) for each in images[at : at + 16]]))
        ]
        for at in range(0, len(images), 16)
    ]
    return [torch.cat(tap).float() for tap in list(zip(*parts, strict=True))[1:]]


@dataclass(frozen=True)
class Taps:
    """Taps of the images of one set, and the size of maps."""

    train: list[torch.Tensor]
    held_out: list[torch.Tensor]
    drawn: list[torch.Tensor]
    test: list[torch.Tensor]
    labels: list[int]
    map_size: tuple[int, int]


def sets(mtd: Path | None, only: Sequence[str]) -> Iterator[tuple[str, Taps]]:
    """By name, one after the other."""
    for name in ("board", "brick", "grass", "gravel", "tiles"):
        if (only and not any(each.startswith(name) for each in only)) or (name == "tiles" and mtd is None):
            continue
        benchmark = load_config("mtd_trained" if name == "tiles" else "demo_trained")
        extractor = benchmark.extractors["lite0"]
        backbone = load_backbone(extractor, benchmark.compute)
        pictures = tiles(mtd) if name == "tiles" and mtd else demo(name)
        drawn = [
            anomaly.rgb
            for number, rgb in enumerate(pictures.held_out)
            for anomaly in synthetic_anomalies(rgb, f"{number:064x}")
            if anomaly.strength in STRENGTHS
        ]
        train, held_out, defective, test = (
            _taps(backbone, images) for images in (pictures.train, pictures.held_out, drawn, pictures.test)
        )
        for count in (48, 200) if name == "tiles" else (len(pictures.train),):
            shown = f"tiles_{count}" if name == "tiles" else name
            if not only or shown in only:
                part = [tap[:count] for tap in train]
                yield shown, Taps(part, held_out, defective, test, pictures.labels, extractor.map_size)


def _read(name: str, taps: list[torch.Tensor]) -> list[torch.Tensor]:
    return taps[1:] if name == "fod" else taps


def measured(name: str, options: Mapping[str, Any], images: Taps) -> tuple[float, float, float]:
    """Sign and test AUROC, and CPU seconds of the fit."""
    settings = {**METHODS[name].presets["quick"], **options}
    if len(images.train[0]) > MANY:
        settings["epochs"] = max(1, settings["epochs"] // 4)
    method = METHODS[name](**settings)
    started, train = time.process_time(), tap_features(_read(name, images.train))
    state = method.fit(train, RUNTIME)
    seconds = time.process_time() - started
    state = method.prepare(state, train, RUNTIME)
    # SimpleNet's image scores are those of patches: no map is needed.
    size = images.map_size if name == "fod" else (images.train[0].shape[2], images.train[0].shape[3])

    def scores(taps: list[torch.Tensor]) -> np.ndarray:
        parts = zip(*(tap.split(16) for tap in _read(name, taps)), strict=True)
        return torch.cat([method.score(state, Batch(list(part), size), RUNTIME).image_scores for part in parts]).numpy()

    good, drawn = scores(images.held_out), scores(images.drawn)
    sign = auroc(np.concatenate([good, drawn]), [0] * len(good) + [1] * len(drawn))
    return sign, auroc(scores(images.test), images.labels), seconds


def main() -> None:
    """Print a row for each set and variant: means over seeds, and sample standard deviations."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=VARIANTS)
    parser.add_argument("--mtd", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--variants", nargs="*", default=[])
    given = parser.parse_args()
    for name, images in sets(given.mtd, given.only):
        for variant, options in VARIANTS[given.method].items():
            if given.variants and variant not in given.variants:
                continue
            seeded = [{**SHARED[given.method], **options, "seed": seed} for seed in range(given.seeds)]
            rows = np.array([measured(given.method, each, images) for each in seeded])
            mean, spread = rows.mean(axis=0), rows.std(axis=0, ddof=min(1, len(rows) - 1))
            print(
                f"| {name} | {variant} | {100 * mean[0]:.1f} ±{100 * spread[0]:.1f} | "
                f"{100 * mean[1]:.1f} ±{100 * spread[1]:.1f} | {mean[2]:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
