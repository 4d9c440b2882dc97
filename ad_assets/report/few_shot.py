"""Few-shot rows of a leaderboard: what detectors reach that were fitted on few nominal images.

Which images is chance, so each number is a mean over draws and stands with their spread. A mean over categories is made
only where every category has the metric in every draw, as in the leaderboard. No number of images is ever chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from ad_assets.metrics.catalogue import compared, find, rank
from ad_assets.report.leaderboard import MEAN
from ad_assets.report.studies import mean_and_spread
from ad_assets.report.tables import DASH
from ad_assets.report.text import aligned

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("dataset", "study", "variant", "detector")),
        ("train_images", pa.int64()),
        ("draws", pa.int64()),
        ("category", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),  # null: not defined
        ("spread", pa.float64()),
        ("n", pa.int64()),
        ("fingerprint", pa.string()),
    ]
)
ABOUT = "Fitted on few nominal images of each category, drawn at random; ± is the sample standard deviation over draws."


@dataclass(frozen=True)
class Shots:
    """A variant of a study that is fitted on few images.

    Args:
        study: its study.
        variant: its name there.
        detector: the detector that varies.
        train_images: nominal images of each category.
    """

    study: str
    variant: str
    detector: str
    train_images: int

    @property
    def title(self) -> str:
        """The detector, and what varies."""
        named = self.variant == self.detector or self.variant.startswith(f"{self.detector}, ")
        return self.variant if named else f"{self.detector}, {self.variant}"


@dataclass(frozen=True)
class FewShotRow:
    """One row, the columns of `SCHEMA`.

    Args:
        dataset: name of the dataset.
        study: name of the study.
        variant: its variant.
        detector: the detector that varies.
        train_images: nominal images of each category.
        draws: how often these were drawn.
        category: a category, or ``"mean"``.
        metric: a share, 0..1.
        value: the mean over draws; None: not defined in all of them.
        spread: the sample standard deviation over draws, of ``"mean"`` that of the means over categories; 0 for one.
        n: test images, or categories of ``"mean"``.
        fingerprint: of the study's rows.
    """

    dataset: str
    study: str
    variant: str
    detector: str
    train_images: int
    draws: int
    category: str
    metric: str
    value: float | None
    spread: float | None
    n: int
    fingerprint: str


def build(dataset: str, shots: Sequence[Shots], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[FewShotRow]:
    """The few-shot rows of a dataset, by shots, metric and category, ``"mean"`` last.

    Args:
        dataset: its name.
        shots: in the order of the table.
        rows: study -> its tidy rows, as studies store them.
    """
    found = []
    for each in shots:
        own = [row for row in rows.get(each.study, ()) if row["variant"] == each.variant and not row["defect_type"]]
        own = sorted(own, key=lambda row: (rank(row["metric"]), row["category"], row["draw"]))
        for metric, group in groupby(own, lambda row: row["metric"]):
            if find(metric).is_share:
                found += _of_metric(dataset, each, metric, list(group))
    return found


def _of_metric(dataset: str, shots: Shots, metric: str, rows: Sequence[Mapping[str, Any]]) -> list[FewShotRow]:
    """The rows of one metric of one variant, from its rows of all categories and draws."""
    draws = sorted({row["draw"] for row in rows})
    categories = sorted({row["category"] for row in rows})
    values = {(row["category"], row["draw"]): row["value"] for row in rows}

    def row(category: str, values: Sequence[float | None], n: int, fingerprints: Sequence[str]) -> FewShotRow:
        known = [value for value in values if value is not None]
        value, spread = mean_and_spread(known) if len(known) == len(draws) else (None, None)
        whole = hashlib.sha256("\n".join(fingerprints).encode()).hexdigest()
        named = (dataset, shots.study, shots.variant, shots.detector, shots.train_images, len(draws))
        return FewShotRow(*named, category, metric, value, spread, n, whole)

    found = []
    for category in categories:
        own = [each for each in rows if each["category"] == category]
        of_draws = [values.get((category, draw)) for draw in draws]
        found.append(row(category, of_draws, own[0]["n"], [each["fingerprint"] for each in own]))
    means = []
    for draw in draws:
        known = [value for category in categories if (value := values.get((category, draw))) is not None]
        means.append(sum(known) / len(known) if len(known) == len(categories) else None)
    if None not in means:
        found.append(row(MEAN, means, len(categories), [each["fingerprint"] for each in rows]))
    return found


def to_table(rows: Sequence[FewShotRow]) -> pa.Table:
    """The rows as a table of `SCHEMA`."""
    return pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA)


def from_table(table: pa.Table) -> list[FewShotRow]:
    """The inverse of `to_table`."""
    return [FewShotRow(**row) for row in table.select(SCHEMA.names).to_pylist()]


def table(rows: Sequence[FewShotRow], categories: int) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of text, means over categories in percent.

    Args:
        rows: as `build` returns them.
        categories: how many the dataset has.
    """
    shots = dict.fromkeys(Shots(row.study, row.variant, row.detector, row.train_images) for row in rows)
    titles = [each.title for each in shots]
    header = ["detector", "images", "draws", *(find(name).title for name in compared()), "categories"]
    lines = []
    for each in shots:
        own = [row for row in rows if (row.study, row.variant) == (each.study, each.variant)]
        means = {row.metric: row for row in own if row.category == MEAN}
        title = each.title if titles.count(each.title) == 1 else f"{each.title} ({each.study})"
        count = len({row.category for row in own} - {MEAN})
        cells = [_text(means.get(name)) for name in compared()]
        lines.append([title, str(each.train_images), str(own[0].draws), *cells, f"{count} of {categories}"])
    return header, lines


def text_table(rows: Sequence[FewShotRow], categories: int) -> str:
    """The rows for a terminal; empty where there are none."""
    if not rows:
        return ""
    header, lines = table(rows, categories)
    title = (
        "few-shot: fitted on few nominal images; means over categories, mean ± sample standard deviation over draws, %"
    )
    return f"{title}\n\n{aligned(list(zip(['', *header[1:]], *lines, strict=True)))}"


def _text(row: FewShotRow | None) -> str:
    if row is None or row.value is None:
        return DASH
    metric = find(row.metric)
    return metric.text(row.value) + (f" ±{metric.text(row.spread or 0.0)}" if row.draws > 1 else "")
