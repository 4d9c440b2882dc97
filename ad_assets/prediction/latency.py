"""How long a loaded detector takes for an image, by step: what `Predictor` notes of every batch, over many batches.

Steps: ``decode`` (bytes to normalised pixels; reading the file is left aside), ``backbone``, then ``match`` (the search
in what was learnt) and ``post`` (from what was found to smoothed maps of full size) of methods that match first, else
``score`` for both, summed over the members of an ensemble, and ``fuse``. ``total`` is the time until a batch has come
back. All are seconds of a batch over its images; a device has finished when a step ends.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ad_assets.config.benchmark import Benchmark, Dataset
from ad_assets.datasets.files import ChangedFileError, ImageFiles, read_image_bytes
from ad_assets.graph.stage import read_head
from ad_assets.prediction import DetectorError, Predictor

WARM_UP_BATCHES = 2  # the first compiles kernels and fills the device's caches
LEAST_BATCHES = 5
TOTAL = "total"


@dataclass(frozen=True)
class StepLatency:
    """Milliseconds that a step takes for an image, of batches of one size.

    Args:
        detector: name of the lane.
        category: its category.
        batch_size: images a batch.
        batches: how many were timed.
        step: its name.
        p50_ms: half of the batches take so long at most.
        p95_ms: 95 % of them.
    """

    detector: str
    category: str
    batch_size: int
    batches: int
    step: str
    p50_ms: float
    p95_ms: float


def sample_images(benchmark: Benchmark, dataset: Dataset, category: str, most: int) -> list[bytes]:
    """The files of some test images, evenly spaced over the image index; of training images where none are tested.

    Raises:
        DetectorError: there is no image index, or its images are not where the dataset is.
    """
    head = read_head(benchmark.store, (dataset.name, "image_index"), category)
    artifact = benchmark.store.artifact("image_index", head.version) if head else None
    if artifact is None or not artifact.exists():
        raise DetectorError(f"{dataset.name}/image_index [{category}] is not materialized in {benchmark.store.root}")
    rows = benchmark.store.read_table(artifact.at("index.parquet")).to_pylist()
    rows = [row for row in rows if row["split"] == "test"] or rows
    count = min(most, len(rows))
    files = ImageFiles(dataset.reader.root)
    try:
        return [read_image_bytes(files, rows[number * len(rows) // count]) for number in range(count)]
    except ChangedFileError as error:
        raise DetectorError(f"{dataset.name} [{category}]: {error}") from error
    except OSError as error:
        raise DetectorError(f"{dataset.name}: its images are not in {dataset.reader.root!r}: {error}") from error


def measure(detector: Predictor, images: Sequence[bytes], batch_size: int, count: int) -> list[StepLatency]:
    """Time a detector on batches of one size, after a warm-up.

    Args:
        detector: a loaded one.
        images: files, repeated as needed.
        batch_size: images a batch.
        count: at least so many images are timed, and at least `LEAST_BATCHES` batches.

    Returns:
        A row a step, in the order in which steps are taken, and one for all.

    Raises:
        ImageError: an image cannot be read.
        ValueError: there is no image, or a number is below 1.
    """
    import numpy as np

    if not images or min(batch_size, count) < 1:
        raise ValueError("a latency needs images, and batches of at least one")
    batches = max(LEAST_BATCHES, -(-count // batch_size))
    seconds: dict[str, list[float]] = {}
    for number in range(-WARM_UP_BATCHES, batches):
        batch = [images[(number * batch_size + place) % len(images)] for place in range(batch_size)]
        started = time.perf_counter()
        predictions = list(detector.predict_batch(batch, batch_size=batch_size))
        total = (time.perf_counter() - started) / batch_size
        if number >= 0:
            for step, taken in {**predictions[0].step_seconds, TOTAL: total}.items():
                seconds.setdefault(step, []).append(taken)
    return [
        StepLatency(
            detector.detector,
            detector.category,
            batch_size,
            batches,
            step,
            *(float(value) * 1e3 for value in np.percentile(taken, [50, 95])),
        )
        for step, taken in seconds.items()
    ]


def machine(detector: Predictor) -> dict[str, Any]:
    """What the figures depend on: device, precision, threads, versions."""
    import torch

    from ad_assets.kernels.parallel import threads

    device = detector.compute.torch_device()
    return {
        "device": device,
        **({} if device == "cpu" else {"device_name": torch.cuda.get_device_name(device)}),
        "precision": ", ".join(detector.precisions),
        "threads": threads(),
        "torch": torch.__version__,
        "warm_up_batches": WARM_UP_BATCHES,
    }
