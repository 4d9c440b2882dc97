"""``export``: score maps as evaluators read them, the leaderboard for papers and other tools, bundles for lines."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, get_args

from ad_assets.commands import export_bundle
from ad_assets.commands.common import Commands, TerminalLog
from ad_assets.config.benchmark import Benchmark
from ad_assets.config.faults import check_name
from ad_assets.config.load import ConfigError, load_config, materialize_command
from ad_assets.report.submission import Layout, SubmissionError, Target, encode, folders, targets
from ad_assets.store.store import ArtifactStore, CorruptArtifactError

if TYPE_CHECKING:
    from ad_assets.graph.graph import Graph
    from ad_assets.graph.stage import Key, Stage
    from ad_assets.methods.data import NominalScores
    from ad_assets.store.store import Artifact

FORMATS = ("csv", "parquet", "latex", "json")


def add(commands: Commands) -> None:
    """Add the command with those below it."""
    export = commands.add("export", _maps, "write score maps, the leaderboard or a bundle for other tools")
    below = export.add_subparsers(required=True, metavar="WHAT")

    text = "score maps of every test image in the layout of a public evaluator"
    maps = below.add_parser("maps", help=text, description=text, parents=[commands.shared])
    maps.add_argument("dataset")
    maps.add_argument("detector")
    maps.add_argument(
        "--layout",
        choices=get_args(Layout),
        required=True,
        help="mvtec_ad: MVTec AD's and LOCO's offline evaluators, float32; mvtec_ad_2: its server, float16 with "
        "maps at a threshold from nominal training images, for the false alarm rate of the benchmark file",
    )
    maps.add_argument("--category", action="append", help="only this category (may be repeated)")
    maps.add_argument("--out", required=True, metavar="DIR", help="folder, or s3://bucket/prefix")
    maps.add_argument("--overwrite", action="store_true", help="replace files of an earlier export")
    maps.set_defaults(run=_maps)

    text = "tidy rows of the leaderboard, or one metric as a LaTeX table"
    board = below.add_parser("leaderboard", help=text, description=text, parents=[commands.shared])
    board.add_argument("dataset", nargs="?", help="only this dataset (default: all that have a leaderboard)")
    board.add_argument("--format", choices=FORMATS, required=True)
    board.add_argument("--metric", help="of the LaTeX table (default: image_auroc)")
    board.add_argument("--protocol", help="of the LaTeX table (default: standard)")
    board.add_argument("--out", required=True, metavar="FILE", help="file, or - for the standard output")
    board.set_defaults(run=_leaderboard)
    export_bundle.add(below, commands)


def _maps(options: argparse.Namespace) -> int:
    from ad_assets.graph.stages.image_index import changed_files

    benchmark, graph = _load(options)
    dataset = benchmark.datasets[options.dataset]
    check_name("detector", options.detector, dataset.detectors, f"dataset {dataset.name}")
    stage = graph.stages[dataset.name, options.detector, "score_maps"]
    categories = list(dict.fromkeys(options.category or stage.partitions or ()))
    for category in categories:
        check_name("category", category, stage.partitions or ())
    changed = changed_files(dataset, benchmark.store)
    stale = {c: why for c in categories if (why := changed.get(c) or graph.absence_reason((stage.key, c)))}
    for category, why in stale.items():
        print(f"{stage.name} [{category}]: {why}", file=sys.stderr)
    if stale:
        print(f"nothing was exported; first run: {_remedy(options, dataset.name, stage.name, *stale)}", file=sys.stderr)
        return 1
    try:
        return _write_maps(options, benchmark, graph, stage, categories)
    except (SubmissionError, CorruptArtifactError, OSError) as error:
        print(f"ad-assets: {error}", file=sys.stderr)
        return 1


def _write_maps(
    options: argparse.Namespace, benchmark: Benchmark, graph: Graph, stage: Stage, categories: list[str]
) -> int:
    from ad_assets.graph.stages.image_index import read_index
    from ad_assets.graph.stages.score_maps import read_score_index

    out = ArtifactStore(root=options.out)
    planned: dict[str, tuple[Artifact, list[Target], float | None]] = {}
    # All that can be refused is, before the first file is written.
    for category in categories:
        images = targets(
            options.layout, category, read_index(_artifact(graph, (stage.key[0], "image_index"), category))
        )
        artifact = _artifact(graph, stage.key, category)
        threshold = None
        if options.layout == "mvtec_ad_2":
            nominal = read_score_index(artifact).nominal
            dataset = benchmark.datasets[stage.key[0]]
            rate = dataset.false_alarm_rate(dataset.detectors[stage.key[1]], category, benchmark.evaluation)
            threshold = _pixel_threshold(nominal, rate, f"{stage.name} [{category}]")
        planned[category] = (artifact, images, threshold)
        _check_folder(out, options, category, images)
    for category, (artifact, images, threshold) in planned.items():
        _write_category(out, benchmark, stage, category, artifact, images, threshold)
        at = "" if threshold is None else f", pixels above {threshold:.6g} are anomalous"
        print(f"{category}: {len(images)} maps{at}" if images else f"{category}: no test images, so no maps")
    print(f"{stage.name}: {sum(len(images) for _, images, _ in planned.values())} maps below {options.out}")
    return 0


def _check_folder(out: ArtifactStore, options: argparse.Namespace, category: str, images: list[Target]) -> None:
    """Refuse to write over files, and beside those that an evaluator would take for maps of this category."""
    expected = {path for image in images for path in image.paths}
    there = {file.path for folder in folders(options.layout, category) for file in out.files(folder)}
    if foreign := sorted(there - expected):
        raise SubmissionError(
            f"{out.location(foreign[0])} lies where the maps of {category} go and is of no test image ({len(foreign)} "
            "such files): choose another --out, or remove them"
        )
    if there and not options.overwrite:
        first = out.location(min(there))
        raise SubmissionError(f"{first} exists, {len(there)} files in all: choose another --out, or --overwrite")


def _write_category(
    out: ArtifactStore,
    benchmark: Benchmark,
    stage: Stage,
    category: str,
    artifact: Artifact,
    images: list[Target],
    threshold: float | None,
) -> None:
    """Write the files of one category, one image in memory at a time."""
    from ad_assets.graph.progress import Progress
    from ad_assets.graph.stages.score_maps import shards
    from ad_assets_runtime.geometry import unfit_map

    extractor = benchmark.extractors[benchmark.datasets[stage.key[0]].detectors[stage.key[1]].extractor]
    progress = Progress(TerminalLog(), f"{stage.name} [{category}]")
    by_id: dict[str, list[Target]] = {}
    for image in images:
        by_id.setdefault(image.image_id, []).append(image)
    done = 0
    for image_ids, maps, _ in shards(artifact):
        for image_id, score_map in zip(image_ids, maps.numpy(), strict=True):
            for image in by_id.pop(image_id, []):
                fitted = unfit_map(score_map, image.size, *extractor.map_geometry)
                for path, data in encode(image, fitted, threshold).items():
                    out.write_bytes(path, data)
                done += 1
                progress("maps written", done, len(images))
    if by_id:
        names = ", ".join(image.path for copies in by_id.values() for image in copies)
        raise SubmissionError(f"{stage.name} [{category}] has no map of {names}: materialize again with --force")
    progress.done(f"{done} maps written")


def _pixel_threshold(nominal: NominalScores, rate: float, place: str) -> float:
    """What the wanted part of nominal images has no pixel above; no test image has a say."""
    from ad_assets.metrics.thresholds import nominal_quantile

    if not nominal.map_maxima:
        raise SubmissionError(
            f"{place}: no nominal training image was scored unseen, so no threshold for the thresholded maps is known: "
            "a detector that trains needs held_out, such as 0.1; a category needs two training images; a blind setting "
            "has no nominal ones; --layout mvtec_ad needs no threshold"
        )
    return nominal_quantile(nominal.map_maxima, rate, nominal.groups)


def _leaderboard(options: argparse.Namespace) -> int:
    import pandas as pd

    from ad_assets.graph.stages.leaderboard import read_board
    from ad_assets.report import formats
    from ad_assets.report.leaderboard import STANDARD

    if options.format != "latex" and (options.metric or options.protocol):
        raise ConfigError(f"--metric and --protocol are of --format latex; {options.format} has all rows")
    benchmark, graph = _load(options)
    boards = []
    for name in [options.dataset] if options.dataset else benchmark.datasets:
        stage = graph.stages.get((name, "leaderboard"))
        head = graph.head((stage.key, None)) if stage else None
        if stage is None or head is None:
            continue
        if head != graph.planned((stage.key, None)):
            remedy = _remedy(options, name, stage.name)
            print(f"{stage.name} is incomplete or out of date; to renew it: {remedy}", file=sys.stderr)
        boards.append(read_board(benchmark.store.artifact(stage.kind, head.version)))
    if not boards:
        print(f"there is no leaderboard yet; first run: {_remedy(options, options.dataset)}", file=sys.stderr)
        return 1
    if options.format == "latex":
        wanted = (options.metric or "image_auroc", options.protocol or STANDARD)
        try:
            data = "\n".join(formats.to_latex(board, *wanted) for board in boards).encode()
        except ValueError as error:
            raise ConfigError(str(error)) from error
    else:
        data = formats.TIDY[options.format](pd.concat(boards, ignore_index=True))
    if options.out == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return 0
    folder, slash, name = options.out.rpartition("/")
    try:
        ArtifactStore(root=folder or slash or ".").write_bytes(name, data)
    except OSError as error:
        print(f"ad-assets: {options.out} cannot be written: {error}", file=sys.stderr)
        return 1
    return 0


def _load(options: argparse.Namespace) -> tuple[Benchmark, Graph]:
    """The benchmark of a call and its graph."""
    from ad_assets.graph.graph import Graph
    from ad_assets.graph.lanes import stages_of

    benchmark = load_config(options.config, options.set)
    if options.dataset:
        check_name("dataset", options.dataset, benchmark.datasets, benchmark.source)
    try:
        return benchmark, Graph(stages_of(benchmark), benchmark.store)
    except ValueError as error:
        raise ConfigError(f"{benchmark.source}: {error}") from error


def _artifact(graph: Graph, key: Key, category: str) -> Artifact:
    artifact = graph.artifact((key, category))
    if artifact is None:
        raise SubmissionError(f"{'/'.join(key)} [{category}] is gone from the store")
    return artifact


def _remedy(options: argparse.Namespace, dataset: str | None, asset: str | None = None, *categories: str) -> str:
    return materialize_command(dataset, options.config, options.set, asset, categories)
