"""Checks data, weights, store and device of a benchmark file before a run."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

from ad_assets.backbones.backbone import load_backbone
from ad_assets.backbones.reach import reach_of
from ad_assets.backbones.view import View
from ad_assets.backbones.weights import licence_of
from ad_assets.commands.gpu_checks import gpu_checks
from ad_assets.commands.needs_checks import needs_checks
from ad_assets.commands.time_checks import time_checks
from ad_assets.config.benchmark import Benchmark
from ad_assets.prediction.line_outbox import waiting
from ad_assets.settings.compute import usable_cores
from ad_assets.store.contents import Contents, head_damage
from ad_assets.store.records import read_record
from ad_assets.store.store import CorruptArtifactError
from ad_assets.store.tables import read_table
from ad_assets_runtime.geometry import resized_shape
from ad_assets_runtime.images import ImageError

PROBE = "doctor/probe.txt"
RECORDS = ("heads/", "attempts/", "scans/", "known_files/")
TABLE = ".parquet"
DECISIONS = ("admissions/", "decisions/", "champions/")
SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    subject: str
    healthy: bool
    message: str


def examine(benchmark: Benchmark) -> list[Finding]:
    """Check everything that a run of the benchmark file needs."""
    return [
        Finding("benchmark file", True, benchmark.source),
        _store(benchmark),
        _stored_files(benchmark),
        _device(benchmark),
        *(Finding(*check) for check in gpu_checks(benchmark)),
        *_extraction(benchmark),
        *(weights(benchmark, name) for name in benchmark.extractors),
        *(_data(benchmark, name) for name in benchmark.datasets),
        *(finding for name in benchmark.datasets for finding in _views(benchmark, name)),
        *(finding for name in benchmark.datasets for finding in _reaches(benchmark, name)),
        *(finding for name in benchmark.datasets for finding in _false_alarm_rates(benchmark, name)),
        *(Finding(*check) for name in benchmark.datasets for check in needs_checks(benchmark, name)),
        *(Finding(*check) for name in benchmark.datasets for check in time_checks(benchmark, name)),
        *(finding for name in benchmark.datasets for finding in outboxes(benchmark, name)),
    ]


def _store(benchmark: Benchmark) -> Finding:
    store = benchmark.store
    try:
        updates_safely = store.can_update(PROBE)
        store.delete([PROBE])
    except (OSError, ValueError, ImportError) as error:
        return Finding("store", False, f"{store.root} cannot be written: {error}; set store.root to a place that can")
    if not updates_safely:
        return Finding(
            "store",
            False,
            f"{store.root}: the server ignores conditional writes (If-Match, If-None-Match), so one of two "
            "simultaneous decisions would be lost; use a release of it that honours them",
        )
    free = f", {shutil.disk_usage(store.local_path('')).free / 1e9:.0f} GB free" if store.is_local else ""
    return Finding("store", True, f"{store.root}, {store.usage() / 1e6:.0f} MB used{free}")


def _stored_files(benchmark: Benchmark) -> Finding:
    """Check that records can be read and listed files have their sizes; `materialize --verify` reads all content."""
    store, contents = benchmark.store, Contents(benchmark.store)

    def damage_of(path: str) -> str:
        try:
            if path.startswith(DECISIONS):
                store.read_json(path)
                return ""
            if path.endswith(TABLE):
                read_table(store, path)
                return ""
            damage = head_damage(contents, read_record(store, path))
        except FileNotFoundError:  # replaced or removed since the listing
            return ""
        except CorruptArtifactError as error:
            lost = f"{store.location(path)} is damaged: it holds people's decisions, so restore it from a backup"
            return lost if path.startswith(DECISIONS) else str(error)
        return f"{path.removeprefix('heads/')}: {damage}; `ad-assets materialize` rebuilds it" if damage else ""

    try:
        paths = [file.path for prefix in (*RECORDS, *DECISIONS) for file in store.files(prefix)]
        with ThreadPoolExecutor(max_workers=1 if store.is_local else 16) as pool:
            damaged = list(
                filter(None, pool.map(damage_of, [path for path in paths if path.endswith((".json", TABLE))]))
            )
    except (OSError, ValueError, ImportError) as error:
        return Finding("stored files", False, str(error))
    more = f"; and {len(damaged) - SHOWN} more" if len(damaged) > SHOWN else ""
    message = "; ".join(damaged[:SHOWN]) + more
    return Finding(
        "stored files", not damaged, message or f"{len(paths)} records can be read, and the files they list exist"
    )


def _device(benchmark: Benchmark) -> Finding:
    import torch

    try:
        device = benchmark.compute.torch_device(lease=False)
    except RuntimeError as error:
        return Finding("device", False, str(error))
    compute = benchmark.compute
    alone = f"{compute.thread_count()} CPU threads" if compute.thread_count() > 1 else "one CPU thread"
    shared = "set by compute.threads" if compute.threads else f"{usable_cores()} usable, shared by runs at once"
    budget = f"budget {compute.memory_gb} GB"
    if device != "cpu":
        own = f"{compute.device_memory_gb:g} GB" if compute.device_memory_gb else "half of what is free"
        budget += f" in main memory and {own} there"
    return Finding("device", True, f"{device}, {budget}, {alone} a run ({shared}), torch {torch.__version__}")


def _extraction(benchmark: Benchmark) -> Iterator[Finding]:
    """Check that another engine of extraction can be started; whether a cluster answers, the run that needs it sees."""
    extract = benchmark.extract
    if extract.engine == "ray":
        there = find_spec("ray") is not None
        lacks = "the package ray is not installed: pip install 'ad-assets[ray]', or write engine: process"
        where = "started for the run, on this machine" if extract.address == "local" else f"at {extract.address}"
        yield Finding(
            "extraction", there, f"Ray {version('ray')}, {where}" if there else f"extract.engine: ray: {lacks}"
        )


def weights(benchmark: Benchmark, name: str) -> Finding:
    """Check that the backbone of an extractor loads and gives finite features for a grey image, or a grey tile."""
    extractor = benchmark.extractors[name]
    height, width = extractor.input_size
    try:
        backbone = load_backbone(extractor, benchmark.compute)
        taps = backbone.probe()
    except (OSError, ValueError, RuntimeError) as error:
        return Finding(f"extractor {name}", False, str(error))
    facts = f"{extractor.backbone}, {extractor.weights} weights, {extractor.precision}, images {height}x{width}, taps "
    facts += ", ".join(f"{tap} {shape}" for tap, shape in zip(extractor.taps, backbone.tap_shapes, strict=True))
    if licence := licence_of(extractor):
        facts += f"; licence of the weights: {licence}"
    if backbone.engine:
        facts += f"; by {backbone.engine.name}, features within {backbone.engine_difference:.1e} of PyTorch's"
    if not all(bool(each.isfinite().all()) for each in taps):
        return Finding(f"extractor {name}", False, f"{facts}: not all features of a grey image are finite numbers")
    return Finding(f"extractor {name}", True, facts)


def _data(benchmark: Benchmark, name: str) -> Finding:
    dataset = benchmark.datasets[name]
    reader = dataset.reader
    try:
        reader.prepare()
        categories = reader.categories()
        from ad_assets.datasets import ImageFiles
        from ad_assets.datasets.strays import misfits

        listing = ImageFiles(reader.root).listing()
        assigned = reader.assign(sorted(listing))
    except (OSError, ValueError) as error:
        return Finding(f"dataset {name}", False, str(error))
    empty = [category for category in categories if not assigned.get(category)]
    if empty:
        return Finding(
            f"dataset {name}",
            False,
            f"{reader.root} holds no images of: {', '.join(empty)}; is it the right folder?",
        )
    unknown = dataset.unknown_categories(categories)
    if unknown:
        return Finding(f"dataset {name}", False, "; ".join(unknown))
    wrong = [str(problem) for problem in misfits(reader, listing) if problem.severity == "error"]
    if wrong:
        more = f"\n  and {len(wrong) - 5} more" if wrong[5:] else ""
        return Finding(f"dataset {name}", False, "left out " + "\n  left out ".join(wrong[:5]) + more)
    images = sum(len(assigned[category]) for category in categories)
    untested = [name for name in categories if not any(each.split == "test" for each in assigned[name])]
    more = f", ... {len(untested)} in all" if untested[SHOWN:] else ""
    none = f"; no test images of: {', '.join(untested[:SHOWN])}{more}" if untested else ""
    several = "category" if len(categories) == 1 else "categories"
    told = f"{len(categories)} {several}, {images} images in {reader.root}{none}"
    return Finding(f"dataset {name}", True, told)


def _views(benchmark: Benchmark, name: str) -> Iterator[Finding]:
    """What each extractor sees of a dataset's images; a warning for people's own images alone."""
    dataset = benchmark.datasets[name]
    try:
        sizes = _image_sizes(benchmark, name)
    except (OSError, ValueError):  # the folder's own finding says what is wrong with it
        return
    for extractor in dataset.extractors if sizes else ():
        subject = f"view of {name}/{extractor}"
        try:
            _, *grid = load_backbone(benchmark.extractors[extractor], benchmark.compute).tap_shapes[0]
        except (OSError, ValueError, RuntimeError):  # the extractor's own finding says why
            continue
        looks = partial(View.of, benchmark.extractors[extractor], grid=(grid[0], grid[1]))
        said = looks(size for own in sizes.values() for size in own).sentence(extractor)
        # Shapes are compared within a category.
        warned = [(category, looks(own).warning()) for category, own in sizes.items()] if dataset.own_images else []
        found = [f"{category}: {warning}" for category, warning in warned if warning]
        more = f"; and {len(found) - SHOWN} more categories" if len(found) > SHOWN else ""
        yield Finding(subject, True, said + (f"; warning: {'; '.join(found[:SHOWN])}{more}" if found else ""))


def _reaches(benchmark: Benchmark, name: str) -> Iterator[Finding]:
    """How far patches inside a region of interest see beyond its border, against the margin that it has."""
    dataset = benchmark.datasets[name]
    if not dataset.reader.has_regions:
        return
    try:
        sizes = {size for own in _image_sizes(benchmark, name).values() for size in own}
    except (OSError, ValueError):  # the folder's own finding says what is wrong with it
        return
    for each in dataset.extractors if sizes else ():
        extractor = benchmark.extractors[each]
        try:
            reaches = reach_of(load_backbone(extractor, benchmark.compute))
        except (OSError, ValueError, RuntimeError):  # the extractor's own finding says why
            continue
        camera = max(height / resized_shape(height, width, extractor.resize)[0] for height, width in sizes)
        margin = dataset.reader.region_margin
        said = [
            f"{tap} {'further than half of its input' if reach is None else f'{math.ceil(reach * camera)} px'}"
            for tap, reach in zip(extractor.taps, reaches, strict=True)
        ]
        message = f"patches of a tap see so far beyond the region, in camera pixels: {', '.join(said)}"
        if any(reach is None or reach * camera > margin for reach in reaches):
            remedy = "raise it, or read shallower taps"
            message += f"; warning: roi_margin is {margin}, so a defect outside may raise scores inside: {remedy}"
        yield Finding(f"region of {name}/{each}", True, message)


def _image_sizes(benchmark: Benchmark, name: str) -> dict[str, set[tuple[int, int]]]:
    """Category -> height and width of its indexed images; of a category without an index those of its first image."""
    from ad_assets.datasets import ImageFiles
    from ad_assets.graph.stages.image_index import current_index, read_index

    reader = benchmark.datasets[name].reader
    files = ImageFiles(reader.root)
    sizes: dict[str, set[tuple[int, int]]] = {}
    for category, candidates in reader.assign(sorted(files.listing())).items():
        index = current_index(benchmark.store, name, category)
        if index:
            sizes[category] = {(row["height"], row["width"]) for row in read_index(index)}
        for path in [] if index else [candidate.path for candidate in candidates[:1]]:
            with suppress(ImageError):  # `data check` names it
                height, width, _ = reader.decoding.rgb(files.read(path), path).shape
                sizes[category] = {(height, width)}
    return sizes


def _false_alarm_rates(benchmark: Benchmark, name: str) -> Iterator[Finding]:
    """Whether there are nominal images enough for the false alarm rates that a dataset's lanes decide at."""
    from ad_assets.datasets import ImageFiles
    from ad_assets.graph.stages.score_maps import calibration_images
    from ad_assets.metrics.thresholds import images_for_rate, promise

    dataset, evaluation = benchmark.datasets[name], benchmark.evaluation
    if dataset.reader.blind:
        return
    try:
        assigned = dataset.reader.assign(sorted(ImageFiles(dataset.reader.root).listing()))
    except (OSError, ValueError):
        return  # the finding of the dataset says why
    short = []
    for lane, detector in dataset.detectors.items():
        for category in sorted(assigned) if detector.method and not detector.draw_of else ():
            method, most = detector.method_for(category), calibration_images(dataset, detector, category, evaluation)
            train = sum(candidate.split == "train" for candidate in assigned[category])
            scored = min(method.calibration_images(train), most)
            rate = dataset.false_alarm_rate(detector, category, evaluation)
            if scored < images_for_rate(rate):
                raised = "; raise evaluation.calibration_images" if scored == most else ""
                short.append(f"{lane} [{category}]: {promise(scored, rate)}{raised}")
    if short:
        more = f"; and {len(short) - SHOWN} more" if short[SHOWN:] else ""
        yield Finding(f"false alarms of {name}", True, f"warning: {'; '.join(short[:SHOWN])}{more}")


def outboxes(benchmark: Benchmark, name: str) -> Iterator[Finding]:
    """Whether the outboxes of a line can be read, and what lies in them."""
    production = benchmark.datasets[name].production
    for outbox in production.outboxes if production else ():
        subject = f"outbox {outbox}"
        try:
            found = waiting(benchmark, outbox)
        except (OSError, ImportError, ValueError) as error:
            yield Finding(subject, False, f"{error}; production.outboxes of {name} names what a line's computer writes")
            continue
        age = f", the oldest {(time.time() - found.since) / 3600:.1f} hours old" if found.since else ""
        refused = f"; warning: {found.refused} refused, with reasons in {outbox}/refused" if found.refused else ""
        yield Finding(subject, True, f"{found.messages} messages to be taken in{age}{refused}")
