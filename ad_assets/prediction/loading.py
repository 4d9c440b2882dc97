"""What a lane has learnt, from the store to a `Predictor`: which artifact, whether it suits the benchmark file, and how
far its nominal scores go."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ad_assets.config.benchmark import Benchmark, Dataset, Detector
from ad_assets.datasets.base import ProgressReport
from ad_assets.graph.build_attempts import ATTEMPT, attempt_path
from ad_assets.graph.graph import Graph
from ad_assets.graph.lanes import ScoringStages
from ad_assets.graph.stage import Head, Parts, Slot, Stage, Upstream, read_head
from ad_assets.graph.stages.feature_files import stored_features
from ad_assets.graph.stages.features import train_part
from ad_assets.graph.stages.fitted_state import read_state, read_training_set, runtime_on
from ad_assets.graph.stages.image_index import GROUPS, current_index, declared_groups
from ad_assets.graph.stages.joint_bank import read_joined
from ad_assets.graph.stages.metrics import read_scored_images
from ad_assets.graph.stages.neighbours import read_matches
from ad_assets.graph.stages.region_of_interest import PART, read_region, region_digest, region_tensor
from ad_assets.graph.stages.score_maps import calibration_images, read_score_index
from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import Features, LoadMatches
from ad_assets.methods.data import NominalScores
from ad_assets.prediction.lookup import DetectorError, Lookup
from ad_assets.prediction.predictor import Member, Predictor, StepTimer
from ad_assets.prediction.recording import Recorder
from ad_assets.production.champion_history import ChampionCandidate, History, as_promoted, read_history
from ad_assets.production.feedback_ledger import false_alarms
from ad_assets.production.inspections import Source
from ad_assets.store.records import recall
from ad_assets.store.store import Artifact, ArtifactStore


def _no_report(what: str, done: int, total: int) -> None:
    del what, done, total


def load_detector(
    dataset: str | None,
    lane: str | None,
    category: str | None,
    config: str | Path | Benchmark | None = None,
    overrides: Iterable[str] = (),
    *,
    version: str | Mapping[str, str] | None = None,
    allow_stale: bool = False,
    report: ProgressReport = _no_report,
    record: bool = True,
    source: Source = "library",
) -> Predictor:
    """Load what a lane has learnt, ready to score images.

    Where images go on landing (`production`) that is the champion, with the settings that it was promoted with, unless
    another version is asked for. Of the store it needs the state, the features of the images that it was fitted on
    (some methods read them back), and the scores of nominal images. Where these were not kept for this state they are
    worked out again, as the graph does.

    Args:
        dataset: its name in the benchmark file; None: the only one.
        lane: a detector of the dataset; None: the only one.
        category: None: the only one.
        config: a benchmark file, as `load_config` takes it, or a loaded one.
        overrides: ``dotted.key=value`` texts.
        version: address of the state to load in place of the one that the lane has now; of an ensemble, by the names of
            its members. It may have learnt other images than are there now, but must be of the current settings.
        allow_stale: take what was made under another setting or of other images too. Scores are then made with the
            current settings. Features of another extractor are refused all the same.
        report: called as ``report(what, done, total)`` from time to time.
        record: whether what a champion says of images is recorded in the store as inspections.
        source: what inspects, as it is recorded.

    Raises:
        ConfigError: the benchmark file is wrong.
        DetectorError: there is no such lane, it was never materialized, it is out of date, or it cannot be loaded.
    """
    lookup = Lookup.of(config, overrides)
    found = lookup.dataset(dataset)
    detector, known = lookup.detector(found, lane), lookup.category(found, category)
    try:
        recorder = champion = None
        if version is None and found.production and detector.has_champions:
            lookup, detector, champion = _champion(lookup, found, detector, known)
            version = champion.state
            if record:
                recorder = Recorder(lookup.benchmark, found, known, version, source, keep=True)
        loader = _LaneLoader(lookup, found, known, allow_stale, report, champion)
        return loader.predictor(detector, version, recorder)
    except DetectorError:
        raise
    except (ValueError, OSError, RuntimeError, TypeError, KeyError) as error:
        raise DetectorError(f"{found.name}/{detector.name} [{known}] cannot be loaded: {error}") from error


def _champion(
    lookup: Lookup, dataset: Dataset, detector: Detector, category: str
) -> tuple[Lookup, Detector, ChampionCandidate]:
    """The champion of a lane, and what leads to it.

    Raises:
        DetectorError: there is none.
    """
    history = read_history(lookup.benchmark.store, dataset.name, detector.name, category)
    champion = history.champion
    if champion is None:
        remedy = _remedy(lookup, dataset, detector, category, history)
        raise DetectorError(f"{dataset.name}/{detector.name} [{category}] has no champion; {remedy}")
    benchmark, lane = as_promoted(lookup.benchmark, detector, champion)
    return replace(lookup, benchmark=benchmark), lane, champion


def _remedy(lookup: Lookup, dataset: Dataset, detector: Detector, category: str, history: History) -> str:
    """What leads to a first champion: never the command that has just failed, or was without effect."""
    store = lookup.benchmark.store
    stages = lookup.stages(dataset, detector, category)
    lane = (dataset.name, detector.name)
    keys = [(dataset.name, "image_index"), stages.features.key, stages.state.key]
    keys += [(*lane, name) for name in ("neighbours", "score_maps", "metrics", "champion")]
    for key in keys:
        record = recall(store, attempt_path(key, category), *ATTEMPT)
        if record and record["error"]:
            return f"{'/'.join(key)} could not be made: {record['error']}"
    if read_head(store, (*lane, "champion"), category) is None:
        return f"run: {lookup.command(dataset, detector, category)}"
    options = "".join(f" {shlex.quote(option)}" for option in lookup.options)
    place = f"{dataset.name} {detector.name} {shlex.quote(category)}"
    checks = f"the checks of {'/'.join(lane)}/champion in the UI say which"
    reason = history.kept_out.reason if history.kept_out else checks
    return (
        f"its newest state did not pass the gates ({reason}): "
        f"correct datasets.{dataset.name}.production, or run: ad-assets promote {place} --reason ...{options}"
    )


@dataclass(frozen=True)
class _Fitted:
    """A state in the store.

    Args:
        artifact: where it lies.
        version: its address.
        images: ids of the images it was fitted on.
        own: those of them that are of the category; of a joint bank not all.
        parts: of its address.
    """

    artifact: Artifact
    version: str
    images: list[str]
    own: list[str]
    parts: Parts


class _LaneLoader:
    def __init__(
        self,
        lookup: Lookup,
        dataset: Dataset,
        category: str,
        allow_stale: bool,
        report: ProgressReport,
        champion: ChampionCandidate | None,
    ) -> None:
        self._lookup, self._dataset, self._category = lookup, dataset, category
        self._benchmark = lookup.benchmark
        self._store: ArtifactStore = lookup.benchmark.store
        self._allow_stale, self._report = allow_stale, report
        self._stale: list[str] = []
        self._champion = champion
        now = region_digest(read_head(self._store, (dataset.name, "image_index"), category))
        self._region = champion.roi if champion else now
        index = read_head(self._store, (dataset.name, "image_index"), category)
        self._groups = {part: digest for part, digest in (index.parts if index else {}).items() if part == GROUPS}
        self._redrawn = self._region != now
        self._inspected = read_region(self._store, self._region)

    def predictor(
        self, detector: Detector, version: str | Mapping[str, str] | None, recorder: Recorder | None
    ) -> Predictor:
        compute = self._benchmark.compute
        compute.apply_threads()
        timer = StepTimer(compute.torch_device())
        lanes = [self._dataset.detectors[name] for name in detector.members] or [detector]
        versions = self._versions(detector, version)
        members = [self._member(lane, versions.get(lane.name), timer) for lane in lanes]
        # New images are decoded as those were that the state learnt, whatever the index says by now.
        decoding = self._dataset.reader.decoding.of(*(image for member in members for image in member.images))
        place = (self._dataset.name, detector.name, self._category)
        nominal, colours = self._fused_nominal(members), self._colour_scale(detector)
        rate = self._dataset.false_alarm_rate(detector, self._category, self._benchmark.evaluation)
        if self._redrawn:
            told = "another region of interest than" if self._region else "whole images, and no region of interest as"
            self._stale.append(f"{self._place(detector)} inspects {told} its dataset has now, as it was promoted")
        stale, inside = tuple(self._stale), self._inspected
        said = false_alarms(self._store, self._dataset.name, self._category) if self._dataset.production else {}
        return Predictor(
            place, members, rate, nominal, decoding, compute, timer, colours, stale, recorder, inside, said
        )

    def _versions(self, detector: Detector, version: str | Mapping[str, str] | None) -> Mapping[str, str]:
        if version is None:
            return {}
        versions = {detector.name: version} if isinstance(version, str) else version
        unknown = set(versions) - set(detector.members or (detector.name,))
        if unknown:
            names = ", ".join(detector.members or (detector.name,))
            raise DetectorError(
                f"{self._place(detector)} has no member {', '.join(sorted(unknown))}: give versions of {names}"
            )
        return versions

    def _member(self, detector: Detector, version: str | None, timer: StepTimer) -> Member:
        stages = self._lookup.stages(self._dataset, detector, self._category)
        fitted = self._fitted(detector, stages, version)
        compute, extractor = self._benchmark.compute, self._benchmark.extractors[detector.extractor]
        method = detector.method_for(self._category)
        state = read_state(fitted.artifact, method)
        address = stages.features.code_version
        train = stored_features(self._store, compute, address, fitted.own, method.layers, extractor)
        runtime = runtime_on(compute, self._report)
        matches = self._matches(stages, fitted)
        size, step, region = extractor.map_size, extractor.map_step, region_tensor(self._inspected, extractor)
        scorer = Scorer(method, state, train, matches, size, runtime, timer, map_step=step, region=region)
        nominal = self._nominal(detector, stages, fitted, scorer, train)
        return Member(detector.name, fitted.version, fitted.images, extractor, method.layers, scorer, nominal)

    def _fitted(self, detector: Detector, stages: ScoringStages, version: str | None) -> _Fitted:
        """The state to load, if it suits the benchmark file.

        Raises:
            DetectorError: it does not, or is not there.
        """
        place, stage = self._place(detector), stages.state
        remedy = f"run: {self._lookup.command(self._dataset, detector, self._category)}"
        address = version
        if address is None:
            head = read_head(self._store, *self._slot(stage))
            if head is None:
                raise DetectorError(f"{place} was never materialized in {self._store.root}; {remedy}")
            address = head.version
        artifact = self._store.artifact(stage.kind, address)
        if not artifact.exists():
            raise DetectorError(f"{place}: the store has no {stage.kind} {address}; {remedy}")
        trained_on = read_training_set(artifact)
        if trained_on is None or trained_on.features != stages.features.code_version:
            raise DetectorError(
                f"{place} was made from features of another extractor (or backbone precision or engine); {remedy}"
            )
        own, parts = (
            trained_on.images,
            {"train": train_part(trained_on.features, trained_on.images), **trained_on.parts},
        )
        if detector.joins:
            joined = read_joined(artifact)
            if self._category not in joined.states:
                raise DetectorError(f"{place}: the joint bank {address} has nothing of the category; {remedy}")
            own, parts = joined.images[self._category], joined.parts
        fitted = _Fitted(artifact, address, trained_on.images, own, parts)
        reason = self._stale_reason(stages, fitted, current=version is None)
        if reason and not self._allow_stale:
            raise DetectorError(f"{place} {reason}; {remedy}, or allow what is stale")
        if reason:
            self._stale.append(f"{place} {reason}")
        return fitted

    def _stale_reason(self, stages: ScoringStages, fitted: _Fitted, *, current: bool) -> str:
        """Why a state is out of date; empty where it is not. Only the current one must be of the current images."""
        slot = self._slot(stages.state)
        if stages.state.make_head(slot[1], fitted.parts).version != fitted.version:
            return "was made under another setting of the benchmark file"
        graph = Graph([stages.state], self._store)
        if slot[1] is None:
            joinable = graph.expected(slot)
            other = joinable is None or joinable.version != fitted.version
            return "was joined of other states than are up to date now" if current and other else ""
        planned = graph.planned(slot)
        if current and planned and planned.version != fitted.version:
            return "was made of other training images than its image index has now"
        return ""

    def _slot(self, stage: Stage) -> Slot:
        """The asset partition of a stage of the lane."""
        return stage.key, self._category if stage.partitions is not None else None

    def _downstream(self, stages: ScoringStages, fitted: _Fitted) -> Upstream | None:
        """What neighbours and score maps of a state would read now; None where there are no features."""
        features = read_head(self._store, stages.features.key, self._category)
        if features is None:
            return None
        state = Head(fitted.version, {}, stages.state.code_version)
        heads: dict[Slot, Head] = {
            self._slot(stages.state): state,
            (stages.features.key, self._category): features,
            # What it inspects, which the index may have another of by now.
            (stages.features.deps[0].key, self._category): Head("", {PART: self._region, **self._groups}, ""),
        }
        reads = Upstream(heads, self._category)
        if stages.neighbours:
            head = stages.neighbours.head_of(reads)
            reads = Upstream({**heads, (stages.neighbours.key, self._category): head}, self._category)
        return reads

    def _matches(self, stages: ScoringStages, fitted: _Fitted) -> LoadMatches | None:
        """What was kept of the images that the state learnt, if it was."""
        reads = self._downstream(stages, fitted)
        if stages.neighbours is None or reads is None:
            return None
        # Features that have moved on since may lack an image that the state learnt.
        same = reads.of(stages.features).parts["train"] == train_part(stages.features.code_version, fitted.own)
        artifact = self._store.artifact(stages.neighbours.kind, reads.of(stages.neighbours).version)
        return read_matches(artifact) if same and artifact.exists() else None

    def _nominal(
        self, detector: Detector, stages: ScoringStages, fitted: _Fitted, scorer: Scorer, train: Features
    ) -> NominalScores:
        reads, stage = self._downstream(stages, fitted), stages.score_maps
        # Where the option is gone, the address of score maps no longer names the region.
        if reads and (self._dataset.reader.has_regions or not self._region):
            artifact = self._store.artifact(stage.kind, stage.head_of(reads).version)
            if artifact.exists():
                return read_score_index(artifact).nominal
        most = calibration_images(self._dataset, detector, self._category, self._benchmark.evaluation)
        index = current_index(self._store, self._dataset.name, self._category)
        declared = declared_groups(index) if index else []
        return scorer.nominal(train, most, self._dataset.leaves_out_groups(detector), declared)

    def _fused_nominal(self, members: list[Member]) -> NominalScores:
        if len(members) == 1:
            return members[0].nominal
        from ad_assets.methods.ensemble import fuse_nominal

        return fuse_nominal([member.nominal for member in members])

    def _colour_scale(self, detector: Detector) -> tuple[float, float] | None:
        """Colour range of the latest metrics; used only for drawing, so it may be stale."""
        head = read_head(self._store, (self._dataset.name, detector.name, "metrics"), self._category)
        artifact = self._store.artifact("metrics", head.version) if head else None
        if artifact is None or not artifact.exists():
            return None
        return read_scored_images(artifact).colour_scale

    def _place(self, detector: Detector) -> str:
        return f"{self._dataset.name}/{detector.name} [{self._category}]"
