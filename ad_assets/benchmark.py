"""The benchmark file as typed models, and the fingerprints of its sections. config.py reads files into them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ad_assets.datasets import Reader
from ad_assets.extractor import Extractor
from ad_assets.methods import Method
from ad_assets.methods.base import Stage as MethodStage
from resources.compute import Compute
from resources.store import ArtifactStore


class Evaluation(BaseModel):
    """How score maps become metrics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fpr_limits: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.3, 0.05), description="AUPRO integration limits"
    )
    nominal_false_positive_rate: float = Field(
        0.05, gt=0, lt=1, description="false positive rate that the nominal-only threshold aims at"
    )
    calibration_images: int = Field(
        64, ge=1, description="most nominal training images scored left-out, for the nominal-only threshold"
    )


class ReportStyle(BaseModel):
    """How many pictures the report shows for each category and detector."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    false_alarms: int = Field(3, ge=0, le=50)
    misses: int = Field(3, ge=0, le=50)
    hits: int = Field(3, ge=0, le=50)


@dataclass(frozen=True)
class Detector:
    """One lane: a configured method on an extractor, or an ensemble of other lanes (`members`).

    `categories` holds the method of every category that has values of its own.
    """

    name: str
    method: Method[Any] | None
    members: tuple[str, ...]
    extractor: str
    paper: str | None
    categories: Mapping[str, Method[Any]] = field(default_factory=dict)

    def method_for(self, category: str) -> Method[Any]:
        """The configured method of one category.

        Raises:
            TypeError: the lane is an ensemble.
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
        detector: the detector that results; it is no lane of its own.
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
    """What becomes of a detector when some of its settings vary.

    Args:
        name: its name.
        base: the detector that is varied.
        variants: in the order of the benchmark file.
        draws: how often each variant is measured, with the seeds 0, 1, ...
    """

    name: str
    base: str
    variants: tuple[Variant, ...]
    draws: int = 1

    @property
    def most_contaminated(self) -> float:
        """The largest contamination of its variants."""
        return max((variant.contamination or 0.0 for variant in self.variants), default=0.0)


@dataclass(frozen=True)
class Dataset:
    """A dataset, the detectors that run on it, and the studies of these."""

    name: str
    reader: Reader
    detectors: dict[str, Detector]
    studies: dict[str, Study] = field(default_factory=dict)

    @property
    def extractors(self) -> list[str]:
        """Names of the extractors in use, each once, in the order of the detectors and studies."""
        studied = [variant.detector for study in self.studies.values() for variant in study.variants]
        return list(dict.fromkeys(d.extractor for d in [*self.detectors.values(), *studied]))


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
    """A whole benchmark file, checked."""

    source: str
    store: ArtifactStore
    compute: Compute
    evaluation: Evaluation
    report: ReportStyle
    extractors: dict[str, Extractor]
    datasets: dict[str, Dataset]
    comparisons: dict[str, Comparison] = field(default_factory=dict)


def fingerprint(section: object) -> str:
    """A short stable address of any JSON value (and pydantic models): 24 hex digits of sha256.

    >>> fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
    True
    """

    def plain(value: object) -> object:
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        raise TypeError(f"{type(value).__name__} has no place in a fingerprint")

    text = json.dumps(section, sort_keys=True, separators=(",", ":"), default=plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
