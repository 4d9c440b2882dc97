"""The HTML report of a dataset: leaderboard, curves, and pictures of the worst errors."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Benchmark, Dataset, ReportStyle
from ad_assets.datasets.base import Reader
from ad_assets.graph.stage import Parts, Stage, StageSettings, Upstream, Work
from ad_assets.graph.stages.ground_truth import read_pictures
from ad_assets.graph.stages.image_index import read_index, read_problems
from ad_assets.graph.stages.leaderboard import missing_rows, read_board, read_few_shot
from ad_assets.graph.stages.metrics import ScoredImages, read_curves, read_scored_images
from ad_assets.graph.stages.region_of_interest import read_region, region_digest
from ad_assets.graph.stages.studies import read_study
from ad_assets.report import html, pictures
from ad_assets.report.gallery import GalleryItem, choose_gallery
from ad_assets.store.store import Artifact, ArtifactStore
from ad_assets_runtime.geometry import Mask

VERSION = 3
PAGE = "report.html"
REPORT_ADDRESS = "/ad_assets/report/"  # in the UI, with the name of a dataset


@dataclass(frozen=True)
class ReportSettings(StageSettings):
    """The name of the dataset, and how many pictures there are."""

    dataset: str
    style: ReportStyle


def report_stage(
    benchmark: Benchmark,
    dataset: Dataset,
    index: Stage,
    score_maps: Mapping[str, Stage],
    metrics: Mapping[str, Stage],
    leaderboard: Stage,
    studies: Mapping[str, Stage],
) -> Stage:
    """The asset ``<dataset>/report``.

    Args:
        benchmark: for the style, and to say where figures come from.
        dataset: the dataset.
        index: its image index.
        score_maps: detector name -> its score maps; of a lane with draws those of the first.
        metrics: detector name -> its metrics.
        leaderboard: its leaderboard.
        studies: study name -> its stage.
    """
    reader, source = dataset.reader, benchmark.source.rpartition("/")[2]
    extractors = {name: benchmark.extractors[detector.extractor] for name, detector in dataset.detectors.items()}

    def parts(upstream: Upstream) -> Parts:
        return {"/".join([*key, partition or ""]): head.version for (key, partition), head in upstream.heads.items()}

    def build(work: Work) -> dict[str, Any]:
        settings: ReportSettings = work.settings
        board = read_board(work.input(leaderboard))
        categories = set(index.partitions or ())
        lanes = sorted(
            {lane for lane in zip(board["category"], board["detector"], strict=True) if lane[0] in categories}
        )
        curves: dict[str, dict[str, Any]] = {}
        gallery: dict[str, dict[str, list[GalleryItem]]] = {}
        fingerprints = {"leaderboard": work.upstream.heads[leaderboard.key, None].version}
        for done, (category, detector) in enumerate(lanes):
            measured = work.input(metrics[detector], category)
            curves.setdefault(category, {})[detector] = read_curves(measured)
            rows = [row for row in read_index(work.input(index, category)) if row["split"] == "test"]
            maps = work.input(score_maps[detector], category)
            gallery.setdefault(category, {})[detector] = _gallery(
                settings.style,
                reader,
                extractors[detector],
                rows,
                read_scored_images(measured),
                maps,
                read_region(work.store, region_digest(work.upstream.of(index, category))),
            )
            fingerprints[f"{detector} {category}"] = work.upstream.of(metrics[detector], category).version
            work.progress("galleries drawn", done + 1, len(lanes))
        text = html.render(
            html.ReportInput(
                dataset=settings.dataset,
                created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
                config_name=source,
                hardware=_hardware(work),
                board=board,
                curves=curves,
                gallery=gallery,
                problems={
                    category: [f"{each.severity}: {each}" for each in read_problems(work.input(index, category))]
                    for category in curves
                },
                fingerprints=fingerprints,
                few_shot=read_few_shot(work.input(leaderboard)),
                left_out=missing_rows(metrics, work.upstream),
                studies={name: rows for name, stage in studies.items() if (rows := read_study(work, stage))},
            )
        )
        work.store.write_text(work.artifact.at(PAGE), text)
        return {
            "bytes": len(text.encode()),
            "report": {"url": f"{REPORT_ADDRESS}{settings.dataset}"},
            "file": {"path": work.store.location(work.artifact.at(PAGE))},
        }

    return Stage(
        key=(dataset.name, "report"),
        kind="report",
        settings=ReportSettings(VERSION, dataset.name, benchmark.report),
        deps=(index, *score_maps.values(), *metrics.values(), leaderboard, *studies.values()),
        address=parts,
        build=build,
        partitions=None,
        group=f"{dataset.name}/results",
        kinds=frozenset({"html"}),
        description="One self-contained HTML file: results beside the papers, curves, worst false alarms and misses.",
    )


def _gallery(
    style: ReportStyle,
    reader: Reader,
    extractor: Extractor,
    rows: Sequence[dict[str, Any]],
    scored: ScoredImages,
    score_maps: Artifact,
    inspected: Mask | None,
) -> list[GalleryItem]:
    """The worst errors and the clearest hits of one lane; nothing without images or labels."""
    if (
        scored.threshold is None
        or scored.colour_scale is None
        or any(image["label"] is None for image in scored.images)
    ):
        return []
    chosen = choose_gallery(
        [image["score"] for image in scored.images],
        [image["label"] for image in scored.images],
        scored.threshold,
        misses=style.misses,
        false_alarms=style.false_alarms,
        hits=style.hits,
    )
    by_id = {row["image_id"]: row for row in rows}
    wanted = [by_id[scored.images[i]["image_id"]] for i in chosen]
    low, high = scored.colour_scale
    return [
        GalleryItem(
            picture.row["path"],
            picture.row["defect_type"],
            picture.row["label"],
            picture.score,
            scored.threshold,
            pictures.to_jpeg(pictures.strip(picture.rgb, picture.mask, picture.score_map, low, high), quality=80),
        )
        for picture in read_pictures(reader, extractor, score_maps, wanted, inspected)
    ]


def _hardware(work: Work) -> str:
    import torch

    from ad_assets.kernels.parallel import threads

    device = work.compute.torch_device(lease=False)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return f"{device} ({name}), {threads()} CPU threads, torch {torch.__version__}, {platform.system()}"


def read_report(store: ArtifactStore, dataset: str) -> bytes:
    """The current report of a dataset; empty if it was never made.

    Raises:
        OSError: the store cannot be read.
    """
    head = store.read_head((dataset, "report"), None)
    return store.read_bytes(store.artifact("report", head["version"]).at(PAGE)) if head else b""
