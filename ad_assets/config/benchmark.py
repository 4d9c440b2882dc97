"""The benchmark file as typed models, and the fingerprints of its sections. `load` reads files into them."""

from __future__ import annotations

import hashlib
import json
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.decision import Decision
from ad_assets.config.export import Export
from ad_assets.config.faults import did_you_mean
from ad_assets.datasets import Reader
from ad_assets.methods import Method
from ad_assets.methods.base import Stage as MethodStage
from ad_assets.metrics.catalogue import registered
from ad_assets.settings.compute import Compute
from ad_assets.settings.extract import Extract
from ad_assets.settings.model import Settings
from ad_assets.store.store import ArtifactStore

SHOWN_NAMES = 20


class Evaluation(Settings):
    """How score maps become metrics."""

    fpr_limits: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.3, 0.05), min_length=1, max_length=20, description="AUPRO integration limits"
    )
    nominal_false_positive_rate: float = Field(
        0.05, gt=0, lt=1, description="false positive rate that the nominal-only threshold aims at"
    )
    resolution: Literal["map", "original"] = Field(
        "map", description="where pixels are compared: masks in the frame of the maps, or maps in that of the images"
    )
    calibration_images: int = Field(
        64,
        ge=1,
        le=1_000_000,
        description="most nominal training images scored left-out, for the nominal-only threshold",
    )

    @field_validator("fpr_limits")
    @classmethod
    def _apart(cls, limits: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{limit:.2f}" for limit in limits}) < len(limits) or min(limits) < 0.005:
            raise ValueError("limits have two decimals, from 0.01 on, and each is another")
        return limits

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the standard protocol that a floor can be set for, all from 0 to 1."""
        aupro = (f"aupro_{limit:.2f}" for limit in self.fpr_limits)
        others = (metric.name for metric in registered() if metric.is_share and metric.better != "neither")
        return ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", *aupro, *others)


class ReportStyle(Settings):
    """How many pictures the report shows for each category and detector."""

    false_alarms: int = Field(3, ge=0, le=50, description="most nominal images above the threshold, the highest first")
    misses: int = Field(3, ge=0, le=50, description="most anomalous images at or below the threshold, the lowest first")
    hits: int = Field(3, ge=0, le=50, description="most anomalous images above the threshold, from weak to strong")


class Production(Settings):
    """A dataset whose nominal images go on landing: what is watched, held back and promoted.

    `gatekeeper` is the detector that judges new images; without one none is held back for its anomaly score.
    """

    settle_seconds: float = Field(
        20.0, ge=0, le=86_400, description="an upload is over when its files rest for so long"
    )
    patience_seconds: float = Field(
        600.0, ge=0, le=604_800, description="a file that stays incomplete for longer is taken for broken"
    )
    longest_wait_seconds: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="images that are complete are taken so long after the first of them, though others go on arriving",
    )
    gatekeeper: str | None = Field(None, description="detector whose champion judges new nominal images")
    suspicious_rate: float = Field(
        0.01, gt=0, lt=1, description="share of good new images that the gatekeeper may hold back"
    )
    size_room: float | None = Field(
        0.25,
        ge=0,
        le=100,
        description="how far the width and the height of a new image may lie outside those of the admitted ones, as a "
        "share of their range: where all have one size, no other is admitted; null: sizes are not compared",
    )
    brightness_room: float | None = Field(
        0.25,
        ge=0,
        le=100,
        description="how far the mean grey of a new image may lie outside that of the admitted ones, as a share of "
        "their range, and 8 grey levels more; null: brightness is not compared",
    )
    floors: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="metric -> worst value of a state that may be promoted",
        examples=[{"image_auroc": 0.9}],
    )
    margin: float = Field(0.02, ge=0, le=1, description="by how much a metric may fall behind the champion's")
    kept_gb: float = Field(
        2.0,
        ge=0,
        le=100_000,
        description="room in the store for inspected images of a category with their features; the oldest nominal ones "
        "go first. 0: none is kept",
    )
    held_out: Literal["auto"] | Annotated[float, Field(ge=0, le=0.5)] = Field(
        "auto",
        description="share of the nominal images that is kept for judging, by content; auto: 0.2 where a category has "
        "no nominal test images, 0: none",
    )
    drift_alpha: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="largest chance of a false alarm of the drift check of a category, over all tests",
    )
    quiet_hours: float | None = Field(
        None,
        gt=0,
        le=87_600,
        description="a category is quiet if nothing was inspected or landed for so long; null: never",
    )
    outboxes: tuple[str, ...] = Field(
        (),
        examples=[["s3://bucket/outbox"]],
        description="folders or s3:// prefixes in which computers of the line put inspections and what people said of "
        "them; the sensor of inspections takes them in",
    )


class Automation(Settings):
    """When the graph brings itself up to date; `manual` leaves that to people."""

    mode: Literal["manual", "eager", "nightly"] = Field(
        "manual", description="by hand, at once, or in a window at night"
    )
    nightly: str = Field("0 2 * * *", description="cron: when the nightly window opens", examples=["30 1 * * *"])
    nightly_hours: float = Field(4.0, gt=0, le=24, description="how long the nightly window stays open")
    retrain: str | None = Field(
        None, description="cron: fit afresh what was only updated since; null: never", examples=["0 3 * * 0"]
    )
    verify: str | None = Field(
        None, description="cron: read every image and artifact again; null: never", examples=["0 4 1 * *"]
    )
    every_seconds: int = Field(30, ge=1, le=86_400, description="seconds between two checks of folders and assets")
    results_minutes: float = Field(
        60.0,
        gt=0,
        le=10_080,
        description="while categories keep changing, leaderboard and report wait for them so long at most",
    )
    timezone: str = Field("UTC", description="of the cron times", examples=["Europe/Berlin"])

    @field_validator("nightly", "retrain", "verify")
    @classmethod
    def _is_cron(cls, value: str | None) -> str | None:
        from croniter import croniter

        # With seconds or years, which croniter knows too, Dagster refuses it.
        if value is not None and not (croniter.is_valid(value) and len(croniter.expand(value)[0]) == 5):
            raise ValueError(f"{value!r} is no cron time such as '0 2 * * *' (minute hour day month weekday)")
        return value

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in zoneinfo.available_timezones():
            raise ValueError(f"unknown time zone {value!r}; write one such as UTC or Europe/Berlin")
        return value


@dataclass(frozen=True)
class Detector:
    """A configured method on an extractor, or an ensemble of other detectors (`members`).

    `categories` holds the method of every category that has values of its own, `written` names those of the file: a
    preset may name more than a copy of its dataset holds. `decision` wins over that of the dataset. With `export` its
    states become bundles. `joins` names the detector whose states of all categories it scores with as one; its method
    is that detector's. `draws` counts the seeds of a lane: the first is the detector's own, the others are those of
    detectors that say by `draw_of` whose they are.
    """

    name: str
    method: Method[Any] | None
    members: tuple[str, ...]
    extractor: str
    paper: str | None
    categories: Mapping[str, Method[Any]] = field(default_factory=dict)
    written: tuple[str, ...] = ()
    decision: Decision = field(default_factory=Decision)
    export: Export | None = None
    joins: str | None = None
    draws: int = 1
    draw_of: str | None = None

    @property
    def lane(self) -> str:
        """The detector of the benchmark file under whose name its results stand."""
        return self.draw_of or self.name

    @property
    def is_random(self) -> bool:
        """Whether another seed would make another detector of its method, in some category."""
        return any(method is not None and method.is_random for method in (self.method, *self.categories.values()))

    @property
    def has_champions(self) -> bool:
        """Whether its states become champions where images go on landing: it learns, and of each category apart."""
        return self.method is not None and self.joins is None and self.draw_of is None

    def method_for(self, category: str) -> Method[Any]:
        """The configured method of one category.

        Raises:
            TypeError: the detector is an ensemble.
        """
        method = self.categories.get(category, self.method)
        if method is None:
            raise TypeError(f"{self.name} is an ensemble, which has no method of its own")
        return method

    def stage_configs(self, stage: MethodStage) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """What one stage reads of the method, and of the methods of categories where that differs."""
        if self.method is None:
            raise TypeError(f"{self.name} is an ensemble, which has no method of its own")
        shared = self.method.stage_config(stage)
        own = {category: method.stage_config(stage) for category, method in self.categories.items()}
        return shared, {category: config for category, config in own.items() if config != shared}


@dataclass(frozen=True)
class Variant:
    """One row of a study: a detector like the study's base but for what its name says.

    Args:
        name: the settings that differ, as people read them.
        detector: the detector that results; it has no assets of its own.
        train_images: how many nominal images it is fitted on, drawn at random; None: all.
        contamination: part of the training images that are anomalous ones of the test split, drawn at random; None: no
            such image trains, and all are tested.
    """

    name: str
    detector: Detector
    train_images: int | None = None
    contamination: float | None = None


@dataclass(frozen=True)
class Study:
    """What becomes of detectors when some of their settings vary, or the number of their training images.

    Args:
        name: its name.
        bases: the detectors that are varied, each in the same ways.
        variants: in the order of the benchmark file.
        draws: how often each variant is measured, with the seeds 0, 1, ...
    """

    name: str
    bases: tuple[str, ...]
    variants: tuple[Variant, ...]
    draws: int = 1

    @property
    def most_contaminated(self) -> float:
        """The largest contamination of its variants."""
        return max((variant.contamination or 0.0 for variant in self.variants), default=0.0)


@dataclass(frozen=True)
class Dataset:
    """A dataset, the detectors that run on it, and the studies of these; `production` where images go on landing.

    Of a `sealed` one each reading of test labels is recorded.
    """

    name: str
    reader: Reader
    detectors: dict[str, Detector]
    studies: dict[str, Study] = field(default_factory=dict)
    production: Production | None = None
    decision: Decision = field(default_factory=Decision)
    sealed: bool = False

    def is_random(self, detector: Detector) -> bool:
        """Whether another seed would make another detector of a lane, or of a member of it."""
        return any(self.detectors[name].is_random for name in detector.members) or detector.is_random

    def asked_rate(self, detector: Detector, category: str) -> float | None:
        """The rate of false alarms that `decision` asks for in a lane and category; None: it asks for none."""
        rates = (decision.rate_of(category) for decision in (detector.decision, self.decision))
        return next((rate for rate in rates if rate is not None), None)

    def false_alarm_rate(self, detector: Detector, category: str, evaluation: Evaluation) -> float:
        """The rate of false alarms at which a lane decides in a category."""
        asked = self.asked_rate(detector, category)
        return evaluation.nominal_false_positive_rate if asked is None else asked

    def leaves_out_groups(self, detector: Detector) -> bool:
        """Whether the nominal scores of a lane are made without the group of each image, declared or of near-copies.

        By default where decisions are meant to hold on images to come: where they go on landing, or a rate is asked
        for. Results that were made for comparison with published ones stay what they were.
        """
        decisions = (detector.decision, self.decision)
        said = next((each.leave_out for each in decisions if each.leave_out), None)
        if said is None:
            return self.production is not None or any(each.asks for each in decisions)
        return said == "group"

    def decided_apart(self, detector: Detector) -> list[str]:
        """The categories that `decision` names for a lane."""
        return sorted({*self.decision.categories, *detector.decision.categories})

    @property
    def extractors(self) -> list[str]:
        """Names of the extractors in use, each once, in the order of the detectors and studies."""
        studied = [variant.detector for study in self.studies.values() for variant in study.variants]
        return list(dict.fromkeys(d.extractor for d in [*self.detectors.values(), *studied]))

    @property
    def own_images(self) -> bool:
        """Whether the images are people's own, for which no protocol is published."""
        return self.production is not None or self.reader.own_images

    def without_region(self) -> list[str]:
        """The detectors and variants that learn inside a region of interest alone where there is none, in words."""
        lanes = {f"detectors.{name}": lane for name, lane in self.detectors.items() if lane.draw_of is None}
        for study in self.studies.values():
            lanes |= {f"studies.{study.name}.{variant.name}": variant.detector for variant in study.variants}
        return [
            f"datasets.{self.name}.{place}.roi_fit: the dataset has no roi: give it one, or remove the key"
            for place, lane in lanes.items()
            if not self.reader.has_regions
            and any(getattr(method, "roi_fit", False) for method in (lane.method, *lane.categories.values()))
        ]

    def unknown_categories(self, known: Sequence[str]) -> list[str]:
        """The categories that decisions, detectors and variants name and that are none of the known ones, in words."""
        path = f"datasets.{self.name}"
        named = [("decision", name) for name in self.decision.categories]
        for each in self.detectors.values():
            named += [(f"detectors.{each.name}", name) for name in each.written]
            named += [(f"detectors.{each.name}.decision", name) for name in each.decision.categories]
        for study in self.studies.values():
            of_base = {name for base in study.bases for name in self.detectors[base].written}
            own = ((v.name, name) for v in study.variants for name in v.detector.written if name not in of_base)
            named += [(f"studies.{study.name}.{variant}", name) for variant, name in own]
        names = ", ".join(known[:SHOWN_NAMES]) + (", ..." if len(known) > SHOWN_NAMES else "")
        return [
            f"{path}.{place}.categories: no category {name}; {did_you_mean(name, known)}choose from: {names or 'none'}"
            for place, name in named
            if name not in known
        ]


@dataclass(frozen=True)
class Comparison:
    """One table over several datasets, such as a blind setting beside another.

    Args:
        name: its name.
        datasets: in the order of the table.
    """

    name: str
    datasets: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """A whole benchmark file, checked.

    `owners` are those of all assets, for Dagster: e-mail addresses, and teams as ``team:<name>``.
    """

    source: str
    store: ArtifactStore
    compute: Compute
    evaluation: Evaluation
    report: ReportStyle
    extractors: dict[str, Extractor]
    datasets: dict[str, Dataset]
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    automation: Automation = field(default_factory=Automation)
    owners: tuple[str, ...] = ()
    extract: Extract = field(default_factory=Extract)


def fingerprint(section: object) -> str:
    """A short stable address of any JSON value (and pydantic models): 24 hex digits of sha256.

    >>> fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(_json_text(section).encode()).hexdigest()[:24]


def json_values(section: object) -> Any:
    """A JSON value (and pydantic models) as it is read again: with lists for tuples and sections for models."""
    return json.loads(_json_text(section))


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no place in a fingerprint")


# One encoder for all: `status` takes the fingerprints of 80,000 heads.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_plain, allow_nan=False)


def _json_text(section: object) -> str:
    return _ENCODER.encode(section)
