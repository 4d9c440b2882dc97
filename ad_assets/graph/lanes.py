"""From a benchmark file to the stages of the graph: one lane a detector, on features shared by all detectors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ad_assets.config.benchmark import Benchmark, Dataset, Detector
from ad_assets.graph.categories import categories_of, why_unseen
from ad_assets.graph.stage import Stage
from ad_assets.graph.stages.champion import champion_stage
from ad_assets.graph.stages.comparison import comparison_stage
from ad_assets.graph.stages.features import features_stage
from ad_assets.graph.stages.fitted_state import state_stage
from ad_assets.graph.stages.image_index import Gate, image_index_stage
from ad_assets.graph.stages.leaderboard import leaderboard_stage
from ad_assets.graph.stages.metrics import metrics_stage
from ad_assets.graph.stages.neighbours import neighbours_stage
from ad_assets.graph.stages.oracle_epochs import oracle_epochs_stage
from ad_assets.graph.stages.report import report_stage
from ad_assets.graph.stages.score_maps import ensemble_stage, score_maps_stage
from ad_assets.graph.stages.studies import study_stage


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


def stages_of(
    benchmark: Benchmark, *, unseen: Collection[str] = (), gate: Callable[[Benchmark, Dataset], Gate] | None = None
) -> list[Stage]:
    """All stages of a benchmark, upstream first.

    Args:
        benchmark: the checked benchmark file.
        unseen: datasets whose folders need not be seen: their categories are those that the store knows. Without any,
            the dataset has no stages, and a comparison that needs it is left out too.
        gate: makes what judges the new images of a production dataset; see `image_index_stage`.

    Raises:
        ValueError: the categories of another dataset cannot be told, because its folder is missing or empty.
        OSError: as before, because it cannot be read.
    """
    stages: list[Stage] = []
    for dataset in benchmark.datasets.values():
        categories = categories_of(dataset, benchmark.store if dataset.name in unseen else None)
        if dataset.production or categories:
            own = gate(benchmark, dataset) if gate and dataset.production else None
            stages += _dataset_stages(benchmark, dataset, categories, own)
    leaderboards = {stage.key[0]: stage for stage in stages if stage.kind == "leaderboard"}
    compared = [each for each in benchmark.comparisons.values() if leaderboards.keys() >= set(each.datasets)]
    return [*stages, *(comparison_stage(each, leaderboards) for each in compared)]


def _dataset_stages(
    benchmark: Benchmark, dataset: Dataset, categories: Sequence[str], gate: Gate | None
) -> list[Stage]:
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
