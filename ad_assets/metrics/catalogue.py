"""What each metric is: title, unit, direction, how categories aggregate, whether champions are compared on it.

Tables, gates, plots and exports read these facts here. Another package adds a metric with `register_metric` and an
entry point of the group ``ad_assets.metrics``; it is then measured under the protocol ``standard``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

Measure = Callable[..., float]
MeasureT = TypeVar("MeasureT", bound=Measure)


@dataclass(frozen=True)
class Metric:
    """One metric, or a family of metrics whose names hold parameters, such as ``aupro_{limit}``.

    Args:
        name: lower case; as tidy rows have it.
        title: for people, in the middle of a sentence; of a family with its parameters.
        unit: ``share``: a fraction 0..1, shown in percent; ``percent``: the same as 0..100; ``count``; ``score``: in
            units of the detector's scores; anything else is a text such as ``images/s``.
        better: which values are better, if any are.
        aggregate: over categories; ``throughput``: all images over all the time they took.
        decimals: digits after the point; None: three or four significant ones.
        compared: whether champions are compared on it; reports show it first.
        version: of a registered metric: raise it whenever `measure` makes something else.
        level: of a registered metric, what `measure` takes: ``image``: scores (N,) float32, higher is more anomalous,
            and labels (N,) of 0 and 1, both of which occur; ``pixel``: a `PixelStatistics` with both kinds of pixels.
        measure: what makes the value, given by `register_metric`; None: this project's own stages do.
    """

    name: str
    title: str
    unit: str = "share"
    better: Literal["higher", "lower", "neither"] = "higher"
    aggregate: Literal["mean", "sum", "throughput", "none"] = "mean"
    decimals: int | None = 1
    compared: bool = False
    version: int = 0
    level: Literal["image", "pixel"] = "image"
    measure: Measure | None = None

    @property
    def is_share(self) -> bool:
        """Whether values are fractions, shown in percent."""
        return self.unit == "share"

    @property
    def heading(self) -> str:
        """The title as a column's head."""
        return self.title[:1].upper() + self.title[1:]

    @property
    def heading_with_unit(self) -> str:
        """The title with a percent sign where values are shown in percent."""
        return f"{self.title}, %" if self.unit in ("share", "percent") else self.title

    def text(self, value: float) -> str:
        """A value as tables show it.

        >>> find("image_auroc").text(0.9876), find("false_positives").text(3), find("fit_seconds").text(1234.5)
        ('98.8', '3', '1,234')
        """
        if self.decimals is not None:
            return f"{100 * value if self.is_share else value:.{self.decimals}f}"
        if self.unit == "score":
            return f"{value:.4g}"
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"

    def best(self, values: Iterable[float]) -> float | None:
        """The best of some values; None where there are none, or none is better than another."""
        choose = {"higher": max, "lower": min}.get(self.better)
        return choose(values, default=None) if choose else None

    def is_worse(self, value: float, reference: float, margin: float = 0.0) -> bool:
        """Whether a value is worse than another by more than a margin.

        >>> find("image_auroc").is_worse(0.9, 0.95, 0.02), find("false_positives").is_worse(3, 4)
        (True, False)
        """
        if self.better == "lower":
            return value > reference + margin
        return self.better == "higher" and value < reference - margin


METRICS: dict[str, Metric] = {}  # by name; the order of tables


def register_metric(metric: Metric) -> Callable[[MeasureT], MeasureT]:
    """Function decorator: measure a metric with those of every lane, and show it; studies are without it.

    Raises:
        ValueError: its name is taken or not of the form of names, or it has no version of 1 or more.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_.]*", metric.name) or known(metric.name):
        raise ValueError(
            f"metric {metric.name!r}: names are lower case letters, digits, _ and ., and each is given once"
        )
    if metric.version < 1:
        raise ValueError(f"metric {metric.name!r}: give it a version, from 1 on, and raise it when its values change")

    def register(measure: MeasureT) -> MeasureT:
        METRICS[metric.name] = replace(metric, measure=measure)
        return measure

    return register


def known(name: str) -> Metric | None:
    """A metric by its name; None where there is no such metric or family.

    >>> known("aupro_0.05").title
    'AUPRO 0.05'
    """
    pattern, parameters = _declaration(name)
    if pattern is None:
        return None
    metric = METRICS[pattern]
    return replace(metric, name=name, title=metric.title.format(**parameters)) if parameters else metric


def find(name: str) -> Metric:
    """A metric by its name; one that nobody declares has no direction, and its name as title."""
    unknown = Metric(name, name.replace("_", " "), unit="score", better="neither", decimals=None)
    return known(name) or unknown


def rank(name: str) -> tuple[int, str]:
    """Sorts names as tables show them: in the order of the declarations, members of a family by name."""
    pattern, _ = _declaration(name)
    return (list(METRICS).index(pattern) if pattern else len(METRICS)), name


def compared() -> list[str]:
    """The metrics on which champions are compared, which reports show first."""
    return [metric.name for metric in METRICS.values() if metric.compared]


def registered() -> list[Metric]:
    """The metrics of other packages."""
    return [metric for metric in METRICS.values() if metric.measure]


def registered_facts() -> dict[str, dict[str, Any]]:
    """All that is declared of the metrics of other packages, as JSON: part of the address of what measures them."""
    return {m.name: {k: v for k, v in asdict(m).items() if k not in ("name", "measure")} for m in registered()}


def _declaration(name: str) -> tuple[str | None, dict[str, str]]:
    """The name under which a metric is declared, and the parameters in its own; a whole name before a family's."""
    if name in METRICS:
        return name, {}
    for pattern in METRICS:
        expression = (
            re.escape(pattern).replace(r"\{limit\}", r"(?P<limit>\d\.\d\d)").replace(r"\{kind\}", "(?P<kind>.+)")
        )
        if match := re.fullmatch(expression, name):
            return pattern, match.groupdict()
    return None, {}


_OWN = (
    Metric("image_auroc", "image AUROC", compared=True),
    Metric("pixel_auroc", "pixel AUROC", compared=True),
    Metric("aupro_0.30", "AUPRO 0.30", compared=True),
    Metric("image_ap", "image AP"),
    Metric("pixel_ap", "pixel AP"),
    # Decisions at a threshold.
    Metric("image_f1", "image F1"),
    Metric("false_positives", "false alarms", "count", "lower", "sum", 0),
    Metric("false_negatives", "misses", "count", "lower", "sum", 0),
    Metric("best_iou", "pixel IoU"),
    Metric("threshold", "threshold", "score", "neither", "none", None),
    # The ends of an interval of a mean are not the means of ends.
    Metric("image_auroc_low", "image AUROC, low", aggregate="none"),
    Metric("image_auroc_high", "image AUROC, high", aggregate="none"),
    Metric("au_spro_{limit}", "AU-sPRO {limit}"),
    Metric("au_spro_{limit}_{kind}", "AU-sPRO {limit}, {kind}"),
    Metric("aupro_{limit}", "AUPRO {limit}"),
    Metric("image_auroc_kinds", "image AUROC, mean of kinds"),
    Metric("image_auroc_{kind}", "image AUROC, {kind}"),
    Metric("regions_vanished", "regions without a pixel", "count", "neither", "mean", 0),
    Metric("images_outside_roi", "images with defects outside the region alone", "count", "neither", "mean", 0),
    Metric("joined_categories", "categories in the joint bank", "count", "neither", "mean", 0),
    Metric("own_category_share", "patches nearest to their own category", better="neither"),
    Metric("search_recall_at_1", "nearest rows that the search finds", better="neither"),
    Metric("search_distance_ratio", "distance found to that of the nearest row", "ratio", "neither", "mean", 3),
    # Speed, in the order in which the graph runs its stages.
    Metric("features_images_per_second", "features, images/s", "images/s", "higher", "throughput", None),
    Metric("fit_seconds", "fit, s", "s", "lower", "sum", None),
    Metric("score_images_per_second", "score, images/s", "images/s", "higher", "throughput", None),
    # Of studies and of numbered tables.
    Metric("images_per_second", "images/s with backbone", "images/s", "higher", "throughput", None),
    Metric("seconds_per_image", "s/image", "s/image", "lower", "none", None),
    Metric("seconds_per_epoch", "s/epoch", "s/epoch", "lower", "mean", None),
    Metric("gmacs_per_image", "GMAC/image", "GMAC/image", "lower", "mean", None),
    Metric("million_parameters", "M parameters", "M", "lower", "mean", None),
    Metric("misclassified", "misclassified", "count", "lower", "sum", 0),
    Metric("nominal_images", "nominal images", "count", "neither", "mean", 0),
    Metric("anomalous_images", "anomalous images", "count", "neither", "mean", 0),
    Metric("nominal_image_percent", "nominal images", "percent", "neither"),
    Metric("anomalous_pixel_percent", "anomalous pixels", "percent", "neither"),
)
METRICS.update({metric.name: metric for metric in _OWN})
