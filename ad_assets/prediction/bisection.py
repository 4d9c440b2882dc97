"""Which landed batch made a detector worse: a search over the versions of the image index, by fits from scratch.

    found = bisect_landings("parts", "patchcore", "bolt", "image_auroc", config="parts.yaml")
    found.batch, found.before, found.after

Each version's training set is measured on today's test images, so the truth is fixed. Of a bracket whose earlier end is
better, the half with the larger part of the drop is kept. Where the state knows which image each row is from, one fit
of all images says by which batch the test images are matched: that batch is tried first.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ad_assets.config.benchmark import Benchmark
from ad_assets.datasets.base import ProgressReport
from ad_assets.metrics.catalogue import Metric, known
from ad_assets.prediction.lookup import DetectorError, Lookup
from ad_assets.prediction.refits import ALIASES, Refit, Refits
from ad_assets.prediction.won_matches import Win, batches_by_gain, won_matches
from ad_assets.production.landing_history import IndexedImage, Landing, images_of, read_landings

FALSE_ALARMS = "false_positives"
PART = 0.1  # of the patches that one image of a batch won, from which on another is rejected with it
Worse = Callable[[float, float], bool]


def _no_report(what: str, done: int, total: int) -> None:
    del what, done, total


@dataclass(frozen=True)
class Probe:
    """One version that was measured: its number, time, training images, value, seconds, whether its state was found."""

    number: int
    when: str
    images: int
    value: float
    seconds: float
    found: bool


@dataclass(frozen=True)
class Bisection:
    """What a search found.

    Args:
        place: dataset, lane and category.
        metric: as the catalogue has it.
        probes: what was measured, by version.
        batch: numbers of the versions that landed between `before` and `after`; several where those between cannot be
            fitted; empty: nothing dropped.
        added: training images that came with them.
        removed: training images that went with them.
        before: measured ahead of them; None: nothing dropped.
        after: measured with them.
        thresholds: on image scores before and after, where the metric has one.
        wins: images of the batch that won matches from others, most first; of states that know their images, and of
            metrics that fall where defects are matched.
        alarms: paths of nominal test images that were no false alarms before and are after; of false alarms alone.
        reject: what takes away those of the batch that won most, or all of it where the state does not know its images;
            empty for false alarms, which good images can cause.
        fits: how many states were fitted.
        seconds: of the search.
        notes: what else a person should know.
    """

    place: tuple[str, str, str]
    metric: Metric
    probes: tuple[Probe, ...]
    batch: tuple[int, ...]
    added: tuple[IndexedImage, ...]
    removed: tuple[IndexedImage, ...]
    before: Probe | None
    after: Probe | None
    thresholds: tuple[float | None, float | None]
    wins: tuple[Win, ...]
    alarms: tuple[str, ...]
    reject: str
    fits: int
    seconds: float
    notes: tuple[str, ...]


def search(
    count: int, value: Callable[[int], float], is_worse: Worse, guesses: Callable[[], Iterable[int]]
) -> tuple[int, int] | None:
    """The step of a series at which the larger part of its drop lies.

    Args:
        count: length of the series.
        value: measures a member, at some cost; called once for each.
        is_worse: whether the first of two values is worse than the second.
        guesses: after which member the drop may lie, most likely first; each is tried before the middle.

    Returns:
        The members ahead of the step and after it, neighbours; None: no member that was tried is better than the last.
    """
    low, high = 0, count - 1
    bad, good = value(high), value(low)
    steps = [step for step in guesses() if 0 <= step < count - 1]
    if not is_worse(bad, good):
        # The first versions may be as bad, for want of images: begin at a better one in between.
        starts = dict.fromkeys([*steps[:1], *(count * part // 4 for part in (2, 3, 1))])
        better = (start for start in starts if low < start < high and is_worse(bad, value(start)))
        start = next(better, None)
        if start is None:
            return None
        low, good = start, value(start)
    ends = [end for step in steps[:1] for end in (step, step + 1)]
    while high - low > 1:
        middle = next((end for end in ends if low < end < high), (low + high) // 2)
        between = value(middle)
        if abs(good - between) >= abs(between - bad) and is_worse(between, good):
            high, bad = middle, between
        elif is_worse(bad, between):
            low, good = middle, between
        else:
            high, bad = middle, between
    return low, high


def bisect_landings(
    dataset: str | None,
    lane: str | None,
    category: str | None,
    metric: str,
    config: str | Path | Benchmark | None = None,
    overrides: Iterable[str] = (),
    *,
    first: int = 1,
    last: int | None = None,
    report: ProgressReport = _no_report,
) -> Bisection:
    """Find the landed batch that cost a metric most.

    Args:
        dataset: its name in the benchmark file; None: the only one.
        lane: a detector of the dataset; None: the only one.
        category: None: the only one.
        metric: of the catalogue, or ``false_alarms``, ``misses``.
        config: a benchmark file, as `load_config` takes it, or a loaded one.
        overrides: ``dotted.key=value`` texts.
        first: number of the earliest version to look at.
        last: of the latest; None: the newest.
        report: called as ``report(what, done, total)`` from time to time.

    Raises:
        ConfigError: the benchmark file is wrong.
        DetectorError: there is no such lane or metric, no history, or nothing that can be measured.
    """
    started = time.perf_counter()
    facts = known(ALIASES.get(metric, metric))
    if facts is None or facts.better == "neither" or facts.unit not in ("share", "count"):
        raise DetectorError(f"metric {metric!r}: give false_alarms, misses, or a metric of quality such as image_auroc")
    lookup = Lookup.of(config, overrides)
    found = lookup.dataset(dataset)
    detector, name = lookup.detector(found, lane), lookup.category(found, category)
    refits = Refits(lookup, found, detector, name, facts.name, report)
    landings = read_landings(lookup.benchmark.store, found.name, name)
    sets = TrainingSets(landings, refits, first, last)
    numbers, notes = sets.numbers, sets.notes
    if len(numbers) < 2:
        raise DetectorError(
            f"{found.name} [{name}] has {len(numbers)} version(s) that can be fitted and differ in their training "
            f"images, and a search needs two{'; ' if notes else ''}{'; '.join(notes)}"
        )
    kept: dict[int, Refit] = {}
    measured: dict[int, Probe] = {}

    def value(position: int) -> float:
        number = numbers[position]
        if number not in measured:
            report(f"versions fitted, now {number} of {numbers[0]} to {numbers[-1]}", len(measured), len(measured) + 1)
            images = sets.images(number)
            refit = kept[number] = refits.fit(images)
            when = landings[number - 1].when
            measured[number] = Probe(number, when, len(images), refit.value, refit.seconds, refit.found)
        return measured[number].value

    def guesses() -> list[int]:
        ranked = batches_by_gain(refits, kept[numbers[-1]].state, sets.arrived)
        # What came with a version that cannot be fitted shows at the next one that can.
        return [bisect_left(numbers, number) - 1 for number in ranked]

    step = search(len(numbers), value, facts.is_worse, guesses)
    probes = tuple(measured[number] for number in sorted(measured))
    place = (found.name, detector.name, name)
    if step is None:
        seconds = time.perf_counter() - started
        return Bisection(
            place, facts, probes, (), (), (), None, None, (None, None), (), (), "", refits.done, seconds, tuple(notes)
        )
    before, after = (numbers[position] for position in step)
    rows = {image.image_id: image for landing in landings for image in (*landing.removed, *landing.added)}
    earlier, later = sets.images(before), sets.images(after)
    added, removed = later - earlier, earlier - later
    wins: tuple[Win, ...] = ()
    suspects: list[str] = []
    if facts.name != FALSE_ALARMS:
        wins = won_matches(refits, kept[before].state, kept[after].state, added)
        suspects = [win.image_id for win in wins if win.patches >= wins[0].patches * PART] or sorted(added)
    notes += _doubts(facts, measured, before, after)
    return Bisection(
        place,
        facts,
        probes,
        tuple(range(before + 1, after + 1)),
        tuple(rows[image] for image in sorted(added, key=lambda each: rows[each].path)),
        tuple(rows[image] for image in sorted(removed, key=lambda each: rows[each].path)),
        measured[before],
        measured[after],
        (kept[before].threshold, kept[after].threshold),
        wins,
        _new_alarms(refits, kept[before], kept[after]) if facts.name == FALSE_ALARMS else (),
        lookup.reject_command(found, name, {image: rows[image].path for image in suspects}) if suspects else "",
        refits.done,
        time.perf_counter() - started,
        tuple(notes),
    )


class TrainingSets:
    """The training images of those versions of a category that can be fitted and differ from the one before.

    `numbers` has the versions, `notes` what a person should know of the others, `arrived` the version with which each
    training image of the last one came. Sets are made when they are asked for: all at once would not fit in memory.
    """

    def __init__(self, landings: Sequence[Landing], refits: Refits, first: int, last: int | None) -> None:
        end = len(landings) if last is None else last
        if not 1 <= first < end <= len(landings):
            raise DetectorError(f"versions {first} to {end}: give two of 1 to {len(landings)}, the earlier one first")
        self._landings, self._tested = landings, set(refits.truth.positions)
        absent = refits.absent({image for landing in landings for image in self._trained(landing.added)}, learnt=True)
        self.numbers: list[int] = []
        self.arrived: dict[str, int] = {}
        passed_over: list[int] = []
        lacking, changed = 0, False
        rows_each: Counter[str] = Counter()  # an image may lie in the folder under several names
        for number, landing in enumerate(landings[:end], start=1):
            for rows, sign in ((landing.removed, -1), (landing.added, 1)):
                for row in rows:
                    rows_each[row.image_id] += sign * (row.split == "train" and row.image_id not in self._tested)
            touched = {row.image_id for row in (*landing.removed, *landing.added)}
            gone = {image for image in touched if image in self.arrived and not rows_each[image]}
            come = {image for image in touched if image not in self.arrived and rows_each[image]}
            for image in gone:
                del self.arrived[image]
            self.arrived |= dict.fromkeys(come, number)
            lacking += len(come & absent) - len(gone & absent)
            changed = changed or bool(gone or come)
            if number < first or not changed or not self.arrived:
                continue
            (passed_over if lacking else self.numbers).append(number)
            changed = bool(lacking)
        trained = {row.image_id for landing in landings[:end] for row in landing.added if row.split == "train"}
        moved = trained & self._tested
        self.notes: list[str] = []
        if moved:
            self.notes.append(
                f"{len(moved)} of today's test images were training images once; they are left out of every fit"
            )
        if passed_over:
            self.notes.append(
                f"{len(passed_over)} versions ({_ranges(passed_over)}) cannot be fitted: the features of images that "
                "have left the index since are gone (`ad-assets gc`)"
            )

    def images(self, number: int) -> frozenset[str]:
        """The training images of a version, without those that are tested today."""
        rows = images_of(self._landings[:number])
        return frozenset(self._trained(rows))

    def _trained(self, rows: Iterable[IndexedImage]) -> set[str]:
        return {row.image_id for row in rows if row.split == "train" and row.image_id not in self._tested}


def _new_alarms(refits: Refits, before: Refit, after: Refit) -> tuple[str, ...]:
    if before.threshold is None or after.threshold is None:
        return ()
    new = (after.scores > after.threshold) & ~(before.scores > before.threshold)
    rows = zip(refits.truth.rows, refits.truth.labels, new.tolist(), strict=True)
    return tuple(row["path"] for row, label, alarm in rows if alarm and not label)


def _doubts(metric: Metric, measured: Mapping[int, Probe], before: int, after: int) -> list[str]:
    """What speaks against one batch as the cause."""
    notes = []
    values = [measured[number].value for number in sorted(measured)]
    drop = abs(measured[after].value - measured[before].value)
    both = measured[after].value + measured[before].value
    if metric.unit == "count" and drop < 2 * math.sqrt(both):
        notes.append(f"{metric.text(drop)} more of {metric.title} is so few that it may be chance")
    best, last = metric.best(values), values[-1]
    if best is not None and drop < abs(best - last) / 2:
        notes.append(
            f"the step is less than half of the whole drop from {metric.text(best)} to {metric.text(last)}: it came "
            "little by little, or by several batches"
        )
    pairs = list(pairwise(values))
    rises, falls = (sum(metric.is_worse(*pair[::way]) for pair in pairs) for way in (1, -1))
    if rises and falls > 1:
        notes.append(
            "it rose and fell more than once: other batches may have cost as much; narrow with --from and --to"
        )
    return notes


def _ranges(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
