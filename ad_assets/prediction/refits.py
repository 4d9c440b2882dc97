"""States fitted on other training images than today's, from stored features, measured on today's test images.

No image passes a backbone: features are stored by content, so those of every training set that ever was are there
until `gc` deletes those of images that have left the index.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Dataset, Detector
from ad_assets.datasets.base import ProgressReport
from ad_assets.graph.lanes import ScoringStages
from ad_assets.graph.provenance import MADE_OF, is_outdated
from ad_assets.graph.stage import Upstream, read_head
from ad_assets.graph.stages.feature_files import feature_path, stored_features
from ad_assets.graph.stages.features import train_part
from ad_assets.graph.stages.fitted_state import holds_out_groups, read_state, runtime_on
from ad_assets.graph.stages.ground_truth import GroundTruth, MeasuredScores
from ad_assets.graph.stages.image_index import current_index, declared_groups, image_index_stage, read_index
from ad_assets.graph.stages.metric_rows import measured_rows
from ad_assets.graph.stages.metrics import MetricsSettings, metrics_stage
from ad_assets.graph.stages.region_of_interest import PART, learns_inside, read_region, region_digest, region_tensor
from ad_assets.graph.stages.score_maps import calibration_images
from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import Features, Method, Runtime, State
from ad_assets.methods.data import NominalScores
from ad_assets.prediction.lookup import DetectorError, Lookup
from ad_assets.production.test_set_openings import record_opening

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ALL = "on all images"  # of a state's record: not updated
ALIASES = {"false_alarms": "false_positives", "misses": "false_negatives"}
AT_THRESHOLD = ("false_positives", "false_negatives", "image_f1")
PROTOCOLS = ("standard", "nominal_threshold")


@dataclass(frozen=True)
class Refit:
    """A state and how it does.

    Args:
        state: as the method's `fit` returned it.
        value: of the metric.
        scores: (rows of the truth,) image scores.
        threshold: on image scores, from left-out nominal ones; None where the metric needs none.
        seconds: that it all took.
        found: whether a state fitted from scratch was in the store.
    """

    state: Any
    value: float
    scores: np.ndarray
    threshold: float | None
    seconds: float
    found: bool


class Refits:
    """Fits of one lane and category, each from scratch and in memory; the store stays as it is.

    Attributes:
        metric: name in the catalogue.
        truth: today's test images with their labels, by which every state is measured.
        method: the method, as the category has it.
        done: how many states were fitted.

    Raises:
        DetectorError: the lane is an ensemble or blind, has no test images, or lacks features of them.
    """

    def __init__(
        self, lookup: Lookup, dataset: Dataset, detector: Detector, category: str, metric: str, report: ProgressReport
    ) -> None:
        self._place = f"{dataset.name}/{detector.name} [{category}]"
        if detector.method is None:
            raise DetectorError(f"{self._place} is an ensemble, which fits nothing: name one of its members")
        if detector.joins:
            raise DetectorError(
                f"{self._place} is joint, which fits nothing: name {detector.joins}, whose states it joins"
            )
        if dataset.reader.blind:
            raise DetectorError(f"{self._place}: blind: all images are trained on and tested, so none can be left out")
        self._lookup, self._dataset, self._detector, self._category = lookup, dataset, detector, category
        self._store, self._compute = lookup.benchmark.store, lookup.benchmark.compute
        self.metric = ALIASES.get(metric, metric)
        self.method: Method[Any] = detector.method_for(category)
        self.done = 0
        self._stages: ScoringStages = lookup.stages(dataset, detector, category)
        self._report = report
        # All versions are compared by what is inspected now.
        self._digest = region_digest(read_head(self._store, (dataset.name, "image_index"), category))
        self._inspected = read_region(self._store, self._digest)
        index = current_index(self._store, dataset.name, category)
        by_group = holds_out_groups(dataset, detector, self.method)
        self._groups = declared_groups(index) if index and by_group else []
        rows = read_index(index) if index else []
        if dataset.sealed:
            lane = f"{dataset.name}/{detector.name}"
            record_opening(self._store, dataset.name, category, f"re-fits of {lane}", self.address)
        self.truth = GroundTruth(row for row in rows if row["split"] == "test")
        if not self.truth.rows:
            raise DetectorError(f"{self._place} has no test images, by which versions could be compared")
        if absent := self.absent(self.truth.positions):
            command = lookup.command(dataset, detector, category)
            raise DetectorError(f"{self._place}: features of {len(absent)} test images are not stored; run: {command}")

    @property
    def address(self) -> str:
        """Under which the features lie."""
        return self._stages.features.code_version

    @cached_property
    def _stored(self) -> set[str]:
        addresses = (self.address, *self._turned)
        return {file.path for address in addresses for file in self._store.files(f"features/{address}")}

    @property
    def _turned(self) -> list[str]:
        """Under which the features of turned images lie that the method learns."""
        return [self._stages.turned[turn].code_version for turn in self.method.turned_by]

    def absent(self, image_ids: Iterable[str], *, learnt: bool = False) -> set[str]:
        """Those of some images whose features are not stored; `learnt`: or those of them turned."""
        addresses = [self.address, *(self._turned if learnt else ())]
        return {image for image in image_ids if any(feature_path(a, image) not in self._stored for a in addresses)}

    def features(self, image_ids: Iterable[str]) -> Features:
        """The stored features of some images, in the order of ids."""
        return self._features(sorted(set(image_ids)), self.address)

    def _features(self, ids: Sequence[str], address: str) -> Features:
        return stored_features(self._store, self._compute, address, ids, self.method.layers, self._extractor)

    @cached_property
    def region(self) -> Tensor | None:
        """The region of interest in the frame of score maps, ``(H, W)`` bool; None: all is inspected."""
        return region_tensor(self._inspected, self._extractor)

    @property
    def runtime(self) -> Runtime:
        """What methods run on."""
        return replace(runtime_on(self._compute, self._report), precision=self._extractor.training_precision)

    def fit(self, image_ids: Iterable[str]) -> Refit:
        """A state fitted on some images alone, and its value.

        Raises:
            DetectorError: the method cannot be fitted on them, or the metric is not defined.
        """
        started = time.perf_counter()
        train = self.features(image_ids)
        try:
            state = self._found(train.image_ids)
            found = state is not None
            if state is None:
                inside = self.region if learns_inside(self.method) else None
                turned = tuple(self._features(train.image_ids, address).load for address in self._turned)
                learnt = replace(train, region=inside, groups=self._groups, turned=turned)
                state = self.method.fit(learnt, self.runtime)
                self.done += 1
            size, step = self._extractor.map_size, self._extractor.map_step
            scorer = Scorer(self.method, state, train, None, size, self.runtime, map_step=step, region=self.region)
            value, scores, threshold = self._measured(scorer, train)
        except ValueError as error:
            raise DetectorError(f"{self._place}, on {len(train)} images: {error}") from error
        return Refit(state, value, scores, threshold, time.perf_counter() - started, found)

    @property
    def _extractor(self) -> Extractor:
        return self._lookup.benchmark.extractors[self._detector.extractor]

    def _found(self, image_ids: Sequence[str]) -> State | None:
        """The stored state of these images, if it is one from scratch: an update may have chosen other rows."""
        stage = self._stages.state
        if self._groups:  # which of these images were in which group then is not known
            return None
        inside = {PART: self._digest} if self._digest and learns_inside(self.method) else {}
        turned = {
            f"turned_{turn}": train_part(address, image_ids)
            for turn, address in zip(self.method.turned_by, self._turned, strict=True)
        }
        head = stage.make_head(self._category, {"train": train_part(self.address, image_ids), **inside, **turned})
        artifact = self._store.artifact(stage.kind, head.version)
        if not artifact.exists():
            return None
        read = [self._stages.features.key, *(self._stages.turned[turn].key for turn in self.method.turned_by)]
        heads = {(key, self._category): read_head(self._store, key, self._category) for key in read}
        upstream = Upstream({slot: head for slot, head in heads.items() if head}, self._category)
        record = artifact.record()
        if record["metadata"].get("fitted") != ALL or is_outdated(record.get(MADE_OF, {}), stage.made_of(upstream)):
            return None
        return read_state(artifact, self.method)

    def _measured(self, scorer: Scorer, train: Features) -> tuple[float, np.ndarray, float | None]:
        import numpy as np

        pixels = None
        if not self.metric.startswith("image_") and self.metric not in AT_THRESHOLD:
            original = self._settings.resolution == "original"
            reader, memory = self._dataset.reader, self._compute.memory_gb
            inside = self._inspected
            pixels = MeasuredScores(self.truth, reader, self._extractor, memory, original=original, inspected=inside)
        scores = np.zeros(len(self.truth.rows), np.float32)
        for ids, scored in scorer(self.features(self.truth.positions), new=True):
            for image_id, score in zip(ids, scored.image_scores.tolist(), strict=True):
                scores[self.truth.positions[image_id]] = score
            if pixels is not None:
                pixels.add(ids, scored.maps, scored.image_scores)
        nominal = NominalScores([], [], [])
        if self.metric in AT_THRESHOLD:
            most = calibration_images(self._dataset, self._detector, self._category, self._lookup.benchmark.evaluation)
            index = current_index(self._store, self._dataset.name, self._category)
            by_group = self._dataset.leaves_out_groups(self._detector)
            nominal = scorer.nominal(train, most, by_group, declared_groups(index) if index else [])
            if not nominal.scores:
                raise ValueError(f"{self.metric} needs a threshold, and no nominal image can be scored left out")
        rows = measured_rows(scores, self.truth, nominal, self._settings, pixels)
        values = {row["metric"]: row["value"] for row in rows if row["protocol"] in PROTOCOLS}
        if self.metric not in values:
            raise ValueError(f"{self.metric} is not measured; these are: {', '.join(values)}")
        if values[self.metric] is None:
            raise ValueError(
                f"{self.metric} is not defined on these test images: it needs nominal and anomalous ones; false_alarms "
                "needs nominal ones alone"
            )
        return values[self.metric], scores, values.get("threshold") if nominal else None

    @cached_property
    def _settings(self) -> MetricsSettings:
        index = image_index_stage(self._dataset, (self._category,))
        evaluation, score_maps = self._lookup.benchmark.evaluation, self._stages.score_maps
        stage = metrics_stage(self._dataset, self._detector, index, score_maps, None, self._extractor, evaluation)
        settings = stage.settings_for(self._category)
        if not isinstance(settings, MetricsSettings):
            raise TypeError(f"{stage.name} has no settings of metrics")
        return settings


def labels_by_id(truth: GroundTruth) -> Mapping[str, int]:
    """Image id -> 1 for anomalous, 0 for nominal ones."""
    return {row["image_id"]: label for row, label in zip(truth.rows, truth.labels, strict=True)}
