"""``predict``: scores, decisions and heat maps of new images."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ad_assets.commands.common import Commands, TerminalLog
from ad_assets.commands.live_progress import live_progress
from ad_assets.commands.output import show
from ad_assets.config.load import ConfigError
from ad_assets.datasets.base import shortened
from ad_assets.datasets.names import plain_name
from ad_assets.datasets.strays import counted

if TYPE_CHECKING:
    from ad_assets.graph.progress import Progress
    from ad_assets.prediction import Predictor
    from ad_assets.prediction.files import PredictionWriter
    from ad_assets.prediction.result_tables import PredictionRow
    from ad_assets_runtime.images import ImageError


def add(commands: Commands) -> None:
    """Add the command."""
    predict = commands.add(
        "predict",
        _predict,
        "score new images with a fitted detector; runs no asset. decision: {false_alarm_rate: ...} in the benchmark "
        "file moves the threshold",
        commands.shared,
    )
    predict.add_argument("--dataset", help="dataset of the benchmark file; optional if there is only one")
    predict.add_argument("--detector", help="detector of the dataset; optional if there is only one")
    predict.add_argument("--category", help="category of the dataset; optional if there is only one")
    predict.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="files, folders (searched recursively), or - for a list of paths on stdin",
    )
    predict.add_argument(
        "--out",
        metavar="DIR",
        help="folder for report.html, tables (csv, json, parquet) and pictures",
    )
    predict.add_argument("--json", action="store_true", help="print a JSON object a line in place of the table")
    predict.add_argument(
        "--raw-maps", action="store_true", help="write the score maps too: .npy, float32, in the detector's frame"
    )
    predict.add_argument(
        "--no-record", action="store_true", help="do not record the images as inspections (production datasets)"
    )
    predict.add_argument(
        "--allow-stale", action="store_true", help="use a state that was fitted with other settings or images too"
    )


def _predict(options: argparse.Namespace) -> int:
    from ad_assets.graph.progress import Progress
    from ad_assets.prediction import load_detector
    from ad_assets.prediction.files import PredictionWriter, image_paths, result_names

    if options.raw_maps and not options.out:
        raise ConfigError("--raw-maps needs --out, the folder to write to")
    named = [entry for name in options.images for entry in (_from_stdin() if name == "-" else [name])]
    paths, others = image_paths(named, options.out)
    if not paths:
        held = f" (only {counted(others, 'other file')})" if others else ""
        raise ConfigError(plain_name(f"no image in {shortened(', '.join(named), 300) or 'the list on stdin'}{held}"))
    if others:
        print(
            plain_name(f"{counted(others, 'file')} not read: no image by name, or skipped as clutter"), file=sys.stderr
        )
    _check_there(paths)
    progress = Progress(TerminalLog(), "predict")
    names = (options.dataset, options.detector, options.category)
    stale: bool = options.allow_stale
    detector = load_detector(
        *names,
        options.config,
        options.set,
        allow_stale=stale,
        report=progress,
        record=not options.no_record,
        source="predict",
    )
    progress.note(f"{detector.dataset}/{detector.detector} [{detector.category}] loaded")
    for reason in detector.stale:
        print(f"STALE {reason}", file=sys.stderr)
    print(f"decision: {detector.promise}", file=sys.stderr)
    writer = None
    if options.out:
        writer = PredictionWriter(options.out, detector, result_names(paths), raw_maps=options.raw_maps)
    started = time.perf_counter()
    with live_progress():
        rows = _rows(detector, paths, writer, progress, as_json=options.json)
    if writer:
        writer.finish(rows)
    words = [row.decision for row in rows]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("anomalous", "nominal", "failed") if word in words)
    seconds = time.perf_counter() - started
    print(f"{len(paths)} images{f': {counts}' if counts else ''}; {seconds:.1f} s", file=sys.stderr)
    shapes = {(row.height, row.width) for row in rows if row.height and row.width}
    if shapes:
        print(detector.view(shapes).sentence(detector.detector), file=sys.stderr)
    if writer:
        print(f"written to {options.out}", file=sys.stderr)
    if detector.recorder and detector.recorder.fault:
        print(
            plain_name(f"NOT RECORDED {detector.recorder.lost} inspections: {detector.recorder.fault}"), file=sys.stderr
        )
    return 1 if "failed" in words else 0


def _check_there(paths: Sequence[str]) -> None:
    """Refuse a call of which not one image exists, before a detector is loaded.

    Raises:
        ConfigError: it names them.
    """
    if not any(os.path.lexists(path) for path in paths):
        gone = shortened(", ".join(paths), 300)
        raise ConfigError(plain_name(f"{gone} does not exist: name files or folders of images"))


def _rows(
    detector: Predictor,
    paths: Sequence[str],
    writer: PredictionWriter | None,
    progress: Progress,
    *,
    as_json: bool,
) -> list[PredictionRow]:
    """Predict all images and print one line each; images that cannot be read are reported and skipped."""
    from ad_assets.prediction.result_tables import failed_row, row_of

    rows: dict[str, PredictionRow] = {}
    width = max(len("image"), *(len(plain_name(path)) for path in paths))
    if not as_json:
        print(f"{'image':<{width}}  {'score':>12}  {'threshold':>12}  {'p-value':>12}  decision", flush=True)

    def note(row: PredictionRow) -> None:
        rows[row.image] = row
        numbers = "  ".join(map(_number, (row.score, row.threshold, row.p_value)))
        decided = f", decided by a person on {row.decided[:10]}" if row.decided else ""
        if as_json:
            print(json.dumps({**asdict(row), "decision": row.decision}), flush=True)
        else:
            show(f"{plain_name(row.image):<{width}}  {numbers}  {row.decision}{decided}")
            sys.stdout.flush()
        progress("images", len(rows), len(paths))

    def failed(error: ImageError) -> None:
        print(plain_name(f"FAILED {error}"), file=sys.stderr)
        note(failed_row(error))

    try:
        for prediction, rgb in detector.predict_pictures(paths, failed=failed):
            note(writer.add(prediction, rgb) if writer else row_of(prediction))
    except ConfigError:
        raise
    except ValueError as error:  # such as features that hold NaN
        raise ConfigError(f"{detector.dataset}/{detector.detector} [{detector.category}]: {error}") from error
    return [rows[path] for path in paths]


def _from_stdin() -> list[str]:
    # Lists made on Windows have CRLF line ends and may begin with a byte order mark.
    lines = (line.removeprefix("\ufeff").rstrip("\r\n") for line in sys.stdin)
    return [line for line in lines if line.strip()]


def _number(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.6g'):>12}"
