"""The page of one category in a dataset's report: its metrics, curves, and the pictures of the worst errors.

This module gathers rows, curves and pictures; ``category_page.html`` lays them out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ad_assets.report import tables
from ad_assets.report.charts import charts
from ad_assets.report.gallery import VERDICTS, GalleryItem
from ad_assets.report.leaderboard import NOMINAL, OUTLIER, STANDARD, BoardRow, untested
from ad_assets.report.picture_files import data_uri, jpeg_size
from ad_assets.report.templates import filled
from ad_assets.report.threshold_section import LaneScores, threshold_section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

    Curves = Mapping[str, tuple[ArrayLike, ArrayLike]]  # key of charts.KINDS -> (x, y)

NOTES = 20  # problems that are shown
# What no pixel that is measured shows: metric -> what is told of it.
HIDDEN = {
    "regions_vanished": "regions of the masks vanish in its frame and are not measured",
    "images_outside_roi": "test images have defects outside the region of interest alone, which it cannot see",
}


@dataclass(frozen=True)
class CategoryPage:
    """All that the page of a category shows.

    Args:
        dataset: its name.
        category: its name.
        created: when, as text.
        config_name: the benchmark file.
        detectors: all lanes of the dataset: the position of one gives its colour, on all pages.
        rows: metric rows of the lanes that are shown.
        index: relative address of the first page.
        curves: detector -> key of `charts.KINDS` -> (x, y).
        gallery: detector -> items; shown worst first whatever their order.
        scores: of the lanes that decide, for the section of thresholds.
        problems: what its image index found wrong or odd.
        fingerprints: what -> fingerprint or version, for provenance.
        left_out: the lanes that are not up to date, and not shown.
    """

    dataset: str
    category: str
    created: str
    config_name: str
    detectors: Sequence[str]
    rows: Sequence[BoardRow]
    index: str
    curves: Mapping[str, Curves] = field(default_factory=dict)
    gallery: Mapping[str, Sequence[GalleryItem]] = field(default_factory=dict)
    scores: Sequence[LaneScores] = ()
    problems: Sequence[str] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class ShownPicture:
    """An item of a gallery, with the sizes in pixels and the addresses of its two parts.

    Args:
        item: what is shown.
        photo: its photograph's place among those of the page, each of which is embedded once.
        photo_size: width and height.
        heat: the heat map's address.
        heat_size: width and height.
    """

    item: GalleryItem
    photo: int
    photo_size: tuple[int, int]
    heat: str
    heat_size: tuple[int, int]


@dataclass(frozen=True)
class Gallery:
    """One detector's pictures, worst first, with the counts behind them."""

    detector: str
    colour: int
    summary: str
    pictures: tuple[ShownPicture, ...]


def render_category(report: CategoryPage) -> str:
    """The page as HTML text; write it as UTF-8.

    Raises:
        ValueError: no rows, rows, curves or pictures of a lane that is none of the dataset's, or a picture that cannot
            be read.
    """
    if not report.rows:
        raise ValueError(f"the page of {report.category} has no metric rows: materialize its metrics first")
    lanes = list(dict.fromkeys(row.detector for row in report.rows))
    for what, given in (
        ("rows", lanes),
        ("curves", report.curves),
        ("gallery", report.gallery),
        ("scores", [each.detector for each in report.scores]),
    ):
        known = report.detectors if what == "rows" else lanes
        if stray := sorted(set(given) - set(known)):
            raise ValueError(f"{what} of {stray[0]!r}, which has no metric rows here; {', '.join(known)} have")
    photos: dict[bytes, int] = {}
    galleries = [
        Gallery(
            detector,
            report.detectors.index(detector),
            _error_summary(report.rows, detector, ranked),
            tuple(_shown(item, photos) for item in ranked),
        )
        for detector in lanes
        if (ranked := sorted(report.gallery.get(detector, ()), key=_urgency))
    ]
    return filled(
        "category_page.html",
        report=report,
        index=report.index,
        detectors=list(report.detectors),
        lanes=lanes,
        standard=tables.means(report.rows, STANDARD, category=report.category),
        decisions=tables.means(report.rows, NOMINAL, category=report.category),
        outliers=tables.means(report.rows, OUTLIER, category=report.category),
        thresholds=threshold_section(report.dataset, report.category, report.scores),
        oracles=tables.oracles(report.rows, report.category),
        charts=charts(report.curves, report.detectors),
        galleries=galleries,
        photos=[data_uri(photo) for photo in photos],
        notes=_notes(report),
        verdicts=[verdict for verdict in VERDICTS if any(_has(gallery, verdict) for gallery in galleries)],
    )


def _shown(item: GalleryItem, photos: dict[bytes, int]) -> ShownPicture:
    place = photos.setdefault(item.photo, len(photos))
    return ShownPicture(item, place, jpeg_size(item.photo), data_uri(item.heat), jpeg_size(item.heat))


def _has(gallery: Gallery, verdict: str) -> bool:
    return any(picture.item.verdict == verdict for picture in gallery.pictures)


def _notes(report: CategoryPage) -> list[str]:
    """Missing test images, what the image index found, and defects that no pixel of a detector's frame shows."""
    notes = list(report.problems[:NOTES])
    if len(report.problems) > NOTES:
        notes.append(f"... and {len(report.problems) - NOTES} more: see problems.json of the image index")
    return [
        *(["no test images: nothing was measured on this category"] if untested(report.rows) else []),
        *notes,
        *(
            f"{row.detector}: {row.value:.0f} {HIDDEN[row.metric]}"
            for row in report.rows
            if row.metric in HIDDEN and row.value
        ),
    ]


def _urgency(item: GalleryItem) -> tuple[int, float]:
    """Worst false alarms, worst misses, then the rest in the order given."""
    rank = VERDICTS.index(item.verdict)
    return rank, {0: -item.score, 1: item.score}.get(rank, 0.0)


def _error_summary(rows: Sequence[BoardRow], detector: str, items: Sequence[GalleryItem]) -> str:
    """How many errors stand behind the pictures."""
    decided = {
        row.metric: row
        for row in rows
        if row.detector == detector and row.protocol in (NOMINAL, OUTLIER) and row.value is not None
    }
    threshold = f"threshold {items[0].threshold:.4g}"
    if not {"false_positives", "false_negatives"} <= set(decided):
        return threshold
    alarms, misses = decided["false_positives"], decided["false_negatives"]
    return f"{alarms.value:.0f} false alarms and {misses.value:.0f} misses in {alarms.n} test images at {threshold}"
