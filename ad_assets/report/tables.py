"""Leaderboard rows as tables of cells: text, tooltip, the paper's number, the best of a row or column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ad_assets.report.leaderboard import (
    MEAN,
    STANDARD,
    TIMING,
    Row,
    is_oracle,
    percent,
    pivot,
    signed_percent,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

METRIC_NAMES = {
    "image_auroc": "Image AUROC",
    "pixel_auroc": "Pixel AUROC",
    "aupro_0.30": "AUPRO 0.30",
    "image_ap": "Image AP",
    "pixel_ap": "Pixel AP",
    "image_f1": "Image F1",
    "false_positives": "False alarms",
    "false_negatives": "Misses",
    "best_iou": "Pixel IoU",
    "threshold": "Threshold",
}
COMPARED = ("image_auroc", "pixel_auroc", "aupro_0.30")
DECIDED = ("image_f1", "false_positives", "false_negatives")
COUNTS = ("false_positives", "false_negatives")


@dataclass(frozen=True)
class Cell:
    """One number: text, the unrounded value as tooltip, how it stands to the paper and to its neighbours."""

    text: str = "–"
    hint: str = "not measured"
    paper: str = ""
    delta: str = ""
    trend: str = ""  # up | down | same, against the paper
    best: bool = False
    part: str = ""  # "3 of 15" where a mean covers fewer categories than the dataset has
    lack: int = 0  # 0..100, the tint of the cell: from a perfect value down to 80 % and less


@dataclass(frozen=True)
class Table:
    """Named rows of cells under columns: detectors x metrics, or categories x detectors of one metric."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]

    @property
    def has_paper(self) -> bool:
        """Whether any cell has a paper's number beside it."""
        return any(cell.paper for _, cells in self.rows for cell in cells)


def cell(row: Row | None, *, best: bool = False, categories: int = 0) -> Cell:
    """What a table shows of one leaderboard row; `categories` is how many a complete mean covers."""
    if row is None or row["value"] is None:
        return Cell()
    value, metric = row["value"], row["metric"]
    hint = [f"{value:.6g}", f"n = {row['n']}"]
    if row["aggregate"]:
        hint[1] = f"{row['aggregate']} over {row['n']} categories"
    if row["seed"] is not None:
        hint.append(f"seed {row['seed']}")
    hint.append(f"fingerprint {str(row['fingerprint'])[:12]}")
    delta = signed_percent(row["delta"])
    trend = "" if not delta else "same" if delta == "0.0" else "down" if delta.startswith("-") else "up"
    partial = row["category"] == MEAN and row["n"] < categories
    return Cell(
        text=_shown(metric, value),
        hint=", ".join(hint),
        paper="" if row["paper_value"] is None else percent(row["paper_value"]),
        delta=delta.replace("-", "−"),
        trend=trend,
        best=best,
        part=f"{row['n']} of {categories}" if partial else "",
        lack=0 if is_quantity(metric) else round(100 * min(1.0, max(0.0, (1 - value) / 0.2))),
    )


def is_quantity(metric: str) -> bool:
    """Whether a metric is a count, rate, time or score, not a share of 1."""
    return metric in (*COUNTS, "threshold") or metric.endswith(("second", "seconds"))


def _shown(metric: str, value: float) -> str:
    if metric in COUNTS:
        return f"{value:.0f}"
    if metric == "threshold":
        return f"{value:.4g}"
    if is_quantity(metric):
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"
    return percent(value)


def _metric_name(metric: str) -> str:
    if metric in METRIC_NAMES:
        return METRIC_NAMES[metric]
    if metric.startswith("aupro_"):
        return metric.replace("aupro_", "AUPRO ")
    if metric.startswith("au_spro_"):
        return metric.replace("au_spro_", "AU-sPRO ").replace("_", ", ")
    if metric.startswith("image_auroc_"):
        return f"Image AUROC, {metric.removeprefix('image_auroc_').replace('kinds', 'mean of kinds')}"
    name = metric.replace("_images_per_second", ", images/s").replace("_seconds", ", s").replace("_", " ")
    return name[:1].upper() + name[1:]


def _best(cells: Sequence[Row | None], metric: str) -> set[int]:
    """Positions of the best shown value among the complete ones; none where all show the same."""
    rows = [(k, row) for k, row in enumerate(cells) if row is not None and row["value"] is not None]
    most = max((row["n"] for _, row in rows), default=0)
    rivals = [(k, row["value"]) for k, row in rows if row["n"] == most or row["category"] != MEAN]
    if not rivals:
        return set()
    least_wins = metric in COUNTS or metric.endswith("_seconds")
    top = min(value for _, value in rivals) if least_wins else max(value for _, value in rivals)
    winners = {k for k, value in rivals if _shown(metric, value) == _shown(metric, top)}
    return winners if len(winners) < len(rivals) else set()


def means(rows: Sequence[Row], detectors: Sequence[str], metrics: Sequence[str], protocol: str) -> Table:
    """Means of several metrics under one protocol; metrics that no detector has are left out."""
    total = len({row["category"] for row in rows} - {MEAN})
    columns: list[str] = []
    cells: dict[str, list[Cell]] = {detector: [] for detector in detectors}
    for metric in metrics:
        found = [pivot(rows, metric, protocol).cell(detector, MEAN) for detector in detectors]
        if not any(found):
            continue
        columns.append(_metric_name(metric))
        best = _best(found, metric)
        for k, (detector, row) in enumerate(zip(detectors, found, strict=True)):
            cells[detector].append(cell(row, best=k in best, categories=total))
    kept = tuple((name, tuple(line)) for name, line in cells.items() if any(cell != Cell() for cell in line))
    return Table(protocol, tuple(columns), kept)


def further(rows: Sequence[Row], detectors: Sequence[str]) -> Table:
    """Standard metrics beside the compared ones: average precision, kinds of anomalies, AUPRO up to other limits."""
    families = ("aupro_", "au_spro_", "image_auroc_")
    standard = {row["metric"] for row in rows if row["protocol"] == STANDARD}
    limits = {metric for metric in standard if metric.startswith(families)} - set(COMPARED)
    return means(rows, detectors, ["image_ap", "pixel_ap", *sorted(limits)], STANDARD)


def oracles(rows: Sequence[Row], detectors: Sequence[str]) -> list[Table]:
    """One table for each protocol that looked at test labels."""
    order = list(METRIC_NAMES)
    tables = []
    for protocol in sorted({row["protocol"] for row in rows if is_oracle(row["protocol"])}):
        metrics = {row["metric"] for row in rows if row["protocol"] == protocol}
        known = sorted(metrics & set(order), key=order.index)
        tables.append(means(rows, detectors, [*known, *sorted(metrics - set(order))], protocol))
    return [table for table in tables if table.columns]


def timings(rows: Sequence[Row], detectors: Sequence[str]) -> Table:
    """Images per second and seconds by stage, in the order in which the graph runs them."""
    stages = ("features", "fit", "score")
    metrics = {row["metric"] for row in rows if row["protocol"] == TIMING}

    def rank(metric: str) -> tuple[int, str]:
        return next((k for k, stage in enumerate(stages) if metric.startswith(stage)), len(stages)), metric

    return means(rows, detectors, sorted(metrics, key=rank), TIMING)


def matrix(rows: Sequence[Row], metric: str, protocol: str = STANDARD) -> Table:
    """One metric under one protocol, categories x detectors."""
    table = pivot(rows, metric, protocol)
    total = len([name for name in table.categories if name != MEAN])
    lines = []
    for category in table.categories:
        found = [table.cell(detector, category) for detector in table.detectors]
        best = _best(found, metric)
        cells = (cell(row, best=k in best, categories=total) for k, row in enumerate(found))
        lines.append((category, tuple(cells)))
    return Table(_metric_name(metric), table.detectors, tuple(lines))
