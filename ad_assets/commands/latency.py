"""``latency``: prediction time per image and step, of the product, of bundles and of their server side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ad_assets.commands.common import Commands

if TYPE_CHECKING:
    from ad_assets.prediction.latency import StepLatency
    from ad_assets_runtime.bundle import Bundle


def add(commands: Commands) -> None:
    """Add the command."""
    latency = commands.add(
        "latency",
        _latency,
        "prediction time per image by step, that of bundles and of their server: median, 95th and 99th percentile",
        commands.shared,
    )
    latency.add_argument("dataset", nargs="?", help="optional if the benchmark file has only one")
    latency.add_argument(
        "--detector", action="append", help="only this detector (may be repeated; default: all of the dataset)"
    )
    latency.add_argument("--category", help="category of the images (default: the first)")
    latency.add_argument(
        "--batch", action="append", type=_number, help="images per batch (may be repeated; default: 1 and 32)"
    )
    latency.add_argument(
        "--images", type=_number, default=32, help="least number of images to time for each batch size (default: 32)"
    )
    latency.add_argument("--out", metavar="FILE", help="write the results as JSON too")


def _latency(options: argparse.Namespace) -> int:
    from ad_assets.prediction import DetectorError, load_detector
    from ad_assets.prediction.latency import machine, measure, measure_bundle, sample_images, stored_bundle
    from ad_assets.prediction.lookup import Lookup
    from ad_assets.store.store import ArtifactStore

    lookup = Lookup.of(options.config, options.set)
    dataset = lookup.dataset(options.dataset)
    undrawn = [name for name, detector in dataset.detectors.items() if detector.draw_of is None]
    lanes = [lookup.detector(dataset, name).name for name in options.detector or undrawn]
    category = options.category or next(iter(lookup.categories(dataset)), None)
    category = lookup.category(dataset, category)
    images = sample_images(lookup.benchmark, dataset, category, options.images)
    rows: list[StepLatency] = []
    setting: dict[str, object] = {}
    status = 0
    width = max(map(len, ("detector", *lanes)))
    for lane in lanes:
        try:
            detector = load_detector(dataset.name, lane, category, options.config, options.set, record=False)
        except DetectorError as error:
            print(f"FAILED {error}", file=sys.stderr)
            status = 1
            continue
        if not setting:
            setting = {"dataset": dataset.name, **machine(detector)}
            print(", ".join(f"{name} {value}" for name, value in setting.items()))
            print(
                f"{'detector':<{width}}  {'by':<7}  {'batch':>5}  {'step':<8}  {'p50 ms':>9}  {'p95 ms':>9}  "
                f"{'p99 ms':>9}  images/s"
            )
        for batch_size in options.batch or (1, 32):
            print(f"{dataset.name}/{lane} [{category}]: batches of {batch_size}", file=sys.stderr)
            measured = measure(detector, images, batch_size, options.images)
            rows += measured
            _show(measured, width)
        try:
            bundle = stored_bundle(lookup.benchmark, dataset, lane, category)
        except DetectorError as error:
            print(f"FAILED {error}", file=sys.stderr)
            status = 1
            continue
        if bundle is not None:
            for measured in (
                measure_bundle(bundle, images, options.images),
                _of_server(bundle, images, options.images),
            ):
                rows += measured
                _show(measured, width)
    if options.out:
        target = Path(options.out)
        store = ArtifactStore(root=str(target.parent))
        store.write_json(target.name, {**setting, "category": category, "rows": [vars(row) for row in rows]})
    return status


def _of_server(bundle: Bundle, images: Sequence[bytes], count: int) -> list[StepLatency]:
    from ad_assets.prediction.latency import measure_server

    try:
        return measure_server(bundle, images, count)
    except ImportError as error:
        print(f"its server is not timed, {error}: pip install 'ad-assets[serve]'", file=sys.stderr)
        return []


def _show(rows: Sequence[StepLatency], width: int) -> None:
    from ad_assets.prediction.latency import TOTAL

    for row in rows:
        rate = f"{1e3 / row.p50_ms:8.1f}" if row.step == TOTAL else ""
        print(
            f"{row.detector:<{width}}  {row.by:<7}  {row.batch_size:>5}  {row.step:<8}  {row.p50_ms:>9.3f}  "
            f"{row.p95_ms:>9.3f}  {row.p99_ms:>9.3f}  {rate}",
            flush=True,
        )


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number
