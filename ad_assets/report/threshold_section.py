"""Scores of nominal and anomalous images beside the threshold, recall by type of defect, and other rates of alarms.

Thresholds and the false alarms that are expected at them are of nominal images alone. What test labels say of a
threshold that was not set stands under `oracle_recall`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ad_assets.metrics.alarm_rates import AlarmRate, alarm_rates, recall_by_type
from ad_assets.report.markdown import one_line
from ad_assets.report.text import aligned

BINS = 33  # the last holds all that lies beyond
REACH = 3.0  # the axis ends so many times as far from the lowest score as the threshold
WIDTH, BAR = 264, 34  # SVG units of a row of bars
ROW = BAR + 18
LEFT_OUT, GOOD, ANOMALOUS, UNKNOWN = "good, in training", "good, in test", "anomalous", "test, not labelled"
ORACLE_RECALL = "oracle_recall"
KEY = "decision.false_alarm_rate"


@dataclass(frozen=True)
class LaneScores:
    """The image scores of one lane on one category, and how it decides.

    Args:
        detector: its name.
        scores: (n,) of test images.
        labels: (n,) 1 is anomalous; None: unknown.
        defect_types: (n,) of each.
        threshold: an image is called anomalous above it.
        rate: of false alarms that is asked for.
        nominal: (m,) of nominal training images that were left out or held out; empty: the threshold is no quantile.
        groups: (m,) as for `nominal_quantile`.
    """

    detector: str
    scores: Sequence[float]
    labels: Sequence[int | None]
    defect_types: Sequence[str]
    threshold: float
    rate: float
    nominal: Sequence[float] = ()
    groups: Sequence[int] = field(default=())

    @property
    def labelled(self) -> bool:
        """Whether all test images have labels."""
        return all(label is not None for label in self.labels)

    @property
    def rates(self) -> list[AlarmRate]:
        """As `alarm_rates`; none where no nominal image was scored."""
        return alarm_rates(self.nominal, self.groups, self.rate) if self.nominal else []

    def recall(self, threshold: float) -> dict[str, tuple[int, int]]:
        """As `recall_by_type`; empty where labels are unknown."""
        return recall_by_type(self.scores, self._known, self.defect_types, threshold) if self.labelled else {}

    @property
    def kinds(self) -> dict[str, list[float]]:
        """The scores of each kind of image that there is."""
        of_label = {0: GOOD, 1: ANOMALOUS} if self.labelled else {}
        kinds: dict[str, list[float]] = {LEFT_OUT: list(self.nominal)}
        for score, label in zip(self.scores, self.labels, strict=True):
            kinds.setdefault(of_label.get(label or 0, UNKNOWN), []).append(score)
        return {kind: kinds[kind] for kind in (LEFT_OUT, GOOD, ANOMALOUS, UNKNOWN) if kinds.get(kind)}

    @property
    def _known(self) -> list[int]:
        return [label or 0 for label in self.labels]


@dataclass(frozen=True)
class Bars:
    """One row of a histogram: SVG path data of its bars, and what it shows in words."""

    kind: str
    path: str
    top: int
    told: str


@dataclass(frozen=True)
class ScoreChart:
    """The histogram of a lane: rows of bars, where the threshold stands (SVG units), and the ends of the axis."""

    detector: str
    rows: tuple[Bars, ...]
    at: float
    threshold: float
    low: float
    high: float
    beyond: bool
    width: int = WIDTH

    @property
    def height(self) -> int:
        """SVG units."""
        return ROW * len(self.rows)

    @property
    def told(self) -> str:
        """The chart in words, for those who do not see it."""
        return f"Image scores of {self.detector}, threshold {self.threshold:.4g}. " + ". ".join(
            row.told for row in self.rows
        )


@dataclass(frozen=True)
class RateTable:
    """What other rates of false alarms would give one lane; each row: cells as texts, and whether it is set now."""

    detector: str
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], bool], ...]


@dataclass(frozen=True)
class ThresholdSection:
    """All that the section shows, of all lanes."""

    charts: list[ScoreChart]
    recall: list[tuple[str, list[str]]]  # type of defect -> a cell a lane
    lanes: list[str]
    tables: list[RateTable]
    keys: tuple[str, str]


def threshold_section(dataset: str, category: str, lanes: Sequence[LaneScores]) -> ThresholdSection | None:
    """The section of a category; None without a lane that decides."""
    if not lanes:
        return None
    recalls = [each.recall(each.threshold) for each in lanes]
    kinds = sorted({kind for recall in recalls for kind in recall})
    rows = [(kind, [_share(recall.get(kind)) for recall in recalls]) for kind in kinds]
    if len(kinds) > 1:
        rows.append(("all", [_share(_sum(recall)) for recall in recalls]))
    place = f"datasets.{dataset}.decision"
    keys = f"{place}.false_alarm_rate", f"{place}.categories.{category}.false_alarm_rate"
    tables = [_rate_table(each) for each in lanes if each.nominal]
    return ThresholdSection([score_chart(each) for each in lanes], rows, [e.detector for e in lanes], tables, keys)


def threshold_text(lane: LaneScores) -> str:
    """Recall by type of defect, and the table of rates, as plain text."""
    blocks = []
    if recall := lane.recall(lane.threshold):
        found = [
            ("defects", "found", "recall"),
            *((one_line(kind), *_counted(counts)) for kind, counts in recall.items()),
        ]
        blocks += [f"recall at the threshold {lane.threshold:.4g}", aligned(list(zip(*found, strict=True)))]
    if lane.nominal:
        table = _rate_table(lane)
        rows = [table.columns, *((f"{cells[0]}{' *' if now else ''}", *cells[1:]) for cells, now in table.rows)]
        blocks += [
            f"other rates of false alarms, from {len(lane.nominal)} nominal images alone (* set now; the key {KEY} of "
            f"the dataset or the detector changes it)",
            aligned(list(zip(*rows, strict=True))),
        ]
    return "\n\n".join(blocks)


def score_chart(lane: LaneScores) -> ScoreChart:
    """The histogram of a lane; scores far beyond the threshold are in the last bin."""
    kinds = lane.kinds
    everything = np.concatenate([np.asarray(values, np.float64) for values in kinds.values()])
    low, most = float(min(everything.min(), lane.threshold)), float(max(everything.max(), lane.threshold))
    high = min(most, low + REACH * (lane.threshold - low)) if lane.threshold > low else most
    high = high if high > low else low + 1.0
    rows = []
    for number, (kind, values) in enumerate(kinds.items()):
        place = (np.asarray(values, np.float64) - low) / (high - low) * (BINS - 1)
        counts = np.bincount(place.clip(0, BINS - 1).astype(np.int64), minlength=BINS)
        top = number * ROW + 14
        above = sum(value > lane.threshold for value in values)
        told = f"{kind}: {len(values)} images, {above} above the threshold"
        rows.append(Bars(kind, _bars(counts, top), top, told))
    at = (lane.threshold - low) / (high - low) * WIDTH * (BINS - 1) / BINS
    return ScoreChart(lane.detector, tuple(rows), round(at, 1), lane.threshold, low, high, most > high)


def _bars(counts: NDArray[np.int64], top: int) -> str:
    wide, most = WIDTH / BINS, int(counts.max())
    # Of 1,000 images one is still to be seen: a bar is at least 1.5 units high.
    heights = [max(1.5, BAR * int(count) / most) for count in counts]
    return "".join(
        f"M{place * wide:.1f} {top + BAR}v{-high:.1f}h{wide - 0.8:.1f}v{high:.1f}z"
        for place, (count, high) in enumerate(zip(counts, heights, strict=True))
        if count
    )


def _rate_table(lane: LaneScores) -> RateTable:
    judged = any(lane.recall(lane.threshold).values())
    columns = "false alarms asked for", "threshold", "expected in 1,000 good images", *([ORACLE_RECALL] * judged)
    rows = []
    for each in lane.rates:
        lacking = f" ({each.missing} nominal images too few)" if each.missing else ""
        oracle = [_share(_sum(lane.recall(each.threshold)))] if judged else []
        cells = f"{100 * each.rate:.3g} %{lacking}", f"{each.threshold:.4g}", f"{1000 * each.expected:.3g}", *oracle
        rows.append((cells, each.rate == lane.rate))
    return RateTable(lane.detector, columns, tuple(rows))


def _sum(recall: dict[str, tuple[int, int]]) -> tuple[int, int] | None:
    return (sum(found for found, _ in recall.values()), sum(total for _, total in recall.values())) if recall else None


def _counted(counts: tuple[int, int]) -> tuple[str, str]:
    return f"{counts[0]} of {counts[1]}", f"{100 * counts[0] / counts[1]:.0f} %"


def _share(counts: tuple[int, int] | None) -> str:
    if counts is None:
        return "–"
    of, share = _counted(counts)
    return f"{share} ({of})"
