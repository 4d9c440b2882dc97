"""``export bundle``: what a line's computer scores images with, as a folder or one zip file."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ad_assets.config.benchmark import Benchmark, Dataset
from ad_assets.config.faults import check_name
from ad_assets.config.load import ConfigError, load_config, materialize_command
from ad_assets.store.store import ArtifactStore, CorruptArtifactError

if TYPE_CHECKING:
    from ad_assets.commands.common import Commands, Parser
    from ad_assets.graph.graph import Graph
    from ad_assets.production.champion_history import ChampionChange
    from ad_assets.store.store import Artifact


def add(below: argparse._SubParsersAction[Parser], commands: Commands) -> None:
    """Add the command below ``export``."""
    text = "what a line's computer scores images with: graph, state, thresholds, self-test"
    bundle = below.add_parser("bundle", help=text, description=text, parents=[commands.shared])
    bundle.add_argument("dataset")
    bundle.add_argument("detector", help="a lane with export; of a production dataset its champion is exported")
    bundle.add_argument("--category", required=True)
    bundle.add_argument("--out", required=True, metavar="DIR", help="folder, s3://bucket/prefix, or a file .zip")
    bundle.add_argument("--overwrite", action="store_true", help="replace files that are there")
    bundle.set_defaults(run=_bundle)


def _bundle(options: argparse.Namespace) -> int:
    from ad_assets.bundle.writer import manifest_bytes, zipped
    from ad_assets.graph.graph import Graph
    from ad_assets.graph.lanes import stages_of
    from ad_assets.graph.stages.bundle import KIND, read_bundle, read_manifest, read_parity
    from ad_assets_runtime.bundle import MANIFEST

    benchmark = load_config(options.config, options.set)
    check_name("dataset", options.dataset, benchmark.datasets, benchmark.source)
    dataset = benchmark.datasets[options.dataset]
    check_name("detector", options.detector, dataset.detectors, f"dataset {dataset.name}")
    place = f"datasets.{dataset.name}.detectors.{options.detector}"
    if dataset.detectors[options.detector].export is None:
        raise ConfigError(f"{benchmark.source}: {place} has no bundle: add to it `export: {{runtime: onnx}}`")
    try:
        graph = Graph(stages_of(benchmark), benchmark.store)
    except ValueError as error:
        raise ConfigError(f"{benchmark.source}: {error}") from error
    stage = graph.stages[dataset.name, options.detector, KIND]
    check_name("category", options.category, stage.partitions or ())
    artifact, champion = _found(options, benchmark, dataset, graph)
    try:
        parity = read_parity(artifact)
        if parity.fault:
            raise ConfigError(f"{stage.name} [{options.category}] may not go out: {parity.fault}")
        files = read_bundle(artifact)
        if champion:
            since = {"state": champion.candidate.state, "since": champion.when, "reason": champion.reason}
            files[MANIFEST] = manifest_bytes({**read_manifest(artifact), "champion": since})
        folder, slash, name = options.out.rpartition("/")
        if options.out.endswith(".zip"):
            _write(options, ArtifactStore(root=folder or slash or "."), {name: zipped(files)})
        else:
            files[MANIFEST] = files.pop(MANIFEST)  # the last: a folder without it is no bundle
            _write(options, ArtifactStore(root=options.out), files)
    except (CorruptArtifactError, OSError) as error:
        print(f"ad-assets: {error}", file=sys.stderr)
        return 1
    size = sum(map(len, files.values()))
    print(f"{stage.name} [{options.category}]: {len(files)} files, {size:,} bytes, in {options.out}")
    print(parity)
    return 0


def _found(
    options: argparse.Namespace, benchmark: Benchmark, dataset: Dataset, graph: Graph
) -> tuple[Artifact, ChampionChange | None]:
    """The bundle to export: of the champion, or of the lane as it is now.

    Raises:
        ConfigError: there is none.
    """
    from ad_assets.graph.stages.bundle import KIND
    from ad_assets.production.champion_history import read_history

    key = (dataset.name, options.detector, KIND)
    place = f"{dataset.name}/{options.detector}"
    if dataset.production and dataset.detectors[options.detector].has_champions:
        history = read_history(benchmark.store, dataset.name, options.detector, options.category)
        last = history.entries[-1] if history.entries else None
        if last is None or not last.candidate.bundle:
            asset = f"{place}/champion"
            remedy = materialize_command(dataset.name, options.config, options.set, asset, [options.category])
            whose = "no champion" if last is None else "a champion from before it had export"
            raise ConfigError(f"{place} [{options.category}] has {whose}; run: {remedy}")
        return benchmark.store.artifact(KIND, last.candidate.bundle), last
    why = graph.absence_reason((key, options.category))
    artifact = graph.artifact((key, options.category))
    if why or artifact is None:
        remedy = materialize_command(dataset.name, options.config, options.set, "/".join(key), [options.category])
        raise ConfigError(f"{'/'.join(key)} [{options.category}]: {why}; run: {remedy}")
    return artifact, None


def _write(options: argparse.Namespace, out: ArtifactStore, files: dict[str, bytes]) -> None:
    there = sorted(path for path in files if out.exists(path))
    if there and not options.overwrite:
        raise ConfigError(f"{out.location(there[0])} exists: choose another --out, or --overwrite")
    for path, data in files.items():
        out.write_bytes(path, data)
