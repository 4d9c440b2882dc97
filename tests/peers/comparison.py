"""The runs of one dataset: both sides in turn, on the same folder of images, judged by one code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from tests.peers.costs import Cost
from tests.peers.experiments import score_their_draw
from tests.peers.folders import Truth, lay_out
from tests.peers.judge import Scores, difference_from_scikit_learn, judge
from tests.peers.lanes import AGAIN, ANEW, CHANGED, FIRST, MORE, MORE_IMAGES, Dataset, Detector
from tests.peers.records import CHECKS, OURS, THEIR_DRAW, THEIRS, Record, Records
from tests.peers.sides import Ours, Theirs, commit, features_apart, share_backbone

SAME = 1e-6  # points: the judge and the graph's own metrics are one code


class Comparison:
    """Compares both sides on a dataset.

    Args:
        dataset: what is compared.
        records: what is known already, and where results go.
        work: a folder for runs, each of which is removed at its end.
    """

    def __init__(self, dataset: Dataset, records: Records, work: Path) -> None:
        self._dataset, self._records, self._work = dataset, records, work

    def run(self, seeds: int) -> None:
        """Seed by seed, all categories and detectors; what is measured already is left out. The first is asked more."""
        for seed, detector in product(range(seeds), self._dataset.detectors):
            if seed == 0 or detector.seeded:
                for category in self._dataset.reader.categories():
                    _Turn(self._dataset, category, detector, seed, self._records, self._work).run()


class _Turn:
    """Both sides once, one after the other, each asked the same."""

    def __init__(
        self, dataset: Dataset, category: str, detector: Detector, seed: int, records: Records, work: Path
    ) -> None:
        self._dataset, self._category, self._detector, self._seed = dataset, category, detector, seed
        self._records, self._work = records, work
        self._steps = [FIRST, AGAIN, CHANGED, MORE] if seed == 0 and detector.changed else [FIRST]

    def run(self) -> None:
        """Measure, unless all was measured already."""
        asked = [(OURS, step) for step in self._steps] + [(THEIRS, step) for step in self._steps if step not in ANEW]
        asked.append((CHECKS, FIRST))
        if self._records.has(*((*self._run, *each) for each in asked)):
            return
        shutil.rmtree(self._work, ignore_errors=True)
        images = self._work / "images"
        truth = self._laid_out(images)
        weights, probe = share_backbone(self._dataset.extractor, self._work)
        ours = Ours(self._work / "ours", images, self._dataset.extractor)
        theirs = Theirs(self._work / "theirs", images, self._dataset.extractor, probe, weights)
        self._first(ours, theirs, truth)
        if self._detector.changed and len(self._steps) > 1:
            mine, other = self._detector.changed
            self._measure(OURS, AGAIN, lambda: ours.run(self._detector, self._seed))
            self._measure(OURS, CHANGED, lambda: ours.run(self._detector, self._seed, mine))
            self._measure(THEIRS, CHANGED, lambda: theirs.run(self._detector, self._seed, other))
            self._more(truth)
        shutil.rmtree(self._work)

    @property
    def _run(self) -> tuple[str, str, str, int]:
        return self._dataset.name, self._category, self._detector.name, self._seed

    def _laid_out(self, root: Path, fewer: int = 0) -> Truth:
        return lay_out(root, self._dataset.reader, self._category, self._dataset.extractor, fewer)

    def _first(self, ours: Ours, theirs: Theirs, truth: Truth) -> None:
        self._measure(OURS, FIRST, lambda: ours.run(self._detector, self._seed), ours.scores, truth)
        apart = max(abs(value - self._records.all[-1].metrics[name]) for name, value in ours.metrics().items())
        if apart > SAME:
            raise ValueError(f"the judge and the graph's metrics of {self._run} are {apart:.2g} points apart")
        self._measure(THEIRS, FIRST, lambda: theirs.run(self._detector, self._seed), theirs.scores, truth)
        arrays = theirs.arrays()
        if self._detector.seeded:
            mixed = score_their_draw(theirs.images, self._dataset.extractor, self._detector, arrays)
            self._add(Record(*self._run, THEIR_DRAW, FIRST, judge(mixed, truth)))
        notes: dict[str, float | str] = {
            **theirs.releases(),
            "commit": commit(),
            "features": features_apart(self._dataset.extractor, theirs.probe, arrays),
            "scikit-learn": difference_from_scikit_learn(theirs.scores(), truth),
        }
        self._add(Record(*self._run, CHECKS, FIRST, notes=notes))

    def _more(self, truth: Truth) -> None:
        """Five more training images, for a state of those before."""
        images = self._work / "images_more"
        self._laid_out(images, fewer=MORE_IMAGES)
        ours = Ours(self._work / "ours_more", images, self._dataset.extractor)
        ours.run(self._detector, self._seed)
        self._laid_out(images)
        self._measure(OURS, MORE, lambda: ours.run(self._detector, self._seed), ours.scores, truth)

    def _measure(
        self,
        side: str,
        step: str,
        run: Callable[[], Cost],
        scores: Callable[[], Scores] | None = None,
        truth: Truth | None = None,
    ) -> None:
        load = os.getloadavg()[0]
        cost = run()
        metrics = judge(scores(), truth) if scores and truth else {}
        self._add(Record(*self._run, side, step, metrics, cost, load=load))

    def _add(self, record: Record) -> None:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        self._records.add(replace(record, when=when))
        told = " ".join(f"{name} {value:.2f}" for name, value in record.metrics.items())
        if record.cost:
            told += f" ({record.cost.wall:.1f} s, CPU {record.cost.cpu:.1f} s, {record.cost.peak_mb:.0f} MB)"
        print(f"{when} {', '.join(map(str, record.key))}: {told.strip()}", flush=True)
