"""From what was measured to the lines of a numbered table: ours and the paper's number in every cell.

Pure: tidy rows come in, blocks of cells go out. What covers another part of the categories than the paper's number
stands beside it without a difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ad_assets.metrics.catalogue import find
from ad_assets.papers import published as papers
from ad_assets.papers.numbered_tables import KINDS, Counts, Detectors, Images, Part, StudyPart, StudyRow, Systems
from ad_assets.report.leaderboard import BEST_EPOCH, MEAN, STANDARD, TIMING, published_beside
from ad_assets.report.numbered.cells import (
    Block,
    Cell,
    Measured,
    Row,
    Values,
    by_category,
    mean_cell,
    percent,
    short_names,
    titled,
)
from ad_assets.report.studies import Summary, summarise


def blocks(part: Part, measured: Measured) -> list[Block]:
    """The lines of one part; those of ``curves`` are made by `numbered_curves`."""
    match part:
        case Systems():
            return _systems(part, measured)
        case Counts():
            return [_counts(part, measured)]
        case StudyPart():
            return _study(part, measured)
        case Detectors():
            return [_speed(part, measured)]
        case Images():
            return [_images(part, measured)]


def _headings(part: Part) -> tuple[str, ...]:
    return tuple(find(metric).heading_with_unit for metric in part.metrics)


# -- systems --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """One line of systems: what a detector measured under one protocol, and whether the paper's number is beside."""

    name: str
    system: str
    detector: str | None
    protocol: str = STANDARD
    with_paper: bool = True


def _lines(part: Systems, measured: Measured) -> list[_Line]:
    short = short_names(part.systems)
    found = []
    for system, detector in part.systems.items():
        name = short[system]
        has = any((row["detector"], row["protocol"]) == (detector, part.protocol) for row in measured.rows)
        if part.protocol == STANDARD or not has:
            found.append(_Line(name, system, detector))
        else:  # what looked at test labels never stands without what did not
            oracle = "best epoch (oracle)" if part.protocol == BEST_EPOCH else part.protocol
            found.append(_Line(f"{name}, {oracle}", system, detector, part.protocol))
            found.append(_Line(f"{name}, last epoch", system, detector, STANDARD, with_paper=False))
    return found


def _systems(part: Systems, measured: Measured) -> list[Block]:
    lines = _lines(part, measured)
    values = by_category(measured.rows)

    def cell(line: _Line, metric: str, category: str = MEAN) -> Cell:
        own = values.get((line.detector or "", line.protocol, metric), {})
        printed = papers.published(line.system, part.paper_dataset).get(metric, {}) if line.with_paper else {}
        return _cell(own, printed, category, measured, metric, line.detector is not None, part.paper_dataset)

    def kind_cell(line: _Line, kind: str) -> Cell:
        suffix = "kinds" if kind == MEAN else kind
        own = values.get((line.detector or "", line.protocol, f"image_auroc_{suffix}"), {})
        printed = papers.published(line.system, part.paper_dataset).get("image_auroc", {}) if line.with_paper else {}
        return mean_cell(own, percent(printed.get(kind)), measured, "image_auroc", line.detector is not None)

    if part.by == "kind":
        return [_by_kind(part, [line.name for line in lines], lambda place, kind: kind_cell(lines[place], kind))]
    if part.by == "mean":
        found = tuple((line.name, tuple(cell(line, metric) for metric in part.metrics)) for line in lines)
        return [Block(titled(part), _headings(part), found, "mean over categories")]
    names = tuple(line.name for line in lines)
    printed = (row for system in part.systems for row in papers.published(system, part.paper_dataset).values())
    categories = measured.chosen or tuple(dict.fromkeys(each for row in printed for each in row if each != MEAN))
    return [
        Block(
            titled(part, find(metric).heading_with_unit),
            names,
            tuple((each, tuple(cell(line, metric, each) for line in lines)) for each in (*categories, MEAN)),
        )
        for metric in part.metrics
    ]


def _by_kind(part: Systems | StudyPart, names: Sequence[str], cell: Callable[[int, str], Cell]) -> Block:
    columns = (*KINDS, MEAN)
    lines = tuple((name, tuple(cell(place, kind) for kind in columns)) for place, name in enumerate(names))
    return Block(titled(part, find("image_auroc").heading_with_unit), columns, lines, "mean over categories")


def _cell(
    own: Values, printed: Values, category: str, measured: Measured, metric: str, lane: bool, dataset: str
) -> Cell:
    """A share of one category or of all, beside the paper's over the same categories."""
    if category != MEAN:
        ours, paper = percent(own.get(category)), percent(printed.get(category))
        return Cell(ours, paper, lane=lane, compared=measured.same_data)
    covered = set(own)
    known = {name for name in printed if name != MEAN}
    whole = covered == set(measured.categories)
    paper = published_beside(printed, MEAN, covered, dataset) if covered and (whole or covered <= known) else None
    if paper is not None:
        return mean_cell(own, percent(paper), measured, metric, lane, same_part=True)
    return mean_cell(own, percent(printed.get(MEAN)), measured, metric, lane, same_part=False)


# -- counts, speed, images ------------------------------------------------------------------------------------------


def _counts(part: Counts, measured: Measured) -> Block:
    values = by_category(measured.rows)
    lines = []
    short = short_names(part.systems)
    for system, detector in part.systems.items():
        printed = papers.counts(system, part.paper_dataset)
        own = {
            name: values.get((detector or "", "oracle_f1", name), {}) for name in ("false_positives", "false_negatives")
        }
        both = own["false_positives"].keys() & own["false_negatives"].keys()
        own["misclassified"] = {each: own["false_positives"][each] + own["false_negatives"][each] for each in both}
        cells = []
        for metric in part.metrics:
            found = own.get(metric, {})
            whole = set(found) == set(measured.categories)
            cells.append(
                Cell(
                    math.fsum(found.values()) if found else None,
                    printed.get(metric),
                    decimals=0,
                    lane=detector is not None,
                    compared=whole and measured.same_data,
                    covered=None if whole or not found else len(found),
                )
            )
        lines.append((short[system], tuple(cells)))
    return Block(titled(part), _headings(part), tuple(lines), "sum over categories")


def _speed(part: Detectors, measured: Measured) -> Block:
    lines = []
    for name, row in part.rows.items():
        own = _costs([each for each in measured.rows if each["detector"] == row.detector])
        cells = (
            Cell(own.get(metric), row.paper.get(metric), decimals=find(metric).decimals, lane=row.detector is not None)
            for metric in part.metrics
        )
        lines.append((name.partition(" [")[0], tuple(cells)))
    return Block(titled(part), _headings(part), tuple(lines), "over all categories")


def _costs(rows: Sequence[Row]) -> dict[str, float]:
    """What images cost a detector: rates over all categories together, the rest in the mean."""
    values = {metric: own for (_, _, metric), own in by_category(rows).items()}
    images = {row["category"]: row["n"] for row in rows if row["protocol"] == TIMING}
    backbone, scoring = (values.get(f"{stage}_images_per_second", {}) for stage in ("features", "score"))
    both = backbone.keys() & scoring.keys()
    found = {}
    if both:
        seconds = math.fsum(images[each] * (1 / backbone[each] + 1 / scoring[each]) for each in both)
        total = math.fsum(images[each] for each in both)
        found = {"images_per_second": total / seconds, "seconds_per_image": seconds / total}
    for metric, name, factor in (
        ("gmacs_per_image", "gmacs_per_image", 1.0),
        ("million_parameters", "parameters", 1e-6),
        ("seconds_per_epoch", "seconds_per_epoch", 1.0),
    ):
        if own := values.get(name):
            found[metric] = factor * math.fsum(own.values()) / len(own)
    return found


def _images(part: Images, measured: Measured) -> Block:
    cells = []
    for metric in part.metrics:
        own = [row[metric] for row in measured.rows if row[metric] is not None]
        whole = len(own) == len(measured.categories)
        ours = math.fsum(own) / len(own) if own else None
        shown = Cell(
            ours, part.paper.get(metric), decimals=find(metric).decimals, compared=whole and measured.same_data
        )
        cells.append(shown if whole or not own else replace(shown, covered=len(own)))
    return Block("", _headings(part), ((part.label, tuple(cells)),), "mean over categories")


# -- studies --------------------------------------------------------------------------------------------------------


def _study(part: StudyPart, measured: Measured) -> list[Block]:
    rows = part.rows or {name: StudyRow(variant=name) for name in measured.variants}
    summary = summarise(measured.rows)

    def cell(row: StudyRow, metric: str, printed: str, of: Summary = summary, category: str = "") -> Cell:
        found = of.cells.get((row.variant or "", metric, ""))
        whole = found is not None and (bool(category) or found.categories == len(measured.categories))
        factor = 100 if find(metric).is_share else 1
        return Cell(
            factor * found.mean if found else None,
            None if category else row.paper.get(printed),
            factor * found.spread if found else 0.0,
            row.spread.get(printed, 0.0),
            find(metric).decimals,
            row.variant is not None,
            whole and measured.same_data,
            None if whole or found is None else found.categories,
        )

    if part.by == "kind":
        order = list(rows.values())

        def kind_cell(place: int, kind: str) -> Cell:
            return cell(order[place], f"image_auroc_{'kinds' if kind == MEAN else kind}", kind)

        return [_by_kind(part, list(rows), kind_cell)]
    if part.by == "mean":
        lines = tuple((name, tuple(cell(row, m, m) for m in part.metrics)) for name, row in rows.items())
        return [Block(titled(part), _headings(part), lines, "mean over categories")]
    found = []
    apart = {each: summarise(row for row in measured.rows if row["category"] == each) for each in measured.chosen}
    for metric in part.metrics:
        lines = tuple(
            (each, tuple(cell(row, metric, metric, summary_, each) for row in rows.values()))
            for each, summary_ in apart.items()
        )
        mean = (MEAN, tuple(cell(row, metric, metric) for row in rows.values()))
        found.append(Block(titled(part, find(metric).heading_with_unit), tuple(rows), (*lines, mean)))
    return found
