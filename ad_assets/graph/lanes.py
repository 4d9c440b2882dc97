"""The life of a benchmark from top to bottom: which stages there are, and what each of them reads.

image_index                                   of each dataset
  features                                    of each extractor, shared by all detectors; of turned images apart
    state -> neighbours -> score_maps         of each detector, its lane
    state -> joint_bank -> neighbours ...     of a joint lane, by the states of another one of all categories
      oracle_epochs -> metrics -> champion    the last of production datasets,
      synthetic_anomalies ------> champion    where new states are judged by these too
      bundle -------------------> champion    of detectors with `export`, production or not
        score_maps, metrics -> category_report  a page a category, of the lanes that are up to date
  studies ------------------> leaderboard    few-shot ones; all of them -> report
    leaderboard, category_report -> report    over all categories
      comparison                              over several datasets
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ad_assets.config.benchmark import Benchmark, Dataset, Detector
from ad_assets.graph.categories import categories_of, why_unseen
from ad_assets.graph.lane_settings import all_settings
from ad_assets.graph.stage import Stage
from ad_assets.graph.stages.bundle import MemberStages, bundle_stage
from ad_assets.graph.stages.category_report import category_report_stage
from ad_assets.graph.stages.champion import champion_stage
from ad_assets.graph.stages.comparison import comparison_stage
from ad_assets.graph.stages.features import features_stage
from ad_assets.graph.stages.fitted_state import state_stage
from ad_assets.graph.stages.image_index import Gate, image_index_stage
from ad_assets.graph.stages.joint_bank import joint_bank_stage
from ad_assets.graph.stages.leaderboard import leaderboard_stage
from ad_assets.graph.stages.metrics import metrics_stage
from ad_assets.graph.stages.neighbours import neighbours_stage
from ad_assets.graph.stages.oracle_epochs import oracle_epochs_stage
from ad_assets.graph.stages.report import report_stage
from ad_assets.graph.stages.score_maps import ensemble_stage, score_maps_stage
from ad_assets.graph.stages.studies import study_stage
from ad_assets.graph.stages.synthetic_anomalies import synthetic_stage
from ad_assets.graph.stages.turned_features import Turned, turned_stages

Lane = dict[str, Stage]  # the stages of one detector by role, upstream first


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
        ValueError: the categories of another dataset are unknown, because its folder is missing or empty.
        OSError: as before, because it cannot be read.
    """
    stages: list[Stage] = []
    for dataset in benchmark.datasets.values():
        categories = categories_of(dataset, benchmark.store if dataset.name in unseen else None)
        if dataset.production or categories:
            own = gate(benchmark, dataset) if gate and dataset.production else None
            stages += dataset_stages(benchmark, dataset, categories, own)
    leaderboards = {stage.key[0]: stage for stage in stages if stage.kind == "leaderboard"}
    compared = [each for each in benchmark.comparisons.values() if leaderboards.keys() >= set(each.datasets)]
    return [*stages, *(comparison_stage(each, leaderboards) for each in compared)]


def dataset_stages(benchmark: Benchmark, dataset: Dataset, categories: Sequence[str], gate: Gate | None) -> list[Stage]:
    """The stages of one dataset, upstream first, as `stages_of` makes them.

    Args:
        benchmark: the checked benchmark file.
        dataset: one of its datasets.
        categories: those that it has.
        gate: what judges its new images; None: it is no production dataset.

    Raises:
        ValueError: the file names a category that is none of these.
    """
    index = image_index_stage(dataset, categories, gate)
    # Where folders come and go, a line goes on without one that is gone: `doctor`, `status`, `materialize` report it.
    if not dataset.production and not why_unseen(categories) and (unknown := dataset.unknown_categories(categories)):
        raise ValueError("; ".join(unknown))
    features = {name: features_stage(dataset, index, name, benchmark.extractors[name]) for name in dataset.extractors}
    turned = {name: turned_stages(dataset, index, name, benchmark.extractors[name]) for name in dataset.extractors}
    lanes: dict[str, Lane] = {}
    for name, detector in dataset.detectors.items():
        lanes[name] = _lane(benchmark, dataset, detector, index, features, turned, lanes)
    studies = {
        name: study_stage(dataset, study, index, features, turned, [lanes[base] for base in study.bases])
        for name, study in dataset.studies.items()
    }
    directions = [stage for each in turned.values() for stage in each.values()]
    stages = [index, *features.values(), *directions, *(stage for lane in lanes.values() for stage in lane.values())]
    if lanes:
        metrics = {name: lane["metrics"] for name, lane in lanes.items()}
        # Pictures are of the first draw of a lane.
        score_maps = {n: lane["score_maps"] for n, lane in lanes.items() if dataset.detectors[n].draw_of is None}
        leaderboard = leaderboard_stage(dataset, metrics, studies, all_settings(benchmark, dataset))
        pages = category_report_stage(benchmark, dataset, index, score_maps, metrics)
        report = report_stage(benchmark, dataset, leaderboard, pages, studies)
        return [*stages, *studies.values(), leaderboard, pages, report]
    return stages


def _lane(
    benchmark: Benchmark,
    dataset: Dataset,
    detector: Detector,
    index: Stage,
    features: Mapping[str, Stage],
    turned: Mapping[str, Turned],
    above: Mapping[str, Lane],
) -> Lane:
    """What a detector learns of its features, how it scores with that, and how its scores are measured."""
    extractor = benchmark.extractors[detector.extractor]
    epochs = None
    if detector.method is None:
        members = {member: above[member]["score_maps"] for member in detector.members}
        lane = {"score_maps": ensemble_stage(dataset, detector.name, members, extractor)}
    else:
        own_features, own_turned = features[detector.extractor], turned[detector.extractor]
        scoring = scoring_stages(benchmark, dataset, detector, own_features, own_turned)
        neighbours = {"neighbours": scoring.neighbours} if scoring.neighbours else {}
        lane = {"state": scoring.state, **neighbours, "score_maps": scoring.score_maps}
        if epochs := oracle_epochs_stage(dataset, detector, index, scoring.state, scoring.features, extractor):
            lane["oracle_epochs"] = epochs
    metrics = metrics_stage(dataset, detector, index, lane["score_maps"], epochs, extractor, benchmark.evaluation)
    lane["metrics"] = metrics
    if detector.export:
        lane["bundle"] = _bundle(benchmark, dataset, detector, index, features, {**above, detector.name: lane})
    if dataset.production and detector.has_champions:
        state, maps = lane["state"], lane["score_maps"]
        own = features[detector.extractor]
        lane["synthetic"] = synthetic_stage(dataset, detector, extractor, index, own, state, maps)
        lane["champion"] = champion_stage(
            dataset, detector, extractor, state, maps, metrics, lane["synthetic"], lane.get("bundle")
        )
    return lane


def _bundle(
    benchmark: Benchmark,
    dataset: Dataset,
    detector: Detector,
    index: Stage,
    features: Mapping[str, Stage],
    lanes: Mapping[str, Lane],
) -> Stage:
    """What goes out to a line of a detector, of all members of an ensemble."""
    members = []
    for name in detector.members or (detector.name,):
        lane, extractor = lanes[name], dataset.detectors[name].extractor
        scoring = features[extractor], lane["state"], lane.get("neighbours"), lane["score_maps"]
        members.append(MemberStages(name, benchmark.extractors[extractor], *scoring))
    return bundle_stage(dataset, detector, index, members, lanes[detector.name]["score_maps"], benchmark.evaluation)


@dataclass(frozen=True)
class ScoringStages:
    """The stages of a lane from its features to its scores."""

    features: Stage
    turned: Turned
    state: Stage
    neighbours: Stage | None
    score_maps: Stage


def scoring_stages(
    benchmark: Benchmark, dataset: Dataset, detector: Detector, features: Stage, turned: Turned
) -> ScoringStages:
    """The stages by which a lane with a method of its own scores.

    Raises:
        TypeError: the lane is an ensemble.
    """
    state = state_stage(dataset, dataset.detectors[detector.joins] if detector.joins else detector, features, turned)
    if detector.joins:
        state = joint_bank_stage(dataset, detector, state)
    neighbours = neighbours_stage(dataset, detector, state, features)
    score_maps = score_maps_stage(dataset, detector, state, features, neighbours, benchmark.evaluation)
    return ScoringStages(features, turned, state, neighbours, score_maps)
