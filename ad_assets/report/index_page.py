"""The first page of a dataset's report: all detectors over all categories, beside the papers; it links to the pages of
the categories.

This module gathers what the leaderboard says; ``index_page.html`` lays it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ad_assets.metrics import catalogue
from ad_assets.papers import published as papers
from ad_assets.report import few_shot, studies, tables
from ad_assets.report.approximate_search import approximate_lanes
from ad_assets.report.certainty import SURE, certainty
from ad_assets.report.joint import joint_lanes
from ad_assets.report.lane_settings import told_settings
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
)
from ad_assets.report.picture_files import png_uri
from ad_assets.report.templates import filled
from ad_assets.report.text import no_test_images

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from ad_assets.report.few_shot import FewShotRow


@dataclass(frozen=True)
class IndexPage:
    """All that the first page shows.

    Args:
        dataset: its name.
        created: when, as text.
        config_name: the benchmark file.
        hardware: where the timings were taken, in words.
        board: from `leaderboard.build`.
        pages: category -> relative address of its page; of those that have one.
        fingerprints: what -> fingerprint or version, for provenance.
        studies: study -> its tidy rows.
        few_shot: from `few_shot.build`.
        left_out: which lanes and categories have no rows, and why; empty: none.
        openings: how often labels of a sealed test set were read, in words; empty: it is not sealed.
    """

    dataset: str
    created: str
    config_name: str
    hardware: str
    board: pd.DataFrame
    pages: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    studies: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    few_shot: Sequence[FewShotRow] = ()
    left_out: str = ""
    openings: str = ""


def render_index(report: IndexPage) -> str:
    """The page as HTML text; write it as UTF-8.

    Raises:
        ValueError: the leaderboard has no rows.
    """
    if report.board.empty:
        raise ValueError(f"the report of {report.dataset} has no leaderboard rows: build the leaderboard first")
    board = rows_of(report.board)
    return filled(
        "index_page.html",
        report=report,
        detectors=tuple(dict.fromkeys(row.detector for row in board)),
        categories=sorted({row.category for row in board} - {MEAN}),
        pages=dict(sorted(report.pages.items())),
        compared=tables.means(board, STANDARD, catalogue.compared()),
        further=tables.further(board),
        intervals=tables.means(board, INTERVAL),
        seed_intervals=tables.means(board, SEED_INTERVAL),
        certainty=certainty(board),
        sure=SURE,
        lane_notes=[*joint_lanes(board), *approximate_lanes(board)],
        few_shot=few_shot.table(report.few_shot, max(row.complete for row in board)) if report.few_shot else None,
        about_few_shot=few_shot.ABOUT,
        decisions=tables.means(board, NOMINAL),
        outliers=tables.means(board, OUTLIER),
        oracles=tables.oracles(board),
        timings=tables.means(board, TIMING),
        matrices=[tables.matrix(board, metric) for metric in catalogue.compared()],
        settings=told_settings(board),
        untested=no_test_images(board),
        studies=[
            (name, *studies.table(summary), png_uri(studies.plot(name, summary)))
            for name, summary in ((name, studies.summarise(found)) for name, found in report.studies.items())
        ],
        comparisons=_comparisons(board),
        tables_fingerprint=papers.tables_fingerprint(),
        seeds=sorted({row.seed + n for row in board if row.seed is not None for n in range(row.draws or 1)}),
        seeds_vary=any((row.draws or 1) > 1 for row in board),
    )


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
