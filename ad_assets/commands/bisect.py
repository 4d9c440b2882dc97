"""``bisect``: the landed batch that made a detector worse."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ad_assets.commands.common import Commands, TerminalLog
from ad_assets.commands.live_progress import live_progress
from ad_assets.datasets.names import plain, plain_name

if TYPE_CHECKING:
    from ad_assets.prediction.bisection import Bisection
    from ad_assets.prediction.won_matches import Win

SHOWN = 10


def add(commands: Commands) -> None:
    """Add the command."""
    bisect = commands.add(
        "bisect",
        _bisect,
        "find the landed batch that made a detector worse, by fits from stored features; changes nothing",
        commands.shared,
    )
    bisect.add_argument("dataset", help="a dataset of the benchmark file")
    bisect.add_argument("detector", help="one of its lanes")
    bisect.add_argument("category", help="one of its categories")
    bisect.add_argument(
        "--metric",
        default="image_auroc",
        help="false_alarms, misses, or a metric of quality, such as image_auroc (default), aupro_0.30",
    )
    bisect.add_argument(
        "--from", dest="first", type=int, default=1, metavar="N", help="version to begin at (default: 1)"
    )
    bisect.add_argument("--to", dest="last", type=int, metavar="N", help="version to end at (default: the newest)")


def _bisect(options: argparse.Namespace) -> int:
    from ad_assets.graph.progress import Progress
    from ad_assets.prediction.bisection import bisect_landings

    with live_progress():
        found = bisect_landings(
            options.dataset,
            options.detector,
            options.category,
            options.metric,
            options.config,
            options.set,
            first=options.first,
            last=options.last,
            report=Progress(TerminalLog(), "bisect"),
        )
    for line in _lines(found):
        print(plain(line))
    return 0


def _lines(found: Bisection) -> Iterator[str]:
    metric = found.metric
    yield f"{metric.heading} of {'/'.join(found.place[:2])} [{found.place[2]}] on today's test images:"
    for probe in found.probes:
        mark = "  <- with the batch" if probe == found.after else "  <- before it" if probe == found.before else ""
        how = "found in the store" if probe.found else f"{probe.seconds:.1f} s"
        value = metric.text(probe.value)
        yield f"  version {probe.number}  {probe.when}  {probe.images} images  {value}  ({how}){mark}"
    yield (
        f"{found.fits} fits from scratch (the line's own states may have been updated instead), no image through a "
        f"backbone, {found.seconds:.0f} s"
    )
    if found.before is None or found.after is None:
        yield (
            "nothing dropped: no version that was fitted is better than the last; narrow with --from and --to to look "
            "at a part of the history (ad-assets data history)"
        )
    else:
        yield from _batch(found, metric.text(found.before.value), metric.text(found.after.value))
    yield from (f"note: {note}" for note in found.notes)


def _batch(found: Bisection, before: str, after: str) -> Iterator[str]:
    numbers = found.batch
    which = f"version {numbers[0]}" if len(numbers) == 1 else f"one of versions {numbers[0]} to {numbers[-1]}"
    when = found.after.when if found.after else ""
    yield f"{found.metric.title} went from {before} to {after} with {which} ({when}):"
    for sign, images in (("+", found.added), ("-", found.removed)):
        yield from (f"  {sign} {image.image_id[:12]}  {plain_name(image.path)}" for image in images[:SHOWN])
        if len(images) > SHOWN:
            yield f"  {sign} ... and {len(images) - SHOWN} more"
    if None not in found.thresholds:
        yield f"the threshold on image scores went from {found.thresholds[0]:.4g} to {found.thresholds[1]:.4g}"
    if found.alarms:
        names = ", ".join(map(plain_name, found.alarms[:SHOWN]))
        more = ", ..." if len(found.alarms) > SHOWN else ""
        yield f"new false alarms: {names}{more}"
        yield "good images can do this: those that resemble each other lower the threshold; look at them first"
    paths = {image.image_id: image.path for image in found.added}
    for win in found.wins[:SHOWN]:
        yield f"  {plain_name(paths[win.image_id])} matches {_words(win)}"
    if found.reject:
        which = "those that matched most" if found.wins else "the batch"
        yield f"to never train on {which}, once a person has looked at them:"
        yield f"  {found.reject}"


def _words(win: Win) -> str:
    (row, column), (to_row, to_column), grid = win.test_place, win.train_place, "{} x {}".format(*win.grid)
    return (
        f"{win.patches} of the hottest patches of {win.images} anomalous test image(s), such as {win.example[:12]} at "
        f"row {row}, column {column} of {grid}: distance {win.distances[0]:.4g} before, {win.distances[1]:.4g} to its "
        f"row {to_row}, column {to_column}"
    )
