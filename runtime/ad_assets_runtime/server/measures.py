"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ad_assets_runtime.champions import ServedChampions
from ad_assets_runtime.prediction import Prediction
from ad_assets_runtime.records import Records
from ad_assets_runtime.server.scoring import Scoring

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Measures:
    """Counters, histograms, and what champions, queue and records say when they are asked."""

    def __init__(self, champions: ServedChampions, scoring: Scoring, records: Records) -> None:
        self._registry = registry = CollectorRegistry()
        place = ("dataset", "lane", "category")
        self._answers = Counter("ad_assets_requests", "Answers by status.", ["route", "status"], registry=registry)
        self._images = Counter(
            "ad_assets_images", "Scored images by decision.", [*place, "decision"], registry=registry
        )
        self._steps = Histogram(
            "ad_assets_step_seconds", "Seconds an image by step.", ["step"], buckets=_SECONDS, registry=registry
        )
        registry.register(_Asked(champions, scoring, records))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._answers.labels(route, str(status)).inc()
        if route == "predict" and status == 200:
            self._steps.labels("answer").observe(seconds)

    def scored(self, place: tuple[str, str, str], prediction: Prediction) -> None:
        """Count an image."""
        word = {None: "undecided", True: "anomalous", False: "nominal"}[prediction.anomalous]
        self._images.labels(*place, word).inc()
        for step, seconds in prediction.step_seconds.items():
            self._steps.labels(step).observe(seconds)

    def text(self) -> bytes:
        """All, in the text format of Prometheus."""
        return generate_latest(self._registry)


class _Asked(Collector):
    def __init__(self, champions: ServedChampions, scoring: Scoring, records: Records) -> None:
        self._champions, self._scoring, self._records = champions, scoring, records

    def collect(self) -> Iterator[Metric]:
        place = ["dataset", "lane", "category"]
        info = GaugeMetricFamily(
            "ad_assets_champion_info", "What is served.", labels=[*place, "state", "bundle", "since"]
        )
        for key, served in self._champions.served.items():
            info.add_metric(
                [*key, served.bundle.champion["state"], served.bundle.identity, served.bundle.champion["since"]], 1
            )
        yield info
        refused = GaugeMetricFamily("ad_assets_bundle_refused", "1: the promoted bundle is not served.", labels=place)
        for key in {*self._champions.served, *self._champions.refused}:
            refused.add_metric(list(key), float(key in self._champions.refused))
        yield refused
        for name, words, value in (
            ("ad_assets_root_unreachable", "1: champions cannot be looked for.", float(bool(self._champions.fault))),
            ("ad_assets_waiting", "Requests under way or waiting.", float(self._scoring.waiting)),
            ("ad_assets_unsent", "Inspections and messages that wait to be sent.", float(self._records.unsent)),
            ("ad_assets_inspections_lost", "Inspections that could not be written.", float(self._records.lost)),
        ):
            yield GaugeMetricFamily(name, words, value=value)
