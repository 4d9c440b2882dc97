"""What the inspections of a category amount to: counts, alarms over time, and whether scores have drifted.

Drift is tested for each detector that inspected, by `ad_assets.metrics.drift`: the images that a champion inspected,
each once, after its nominal left-out scores and after those of the nominal test images. The wealth is carried over a
change of champion, so that many small drifts add up; within a champion the error rate is exact, over a change it is as
good as the new champion's images are exchangeable with the next ones. After an alarm the test begins anew with the next
champion.

Left out are images that the champion had learnt, whose scores are too low, nominal test images, which are there
already, and images that a person rejected, which are no nominal ones.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ad_assets.config.benchmark import Dataset, Production
from ad_assets.datasets.identity import content_of
from ad_assets.graph.stages.fitted_state import STATES, read_training_set
from ad_assets.graph.stages.image_index import current_index, read_index, stamps_path
from ad_assets.graph.stages.score_maps import read_score_index, shards
from ad_assets.metrics.drift import DriftMartingale
from ad_assets.production.champion_history import read_history
from ad_assets.production.inspections import Inspection, files, read
from ad_assets.production.review_decisions import read_decisions
from ad_assets.store.store import ArtifactStore

MOST_INSPECTIONS = 50_000  # that one test covers


@dataclass(frozen=True)
class Champion:
    """A fitted state that inspected.

    Args:
        detector: its detector.
        left_out: its nominal left-out scores.
        learnt: ids of the images that it had learnt.
        judged: id -> score of the nominal test images.
    """

    detector: str
    left_out: Sequence[float]
    learnt: Collection[str] = ()
    judged: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DriftTest:
    """The drift test of one detector.

    Args:
        detector: its name.
        times: of the images that it is about.
        wealth: after each of them.
        limit: wealth at which it speaks.
        alarm: position of the first image at which it spoke; None: it did not.
        since: position after which the change began, as the wealth tells.
        direction: of the scores since, ``higher`` or ``lower`` than usual.
        earlier_alarms: of earlier tests, which ended with a change of champion.
    """

    detector: str
    times: Sequence[datetime.datetime]
    wealth: Sequence[float]
    limit: float
    alarm: int | None
    since: int
    direction: str
    earlier_alarms: Sequence[datetime.datetime] = ()

    def __str__(self) -> str:
        if self.alarm is None:
            highest = max(self.wealth, default=1.0)
            return f"{self.detector}: no drift in {len(self.wealth)} images (wealth {highest:.3g} of {self.limit:g})"
        return (
            f"{self.detector}: scores are {self.direction} than usual since about "
            f"{self.times[self.since]:%Y-%m-%d %H:%M} UTC, seen after {self.alarm - self.since + 1} images (wealth "
            f"{self.wealth[self.alarm]:.3g}, limit {self.limit:g})"
        )


@dataclass(frozen=True)
class InspectionSummary:
    """What the inspections of a category amount to.

    Args:
        category: the category.
        total: number of inspections that the store has.
        rows: the newest of them, oldest first.
        drift: a test for each detector that inspected.
        unknown: number of rows whose champion is not known any more; they are in no test.
        last: time of the last inspection or landing; None: there was none.
    """

    category: str
    total: int
    rows: Sequence[Inspection]
    drift: Sequence[DriftTest]
    unknown: int
    last: datetime.datetime | None

    @property
    def alarms(self) -> int:
        """How many of the rows were decided anomalous."""
        return sum(bool(row.anomalous) for row in self.rows)

    def is_quiet(self, production: Production, now: datetime.datetime) -> bool:
        """Whether nothing was inspected or landed for longer than `quiet_hours`."""
        if production.quiet_hours is None or self.last is None:
            return False
        return now - self.last > datetime.timedelta(hours=production.quiet_hours)


def summarise(store: ArtifactStore, dataset: Dataset, category: str) -> InspectionSummary:
    """The summary of a category of a production dataset.

    Raises:
        CorruptArtifactError: inspections, decisions or the history of a champion cannot be read.
    """
    production = dataset.production or Production()
    total = sum(file.rows for file in files(store, dataset.name, category))
    rows = read(store, dataset.name, category, most=_covered(total))
    champions = _champions(store, dataset, category, {row.champion for row in rows})
    decisions = read_decisions(store, dataset.name, category)
    rejected = {image for image, decision in decisions.items() if decision == "reject"}
    known = [row for row in rows if row.champion in champions]
    drift = drift_tests(known, champions, rejected, production.drift_alpha)
    times = [rows[-1].time] if rows else []
    times += [time for name, time in last_landed(store, dataset.name).items() if name == category]
    return InspectionSummary(category, total, rows, drift, len(rows) - len(known), max(times, default=None))


def drift_tests(
    rows: Iterable[Inspection], champions: Mapping[str, Champion], rejected: Collection[str], alpha: float
) -> list[DriftTest]:
    """The drift tests of the detectors that inspected.

    Args:
        rows: inspections by known champions, oldest first.
        champions: by address.
        rejected: content hashes of images that a person called no nominal ones.
        alpha: chance that any of the tests speaks while nothing changes; divided among them.
    """
    by_detector: dict[str, list[Inspection]] = defaultdict(list)
    for row in rows:
        champion = champions[row.champion]
        known = row.image_id in champion.learnt or row.image_id in champion.judged
        if not known and content_of(row.image_id) not in rejected:
            by_detector[champion.detector].append(row)
    limit = len(by_detector) / alpha
    return [_test(name, own, champions, limit) for name, own in sorted(by_detector.items())]


def _test(detector: str, rows: Sequence[Inspection], champions: Mapping[str, Champion], limit: float) -> DriftTest:
    martingale = DriftMartingale()
    times: list[datetime.datetime] = []
    wealth: list[float] = []
    earlier: list[datetime.datetime] = []
    alarm, direction, before, seen = None, "", "", set[str]()
    for row in rows:
        if row.champion != before:
            before, seen = row.champion, set()
            if alarm is not None:
                earlier.append(times[alarm])
                martingale, times, wealth, alarm = DriftMartingale(), [], [], None
            champion = champions[row.champion]
            martingale.calibrate(champion.left_out, tuple(champion.judged.values()))
        if row.image_id in seen:  # the same image again is no news
            continue
        seen.add(row.image_id)
        times.append(row.time)
        wealth.append(martingale.add(row.score, _uniform(row)))
        if alarm is None and wealth[-1] >= limit:
            alarm, direction = len(wealth) - 1, martingale.direction
    since = _began(wealth[: alarm + 1]) if alarm is not None else 0
    return DriftTest(detector, times, wealth, limit, alarm, since, direction, earlier)


def _began(wealth: Sequence[float]) -> int:
    """Position at which the wealth began to grow to its last value: after the lowest point of its last rise."""
    position = max((number for number, each in enumerate(wealth) if each < 1), default=-1)
    while position > 0 and wealth[position - 1] < wealth[position]:
        position -= 1
    return min(position + 1, len(wealth) - 1)


def _uniform(row: Inspection) -> float:
    """A number in (0, 1) that follows from the image and nothing that scores depend on, so that it can be had again."""
    digest = hashlib.sha256(f"{row.image_id} {row.champion}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") + 0.5) / 2**64


def _covered(total: int) -> int:
    """How many of the newest inspections the present test covers: it begins anew after `MOST_INSPECTIONS`."""
    return min(total, total % MOST_INSPECTIONS or MOST_INSPECTIONS)


def _champions(store: ArtifactStore, dataset: Dataset, category: str, wanted: set[str]) -> dict[str, Champion]:
    """The champions with some addresses, as far as what they were made of is still there."""
    found: dict[str, Champion] = {}
    index = current_index(store, dataset.name, category)
    rows = read_index(index) if index else []
    nominal = {row["image_id"] for row in rows if row["split"] == "test" and row["label"] == 0}
    for name, detector in dataset.detectors.items():
        if not detector.method:
            continue
        for entry in read_history(store, dataset.name, name, category).entries:
            candidate = entry.candidate
            scores = store.artifact("score_maps", candidate.score_maps)
            if candidate.state not in wanted or not scores.exists():
                continue
            states = (store.artifact(kind, candidate.state) for kind in STATES)
            trained_on = next(filter(None, map(read_training_set, states)), None)
            learnt = frozenset(trained_on.images) if trained_on else frozenset()
            left_out = read_score_index(scores).nominal.scores
            judged = {
                image: score
                for ids, _, image_scores in shards(scores)
                for image, score in zip(ids, image_scores.tolist(), strict=True)
                if image in nominal
            }
            found[candidate.state] = Champion(name, left_out, learnt, judged)
    return found


def last_landed(store: ArtifactStore, dataset: str) -> dict[str, datetime.datetime]:
    """Category -> when files of it were last taken from the watched folder, or went."""
    return {
        PurePosixPath(file.path).stem: datetime.datetime.fromtimestamp(file.changed, datetime.UTC)
        for file in store.files(str(PurePosixPath(stamps_path(dataset, "")).parent))
    }
