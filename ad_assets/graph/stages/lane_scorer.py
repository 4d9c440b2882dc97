"""The present state of a lane, ready to score other images than its test images as its score maps were made."""

from __future__ import annotations

from ad_assets.graph.stage import Stage, Work
from ad_assets.graph.stages.features import extractor_of
from ad_assets.graph.stages.fitted_state import method_of, read_state, runtime_of
from ad_assets.graph.stages.neighbours import read_matches
from ad_assets.graph.stages.region_of_interest import PART, read_region, region_tensor
from ad_assets.graph.stages.score_maps import ScoreSettings
from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import Features


def lane_scorer(
    work: Work, state: Stage, score_maps: Stage, train: Features, neighbours: Stage | None = None
) -> Scorer:
    """A scorer of what `work` reads: the state, inside the region of interest that its score maps have.

    Args:
        work: of a stage that reads both.
        state: the fitted state of the lane.
        score_maps: its score maps.
        train: the features that the state was fitted on.
        neighbours: the stored matches of the lane, by which some methods prepare a state; None: they match anew.

    Raises:
        TypeError: the lane is an ensemble.
    """
    scoring = score_maps.settings_for(work.partition)
    if not isinstance(scoring, ScoreSettings):
        raise TypeError(f"{score_maps.name} scores by no method")
    method = method_of(state, work.partition)
    fitted, size, step = read_state(work.input(state), method), scoring.map_size, scoring.map_step
    inspected = read_region(work.store, work.upstream.of(score_maps).parts.get(PART, ""))
    region = region_tensor(inspected, extractor_of(state.deps[0]))
    matches = read_matches(work.input(neighbours)) if neighbours else None
    return Scorer(method, fitted, train, matches, size, runtime_of(work), map_step=step, region=region)
