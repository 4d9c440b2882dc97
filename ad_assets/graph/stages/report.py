"""The HTML report of a dataset: leaderboard, curves, and pictures of the worst errors."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from typing import Any

from ad_assets.config.benchmark import Benchmark, Dataset
from ad_assets.datasets.base import Problem
from ad_assets.graph.stage import Parts, Stage, Upstream, Work
from ad_assets.graph.stages.leaderboard import read_board
from ad_assets.graph.stages.scored_images import read_pictures
from ad_assets.graph.stages.studies import read_study
from ad_assets.report import html, pictures
from ad_assets.report.gallery import GalleryItem, choose_gallery
from ad_assets.store.store import ArtifactStore

VERSION = 3


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
        score_maps: detector name -> its score maps.
        metrics: detector name -> its metrics.
        leaderboard: its leaderboard.
        studies: study name -> its stage.
    """

    def parts(upstream: Upstream) -> Parts:
        return {"/".join([*key, partition or ""]): head.version for (key, partition), head in upstream.heads.items()}

    def build(work: Work) -> dict[str, Any]:
        board = read_board(work.input(leaderboard))
        categories = set(index.partitions or ())
        lanes = sorted(
            {lane for lane in zip(board["category"], board["detector"], strict=True) if lane[0] in categories}
        )
        curves: dict[str, dict[str, Any]] = {}
        gallery: dict[str, dict[str, list[GalleryItem]]] = {}
        fingerprints = {"leaderboard": work.upstream.heads[leaderboard.key, None].version}
        for done, (category, detector) in enumerate(lanes):
            artifact = work.input(metrics[detector], category)
            curves.setdefault(category, {})[detector] = work.store.read_json(artifact.at("curves.json"))
            gallery.setdefault(category, {})[detector] = _gallery(
                work, benchmark, dataset, index, score_maps[detector], metrics[detector], category, detector
            )
            fingerprints[f"{detector} {category}"] = work.upstream.of(metrics[detector], category).version
            work.progress("galleries drawn", done + 1, len(lanes))
        text = html.render(
            html.ReportInput(
                dataset=dataset.name,
                created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
                config_name=benchmark.source.rpartition("/")[2],
                hardware=_hardware(work),
                board=board,
                curves=curves,
                gallery=gallery,
                problems={category: _problems(work, index, category) for category in curves},
                fingerprints=fingerprints,
                studies={name: rows for name, stage in studies.items() if (rows := read_study(work, stage))},
            )
        )
        work.store.write_text(work.artifact.at("report.html"), text)
        return {
            "bytes": len(text.encode()),
            "report": {"path": work.store.location(work.artifact.at("report.html"))},
        }

    return Stage(
        key=(dataset.name, "report"),
        kind="report",
        config={"version": VERSION, "dataset": dataset.name, "style": benchmark.report.model_dump()},
        deps=(index, *score_maps.values(), *metrics.values(), leaderboard, *studies.values()),
        address=parts,
        build=build,
        partitions=None,
        group=f"{dataset.name}/results",
        kinds=frozenset({"html"}),
        description="One self-contained HTML file: results beside the papers, curves, worst false alarms and misses.",
    )


def _problems(work: Work, index: Stage, category: str) -> list[str]:
    """What the image index of a category found wrong or odd, in words."""
    problems = work.store.read_json(work.input(index, category).at("problems.json"))
    return [f"{each['severity']}: {Problem(**each)}" for each in problems]


def _gallery(
    work: Work,
    benchmark: Benchmark,
    dataset: Dataset,
    index: Stage,
    score_maps: Stage,
    metrics: Stage,
    category: str,
    detector: str,
) -> list[GalleryItem]:
    summary = work.store.read_json(work.input(metrics, category).at("images.json"))
    style = benchmark.report
    if any(image["label"] is None for image in summary["images"]):
        return []  # nobody knows what is a hit
    chosen = choose_gallery(
        [image["score"] for image in summary["images"]],
        [image["label"] for image in summary["images"]],
        summary["threshold"],
        misses=style.misses,
        false_alarms=style.false_alarms,
        hits=style.hits,
    )
    table = work.store.read_table(work.input(index, category).at("index.parquet")).to_pylist()
    rows = {row["image_id"]: row for row in table if row["split"] == "test"}
    extractor = benchmark.extractors[dataset.detectors[detector].extractor]
    wanted = [rows[summary["images"][i]["image_id"]] for i in chosen]
    low, high = summary["colour_scale"]
    return [
        GalleryItem(
            picture.row["path"],
            picture.row["defect_type"],
            picture.row["label"],
            picture.score,
            summary["threshold"],
            pictures.to_jpeg(pictures.strip(picture.rgb, picture.mask, picture.score_map, low, high), quality=80),
        )
        for picture in read_pictures(dataset, extractor, work.input(score_maps, category), wanted)
    ]


def _hardware(work: Work) -> str:
    import torch

    from ad_assets.kernels.parallel import threads

    device = work.compute.torch_device()
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return f"{device} ({name}), {threads()} CPU threads, torch {torch.__version__}, {platform.system()}"


def report_location(store: ArtifactStore, dataset: str) -> str:
    """Where the current report of a dataset lies; empty if it was never made."""
    head = store.read_head((dataset, "report"), None)
    return store.location(store.artifact("report", head["version"]).at("report.html")) if head else ""
