"""The champion of a detector and category, which is the fitted state that predictions use, and its history.

Every new state is a candidate. It is promoted if it passes the gates of the benchmark file (`production`), no metric
below its floor and none behind the champion's by more than the margin, and those of `nominal_gates`. Otherwise the
champion stays, and the asset's check says why. The history is an append-only list in the store: promotions by the graph
and by hand, and rollbacks. A state that was rolled back from is not promoted again automatically.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Benchmark, Detector
from ad_assets.methods import METHODS, Method
from ad_assets.metrics.catalogue import compared, find
from ad_assets.production.lasting_records import LastingRecord
from ad_assets.store.store import ArtifactStore

PROMOTED, BY_HAND, ROLLED_BACK = "promoted", "promoted by hand", "rolled back"


@dataclass(frozen=True)
class ChampionCandidate:
    """A fitted state with everything that predictions and comparisons need.

    Args:
        state: address of the fitted state.
        score_maps: address of its score maps, which hold the scores that set its threshold.
        metrics: address of its metrics.
        settings: method, its options and the extractor at that time, so that a champion survives a changed benchmark
            file.
        truth: fingerprint of the test images and labels behind the metrics; only equal ones are compared.
        numbers: metrics of the standard protocol, as fractions.
        anomalous_images: how many anomalous test images are behind them; None: not known, as of older champions.
        roi: content of the region of interest that it inspects, see `region_location`; empty: whole images.
        synthetic: address of its scores of synthetic anomalies; empty: there are none, as of older champions.
        judged: what `nominal_gates.Judgement.numbers` has: rates of alarms among good images and synthetic anomalies.
        bundle: address of its bundle; empty where the lane has no `export`.
    """

    state: str
    score_maps: str
    metrics: str
    settings: Mapping[str, Any]
    truth: str
    numbers: Mapping[str, float]
    anomalous_images: int | None = None
    roi: str = ""
    synthetic: str = ""
    judged: Mapping[str, float] = field(default_factory=dict)
    bundle: str = ""


@dataclass(frozen=True)
class ChampionChange:
    """One change of champion: the new champion, time (ISO 8601, UTC), action and reason."""

    candidate: ChampionCandidate
    when: str
    action: str
    reason: str


@dataclass(frozen=True)
class KeptOut:
    """A new state that the gates kept from becoming champion: its address, and why."""

    state: str
    reason: str


@dataclass(frozen=True)
class History:
    """The changes of champion of one detector and category, oldest first.

    Args:
        entries: the changes.
        refused: addresses of states that were rolled back from.
        kept_out: the newest state, while it is not champion because of the gates.
    """

    entries: tuple[ChampionChange, ...]
    refused: tuple[str, ...]
    kept_out: KeptOut | None = None

    @property
    def champion(self) -> ChampionCandidate | None:
        """The present champion; None before the first promotion."""
        return self.entries[-1].candidate if self.entries else None

    def with_champion(self, candidate: ChampionCandidate, action: str, reason: str) -> History:
        """This history with one more change."""
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        refused = tuple(state for state in self.refused if state != candidate.state)
        if action == ROLLED_BACK and self.champion:
            refused = (*refused, self.champion.state)
        return History((*self.entries, ChampionChange(candidate, when, action, reason)), refused)


HISTORY: LastingRecord[History] = LastingRecord(History, lambda: History((), ()), "which state is champion and why")


def settings_of(method: Method[Any], extractor: Extractor) -> dict[str, Any]:
    """Method, options and extractor of a detector, as JSON values."""
    # Without defaults: some methods refuse options that are written out and contradict each other.
    values = method.model_dump(mode="json", exclude_unset=True)
    return {"method": method.name, "values": values, "extractor": extractor.model_dump(mode="json", exclude_unset=True)}


def as_promoted(benchmark: Benchmark, detector: Detector, champion: ChampionCandidate) -> tuple[Benchmark, Detector]:
    """The benchmark and detector with the settings that the champion was made with.

    Raises:
        ValueError: this release no longer accepts these settings.
    """
    settings = champion.settings
    method = METHODS[settings["method"]].model_validate(settings["values"])
    # Older champions have no precision in their extractor; it was an option of the benchmark file.
    extractor = Extractor.model_validate({"precision": benchmark.compute.precision, **settings["extractor"]})
    extractors = {**benchmark.extractors, detector.extractor: extractor}
    return replace(benchmark, extractors=extractors), replace(detector, method=method, categories={})


def not_measurable(challenger: ChampionCandidate, floors: Mapping[str, float]) -> list[str]:
    """The metrics with floors that no state can have, because there is no anomalous test image."""
    return [metric for metric in floors if challenger.anomalous_images == 0 and metric not in challenger.numbers]


def below_floors(numbers: Mapping[str, float], floors: Mapping[str, float]) -> list[str]:
    """A message for each floor that a state misses; a missing metric counts as below its floor.

    Where lower values are better, the floor is the largest value that passes.
    """
    found = {metric: numbers.get(metric) for metric in floors}
    return [
        f"{metric} {'is not known' if value is None else f'{value:.4f}'}, its floor is {floors[metric]:g}"
        for metric, value in found.items()
        if value is None or find(metric).is_worse(value, floors[metric])
    ]


def behind_champion(challenger: ChampionCandidate, champion: ChampionCandidate | None, margin: float) -> list[str]:
    """A message for each metric behind the champion's by more than the margin.

    None where test images or regions of interest differ.
    """
    if champion is None or champion.state == challenger.state:
        return []
    if (champion.truth, champion.roi) != (challenger.truth, challenger.roi):
        return []
    both = [metric for metric in compared() if metric in challenger.numbers and metric in champion.numbers]
    return [
        f"{metric} {challenger.numbers[metric]:.4f} after {champion.numbers[metric]:.4f}, more than {margin:g} behind"
        for metric in both
        if find(metric).is_worse(challenger.numbers[metric], champion.numbers[metric], margin)
    ]


def history_path(dataset: str, detector: str, category: str) -> str:
    """Path in the store of the history of a detector and category."""
    return f"champions/{dataset}/{detector}/{category}.json"


def kept_out_of(store: ArtifactStore, dataset: str, detectors: Collection[str]) -> dict[tuple[str, str], KeptOut]:
    """(detector, category) -> the newest state and why it is not champion, where gates keep it out.

    Raises:
        DamagedRecordError: a history cannot be read.
    """
    found: dict[tuple[str, str], KeptOut] = {}
    for file in store.files(f"champions/{dataset}"):
        *_, detector, name = file.path.split("/")
        if detector in detectors and name.endswith(".json"):
            kept_out = HISTORY.read(store, file.path).kept_out
            if kept_out:
                found[detector, name.removesuffix(".json")] = kept_out
    return found


def read_history(store: ArtifactStore, dataset: str, detector: str, category: str) -> History:
    """The history of a detector and category; empty before the first promotion.

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
    """Change a history atomically; `change` is called again with the new content if another process wrote meanwhile.

    Raises:
        DamagedRecordError: it cannot be read; it is not changed.
    """
    return HISTORY.update(store, history_path(dataset, detector, category), change)
