"""What a state makes of good images that it has not learnt, read from its artifacts, and what the gates say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ad_assets.graph.stages.metrics import read_scored_images
from ad_assets.graph.stages.score_maps import read_score_index
from ad_assets.graph.stages.synthetic_anomalies import KIND, read_synthetic
from ad_assets.production import nominal_gates
from ad_assets.production.champion_history import ChampionCandidate
from ad_assets.production.nominal_gates import Judgement, Verdict
from ad_assets.store.store import ArtifactStore

ALARMS, SYNTHETIC = "no_more_false_alarms", "sees_synthetic_anomalies"  # the names of the checks


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
    return Judgement(
        scored.threshold,
        {image["image_id"]: image["score"] for image in scored.images if image["label"] == 0},
        read_score_index(maps).nominal.scores,
        {(each.image_id, each.kind, each.strength): each.score for each in anomalies},
    )


def verdicts_of(
    store: ArtifactStore, challenger: ChampionCandidate, champion: ChampionCandidate | None, margin: float
) -> dict[str, Verdict]:
    """The answers of the gates that need no real anomaly, by the names of their checks.

    Raises:
        ValueError: the scores of the new state are not in the store.
    """
    new = _judgement(store, challenger)
    if new is None:
        raise ValueError(f"the scores of the new state {challenger.state} are gone from the store: materialize again")
    rival = champion if champion and champion.state != challenger.state else None
    old = _judgement(store, rival) if rival else None
    alarms = nominal_gates.false_alarms(new, old)
    if rival:
        compared = rival.truth == challenger.truth and bool(rival.numbers.keys() & challenger.numbers.keys())
        same = _canonical(rival.settings) == _canonical(challenger.settings)
        unseen = nominal_gates.nothing_in_common(new, old, same_settings=same, compared=compared)
        alarms = alarms if unseen.passed else unseen
    return {ALARMS: alarms, SYNTHETIC: nominal_gates.synthetic_anomalies(new, old, margin)}


def _judgement(store: ArtifactStore, candidate: ChampionCandidate) -> Judgement | None:
    return read_judgement(store, candidate.score_maps, candidate.metrics, candidate.synthetic)


def _canonical(settings: Mapping[str, Any]) -> str:
    """Settings as they are stored, where a tuple is a list."""
    return json.dumps(settings, sort_keys=True)
