"""What a state makes of good images that it has not learnt, read from its artifacts, and what the gates say of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ad_assets.datasets.index import GROUP
from ad_assets.graph.stage import Stage, Work
from ad_assets.graph.stages.feature_files import feature_path, stored_features
from ad_assets.graph.stages.features import extractor_of, features_address
from ad_assets.graph.stages.fitted_state import method_of, read_training_set, runtime_of
from ad_assets.graph.stages.image_index import current_index, read_index
from ad_assets.graph.stages.lane_scorer import lane_scorer
from ad_assets.graph.stages.metrics import read_scored_images
from ad_assets.graph.stages.score_maps import read_score_index
from ad_assets.graph.stages.synthetic_anomalies import KIND, read_synthetic
from ad_assets.methods import Features
from ad_assets.methods.near_copies import near_copy_groups
from ad_assets.production import inspections, nominal_gates
from ad_assets.production.champion_history import ChampionCandidate
from ad_assets.production.nominal_gates import Judgement, Verdict
from ad_assets.store.store import ArtifactStore, CorruptArtifactError

ALARMS, SYNTHETIC = "no_more_false_alarms", "sees_synthetic_anomalies"  # the names of the checks
INSPECTED = 32  # images at most on which a new state is compared with what the champion decided


def read_judgement(store: ArtifactStore, score_maps: str, metrics: str, synthetic: str) -> Judgement | None:
    """What a state makes of nominal test images and of synthetic anomalies, from its artifacts by their addresses.

    None where its scores are not in the store; without synthetic anomalies where these are not.
    """
    maps, measured = store.artifact("score_maps", score_maps), store.artifact("metrics", metrics)
    drawn = store.artifact(KIND, synthetic) if synthetic else None
    if not (maps.exists() and measured.exists()):
        return None
    scored = read_scored_images(measured)
    anomalies = read_synthetic(drawn) if drawn and drawn.exists() else []
    nominal = read_score_index(maps).nominal
    return Judgement(
        scored.threshold,
        {image["image_id"]: image["score"] for image in scored.images if image["label"] == 0},
        nominal.scores,
        {(each.image_id, each.kind, each.strength): each.score for each in anomalies},
        nominal.groups,
    )


def verdicts_of(
    store: ArtifactStore,
    challenger: ChampionCandidate,
    champion: ChampionCandidate | None,
    margin: float,
    families: Callable[[Sequence[str], bool], Mapping[str, str]],
) -> dict[str, Verdict]:
    """The answers of the gates that need no real anomaly, by the names of their checks.

    Args:
        store: has the scores of both.
        challenger: the new state.
        champion: the present one.
        margin: see `Production`.
        families: finds the groups of nominal test images, declared ones or, if it is told so, near-copies by the
            features of the new state; asked only where they can change an answer.

    Raises:
        ValueError: the scores of the new state are not in the store.
    """
    new = _judgement(store, challenger)
    if new is None:
        raise ValueError(f"the scores of the new state {challenger.state} are gone from the store: materialize again")
    rival = champion if champion and champion.state != challenger.state else None
    old = _judgement(store, rival) if rival else None
    alarms = nominal_gates.false_alarms(new, old)
    same = rival is None or _canonical(rival.settings) == _canonical(challenger.settings)
    if not alarms.passed:
        # Other features than the champion's are on trial themselves: they do not say which images are alike.
        alarms = nominal_gates.false_alarms(new, old, families(list(new.nominal), same))
    if rival:
        compared = rival.truth == challenger.truth and bool(rival.numbers.keys() & challenger.numbers.keys())
        unseen = nominal_gates.nothing_in_common(new, old, same_settings=same, compared=compared)
        alarms = alarms if unseen.passed else unseen
    return {ALARMS: alarms, SYNTHETIC: nominal_gates.synthetic_anomalies(new, old, margin)}


def families_of(work: Work, state: Stage, by_group: bool, images: Sequence[str], by_features: bool) -> dict[str, str]:
    """Nominal test image -> the group that it is of, declared in the image index or else of near-copies.

    Args:
        work: of a stage that reads the state.
        state: the stage of the fitted state.
        by_group: whether the lane leaves out groups; otherwise none is found.
        images: the images.
        by_features: whether near-copies are looked for, by the features that the state reads.
    """
    index = current_index(work.store, work.stage.key[0], work.partition) if by_group else None
    wanted = set(images)
    rows = read_index(index) if index else []
    declared = {row["image_id"]: row[GROUP] for row in rows if row.get(GROUP) and row["image_id"] in wanted}
    if declared or not (by_features and by_group):
        return declared
    extractor = extractor_of(state.deps[0])
    layers, address = method_of(state, work.partition).layers, features_address(extractor)
    features = stored_features(work.store, work.compute, address, sorted(wanted), layers, extractor)
    copies = near_copy_groups(features, sorted(wanted), runtime_of(work))
    return {image: f"near-copies {number}" for number, group in enumerate(copies) for image in group}


def agreement(work: Work, state: Stage, score_maps: Stage, metrics: Stage, champion: ChampionCandidate) -> str:
    """On how many recently inspected images a new state decides as the champion did, in words; empty without any.

    It takes the features that were kept of inspected images: nothing is extracted. No gate reads it, since nobody knows
    which of the two is right.
    """
    threshold = read_scored_images(work.input(metrics)).threshold
    if threshold is None:
        return ""
    try:
        rows = inspections.read(work.store, work.stage.key[0], work.partition)
    except CorruptArtifactError as error:
        return f"not known: {error}"
    then = {row.image_id: row.anomalous for row in rows if row.champion == champion.state and row.anomalous is not None}
    extractor = extractor_of(state.deps[0])
    address = features_address(extractor)
    recent = [image for image in reversed(then) if work.store.exists(feature_path(address, image))][:INSPECTED]
    trained_on = read_training_set(work.input(state))
    if not recent or trained_on is None:
        return ""
    layers = method_of(state, work.partition).layers

    def features(images: list[str]) -> Features:
        return stored_features(work.store, work.compute, address, images, layers, extractor)

    scorer = lane_scorer(work, state, score_maps, features(trained_on.images))
    now: dict[str, bool] = {}
    for ids, result in scorer(features(recent), new=True):
        now |= {image: score > threshold for image, score in zip(ids, result.image_scores.tolist(), strict=True)}
    more, fewer = (sum(now[i] is alarm and then[i] is not alarm for i in recent) for alarm in (True, False))
    return (
        f"{len(recent) - more - fewer} of {len(recent)} recently inspected images are decided as the champion did; "
        f"{more} alarms more, {fewer} fewer"
    )


def _judgement(store: ArtifactStore, candidate: ChampionCandidate) -> Judgement | None:
    return read_judgement(store, candidate.score_maps, candidate.metrics, candidate.synthetic)


def _canonical(settings: Mapping[str, Any]) -> str:
    """Settings as they are stored, where a tuple is a list."""
    return json.dumps(settings, sort_keys=True)
