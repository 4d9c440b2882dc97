"""The champion of a lane and category: the state that predictions use, and how it came to be that.

Every new state is a candidate. It is promoted when it passes the gates of the benchmark file (`production`): no metric
below its floor, none behind the champion's by more than the margin. Otherwise the champion stays, and the asset's check
says why. What happened is a list in the store, which only grows: promotions by the graph and by hand, and rollbacks. A
state that was rolled back from is not promoted again by itself.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Benchmark, Detector, Production
from ad_assets.methods import METHODS
from ad_assets.metrics.catalogue import compared, find
from ad_assets.production.lasting_records import LastingRecord
from ad_assets.store.store import ArtifactStore

PROMOTED, BY_HAND, ROLLED_BACK = "promoted", "promoted by hand", "rolled back"


@dataclass(frozen=True)
class ChampionCandidate:
    """A state with what belongs to it.

    Args:
        state: address of what was learnt.
        score_maps: address of its score maps, which hold the scores that set its threshold.
        metrics: address of its metrics.
        settings: method, its values and extractor as they were, so that a champion outlives a changed benchmark file.
        truth: fingerprint of the test images and labels behind the numbers; others are not comparable.
        numbers: metrics of the standard protocol.
    """

    state: str
    score_maps: str
    metrics: str
    settings: Mapping[str, Any]
    truth: str
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class ChampionChange:
    """One change of champion: who became it, when (ISO 8601, UTC), by what, and why."""

    candidate: ChampionCandidate
    when: str
    action: str
    reason: str


@dataclass(frozen=True)
class History:
    """The changes of champion of one lane and category, oldest first, and the states refused by rolling back."""

    entries: tuple[ChampionChange, ...]
    refused: tuple[str, ...]

    @property
    def champion(self) -> ChampionCandidate | None:
        """Who is champion."""
        return self.entries[-1].candidate if self.entries else None

    def with_champion(self, candidate: ChampionCandidate, action: str, reason: str) -> History:
        """The history with one more change."""
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        refused = tuple(state for state in self.refused if state != candidate.state)
        if action == ROLLED_BACK and self.champion:
            refused = (*refused, self.champion.state)
        return History((*self.entries, ChampionChange(candidate, when, action, reason)), refused)


HISTORY: LastingRecord[History] = LastingRecord(
    History, lambda: History((), ()), "who was champion and why, by which predictions are made"
)


def settings_of(detector: Detector, extractor: Extractor, category: str) -> dict[str, Any]:
    """What a lane is, as JSON values."""
    method = detector.method_for(category)
    # What was written, not the defaults: with these spelt out a method may take settings for contradictory.
    values = method.model_dump(mode="json", exclude_unset=True)
    return {"method": method.name, "values": values, "extractor": extractor.model_dump(mode="json", exclude_unset=True)}


def as_promoted(benchmark: Benchmark, detector: Detector, champion: ChampionCandidate) -> tuple[Benchmark, Detector]:
    """A benchmark and a lane of it with the settings that a champion was made with.

    Raises:
        ValueError: this release cannot have these settings any more.
    """
    settings = champion.settings
    method = METHODS[settings["method"]].model_validate(settings["values"])
    # Champions of before the precision was the extractor's had that of the benchmark file.
    extractor = Extractor.model_validate({"precision": benchmark.compute.precision, **settings["extractor"]})
    extractors = {**benchmark.extractors, detector.extractor: extractor}
    return replace(benchmark, extractors=extractors), replace(detector, method=method, categories={})


def below_floors(numbers: Mapping[str, float], production: Production) -> list[str]:
    """The floors that a state misses, in words; a metric that it does not have is below its floor.

    Where lower values are better the floor is the largest value that passes.
    """
    found = {metric: numbers.get(metric) for metric in production.floors}
    return [
        f"{metric} {'is not known' if value is None else f'{value:.4f}'}, its floor is {production.floors[metric]:g}"
        for metric, value in found.items()
        if value is None or find(metric).is_worse(value, production.floors[metric])
    ]


def behind_champion(
    challenger: ChampionCandidate, champion: ChampionCandidate | None, production: Production
) -> list[str]:
    """Where a state is behind the champion by more than the margin, in words; nowhere on other test images."""
    if champion is None or champion.state == challenger.state or champion.truth != challenger.truth:
        return []
    both = [metric for metric in compared() if metric in challenger.numbers and metric in champion.numbers]
    return [
        f"{metric} {challenger.numbers[metric]:.4f} after {champion.numbers[metric]:.4f}, "
        f"more than {production.margin:g} behind"
        for metric in both
        if find(metric).is_worse(challenger.numbers[metric], champion.numbers[metric], production.margin)
    ]


def history_path(dataset: str, detector: str, category: str) -> str:
    """Where the history of a lane and category lies in the store."""
    return f"champions/{dataset}/{detector}/{category}.json"


def read_history(store: ArtifactStore, dataset: str, detector: str, category: str) -> History:
    """The history of a lane and category; empty where nothing was ever promoted.

    Raises:
        DamagedRecordError: it cannot be read.
    """
    return HISTORY.read(store, history_path(dataset, detector, category))


def update_history(
    store: ArtifactStore,
    dataset: str,
    detector: str,
    category: str,
    change: Callable[[History], History],
) -> History:
    """Change a history; `change` is called again if another process was faster, on what that has written.

    Raises:
        DamagedRecordError: it cannot be read; it stays as it is.
    """
    return HISTORY.update(store, history_path(dataset, detector, category), change)
