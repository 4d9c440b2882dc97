"""A small benchmark on generated images, driven through Dagster's own API: what whole-graph tests share."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import dagster as dg
import numpy as np
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from PIL import Image

from ad_assets.config.benchmark import Benchmark
from ad_assets.config.load import load_config
from ad_assets.datasets import ImageFiles
from ad_assets.defs.assets import metadata_of
from ad_assets.defs.build import build_definitions
from ad_assets.defs.partitions import register_categories
from ad_assets.defs.plan import DATA_VERSION_TAG, plan
from ad_assets.defs.runs import Outcome, execute, in_runs
from ad_assets.graph.build import materialize
from ad_assets.graph.graph import Graph
from ad_assets.graph.lanes import stages_of
from ad_assets.graph.stage import Stage
from ad_assets.graph.stages.image_index import read_stamps, stamps_path
from ad_assets.graph.stages.known_files import read_known_files, write_known_files
from ad_assets.prediction.new_image_gate import NewImageGate
from ad_assets.store.records import write_record

Slot = tuple[str, str | None]
SIDE = 64
# The extractor of most tests, without the size that it resizes images to.
LITE0 = {"backbone": "tf_efficientnet_lite0", "weights": "bundled", "taps": ["blocks.2", "blocks.4"]}


def draw_image(seed: int, *, defect: bool = False) -> np.ndarray:
    """A noisy stripe texture, with a bright square if it is to be defective: ``(64, 64, 3)`` uint8."""
    random = np.random.default_rng(seed)
    stripes = 120 + 60 * np.sin(np.arange(SIDE) / 3 + random.uniform(0, 6))
    image = stripes[None, :, None] + random.normal(0, 8, (SIDE, SIDE, 3))
    if defect:
        top, left = random.integers(8, SIDE - 24, 2)
        image[top : top + 14, left : left + 14] = 240
    return np.clip(image, 0, 255).astype(np.uint8)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_dataset(root: Path, categories: Iterable[str] = ("bolt", "nut"), first_seed: int = 1000) -> None:
    """Two small categories in MVTec layout: 6 nominal training images, 3 nominal and 3 anomalous test images."""
    for number, category in enumerate(categories):
        base = first_seed + 1000 * number
        for i in range(6):
            write_image(root / category / "train" / "good" / f"{i:03}.png", draw_image(base + i))
        for i in range(3):
            write_image(root / category / "test" / "good" / f"{i:03}.png", draw_image(base + 100 + i))
            clean, spoilt = draw_image(base + 200 + i), draw_image(base + 200 + i, defect=True)
            write_image(root / category / "test" / "spot" / f"{i:03}.png", spoilt)
            mask = (np.abs(clean.astype(int) - spoilt).max(axis=2) > 0).astype(np.uint8) * 255
            write_image(root / category / "ground_truth" / "spot" / f"{i:03}_mask.png", mask)


def config_tree(folder: Path) -> dict[str, Any]:
    """A benchmark file with one dataset `parts`, two detectors on one extractor."""
    return {
        "store": {"root": str(folder / "store")},
        "compute": {"device": "cpu", "batch_size": 4, "memory_gb": 1},
        "extractors": {
            "lite0": {**LITE0, "resize": [SIDE, SIDE]},
        },
        "datasets": {
            "parts": {
                "reader": "folder",
                "root": str(folder / "images"),
                "detectors": {
                    "small": {
                        "method": "patchcore",
                        "extractor": "lite0",
                        "pooling": "concat",
                        "coreset_ratio": 0.1,
                    },
                    "full": {
                        "method": "patchcore",
                        "extractor": "lite0",
                        "pooling": "concat",
                        "coreset_ratio": 1.0,
                    },
                },
            }
        },
    }


def _copied(instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """An instance in memory with the events, runs and partitions of another."""
    other = dg.DagsterInstance.ephemeral()
    for kind in ("event_log_storage", "run_storage"):
        source, target = (getattr(each, kind)._held_conn.connection for each in (instance, other))
        source.driver_connection.backup(target.driver_connection)
    return other


class Bench:
    """A benchmark file, its graph and a Dagster instance; `set` edits the file and reloads, as a user would."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.folder = folder
        self.instance = instance
        self.tree = config_tree(folder)
        self.benchmark: Benchmark
        self.stages: list[Stage]
        self.reload()

    @classmethod
    def materialized(cls, folder: Path) -> Self:
        """One on images that are drawn into a folder, after its first run."""
        write_dataset(folder / "images")
        bench = cls(folder, dg.DagsterInstance.ephemeral())
        bench.make()
        return bench

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def reload(self) -> None:
        """Load the benchmark file again."""
        path = self.folder / "bench.yaml"
        path.write_text(yaml.safe_dump(self.tree, sort_keys=False))
        self.benchmark = load_config(path, environ={})
        self.stages = stages_of(self.benchmark, unseen=self.benchmark.datasets, gate=NewImageGate)
        self._definitions: dg.Definitions | None = None
        register_categories(self.stages, self.instance)

    @property
    def definitions(self) -> dg.Definitions:
        """What Dagster knows of the benchmark file, made when first asked for: that takes longer than to load it."""
        if self._definitions is None:
            self._definitions, self.stages = build_definitions(self.benchmark)
        return self._definitions

    def copied(self, folder: Path) -> Self:
        """The same in another folder, with all that was materialized: faster than to materialize it again."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        other = copy.copy(self)
        other.folder, other.instance = folder, _copied(self.instance)
        other.tree = yaml.safe_load(yaml.safe_dump(self.tree, sort_keys=False).replace(str(self.folder), str(folder)))
        other.reload()
        # What is known of the images is known of their copies, which have other stamps.
        store, listing = other.benchmark.store, ImageFiles(str(other.images)).listing()
        for category in {path.partition("/")[0] for path in listing}:
            indexed = read_stamps(store, "parts", category)
            stamps = {path: [listing[path].size, listing[path].stamp] for path in indexed.keys() & listing.keys()}
            write_record(store, stamps_path("parts", category), indexed | stamps)
            known = read_known_files(store, str(self.images), category)
            files = {path: file._replace(stamp=listing[path].stamp) for path, file in known.items()}
            write_known_files(store, str(other.images), category, files)
        return other

    def set(self, dotted: str, value: Any) -> None:
        """Change one value of the benchmark file."""
        *sections, key = dotted.split(".")
        node = self.tree
        for section in sections:
            node = node[section]
        node[key] = value
        self.reload()

    def plan(self, **options: Any) -> dict[Slot, str]:
        """What would run: (asset, partition) -> action."""
        return {(s.stage.name, s.partition): s.action for s in self._steps(**options)}

    def run(self, **options: Any) -> tuple[set[Slot], set[Slot]]:
        """Carry out the plan; returns the asset partitions built and those found in the store."""
        before = self._last_storage_id()
        outcome = self.outcome(**options)
        assert not outcome.failures, outcome.failures
        return self.materialized_since(before)

    def make(self, **options: Any) -> tuple[set[Slot], set[Slot]]:
        """What `run` does, in the same order, without runs of Dagster, which take two fifths of it.

        For tests that ask what is made and of what, not how a run goes. The first failure is raised; `stale` knows
        nothing of it, and no check is answered.
        """
        steps = [step for _, members in in_runs(self._steps(**options)) for step in members]
        force, verify = bool(options.get("force")), bool(options.get("verify"))
        return self.make_each(((step.stage, step.partition) for step in steps), force=force, verify=verify)

    def make_each(
        self, slots: Iterable[tuple[Stage, str | None]], *, force: bool = False, verify: bool = False
    ) -> tuple[set[Slot], set[Slot]]:
        """What `make` does with asset partitions in their order."""
        built: set[Slot] = set()
        found: set[Slot] = set()
        store, compute, log = self.benchmark.store, self.benchmark.compute, logging.getLogger(__name__)
        for stage, partition in slots:
            made = materialize(stage, partition, store, compute, log, force=force, verify=verify)
            (found if made.found else built).add((stage.name, partition))
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    list(stage.key),
                    partition=partition,
                    tags={DATA_VERSION_TAG: made.head.version},
                    metadata=metadata_of(made),
                )
            )
        return built, found

    def outcome(self, **options: Any) -> Outcome:
        """Carry out the plan; returns what became of it."""
        force, verify = bool(options.get("force")), bool(options.get("verify"))
        return execute(self._steps(**options), self.definitions, self.instance, force=force, verify=verify)

    def materialize_all(self, category: str) -> tuple[set[Slot], set[Slot]]:
        """What "Materialize all" does in the UI for one partition: run every asset, whatever its state."""
        before = self._last_storage_id()
        keys = [dg.AssetKey(list(s.key)) for s in self.stages if s.partitions is not None]
        job = self.definitions.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(asset_selection=keys, partition_key=category, instance=self.instance).success
        return self.materialized_since(before)

    def stale(self) -> set[Slot]:
        """What the Dagster UI marks as missing or unsynced."""
        resolver = CachingStaleStatusResolver(
            self.instance, self.definitions.resolve_asset_graph(), LoadingContextForTest(self.instance)
        )
        return {
            (stage.name, partition)
            for stage in self.stages
            for partition in (stage.partitions if stage.partitions is not None else (None,))
            if resolver.get_status(dg.AssetKey(list(stage.key)), partition) is not StaleStatus.FRESH
        }

    def files(self, prefix: str = "") -> dict[str, tuple[int, int]]:
        """Stored path -> (inode, mtime) of the file or of its shard: unchanged only where it was not written again."""
        root = Path(self.benchmark.store.root)
        found = {}
        for file in self.benchmark.store.files(prefix):
            stat = (root / (self.benchmark.store.shard_of(file.path) or file.path)).stat()
            found[file.path] = (stat.st_ino, stat.st_mtime_ns)
        return found

    def rows(self, detector: str, category: str) -> dict[tuple[str, str], Any]:
        """The metric rows of one lane, without timings: (protocol, metric) -> value."""
        store = self.benchmark.store
        head = store.read_head(("parts", detector, "metrics"), category)
        assert head is not None
        rows = store.read_json(store.artifact("metrics", head["version"]).at("rows.json"))
        return {(r["protocol"], r["metric"]): r["value"] for r in rows if r["protocol"] != "timing"}

    def _steps(self, **options: Any) -> Any:
        if options.get("selected") is not None:
            options["selected"] = {tuple(key.path) for key in options["selected"]}
        return plan(self.benchmark, Graph(self.stages, self.benchmark.store), self.instance, **options)

    def _last_storage_id(self) -> int:
        return self.instance.event_log_storage.get_maximum_record_id() or 0

    def materialized_since(self, storage_id: int) -> tuple[set[Slot], set[Slot]]:
        """(built, found) by the runs since an event."""
        built: set[Slot] = set()
        found: set[Slot] = set()
        for stage in self.stages:
            key = dg.AssetKey(list(stage.key))
            later = dg.AssetRecordsFilter(asset_key=key, after_storage_id=storage_id)
            for record in self.instance.fetch_materializations(later, limit=1000).records:
                event = record.asset_materialization
                assert event is not None
                name = "/".join(event.asset_key.path)
                (found if event.metadata["reused"].value else built).add((name, event.partition))
        return built, found
