"""The head of the page: command, machine, date, releases, and what is compared how."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from textwrap import fill

from ad_assets.settings.compute import usable_cores
from tests.peers.lanes import MORE, MORE_IMAGES, Dataset
from tests.peers.records import Record

TITLE = """\
# Beside anomalib

Written by `make peers` (`AD_ASSETS_MTD=/path make peers`: the magnetic tiles too); change nothing here by hand."""

TEXT = """\
Both have PatchCore and PaDiM. Both have AnomalyDINO, RAD and SuperADD too, whose transformers' weights are not bundled.

{machine}; this project at commit {commits} with torch {torch}, {versions}; {first} to {last} (UTC). Others used
the machine too: its load was {lowest:.1f} to {highest:.1f} before the runs. Both sides ran in turn, and processor
seconds stand beside those of the clock, which depend on the others.

The same for both: images and split; EfficientNet-Lite0 with this project's bundled weights (features of one input are
{apart:.0e} of the largest apart at most, or nothing is compared), layers `blocks.2` and `blocks.4`; size and
normalisation of the input; part of the patches, or number of channels. {sizes}. Scores are raw, no test image chooses a
threshold, and one code judges both (its AUROC is scikit-learn's to {wrong:.0e} points).

Each run is a process of its own, from nothing: interpreter, images, features, fit, score maps, metrics. This project's
also stores all of it, takes thresholds from left-out nominal images and writes leaderboard and report with pictures.
anomalib's is `Engine.fit` and `Engine.test` with AUROC of images and pixels and AUPRO, without pictures. The same
again, or with {more} images more, it does its first run anew, which stands there: it keeps no features.

Metrics are means over categories, in percent; brackets hold lowest and highest, of metrics of the seeds, of costs of
the runs, whose median is in front. *Apart* is the distance between the two ranges, in points."""


def head(records: Sequence[Record], datasets: Sequence[Dataset], remark: str = "") -> str:
    """Title and introduction, from what the records say of themselves, and a remark on the runs."""
    notes = [record.notes for record in records if record.notes]
    times = sorted(record.when for record in records)
    loads = [record.load for record in records if record.cost]
    seen = {record.dataset for record in records}
    text = TEXT.format(
        machine=_machine(),
        torch=metadata.version("torch"),
        versions=", ".join(sorted({f"anomalib {note['anomalib']} with torch {note['torch']}" for note in notes})),
        commits=", ".join(sorted({str(note["commit"]) for note in notes})),
        first=_minute(times[0]),
        last=_minute(times[-1]),
        lowest=min(loads),
        highest=max(loads),
        apart=max(float(note["features"]) for note in notes),
        wrong=max(float(note["scikit-learn"]) for note in notes),
        sizes="; ".join(f"{each.name.capitalize()}: {_size(each)}" for each in datasets if each.name in seen),
        more=MORE_IMAGES,
    )
    parts = [*text.split("\n\n"), *_unmeasured(records, datasets), *([remark] if remark else [])]
    return "\n\n".join([TITLE, *(fill(part, 120) for part in parts)])


def _unmeasured(records: Sequence[Record], datasets: Sequence[Dataset]) -> list[str]:
    """What a comparison that was cut off lacks."""
    done = {(record.dataset, record.detector) for record in records}
    lacks = [f"{d.name}, {each.name}" for d in datasets for each in d.detectors if (d.name, each.name) not in done]
    asked = {record.run for record in records if record.step == MORE}
    lacks += [
        f"what more than a first run costs: {d.name}, {category}, {each.name}"
        for d in datasets
        for each in d.detectors
        for category in d.reader.categories()
        if each.changed and (d.name, each.name) in done and (d.name, category, each.name, 0) not in asked
    ]
    part = "Written before the end, by `python -m tests.peers --measured`, of pieces. Not measured yet:"
    return [f"{part} {'; '.join(lacks)}."] if lacks else []


def _minute(when: str) -> str:
    return when[:16].replace("T", " ")


def _size(dataset: Dataset) -> str:
    height, width = dataset.extractor.input_size
    return f"{height} x {width} pixels"


def _machine() -> str:
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{usable_cores()} cores ({model}), {memory:.0f} GB, Python {platform.python_version()}"
