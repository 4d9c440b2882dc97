"""What would fail, before it does: data, weights, store and device of a benchmark file."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ad_assets.benchmark import Benchmark
from ad_assets.extractor import Extractor
from resources.backbones import load_backbone

PROBE = "doctor/probe.txt"


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    subject: str
    healthy: bool
    message: str


def examine(benchmark: Benchmark) -> list[Finding]:
    """Look at everything that a run of the benchmark file needs."""
    return [
        Finding("benchmark file", True, benchmark.source),
        _store(benchmark),
        _device(benchmark),
        *(weights(benchmark, name) for name in benchmark.extractors),
        *(_data(benchmark, name) for name in benchmark.datasets),
    ]


def _store(benchmark: Benchmark) -> Finding:
    store = benchmark.store
    try:
        keeps_apart = store.can_update(PROBE)
        store.delete([PROBE])
    except (OSError, ValueError, ImportError) as error:
        return Finding("store", False, f"{store.root} cannot be written: {error}; set store.root to a place that can")
    if not keeps_apart:
        return Finding(
            "store",
            False,
            f"{store.root}: the server overwrites what a condition (If-Match, If-None-Match) protects, so decisions of "
            "two people at once would be lost; use a release of it that honours conditional writes",
        )
    free = f", {shutil.disk_usage(store.root).free / 1e9:.0f} GB free" if store.is_local else ""
    return Finding("store", True, f"{store.root}, {store.usage() / 1e6:.0f} MB used{free}")


def _device(benchmark: Benchmark) -> Finding:
    try:
        device = benchmark.compute.torch_device()
    except RuntimeError as error:
        return Finding("device", False, str(error))
    return Finding("device", True, f"{device}, budget {benchmark.compute.memory_gb} GB")


def weights(benchmark: Benchmark, name: str) -> Finding:
    """Whether the backbone of an extractor can be loaded."""
    extractor = benchmark.extractors[name]
    try:
        load_backbone(extractor, benchmark.compute)
    except (OSError, ValueError, RuntimeError) as error:
        return Finding(f"extractor {name}", False, str(error))
    return Finding(
        f"extractor {name}",
        True,
        f"{extractor.backbone}, {extractor.weights} weights, taps {extractor.taps}, {extractor.precision}",
    )


def cached_weights(extractor: Extractor) -> bool:
    """Whether weights lie on this machine, from names alone: loads nothing and asks no hub."""
    if extractor.weights == "hub":
        folder = hub_cache() / f"models--timm--{extractor.backbone}" / "snapshots"
        return any(folder.glob("*/*.safetensors")) or any(folder.glob("*/*.bin"))
    return True  # a benchmark file whose weights are files or packages does not load without them


def hub_cache() -> Path:
    """Hugging Face's cache, where its own variables say."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def _data(benchmark: Benchmark, name: str) -> Finding:
    reader = benchmark.datasets[name].reader
    try:
        reader.prepare()
        categories = reader.categories()
        from ad_assets.datasets import ImageFiles

        assigned = reader.assign(sorted(ImageFiles(reader.root).listing()))
    except (OSError, ValueError) as error:
        return Finding(f"dataset {name}", False, str(error))
    empty = [category for category in categories if not assigned.get(category)]
    if empty:
        return Finding(
            f"dataset {name}",
            False,
            f"{reader.root} holds no images of: {', '.join(empty)}; is it the right folder?",
        )
    images = sum(len(assigned[category]) for category in categories)
    return Finding(f"dataset {name}", True, f"{len(categories)} categories, {images} images in {reader.root}")
