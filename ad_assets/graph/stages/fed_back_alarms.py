"""On which images, that people called false alarms and a state has learnt since, it would alarm all the same."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.graph.stage import Work
from ad_assets.graph.stages.feature_files import stored_features
from ad_assets.graph.stages.fitted_state import read_state, read_training_set, runtime_of
from ad_assets.graph.stages.region_of_interest import read_region, region_tensor
from ad_assets.graph.stages.score_maps import read_score_index
from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import METHODS, Features, Method
from ad_assets.production.champion_history import ChampionCandidate
from ad_assets_runtime.identity import content_of


def learnt_images(work: Work, state_kind: str, candidate: ChampionCandidate, contents: Collection[str]) -> list[str]:
    """The ids of those images, given by content, that a state was fitted on."""
    trained_on = read_training_set(work.store.artifact(state_kind, candidate.state))
    return [image for image in (trained_on.images if trained_on else ()) if content_of(image) in contents]


def alarms_on(
    work: Work, state_kind: str, candidate: ChampionCandidate, images: Sequence[str], rate: float
) -> set[str] | None:
    """Those of some images that a candidate scores above its threshold.

    They are scored as predictions score them, and not left out.

    Args:
        work: gives store and compute settings.
        state_kind: kind of artifact that the fitted state is.
        candidate: an earlier or the present state with its score maps.
        images: ids of images whose features are stored for the extractor of the present state.
        rate: of false alarms, for its threshold.

    Returns:
        Ids of images; None where it cannot be told, as of a state whose features these are not.
    """
    from ad_assets.metrics.thresholds import nominal_quantile

    state = work.store.artifact(state_kind, candidate.state)
    maps = work.store.artifact("score_maps", candidate.score_maps)
    if not (state.exists() and maps.exists()):
        return None
    trained_on, nominal = read_training_set(state), read_score_index(maps).nominal
    if trained_on is None or not nominal.scores:
        return None
    method: Method[Any] = METHODS[candidate.settings["method"]].model_validate(candidate.settings["values"])
    extractor = Extractor.model_validate({"precision": work.compute.precision, **candidate.settings["extractor"]})

    def features(ids: Sequence[str]) -> Features:
        return stored_features(work.store, work.compute, trained_on.features, ids, method.layers, extractor)

    size, step = extractor.map_size, extractor.map_step
    fitted, train = read_state(state, method), features(trained_on.images)
    region = region_tensor(read_region(work.store, candidate.roi), extractor)
    scorer = Scorer(method, fitted, train, None, size, runtime_of(work), map_step=step, region=region)
    threshold = nominal_quantile(nominal.scores, rate, nominal.groups)
    try:
        return {
            image
            for ids, scored in scorer(features(images), new=True)
            for image, score in zip(ids, scored.image_scores.tolist(), strict=True)
            if score > threshold
        }
    except FileNotFoundError:
        return None
