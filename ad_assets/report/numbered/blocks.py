"""From what was measured to the lines of a numbered table: ours and the paper's number in every cell.

Pure: tidy rows come in, blocks of cells go out. What covers another part of the categories than the paper's number
stands beside it without a difference.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from ad_assets.metrics.catalogue import find
from ad_assets.papers import published as papers
from ad_assets.papers.numbered_tables import KINDS, Counts, Detectors, Images, Part, StudyPart, StudyRow, Systems
from ad_assets.report.leaderboard import BEST_EPOCH, MEAN, STANDARD, TIMING, published_beside
from ad_assets.report.numbered.cells import TRAINING, Block, Cell, Measured
from ad_assets.report.studies import mean_and_spread

Key = tuple[str, ...]
Values = Mapping[Key, pd.DataFrame]  # (*key of a line, metric) -> (categories, draws), without undefined values
NOTHING = pd.DataFrame()


@dataclass(frozen=True)
class _Line:
    """A detector under one protocol, or a variant of a study, and what the paper prints of it.

    Args:
        name: for people.
        key: under which it was measured; None: the paper's numbers alone.
        printed: metric -> category, kind of anomaly or `MEAN` -> number.
        spread: of `printed`, over draws, as the paper has it.
        factor: from `printed` to the unit in which it is shown.
        dataset: whose categories the paper's mean is of, where a part of them can be compared.
    """

    name: str
    key: Key | None
    printed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    spread: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    factor: float = 1
    dataset: str | None = None


def blocks(part: Part, measured: Measured) -> list[Block]:
    """The lines of one part; those of ``curves`` are made by `curves.curve_blocks`."""
    match part:
        case Systems():
            return _blocks(part, measured, _systems(part, measured), _values(measured.rows, "detector", "protocol"))
        case Counts():
            return _blocks(part, measured, *_counts(part, measured), "sum over categories")
        case StudyPart():
            rows = [row for row in measured.rows if not row["defect_type"]]
            return _blocks(part, measured, _variants(part, measured), _values(rows, "variant"))
        case Detectors():
            # Rates are of all categories together: one number a detector.
            whole = replace(measured, categories=(MEAN,))
            return _blocks(part, whole, *_speed(part, measured), "over all categories")
        case Images():
            lines = [_Line(part.label, (), _means(part.paper))]
            values = pd.DataFrame(measured.rows, columns=["category", *part.metrics]).melt(
                "category", var_name="metric"
            )
            return [replace(block, title="") for block in _blocks(part, measured, lines, _values(values))]


def _blocks(
    part: Part, measured: Measured, lines: Sequence[_Line], values: Values, corner: str = "mean over categories"
) -> list[Block]:
    """Lines x metrics, lines x kinds of anomalies, or for each metric categories x lines."""
    by = getattr(part, "by", "mean")
    headings = [find(metric).heading_with_unit for metric in part.metrics]

    def cell(line: _Line, metric: str, column: str) -> Cell:
        shown = f"{metric}_{'kinds' if column == MEAN else column}" if by == "kind" else metric
        own = NOTHING if line.key is None else values.get((*line.key, shown), NOTHING)
        one = by == "category" and column != MEAN
        of = (column,) if one else measured.categories
        return _cell(
            line,
            metric,
            column,
            own[own.index.isin(of)].dropna(axis=1, how="all"),
            of,
            measured.same_data,
            whole_only=by == "kind" or one,
        )

    if by == "category":
        printed = (column for line in lines for row in line.printed.values() for column in row if column != MEAN)
        categories = (*(measured.chosen or dict.fromkeys(printed)), MEAN)
        names = tuple(line.name for line in lines)
        return [
            Block(
                _title(part, heading),
                names,
                tuple((category, tuple(cell(line, metric, category) for line in lines)) for category in categories),
            )
            for metric, heading in zip(part.metrics, headings, strict=True)
        ]
    columns = (
        [(part.metrics[0], kind) for kind in (*KINDS, MEAN)] if by == "kind" else [(m, MEAN) for m in part.metrics]
    )
    title, heads = (_title(part, headings[0]), (*KINDS, MEAN)) if by == "kind" else (_title(part), tuple(headings))
    return [
        Block(title, heads, tuple((line.name, tuple(cell(line, *each) for each in columns)) for line in lines), corner)
    ]


def _cell(
    line: _Line, metric: str, column: str, own: pd.DataFrame, of: Collection[str], same_data: bool, *, whole_only: bool
) -> Cell:
    """Ours over the categories measured, beside the paper's over the same ones if there is such a number.

    Args:
        line: whose cell.
        metric: of ours.
        column: category, kind or `MEAN`.
        own: values (categories, draws).
        of: the categories that make a whole.
        same_data: whether the paper's images are ours.
        whole_only: compare only where all of `of` were measured, and not with the paper's mean over the same part.
    """
    facts = find(metric)
    factor = 100 if facts.is_share else 1
    mean, spread = mean_and_spread(own.sum() if facts.aggregate == "sum" else own.mean()) if len(own) else (None, 0.0)
    whole = len(own) == len(of)
    printed = line.printed.get(metric, {})
    paper, compared = printed.get(column), whole
    if line.dataset and not whole_only:
        known = set(printed) - {MEAN}
        covered = set(own.index)
        beside = (
            published_beside(printed, MEAN, covered, line.dataset) if covered and (whole or covered <= known) else None
        )
        paper, compared = (paper, False) if beside is None else (beside, True)
    return Cell(
        ours=None if mean is None else factor * mean,
        paper=None if paper is None else line.factor * paper,
        spread=factor * spread,
        paper_spread=line.spread.get(metric, {}).get(column, 0.0),
        decimals=facts.decimals,
        lane=line.key is not None,
        compared=compared and same_data,
        covered=None if whole or own.empty else len(own),
    )


def _values(rows: Iterable[Mapping[str, Any]] | pd.DataFrame, *keys: str) -> dict[Key, pd.DataFrame]:
    """Tidy rows by the columns `keys` and ``metric``; rows without ``draw`` are of draw 0."""
    frame = pd.DataFrame(rows, columns=[*keys, "metric", "category", "draw", "value"]).dropna(subset="value")
    frame = frame.fillna({"draw": 0}).astype({"value": float})
    return {
        key: group.pivot(index="category", columns="draw", values="value")
        for key, group in frame.groupby([*keys, "metric"])
    }


def _means(printed: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {metric: {MEAN: number} for metric, number in printed.items()}


def _systems(part: Systems, measured: Measured) -> list[_Line]:
    """What looked at test labels never stands without what did not."""
    measured_under = {(row["detector"], row["protocol"]) for row in measured.rows}
    lines = []
    for name, system, detector in _named(part.systems):
        key = (detector, STANDARD) if detector else None
        printed = papers.published(system, part.paper_dataset)
        line = _Line(name, key, printed, factor=100, dataset=part.paper_dataset)
        if detector is None or part.protocol == STANDARD or (detector, part.protocol) not in measured_under:
            lines.append(line)
        else:
            oracle = "best epoch (oracle)" if part.protocol == BEST_EPOCH else part.protocol
            lines.append(replace(line, name=f"{name}, {oracle}", key=(detector, part.protocol)))
            lines.append(replace(line, name=f"{name}, last epoch", printed={}))
    return lines


def _named(systems: Mapping[str, str | None]) -> list[tuple[str, str, str | None]]:
    """Name for people, system and detector; without ``[quoted in X paper]`` where that keeps names apart."""
    short = [system.partition(" [")[0] for system in systems]
    return [
        (name if short.count(name) == 1 else system, system, detector)
        for name, (system, detector) in zip(short, systems.items(), strict=True)
    ]


def _counts(part: Counts, measured: Measured) -> tuple[list[_Line], Values]:
    values = _values((row for row in measured.rows if row["protocol"] == "oracle_f1"), "detector")
    for detector in {key[0] for key in values}:
        alarms, misses = (values.get((detector, f"false_{name}"), NOTHING) for name in ("positives", "negatives"))
        values[detector, "misclassified"] = (alarms + misses).dropna()
    lines = [
        _Line(name, (detector,) if detector else None, _means(papers.counts(system, part.paper_dataset)))
        for name, system, detector in _named(part.systems)
    ]
    return lines, values


def _variants(part: StudyPart, measured: Measured) -> list[_Line]:
    rows = part.rows or {name: StudyRow(variant=name) for name in measured.variants}
    lines = []
    for name, row in rows.items():
        printed, spread = (
            {"image_auroc": each} if part.by == "kind" else _means(each) for each in (row.paper, row.spread)
        )
        lines.append(_Line(name, (row.variant,) if row.variant else None, printed, spread))
    return lines


def _speed(part: Detectors, measured: Measured) -> tuple[list[_Line], Values]:
    """What images cost a detector: rates over all categories together, the rest in the mean."""
    rows = pd.DataFrame(measured.rows, columns=["detector", "protocol", "metric", "category", "value", "n"])
    values: dict[Key, pd.DataFrame] = {}
    for detector, own in rows[rows["protocol"].isin([TIMING, TRAINING])].dropna(subset="value").groupby("detector"):
        costs = own.pivot(index="category", columns="metric", values="value")
        found = costs.mean().rename({"parameters": "million_parameters"})
        if "million_parameters" in found:
            found["million_parameters"] *= 1e-6
        seconds = 1 / costs.reindex(columns=["features_images_per_second", "score_images_per_second"]).dropna()
        if len(seconds):
            images = own[own["protocol"] == TIMING].groupby("category")["n"].last()[seconds.index]
            found["seconds_per_image"] = (images * seconds.sum(axis=1)).sum() / images.sum()
            found["images_per_second"] = 1 / found["seconds_per_image"]
        values |= {(str(detector), str(metric)): pd.DataFrame([value], [MEAN]) for metric, value in found.items()}
    lines = [
        _Line(name.partition(" [")[0], (row.detector,) if row.detector else None, _means(row.paper))
        for name, row in part.rows.items()
    ]
    return lines, values


def _title(part: Part, *more: str) -> str:
    """What sets a part apart, and what a block of it shows."""
    return ": ".join(text for text in (part.label, *more) if text)
