"""A line under simulation: a folder with images of 8 x 8 pixels, a tiny network, and processes that come and go.

Store, stages, gates, sensor and what the conditions ask (`Graph.is_due`) are the product's own. Dagster's own parts
are left out, for their price: runs are carried out in order as the job of a category does.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import numpy as np
import pytest

import ad_assets.backbones.backbone
import ad_assets.datasets.synthetic
import ad_assets.graph.categories
import ad_assets.graph.graph
import ad_assets.graph.stages.feature_files
import ad_assets.graph.stages.image_index
from ad_assets.backbones.backbone import Backbone, forget_backbones
from ad_assets.config.benchmark import Benchmark
from ad_assets.config.load import load_config
from ad_assets.config.yaml_tree import read_tree
from ad_assets.datasets import ImageFiles
from ad_assets.datasets.base import DatasetError
from ad_assets.datasets.files import ChangedFileError
from ad_assets.defs.landing_sensor import RUN_KEY_TAG, Watch
from ad_assets.graph.build import materialize
from ad_assets.graph.graph import Graph, UpstreamError
from ad_assets.graph.lanes import stages_of
from ad_assets.graph.stage import Slot
from ad_assets.graph.stages.image_index import read_stamps, stamps_path
from ad_assets.graph.stages.known_files import read_known_files, write_known_files
from ad_assets.prediction.new_image_gate import NewImageGate
from ad_assets.store.records import write_record
from tests.lives.disk import Disk, Fault, Killed
from tests.support.bench_graph import write_image

CATEGORY = "bolt"
SIDE = 8
BEGIN = 2_000_000_000.0  # later than any file's change time that the system itself sets
ROUNDS = 8  # of sensor and conditions until nothing is asked for any more
LEFT_OUT = ("category_report", "report")  # pages, which cost more than all else and decide nothing
LOG = logging.getLogger("lives")


def pixels(seed: int, *, defect: bool = False) -> np.ndarray:
    """An image ``(8, 8, 3)`` uint8; nominal ones of any seed look alike."""
    image = np.random.default_rng(seed).integers(100, 140, (SIDE, SIDE, 3)).astype(np.uint8)
    if defect:
        image[2:5, 2:5] = 250
    return image


def settings() -> dict[str, Any]:
    """The benchmark file: a coreset that updates keep, and a template set that equals a fit from scratch."""
    return {
        "store": {"root": "store"},
        "compute": {"device": "cpu", "batch_size": 16, "memory_gb": 1, "threads": 1},
        "extractors": {
            "tiny": {
                "backbone": "tf_efficientnet_lite0",
                "weights": "bundled",
                "taps": ["blocks.2"],
                "resize": [SIDE, SIDE],
            }
        },
        "datasets": {
            "parts": {
                "reader": "folder",
                "root": "images",
                "production": {
                    "settle_seconds": 20,
                    "patience_seconds": 600,
                    "gatekeeper": "bank",
                    "floors": {"image_auroc": 0.2},
                    "margin": 0.05,
                },
                "detectors": {
                    "bank": {"method": "patchcore", "extractor": "tiny", "coreset_ratio": 0.5},
                    "sheets": {"method": "hetmm", "extractor": "tiny", "windows": [3], "sheets": 2},
                },
            }
        },
        "automation": {"mode": "eager"},
    }


class Instance:
    """What the sensor asks of Dagster: runs by their key, partitions, and a store of texts."""

    def __init__(self) -> None:
        self.runs: dict[str, dg.DagsterRunStatus] = {}
        self.partitions: set[str] = {CATEGORY}
        self.texts: dict[str, str] = {}
        self.run_storage = self

    def get_runs(self, filters: dg.RunsFilter, limit: int) -> list[Any]:
        """The run of a key."""
        key = (filters.tags or {})[RUN_KEY_TAG]
        return [SimpleNamespace(status=self.runs[key], run_id=str(key))][:limit] if key in self.runs else []

    def get_dynamic_partitions(self, _: str) -> list[str]:
        """The categories."""
        return sorted(self.partitions)

    def get_cursor_values(self, keys: set[str]) -> dict[str, str]:
        """Texts by key."""
        return {key: self.texts[key] for key in keys & self.texts.keys()}

    def set_cursor_values(self, pairs: dict[str, str]) -> None:
        """Keep texts."""
        self.texts |= pairs


def loaded(folder: Path) -> Benchmark:
    """The benchmark file of a line, with a store that has read nothing."""
    return load_config(folder / "bench.yaml", environ={})


class Process:
    """What one process holds in memory: settings, stages, and what it has read of the store."""

    def __init__(self, folder: Path) -> None:
        self.benchmark = loaded(folder)
        stages = stages_of(self.benchmark, unseen=self.benchmark.datasets, gate=NewImageGate)
        self.stages = [stage for stage in stages if stage.kind not in LEFT_OUT]
        self.store = self.benchmark.store
        self.graph = Graph(self.stages, self.store)

    def make(self, slots: Sequence[Slot], *, verify: bool = False) -> list[Exception]:
        """Materialize asset partitions, upstream first; what reads one that failed is left out, as in a run."""
        failed: dict[Any, Exception] = {}
        for slot in slots:
            stage = self.graph.stages[slot[0]]
            if any(read in failed for read in stage.slots(slot[1])):
                continue
            try:
                materialize(stage, slot[1], self.store, self.benchmark.compute, LOG, verify=verify)
            except Exception as error:  # noqa: BLE001 - judged by the caller
                failed[slot] = error
        return list(failed.values())

    def of_category(self) -> list[Slot]:
        """All that the job of a category makes."""
        return [(stage.key, CATEGORY) for stage in self.stages if stage.partitions is not None]

    def everything(self) -> list[Slot]:
        """The same, and what is over all categories."""
        return [*self.of_category(), *((stage.key, None) for stage in self.stages if stage.partitions is None)]


class Factory:
    """A folder, its store, a clock, and the daemon of Dagster as far as the product sees it.

    Attributes:
        passes: input of the network -> how often it passed.
        faults: how many runs were struck by a fault.
        newest: the latest time at which a file changed, by a clock that people may set back.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder, self.disk = folder, disk
        self.tree = settings()
        self.now = self.newest = BEGIN
        self.cursor: str | None = None
        self.instance = Instance()
        self.asked: list[tuple[str, str]] = []  # runs that wait: key, category
        self.passes: Counter[bytes] = Counter()
        self.faults = 0
        self.daemon: Process

    @property
    def images(self) -> Path:
        """Where images land."""
        return self.folder / "images" / CATEGORY

    def begin(self) -> None:
        """The first images, and all that is made of them."""
        for number in range(5):
            self.put(f"train/good/{number:03}.png", pixels(number))
        for number in range(3):
            self.put(f"test/good/{number:03}.png", pixels(100 + number))
            self.put(f"test/spot/{number:03}.png", pixels(200 + number, defect=True))
            self.mask(f"{number:03}", 5)
        self.configure()
        self.now += 1000
        self.rest()

    def copied(self, folder: Path) -> Factory:
        """The same in another folder, with what is known of its images known of their copies."""
        shutil.copytree(self.folder / "images", folder / "images")
        # Files of a store are replaced and never written into.
        shutil.copytree(self.folder / "store", folder / "store", copy_function=os.link)
        other = Factory(folder, self.disk)
        other.now, other.passes = self.now, Counter(self.passes)
        other.instance.texts = dict(self.instance.texts)
        other.configure()
        store, root = other.daemon.store, str(folder / "images")
        listing = ImageFiles(root).listing()
        indexed = read_stamps(store, "parts", CATEGORY)
        stamps = {path: [listing[path].size, listing[path].stamp] for path in indexed.keys() & listing.keys()}
        write_record(store, stamps_path("parts", CATEGORY), indexed | stamps)
        known = read_known_files(store, str(self.folder / "images"), CATEGORY)
        files = {path: file._replace(stamp=listing[path].stamp) for path, file in known.items()}
        write_known_files(store, root, CATEGORY, files)
        return other

    def configure(self) -> None:
        """Write the benchmark file; the daemon loads it."""
        (self.folder / "bench.yaml").write_text(json.dumps(self.tree))
        self.restart()

    def restart(self) -> None:
        """A new process in place of the daemon: nothing in memory remains."""
        ad_assets.graph.stages.feature_files._CACHE.__init__()  # type: ignore[misc]
        self.daemon = Process(self.folder)

    # What people do in the folder

    def put(self, name: str, image: np.ndarray) -> None:
        """An image, whole."""
        write_image(self.images / name, image)
        self.touch(name)

    def touch(self, name: str) -> None:
        """A file of the category changed just now."""
        os.utime(self.images / name, (self.now, self.now))
        self.newest = max(self.newest, self.now)

    def mask(self, stem: str, side: int) -> None:
        """The mask of a defective test image."""
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[2:side, 2:side] = 255
        self.put(f"ground_truth/spot/{stem}_mask.png", mask)

    # What the daemon does

    def look(self) -> bool:
        """A look of the sensor; whether it asked for a run."""
        dataset, store = self.daemon.benchmark.datasets["parts"], self.daemon.store
        assert dataset.production
        instance: Any = self.instance
        result = Watch(dataset, dataset.production, store, instance, self.now).look(self.cursor)
        self.cursor = result.cursor
        requests = [(str(each.run_key), str(each.partition_key)) for each in result.run_requests or ()]
        self.asked += requests
        return bool(requests)

    def run_asked(self) -> list[Exception]:
        """Carry out the runs that were asked for."""
        errors = []
        while self.asked:
            key, _ = self.asked[0]
            self.instance.runs[key] = dg.DagsterRunStatus.STARTED
            try:
                found = self.daemon.make(self.daemon.of_category())
            except Killed:
                self.instance.runs[key] = dg.DagsterRunStatus.FAILURE  # as the daemon finds out of a dead run
                self.asked.pop(0)
                raise
            status = dg.DagsterRunStatus.FAILURE if found else dg.DagsterRunStatus.SUCCESS
            self.instance.runs[key] = status
            self.asked.pop(0)
            errors += found
        return errors

    def due(self) -> list[Slot]:
        """What the conditions ask for."""
        self.daemon.graph.refresh()
        return [slot for slot in self.daemon.graph.slots() if self.daemon.graph.is_due(slot)]

    def tick(self, fault: Fault | None = None) -> None:
        """One round of the daemon, which a fault may strike; a process that dies is followed by a new one.

        Raises:
            AssertionError: something failed that no fault excuses.
        """
        with self.disk.with_fault(fault):
            try:
                self.look()
                errors = [*self.run_asked(), *self.daemon.make(self.due())]
            except Killed:
                errors = []
                self.restart()
            except OSError as error:  # a tick of a sensor that failed; the next comes
                errors = [error]
        self.faults += self.disk.struck
        # A mask that changed and that no look has found complete yet is not what metrics may be made of.
        unexcused = [e for e in errors if not isinstance(e, DatasetError | UpstreamError | ChangedFileError)]
        if not self.disk.struck and unexcused:
            raise AssertionError(f"{type(unexcused[0]).__name__} without a fault") from unexcused[0]

    def rest(self) -> None:
        """Let time go by until nothing is asked for.

        Raises:
            AssertionError: there is no end to it.
        """
        self.now = max(self.now, self.newest)  # what is from the future rests once it is past
        for _ in range(ROUNDS):
            self.now += 1000
            before = len(self.instance.runs)
            self.tick()
            if len(self.instance.runs) == before and not self.due():
                return
        raise AssertionError(f"no rest after {ROUNDS} rounds: {self.due()}")


def _copied(tree: Any) -> Any:
    """Lists and mappings anew; numbers remember how they were written, and are left as they are."""
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list) else tree


def _tiny(_: Any) -> Any:
    import torch
    from torch import nn

    class Tiny(nn.Module):
        """One layer where the architecture has its tap."""

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Identity(), nn.Identity(), nn.Conv2d(3, 4, 2, 2)])
            made = torch.Generator().manual_seed(0)
            for parameter in self.parameters():
                parameter.data = torch.randn(parameter.shape, generator=made)

        def forward(self, batch: Any) -> Any:
            for block in self.blocks:
                batch = block(batch)
            return batch

    return Tiny()


class Now:
    """The one factory of this moment, whose clock and passes count."""

    factory: Factory | None = None


@contextmanager
def simulated(patch: pytest.MonkeyPatch, disk: Disk) -> Iterator[None]:
    """A block in which networks are tiny, time is that of the present factory, and storage may fail."""

    def time() -> float:
        return Now.factory.now if Now.factory else BEGIN

    clock = SimpleNamespace(time=time, monotonic=time, sleep=lambda _: None)
    for module in (ad_assets.graph.stages.image_index, ad_assets.graph.graph, ad_assets.graph.categories):
        patch.setattr(module, "time", clock)
    patch.setattr(ad_assets.backbones.backbone, "build_model", _tiny)
    # The same few texts and versions again and again, and pictures for people, which decide nothing.
    trees = functools.cache(read_tree)
    patch.setattr("ad_assets.config.load.read_tree", lambda text, _: _copied(trees(text, "bench.yaml")))
    patch.setattr("ad_assets.backbones.extractor.metadata.version", functools.cache(metadata.version))
    patch.setattr("ad_assets.graph.stages.metrics._contact_sheet", lambda *_: b"")
    patch.setattr("ad_assets.report.thumbnails.thumbnail_uri", lambda *_: "")
    patch.setattr("ad_assets.graph.stages.kept_pictures.thumbnail_uri", lambda *_: "")
    # One drawn anomaly is as good as a hundred and forty-four.
    first = dict(list(ad_assets.datasets.synthetic.KINDS.items())[:1])
    patch.setattr(ad_assets.datasets.synthetic, "KINDS", first)
    patch.setattr(ad_assets.datasets.synthetic, "STRENGTHS", (3,))
    patch.setattr("ad_assets.graph.stages.synthetic_anomalies.MOST_IMAGES", 1)
    # No machine loses its power here, and waiting for the disk is a tenth of a life.
    patch.setattr("ad_assets.store.local.os.fsync", lambda _: None)
    start, drawn = Backbone.start, list[Backbone]()

    def for_drawn(extractor: Any, _: Any) -> Backbone:
        if not drawn:
            drawn.append(Backbone.load(extractor))
        return drawn[0]

    def counted(self: Backbone, batch: Any) -> Any:
        if Now.factory and self not in drawn:
            Now.factory.passes.update(image.numpy().tobytes() for image in batch)
        return start(self, batch)

    patch.setattr(Backbone, "start", counted)
    # Images that a stage draws itself are no items that change.
    patch.setattr("ad_assets.graph.stages.synthetic_anomalies.load_backbone", for_drawn)
    disk.install(patch)
    forget_backbones()
    try:
        yield
    finally:
        Now.factory = None
        forget_backbones()
