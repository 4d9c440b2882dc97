"""Which inspections the drift tests of a category are about, and what they say.

Scores are tested for each detector that inspected, by `ad_assets.metrics.drift`: the images that a champion inspected,
each once, after its nominal left-out scores and after those of the nominal test images. The wealth is carried over a
change of champion, so that many small drifts add up; within a champion the error rate is exact, over a change it is as
good as the new champion's images are exchangeable with the next ones. After an alarm the test begins anew with the next
champion.

One more test is on brightness and contrast of the images, whoever inspected them, after those of the images that the
first champion was calibrated with. No champion changes these, so its error rate is exact over changes too.

Left out are images that the champion had learnt, whose scores are too low, nominal test images, which are there
already, and images that a person rejected, which are no nominal ones. A group counts as one, as it does for the
threshold: among the images that come first its images share one voice, and of those inspected only the first of a
declared group is news, if no image of it was learnt or tested. Near-copies are known among the former alone.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ad_assets.metrics.drift import DriftMartingale, StatisticsMartingale
from ad_assets.production.inspections import Inspection
from ad_assets_runtime.identity import content_of

BRIGHTNESS, CONTRAST = "brightness", "contrast"
IMAGE_STATISTICS = "image statistics"  # no name of a detector has a space


@dataclass(frozen=True)
class Champion:
    """A fitted state that inspected.

    Args:
        detector: its detector.
        left_out: its nominal left-out scores.
        groups: number of the group of each left-out score; empty: each is alone.
        learnt: ids of the images that it had learnt.
        judged: id -> score of the nominal test images.
        judged_groups: numbers of their groups, likewise.
        statistics: `BRIGHTNESS`, `CONTRAST` -> their values in the images with left-out scores and in the nominal test
            images, as far as they are known; empty: they are not.
        statistics_groups: numbers of the groups of these images, likewise.
    """

    detector: str
    left_out: Sequence[float]
    learnt: Collection[str] = ()
    judged: Mapping[str, float] = field(default_factory=dict)
    statistics: Mapping[str, Sequence[float]] = field(default_factory=dict)
    groups: Sequence[int] = ()
    judged_groups: Sequence[int] = ()
    statistics_groups: Sequence[int] = ()


@dataclass(frozen=True)
class DriftTest:
    """One drift test.

    Args:
        subject: the detector whose scores it is about, or `IMAGE_STATISTICS`.
        times: of the images that it is about.
        wealth: after each of them.
        limit: wealth at which it speaks.
        alarm: position of the first image at which it spoke; None: it did not.
        since: position after which the change began, as the wealth tells.
        change: what has changed, such as ``scores are higher``.
        earlier_alarms: of earlier tests, which ended with a change of champion.
    """

    subject: str
    times: Sequence[datetime.datetime]
    wealth: Sequence[float]
    limit: float
    alarm: int | None
    since: int
    change: str
    earlier_alarms: Sequence[datetime.datetime] = ()

    def __str__(self) -> str:
        if self.alarm is None:
            highest = max(self.wealth, default=1.0)
            return f"{self.subject}: no drift in {len(self.wealth)} images (wealth {highest:.3g} of {self.limit:g})"
        return (
            f"{self.subject}: {self.change} than usual since about {self.times[self.since]:%Y-%m-%d %H:%M} UTC, seen "
            f"after {self.alarm - self.since + 1} images (wealth {self.wealth[self.alarm]:.3g}, limit {self.limit:g})"
        )


def drift_tests(
    rows: Iterable[Inspection],
    champions: Mapping[str, Champion],
    rejected: Collection[str],
    alpha: float,
    families: Mapping[str, str] | None = None,
) -> list[DriftTest]:
    """The drift tests: one of each detector that inspected, and one of the images where their statistics are known.

    Args:
        rows: inspections by known champions, oldest first.
        champions: by address.
        rejected: content hashes of images that a person called no nominal ones.
        alpha: chance that any of the tests speaks while nothing changes; divided among them.
        families: image -> its declared group, of those that have one.
    """
    families = families or {}
    by_detector: dict[str, list[Inspection]] = defaultdict(list)
    described: list[Inspection] = []
    met = {
        address: {families.get(image, image) for image in (*champion.learnt, *champion.judged)}
        for address, champion in champions.items()
    }
    for row in rows:
        champion = champions[row.champion]
        known = families.get(row.image_id, row.image_id) in met[row.champion]
        if not known and content_of(row.image_id) not in rejected:
            by_detector[champion.detector].append(row)
            described += [row] if row.brightness is not None and row.contrast is not None else []
    limit = (len(by_detector) + bool(described)) / alpha
    found = [_of_scores(name, own, champions, limit, families) for name, own in sorted(by_detector.items())]
    return found + ([_of_images(described, champions, limit, families)] if described else [])


class _Watch:
    """The path of one test, which begins anew after an alarm."""

    def __init__(self, subject: str, limit: float) -> None:
        self._subject, self._limit = subject, limit
        self._earlier: list[datetime.datetime] = []
        self._begin()

    def _begin(self) -> None:
        self._times: list[datetime.datetime] = []
        self._wealth: list[float] = []
        self._alarm: int | None = None
        self._change = ""

    def begins_anew(self) -> bool:
        """Whether the test has spoken, and so begins anew, now that another champion inspects."""
        if self._alarm is None:
            return False
        self._earlier.append(self._times[self._alarm])
        self._begin()
        return True

    def add(self, time: datetime.datetime, wealth: float, change: str) -> None:
        """The wealth after an image, and what has changed should that be an alarm."""
        self._times.append(time)
        self._wealth.append(wealth)
        if self._alarm is None and wealth >= self._limit:
            self._alarm, self._change = len(self._wealth) - 1, change

    def test(self) -> DriftTest:
        """What came out."""
        since = _began(self._wealth[: self._alarm + 1]) if self._alarm is not None else 0
        return DriftTest(
            self._subject, self._times, self._wealth, self._limit, self._alarm, since, self._change, self._earlier
        )


def _of_scores(
    detector: str,
    rows: Sequence[Inspection],
    champions: Mapping[str, Champion],
    limit: float,
    families: Mapping[str, str],
) -> DriftTest:
    martingale, watch = DriftMartingale(), _Watch(detector, limit)
    before, seen = "", set[str]()
    for row in rows:
        if row.champion != before:
            before, seen = row.champion, set()
            if watch.begins_anew():
                martingale = DriftMartingale()
            champion = champions[row.champion]
            groups = champion.groups, champion.judged_groups
            martingale.calibrate(champion.left_out, tuple(champion.judged.values()), groups)
        which = families.get(row.image_id, row.image_id)
        if which in seen:  # the same image again is no news, nor is one of the same group
            continue
        seen.add(which)
        wealth = martingale.add(row.score, _uniform(row.image_id, row.champion))
        watch.add(row.time, wealth, f"scores are {martingale.direction}")
    return watch.test()


def _of_images(
    rows: Sequence[Inspection], champions: Mapping[str, Champion], limit: float, families: Mapping[str, str]
) -> DriftTest:
    watch, martingale = _Watch(IMAGE_STATISTICS, limit), _calibrated(champions[rows[0].champion])
    inspected, seen = set[str](), set[str]()  # champions, and images or groups, so far
    for row in rows:
        if row.champion not in inspected and watch.begins_anew():
            martingale, seen = _calibrated(champions[row.champion]), set()
        inspected.add(row.champion)
        which = families.get(row.image_id, row.image_id)
        if which in seen or row.brightness is None or row.contrast is None:
            continue
        seen.add(which)
        values = {BRIGHTNESS: row.brightness, CONTRAST: row.contrast}
        wealth = martingale.add(values, {name: _uniform(row.image_id, name) for name in values})
        watch.add(row.time, wealth, "{} is {}".format(*martingale.direction))
    return watch.test()


def _calibrated(champion: Champion) -> StatisticsMartingale:
    known = {name: champion.statistics.get(name, ()) for name in (BRIGHTNESS, CONTRAST)}
    return StatisticsMartingale(known, champion.statistics_groups)


def _began(wealth: Sequence[float]) -> int:
    """Position at which the wealth began to grow to its last value: after the lowest point of its last rise."""
    position = max((number for number, each in enumerate(wealth) if each < 1), default=-1)
    while position > 0 and wealth[position - 1] < wealth[position]:
        position -= 1
    return min(position + 1, len(wealth) - 1)


def _uniform(image_id: str, what: str) -> float:
    """A number in (0, 1) that follows from the image and nothing that its values depend on, so it can be had again."""
    digest = hashlib.sha256(f"{image_id} {what}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") + 0.5) / 2**64
