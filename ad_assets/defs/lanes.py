"""From a benchmark file to the stages of the graph: one lane a detector, on features shared by all detectors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from ad_assets.benchmark import Benchmark, Dataset, Detector
from ad_assets.defs.assets import to_asset
from ad_assets.defs.automation import automation_of
from ad_assets.defs.champion import champion_stage
from ad_assets.defs.comparison import comparison_stage
from ad_assets.defs.conditions import up_to_date
from ad_assets.defs.features import features_stage
from ad_assets.defs.images import image_index_stage
from ad_assets.defs.leaderboard import leaderboard_stage
from ad_assets.defs.metrics import metrics_stage
from ad_assets.defs.models import state_stage
from ad_assets.defs.neighbours import neighbours_stage
from ad_assets.defs.oracle_epochs import oracle_epochs_stage
from ad_assets.defs.partitions import categories_of, why_unseen
from ad_assets.defs.quarantine import Gate
from ad_assets.defs.report import report_stage
from ad_assets.defs.score_maps import ensemble_stage, score_maps_stage
from ad_assets.defs.stages import Stage
from ad_assets.defs.studies import study_stage
from ad_assets.defs.terminal import terminal_logger
from resources.fixed import fixed_resource

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoringStages:
    """The stages of a lane from what its method learnt to its scores."""

    features: Stage
    state: Stage
    neighbours: Stage | None
    score_maps: Stage


def scoring_stages(benchmark: Benchmark, dataset: Dataset, detector: Detector, features: Stage) -> ScoringStages:
    """The stages by which a lane with a method of its own scores.

    Raises:
        TypeError: the lane is an ensemble.
    """
    state = state_stage(dataset, detector, features)
    neighbours = neighbours_stage(dataset, detector, state, features)
    extractor = benchmark.extractors[detector.extractor]
    score_maps = score_maps_stage(dataset, detector, state, features, neighbours, extractor, benchmark.evaluation)
    return ScoringStages(features, state, neighbours, score_maps)


def stages_of(benchmark: Benchmark, *, unseen: Collection[str] = ()) -> list[Stage]:
    """All stages of a benchmark, upstream first.

    Args:
        benchmark: the checked benchmark file.
        unseen: datasets whose folders need not be seen: their categories are those that the store knows. Without any,
            the dataset has no stages, and a comparison that needs it is left out too.

    Raises:
        ValueError: the categories of another dataset cannot be told, because its folder is missing or empty.
        OSError: as before, because it cannot be read.
    """
    stages: list[Stage] = []
    for dataset in benchmark.datasets.values():
        categories = categories_of(dataset, benchmark.store if dataset.name in unseen else None)
        if dataset.production or categories:
            stages += _dataset_stages(benchmark, dataset, categories)
    leaderboards = {stage.key[0]: stage for stage in stages if stage.kind == "leaderboard"}
    compared = [each for each in benchmark.comparisons.values() if leaderboards.keys() >= set(each.datasets)]
    return [*stages, *(comparison_stage(each, leaderboards) for each in compared)]


def _dataset_stages(benchmark: Benchmark, dataset: Dataset, categories: Sequence[str]) -> list[Stage]:
    gate = Gate(benchmark, dataset, dataset.production) if dataset.production else None
    index = image_index_stage(dataset, categories, gate)
    # Where folders come and go, a line goes on without one that is gone: `doctor`, `status` and `materialize` tell it.
    unknown = (
        [] if dataset.production or why_unseen(index.partitions) else dataset.unknown_categories(index.partitions or ())
    )
    if unknown:
        raise ValueError("; ".join(unknown))
    features = {name: features_stage(dataset, index, name, benchmark.extractors[name]) for name in dataset.extractors}
    states: dict[str, Stage] = {}
    neighbours: dict[str, Stage] = {}
    score_maps: dict[str, Stage] = {}
    epochs: dict[str, Stage] = {}
    metrics: dict[str, Stage] = {}
    for name, detector in dataset.detectors.items():
        extractor = benchmark.extractors[detector.extractor]
        if detector.method is None:
            members = {member: score_maps[member] for member in detector.members}
            score_maps[name] = ensemble_stage(dataset, name, members, extractor)
        else:
            shared = features[detector.extractor]
            lane = scoring_stages(benchmark, dataset, detector, shared)
            states[name], score_maps[name] = lane.state, lane.score_maps
            if lane.neighbours:
                neighbours[name] = lane.neighbours
            kept = oracle_epochs_stage(dataset, detector, index, states[name], shared, extractor)
            if kept:
                epochs[name] = kept
        metrics[name] = metrics_stage(
            dataset, detector, index, score_maps[name], epochs.get(name), extractor, benchmark.evaluation
        )
    studies = {
        name: study_stage(
            dataset, study, index, features, benchmark.extractors, _learnt(study.base, states, neighbours)
        )
        for name, study in dataset.studies.items()
    }
    champions = []
    for name in states if dataset.production else ():
        detector = dataset.detectors[name]
        extractor = benchmark.extractors[detector.extractor]
        champions.append(champion_stage(dataset, detector, extractor, states[name], score_maps[name], metrics[name]))
    lanes = [
        *states.values(),
        *neighbours.values(),
        *score_maps.values(),
        *epochs.values(),
        *metrics.values(),
        *champions,
    ]
    stages = [index, *features.values(), *lanes, *studies.values()]
    if metrics:
        leaderboard = leaderboard_stage(dataset, metrics)
        stages += [leaderboard, report_stage(benchmark, dataset, index, score_maps, metrics, leaderboard, studies)]
    return stages


def _learnt(detector: str, *stages: Mapping[str, Stage]) -> tuple[Stage, ...]:
    return tuple(by_detector[detector] for by_detector in stages if detector in by_detector)


def build_definitions(benchmark: Benchmark) -> tuple[dg.Definitions, list[Stage]]:
    """The Dagster definitions of a benchmark, and the stages that they wrap."""
    stages = stages_of(benchmark, unseen=benchmark.datasets)
    for stage in stages:
        if stage.kind == "image_index" and (reason := why_unseen(stage.partitions)):
            _LOG.warning("%s: %s", stage.key[0], reason)
    with warnings.catch_warnings():
        # Partitioned checks and conditions that look at the store are told to be new in Dagster: at every command.
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return _define(benchmark, stages), stages


def _define(benchmark: Benchmark, stages: list[Stage]) -> dg.Definitions:
    condition = up_to_date(benchmark, stages)
    automation = automation_of(benchmark, stages)
    return dg.Definitions(
        # One at a time on the accelerator, which each would fill; without one, categories run side by side.
        assets=[to_asset(stage, condition, pooled=benchmark.compute.may_use_gpu()) for stage in stages],
        jobs=automation.jobs,
        sensors=automation.sensors,
        schedules=automation.schedules,
        loggers={"terminal": terminal_logger},
        resources={
            "store": fixed_resource(benchmark.store, "Where artifacts lie: the section `store` of the benchmark file."),
            "compute": fixed_resource(benchmark.compute, "Device, memory and threads: its section `compute`."),
        },
        # One process a category: torch is imported once, and features read once serve all detectors.
        executor=dg.in_process_executor,
    )
