"""Latency of a loaded detector, of its bundle, and of a server of that, per image and step.

Steps: ``decode`` (bytes to normalised pixels, without reading the file), ``backbone``, then ``match`` (nearest
    neighbour search) and ``post`` (matches to smoothed maps of full size) for methods that match, else ``score`` for
    both, summed over the members of an ensemble, and ``fuse``. ``total`` is the wall time of a batch. All are divided
    by the number of images; the device is synchronised at the end of each step. A bundle has ``decode`` (bytes to
    pixels), ``score`` (all from resizing to the map) and ``total``, image by image. A server has ``total`` alone: from
    the request of one client on the same computer to the whole answer.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ad_assets.config.benchmark import Benchmark, Dataset
from ad_assets.datasets.files import ChangedFileError, ImageFiles, read_image_bytes
from ad_assets.graph.stages.image_index import current_index, read_index
from ad_assets.prediction import DetectorError, Predictor

if TYPE_CHECKING:
    import uvicorn

    from ad_assets_runtime.bundle import Bundle

WARM_UP_BATCHES = 2  # the first compiles kernels and fills the device's caches
LEAST_BATCHES = 5
ANSWER_SECONDS = 60.0
TOTAL = "total"


@dataclass(frozen=True)
class StepLatency:
    """Milliseconds per image of one step, at one batch size.

    Args:
        detector: name of the detector.
        category: its category.
        batch_size: images per batch.
        batches: number of timed batches.
        step: name of the step.
        p50_ms: median over batches.
        p95_ms: 95th percentile over batches.
        p99_ms: 99th percentile over batches.
        by: what predicts: ``product`` (`Predictor`), ``bundle`` (the runtime of a line's computer) or ``server`` (that
            runtime's, asked over loopback).
    """

    detector: str
    category: str
    batch_size: int
    batches: int
    step: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    by: str = "product"


def sample_images(benchmark: Benchmark, dataset: Dataset, category: str, most: int) -> list[bytes]:
    """The bytes of up to `most` test images, evenly spaced over the image index; of training images without any.

    Raises:
        DetectorError: there is no image index, or its images cannot be read.
    """
    index = current_index(benchmark.store, dataset.name, category)
    if index is None:
        raise DetectorError(f"{dataset.name}/image_index [{category}] is not materialized in {benchmark.store.root}")
    rows = read_index(index)
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
        detector: a loaded detector.
        images: bytes of image files, repeated as needed.
        batch_size: images per batch.
        count: least number of images to time; at least `LEAST_BATCHES` batches are timed.

    Returns:
        One row per step in the order of the steps, and one for the total.

    Raises:
        ImageError: an image cannot be read.
        ValueError: there is no image, or a number is below 1.
    """
    if not images or min(batch_size, count) < 1:
        raise ValueError("latency needs at least one image, and a batch size and count of at least 1")
    batches = max(LEAST_BATCHES, -(-count // batch_size))
    seconds = _Seconds()
    for number in range(-WARM_UP_BATCHES, batches):
        batch = [images[(number * batch_size + position) % len(images)] for position in range(batch_size)]
        started = time.perf_counter()
        predictions = list(detector.predict_batch(batch, batch_size=batch_size))
        total = (time.perf_counter() - started) / batch_size
        if number >= 0:
            seconds.add(predictions[0].step_seconds, total)
    return seconds.rows(detector.detector, detector.category, batch_size, batches)


def stored_bundle(benchmark: Benchmark, dataset: Dataset, lane: str, category: str) -> Bundle | None:
    """The newest bundle of a lane, on as many threads as the product; None where it has none.

    Raises:
        DetectorError: it does not open on this machine.
    """
    from ad_assets.graph.stages.bundle import KIND, read_bundle
    from ad_assets.kernels.parallel import threads
    from ad_assets_runtime.bundle import BundleError, load_bundle

    head = benchmark.store.read_head((dataset.name, lane, KIND), category)
    if head is None:
        return None
    files = read_bundle(benchmark.store.artifact(KIND, head["version"]))
    try:
        return load_bundle(files.__getitem__, threads=threads())
    except BundleError as error:
        raise DetectorError(f"{dataset.name}/{lane}/{KIND} [{category}]: {error}") from error


def measure_bundle(bundle: Bundle, images: Sequence[bytes], count: int) -> list[StepLatency]:
    """Time a bundle on single images, after a warm-up; else as `measure`."""
    count = max(LEAST_BATCHES, count)
    seconds = _Seconds()
    for number in range(-WARM_UP_BATCHES, count):
        started = time.perf_counter()
        prediction = bundle.predict(images[number % len(images)])
        total = time.perf_counter() - started
        if number >= 0:
            seconds.add(prediction.step_seconds, total)
    _, lane, category = bundle.place
    return seconds.rows(lane, category, 1, count, by="bundle")


def measure_server(bundle: Bundle, images: Sequence[bytes], count: int) -> list[StepLatency]:
    """Time a server of a bundle alone, which ends and leaves nothing behind; else as `measure_bundle`.

    Raises:
        ImportError: what the server needs is not installed.
        RuntimeError: it does not answer as it should.
    """
    from ad_assets_runtime.champions import OneBundle
    from ad_assets_runtime.server.run import server_of
    from ad_assets_runtime.server.settings import ServerSettings

    dataset, lane, category = bundle.place
    path = f"/v1/{quote(dataset)}/{quote(category)}/predict"
    count = max(LEAST_BATCHES, count)
    seconds = _Seconds()
    with tempfile.TemporaryDirectory() as home:
        server = server_of(ServerSettings(Path(home), port=0), OneBundle(bundle))
        thread = Thread(target=server.run, name="server", daemon=True)
        thread.start()
        try:
            client = HTTPConnection("127.0.0.1", _port_of(server, thread), timeout=ANSWER_SECONDS)
            for number in range(-WARM_UP_BATCHES, count):
                started = time.perf_counter()
                client.request("POST", path, images[number % len(images)])
                answer = client.getresponse()
                said = answer.read()
                total = time.perf_counter() - started
                if answer.status != 200:
                    raise RuntimeError(f"the server answered {answer.status}: {said[:200].decode(errors='replace')}")
                if number >= 0:
                    seconds.add({}, total)
            client.close()
        finally:
            server.should_exit = True
            thread.join(ANSWER_SECONDS)
    return seconds.rows(lane, category, 1, count, by="server")


def _port_of(server: uvicorn.Server, thread: Thread) -> int:
    """The port that a server was given, once it listens."""
    ends = time.monotonic() + ANSWER_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > ends:
            raise RuntimeError("the server did not start")
        time.sleep(0.01)
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


class _Seconds:
    """Seconds an image, by step, of some batches."""

    def __init__(self) -> None:
        self._taken: dict[str, list[float]] = {}

    def add(self, steps: Mapping[str, float], total: float) -> None:
        for step, seconds in {**steps, TOTAL: total}.items():
            self._taken.setdefault(step, []).append(seconds)

    def rows(
        self, detector: str, category: str, batch_size: int, batches: int, *, by: str = "product"
    ) -> list[StepLatency]:
        import numpy as np

        found = []
        for step, taken in self._taken.items():
            p50, p95, p99 = (float(each) * 1e3 for each in np.percentile(taken, [50, 95, 99]))
            found.append(StepLatency(detector, category, batch_size, batches, step, p50, p95, p99, by))
        return found


def machine(detector: Predictor) -> dict[str, Any]:
    """What latencies depend on: device, precision, threads, versions."""
    import torch

    from ad_assets.kernels.parallel import threads

    device = detector.compute.torch_device(lease=False)
    return {
        "device": device,
        **({} if device == "cpu" else {"device_name": torch.cuda.get_device_name(device)}),
        "precision": ", ".join(detector.precisions),
        "engine": ", ".join(detector.engines),
        "threads": threads(),
        "torch": torch.__version__,
        "warm_up_batches": WARM_UP_BATCHES,
    }
