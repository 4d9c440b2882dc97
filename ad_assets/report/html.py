"""The report of one dataset as a single HTML file that loads nothing from anywhere.

This module gathers leaderboard rows, curves and pictures; ``report.html`` lays them out. All text is escaped
by jinja2: category names, defect types and file names come from folders that others filled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ad_assets.metrics import catalogue
from ad_assets.papers import published as papers
from ad_assets.report import comparison, few_shot, studies, tables
from ad_assets.report.certainty import certainty
from ad_assets.report.charts import HEIGHT, WIDTH, Chart, charts
from ad_assets.report.gallery import VERDICTS, GalleryItem
from ad_assets.report.joint import joint_lanes
from ad_assets.report.leaderboard import (
    INTERVAL,
    MEAN,
    NOMINAL,
    OUTLIER,
    SEED_INTERVAL,
    STANDARD,
    TIMING,
    BoardRow,
    rows_of,
    untested,
)
from ad_assets.report.pictures import data_uri, jpeg_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import jinja2
    import pandas as pd
    from numpy.typing import ArrayLike

    from ad_assets.report.few_shot import FewShotRow

    Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]  # key of charts.KINDS -> (x, y)

TEMPLATES = Path(__file__).parent
NOTES = 20  # problems that are shown of a category
# What no pixel that is measured shows: metric -> what is told of it.
HIDDEN = {
    "regions_vanished": "regions of the masks vanish in its frame and are not measured",
    "images_outside_roi": "test images have defects outside the region of interest alone, which it cannot see",
}
COLOURS = 8  # distinct line colours in the template; further detectors repeat them dashed


@dataclass(frozen=True)
class ReportInput:
    """All that a report shows.

    Args:
        dataset: its name.
        created: when, as text.
        config_name: the benchmark file.
        hardware: where the timings were taken, in words.
        board: from `leaderboard.build`.
        curves: category -> detector -> key of `charts.KINDS` -> (x, y).
        gallery: category -> detector -> items; shown worst first whatever their order.
        problems: category -> what its image index found wrong or odd.
        fingerprints: what -> fingerprint or version, for provenance.
        studies: study -> its tidy rows.
        few_shot: from `few_shot.build`.
        left_out: which lanes and categories have no rows, and why; empty: none.
    """

    dataset: str
    created: str
    config_name: str
    hardware: str
    board: pd.DataFrame
    curves: Mapping[str, Mapping[str, Curves]] = field(default_factory=dict)
    gallery: Mapping[str, Mapping[str, Sequence[GalleryItem]]] = field(default_factory=dict)
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    studies: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    few_shot: Sequence[FewShotRow] = ()
    left_out: str = ""


@dataclass(frozen=True)
class Gallery:
    """One detector's pictures in one category, worst first, with the counts behind them."""

    detector: str
    colour: int
    summary: str
    pictures: tuple[tuple[GalleryItem, str, int, int], ...]  # with data URI, width and height in pixels


@dataclass(frozen=True)
class Category:
    """One category's section."""

    name: str
    anchor: str
    summary: tuple[tuple[str, int, tables.TableCell], ...]  # detector, colour, image AUROC
    notes: tuple[str, ...]  # what to know of its files before its numbers are believed
    charts: tuple[Chart, ...]
    galleries: tuple[Gallery, ...]


def render(report: ReportInput) -> str:
    """The report as HTML text; write it as UTF-8.

    Raises:
        ValueError: no rows, curves or pictures of a category or detector that has no rows, or a picture that
            cannot be read.
    """
    if report.board.empty:
        raise ValueError(f"the report of {report.dataset} has no leaderboard rows: build the leaderboard first")
    board = rows_of(report.board)
    detectors = tuple(dict.fromkeys(row.detector for row in board))
    names = sorted({row.category for row in board} - {MEAN})
    auroc = tables.matrix(board, "image_auroc")
    for what, given in (("curves", report.curves), ("gallery", report.gallery), ("problems", report.problems)):
        if stray := sorted(set(given) - set(names)):
            raise ValueError(f"{what}: category {stray[0]!r} has no leaderboard rows; {', '.join(names)} have")
    return filled(
        "report.html",
        report=report,
        detectors=detectors,
        compared=tables.means(board, STANDARD, catalogue.compared()),
        further=tables.further(board),
        intervals=tables.means(board, INTERVAL),
        seed_intervals=tables.means(board, SEED_INTERVAL),
        certainty=certainty(board),
        joint=joint_lanes(board),
        few_shot=few_shot.table(report.few_shot, max(row.complete for row in board)) if report.few_shot else None,
        about_few_shot=few_shot.ABOUT,
        decisions=tables.means(board, NOMINAL),
        outliers=tables.means(board, OUTLIER),
        oracles=tables.oracles(board),
        timings=tables.means(board, TIMING),
        matrices=[tables.matrix(board, metric) for metric in catalogue.compared()],
        categories=[_category(report, board, detectors, auroc, name, f"category-{n}") for n, name in enumerate(names)],
        studies=[
            (name, *studies.table(summary), studies.plot_uri(name, summary))
            for name, summary in ((name, studies.summarise(found)) for name, found in report.studies.items())
        ],
        comparisons=_comparisons(board),
        tables_fingerprint=papers.tables_fingerprint(),
        seeds=sorted({row.seed + n for row in board if row.seed is not None for n in range(row.draws or 1)}),
        seeds_vary=any((row.draws or 1) > 1 for row in board),
        colours=COLOURS,
        plot_width=WIDTH,
        plot_height=HEIGHT,
    )


def render_comparison(name: str, table: comparison.ComparisonTable) -> str:
    """A comparison as HTML text; write it as UTF-8."""
    return filled("comparison.html", name=name, table=table, colours=COLOURS)


@cache
def _templates() -> jinja2.Environment:
    """Keeps the templates that it has compiled."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def filled(template: str, **values: Any) -> str:
    """A template of this folder with its values, all of them escaped."""
    text = _templates().get_template(template).render(**values)
    # File names with bytes that are no UTF-8 hold lone surrogates, which no file could be written with.
    return text.encode("utf-8", "replace").decode("utf-8")


def _category(
    report: ReportInput,
    board: Sequence[BoardRow],
    detectors: tuple[str, ...],
    auroc: tables.Table,
    name: str,
    anchor: str,
) -> Category:
    shown = dict(zip(auroc.columns, dict(auroc.rows).get(name, ()), strict=False))
    galleries = []
    for detector, items in report.gallery.get(name, {}).items():
        if detector not in detectors:
            raise ValueError(f"gallery: {name}/{detector} has no leaderboard rows; {', '.join(detectors)} have")
        ranked = sorted(items, key=_urgency)
        if not ranked:
            continue
        galleries.append(
            Gallery(
                detector,
                detectors.index(detector),
                _error_summary(board, name, detector, ranked),
                tuple((item, data_uri(item.jpeg), *jpeg_size(item.jpeg)) for item in ranked),
            )
        )
    return Category(
        name,
        anchor,
        tuple((d, k, shown.get(d, tables.TableCell())) for k, d in enumerate(detectors)),
        tuple(_notes(report, board, name)),
        tuple(charts(report.curves.get(name, {}), detectors)),
        tuple(sorted(galleries, key=lambda gallery: gallery.colour)),
    )


def _notes(report: ReportInput, board: Sequence[BoardRow], category: str) -> list[str]:
    """Missing test images, what the image index found, and defects that no pixel of a detector's frame shows."""
    problems = report.problems.get(category, ())
    notes = list(problems[:NOTES])
    if len(problems) > NOTES:
        notes.append(f"... and {len(problems) - NOTES} more: see problems.json of the image index")
    none = ["no test images: nothing was measured on this category"] if category in untested(board) else []
    return [
        *none,
        *notes,
        *(
            f"{row.detector}: {row.value:.0f} {HIDDEN[row.metric]}"
            for row in board
            if row.category == category and row.metric in HIDDEN and row.value
        ),
    ]


def _urgency(item: GalleryItem) -> tuple[int, float]:
    """Worst false alarms, worst misses, then the rest in the order given."""
    rank = VERDICTS.index(item.verdict)
    return rank, {0: -item.score, 1: item.score}.get(rank, 0.0)


def _error_summary(board: Sequence[BoardRow], category: str, detector: str, items: Sequence[GalleryItem]) -> str:
    """How many errors stand behind the pictures."""
    rows = {
        row.metric: row
        for row in board
        if (row.category, row.detector) == (category, detector)
        and row.protocol in (NOMINAL, OUTLIER)
        and row.value is not None
    }
    threshold = f"threshold {items[0].threshold:.4g}"
    if not {"false_positives", "false_negatives"} <= set(rows):
        return threshold
    alarms, misses = rows["false_positives"], rows["false_negatives"]
    if (alarms.draws or 1) > 1:  # whose counts are means
        return f"the first of {alarms.draws} seeds, {threshold}"
    return f"{alarms.value:.0f} false alarms and {misses.value:.0f} misses in {alarms.n} test images at {threshold}"


def _comparisons(board: Sequence[BoardRow]) -> list[tuple[str, str, str, str, list[str]]]:
    """Detector, system, dataset, source and notes for each paper that stands beside ours."""
    beside = dict.fromkeys((row.detector, row.paper_system, row.paper_dataset) for row in board if row.paper_system)
    return [
        (
            detector,
            system,
            dataset,
            papers.source(system),
            [_readable(note) for note in papers.notes(system, dataset)],
        )
        for detector, system, dataset in beside
    ]


def _readable(note: str) -> str:
    """A note with its metric's name as the tables show it."""
    metric, separator, text = note.partition(": ")
    found = catalogue.known(metric) if separator else None
    return f"{found.heading}: {text}" if found else note
