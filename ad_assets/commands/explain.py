"""``explain``: the training images behind the score of one image, as a picture and as numbers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ad_assets.commands.common import Commands, TerminalLog
from ad_assets.config.load import ConfigError
from ad_assets.datasets.names import plain_name

if TYPE_CHECKING:
    from ad_assets.prediction.explanation import Explanation, LeftOut
    from ad_assets.prediction.explanation_files import KnownImages


def add(commands: Commands) -> None:
    """Add the command."""
    text = "show the training images that an image's hottest place is compared with, side by side"
    explain = commands.add("explain", _explain, text, commands.shared)
    explain.add_argument("dataset", help="a dataset of the benchmark file")
    explain.add_argument("detector", help="one of its lanes: a memory bank, SPADE, RAD, SuperADD or HETMM")
    explain.add_argument("category", help="one of its categories")
    explain.add_argument("image", help="a file, or an indexed image: its path, file name or the beginning of its id")
    explain.add_argument(
        "--at", type=_point, metavar="X,Y", help="this place, in pixels (default: the hottest, within its mask if any)"
    )
    explain.add_argument(
        "--out", type=Path, default=Path("explanation"), metavar="DIR", help="folder to write to (default: explanation)"
    )


def _explain(options: argparse.Namespace) -> int:
    from ad_assets.graph.progress import Progress
    from ad_assets.prediction import load_detector
    from ad_assets.prediction.explanation import explain
    from ad_assets.prediction.explanation_files import KnownImages, write_explanation
    from ad_assets.prediction.lookup import Lookup

    lookup = Lookup.of(options.config, options.set)
    dataset = lookup.dataset(options.dataset)
    names = (options.dataset, options.detector, options.category)
    detector = load_detector(
        *names, options.config, options.set, report=Progress(TerminalLog(), "explain"), record=False
    )
    joined = lookup.categories(dataset) if lookup.detector(dataset, options.detector).joins else ()
    known = KnownImages(lookup.benchmark.store, dataset, detector.category, joined)
    path = Path(options.image)
    indexed = None if path.is_file() else known.find(options.image)
    if indexed is None and not path.is_file():
        raise ConfigError(
            f"{plain_name(options.image)}: no such file, and no image of {options.category} has this name"
        )
    data = known.data(indexed) if indexed else path.read_bytes()
    image_id = indexed or known.id_of(data)
    defect = known.defect(image_id) if image_id and not options.at else None
    explanation = explain(
        detector, data, at=options.at, defect=defect, name=known.path(indexed) if indexed else str(path)
    )
    culprit = explanation.culprit.image_id
    reject = lookup.reject_command(dataset, known.category(culprit), {culprit: known.path(culprit) or culprit})
    written = write_explanation(options.out, explanation, detector, known, reject)
    for line in _lines(explanation, known, reject):
        print(line)
    print(f"written: {written[0]}, {written[1]}")
    return 0


def _lines(explanation: Explanation, known: KnownImages, reject: str) -> Iterator[str]:
    prediction = explanation.prediction
    decision = {None: "no threshold", True: "anomalous", False: "nominal"}[prediction.anomalous]
    threshold = "" if prediction.threshold is None else f", threshold {prediction.threshold:.4g}"
    yield f"{plain_name(prediction.name)}: score {prediction.score:.4g}{threshold}: {decision}"
    x, y = explanation.place
    yield f"{explanation.chosen}: {x:.0f},{y:.0f}, where the map has up to {explanation.peak:.4g}; nearest to it:"
    for source in explanation.sources:
        layer = f"  layer {source.layer}" if source.layer else ""
        yield f"  distance {source.distance:.4g}  {_name(known, source.image_id)}{layer}"
    for each in explanation.left_out:
        yield f"without {_name(known, each.image_id)}: {_outcome(each)}"
    yield "to never train on the first of these, once a person has looked at it:"
    yield f"  {plain_name(reject)}"
    yield "(no other patch was selected in place of its own, and the threshold stays: the next fit may differ a little)"


def _outcome(each: LeftOut) -> str:
    decision = {None: "", True: ": anomalous", False: ": nominal"}[each.anomalous]
    return f"up to {each.peak:.4g} there, image score {each.score:.4g}{decision}"


def _name(known: KnownImages, image_id: str) -> str:
    return plain_name(known.path(image_id) or image_id[:12])


def _point(text: str) -> tuple[float, float]:
    x, _, y = text.partition(",")
    try:
        return float(x), float(y)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give x and y in pixels, such as 120,48") from None
