"""The page of a category in the report of a dataset: metrics, curves, and pictures of the worst errors of all lanes."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Benchmark, Dataset, ReportStyle
from ad_assets.datasets.base import Reader
from ad_assets.graph.stage import CheckReport, Parts, Stage, StageSettings, Upstream, Work
from ad_assets.graph.stages.ground_truth import GroundTruth, read_pictures
from ad_assets.graph.stages.image_index import read_index, read_problems
from ad_assets.graph.stages.metrics import ScoredImages, rate_of, read_curves, read_rows, read_scored_images
from ad_assets.graph.stages.published_pages import CATEGORY_FILE, FROM_CATEGORY, category_address, publish
from ad_assets.graph.stages.region_of_interest import read_region, region_digest
from ad_assets.graph.stages.score_maps import read_score_index
from ad_assets.methods.data import NominalScores
from ad_assets.report import panels, picture_files
from ad_assets.report.category_page import CategoryPage, render_category
from ad_assets.report.gallery import GalleryItem, choose_gallery
from ad_assets.report.leaderboard import BoardRow
from ad_assets.report.threshold_section import LaneScores
from ad_assets.store.store import Artifact
from ad_assets_runtime.geometry import Mask

VERSION = 2


@dataclass(frozen=True)
class CategoryReportSettings(StageSettings):
    """The name of the dataset, its lanes in order, and how many pictures there are."""

    dataset: str
    order: tuple[str, ...]
    style: ReportStyle


def category_report_stage(
    benchmark: Benchmark,
    dataset: Dataset,
    index: Stage,
    score_maps: Mapping[str, Stage],
    metrics: Mapping[str, Stage],
) -> Stage:
    """The asset ``<dataset>/category_report``.

    Args:
        benchmark: for the style, and to say where figures come from.
        dataset: the dataset.
        index: its image index.
        score_maps: detector name -> its score maps, of the lanes that are shown; of a lane with draws, of the first.
        metrics: detector name -> its metrics.
    """
    shown_stages = [*score_maps.values(), *(metrics[name] for name in score_maps)]
    reader, source = dataset.reader, benchmark.source.rpartition("/")[2]
    extractors = {name: benchmark.extractors[detector.extractor] for name, detector in dataset.detectors.items()}

    def lanes(upstream: Upstream) -> list[str]:
        """Those that are up to date."""
        there = {key for key, _ in upstream.heads}
        return [name for name in score_maps if {metrics[name].key, score_maps[name].key} <= there]

    def parts(upstream: Upstream) -> Parts:
        read = {name: upstream.of(metrics[name]).version for name in lanes(upstream)}
        return {"image_index": upstream.of(index).version, **read}

    def build(work: Work) -> dict[str, Any]:
        settings: CategoryReportSettings = work.settings
        shown = lanes(work.upstream)
        images = [row for row in read_index(work.input(index)) if row["split"] == "test"]
        inspected = read_region(work.store, region_digest(work.upstream.of(index)))
        rows: list[BoardRow] = []
        curves: dict[str, Any] = {}
        gallery: dict[str, list[GalleryItem]] = {}
        deciding: list[LaneScores] = []
        fingerprints = {"image index": work.upstream.of(index).version}
        for done, detector in enumerate(shown):
            measured, maps = work.input(metrics[detector]), work.input(score_maps[detector])
            version = work.upstream.of(metrics[detector]).version
            place = (settings.dataset, work.partition, detector)
            rows += [_board_row(place, version, row) for row in read_rows(measured)]
            curves[detector] = read_curves(measured)
            scored = read_scored_images(measured)
            gallery[detector] = _gallery(settings.style, reader, extractors[detector], images, scored, maps, inspected)
            if scored.threshold is not None:
                rate = rate_of(metrics[detector], work.partition)
                nominal = read_score_index(maps).nominal
                deciding.append(_lane_scores(detector, scored, scored.threshold, images, nominal, rate))
            fingerprints[detector] = version
            work.progress("galleries drawn", done + 1, len(shown))
        text = render_category(
            CategoryPage(
                dataset=settings.dataset,
                category=work.partition,
                created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
                config_name=source,
                detectors=settings.order,
                rows=rows,
                index=FROM_CATEGORY,
                curves=curves,
                gallery=gallery,
                scores=deciding,
                problems=[f"{each.severity}: {each}" for each in read_problems(work.input(index))],
                fingerprints=fingerprints,
                left_out=[name for name in settings.order if name not in shown],
            )
        )
        work.store.write_text(work.artifact.at(CATEGORY_FILE), text)
        return {"bytes": len(text.encode()), "pictures": sum(map(len, gallery.values()))}

    def published(work: Work) -> CheckReport:
        page = category_address(work.partition)
        return CheckReport(metadata=publish(work.artifact, CATEGORY_FILE, work.settings.dataset, page))

    return Stage(
        key=(dataset.name, "category_report"),
        kind="category_report",
        settings=CategoryReportSettings(VERSION, dataset.name, tuple(score_maps), benchmark.report),
        deps=(index, *shown_stages),
        optional=tuple(frozenset({score_maps[name].key, metrics[name].key}) for name in score_maps),
        address=parts,
        build=build,
        answer_checks=published,
        partitions=index.partitions,
        group=f"{dataset.name}/results",
        kinds=frozenset({"html"}),
        description="The category's page of the report: metrics, curves, worst false alarms and misses of each lane. "
        "Lanes that are not up to date are left out until they are.",
    )


def _board_row(place: tuple[str, str, str], fingerprint: str, row: Mapping[str, Any]) -> BoardRow:
    """A metric row as a row of a leaderboard of this category alone, without the papers."""
    dataset, category, detector = place
    return BoardRow(
        dataset,
        category,
        detector,
        **row,
        fingerprint=fingerprint,
        aggregate="",
        paper_system="",
        paper_dataset="",
        paper_value=None,
        delta=None,
    )


def _lane_scores(
    detector: str,
    scored: ScoredImages,
    threshold: float,
    rows: Sequence[dict[str, Any]],
    nominal: NominalScores,
    rate: float,
) -> LaneScores:
    """The scores of a lane, with the types of defects, which the image index knows by name."""
    in_order = GroundTruth(rows).rows  # that of the metrics
    return LaneScores(
        detector,
        [image["score"] for image in scored.images],
        [image["label"] for image in scored.images],
        [row["defect_type"] for row in in_order],
        threshold,
        rate,
        nominal.scores,
        nominal.groups,
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
    scale = scored.colour_scale
    return [
        GalleryItem(
            picture.row["path"],
            picture.row["defect_type"],
            picture.row["label"],
            picture.score,
            scored.threshold,
            picture_files.to_jpeg(panels.photo(picture.rgb, picture.mask), quality=80),
            picture_files.to_jpeg(panels.heat(panels.ScoredPicture(picture.rgb, picture.score_map, scale)), quality=80),
        )
        for picture in read_pictures(reader, extractor, score_maps, wanted, inspected)
    ]
