"""What the inspections of a category amount to: counts, alarms over time, and whether scores or images have drifted."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ad_assets.config.benchmark import Dataset, Production
from ad_assets.datasets.index import GROUP
from ad_assets.graph.stages.fitted_state import STATES, read_training_set
from ad_assets.graph.stages.image_index import current_index, read_index, stamps_path
from ad_assets.graph.stages.known_files import read_known_files
from ad_assets.graph.stages.score_maps import read_score_index, shards
from ad_assets.prediction.drift_tests import BRIGHTNESS, CONTRAST, Champion, DriftTest, drift_tests
from ad_assets.production.champion_history import read_history
from ad_assets.production.inspections import Inspection, files, read
from ad_assets.production.review_decisions import read_decisions
from ad_assets.store.store import ArtifactStore
from ad_assets_runtime.appearance import contrast_of
from ad_assets_runtime.identity import content_of

MOST_INSPECTIONS = 50_000  # that one test covers


@dataclass(frozen=True)
class InspectionSummary:
    """What the inspections of a category amount to.

    Args:
        category: the category.
        total: number of inspections that the store has.
        rows: the newest of them, oldest first.
        drift: a test of the scores of each detector that inspected, and one of the images.
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
    index = current_index(store, dataset.name, category)
    indexed = read_index(index) if index else []
    families = {row.image_id: group for row in rows if (group := dataset.reader.group_in(row.path))}
    families |= {row["image_id"]: row[GROUP] for row in indexed if row.get(GROUP)}
    champions = _champions(store, dataset, category, {row.champion for row in rows}, indexed)
    decisions = read_decisions(store, dataset.name, category)
    rejected = {image for image, decision in decisions.items() if decision == "reject"}
    known = [row for row in rows if row.champion in champions]
    drift = drift_tests(known, champions, rejected, production.drift_alpha, families)
    times = [rows[-1].time] if rows else []
    times += [time for name, time in last_landed(store, dataset.name).items() if name == category]
    return InspectionSummary(category, total, rows, drift, len(rows) - len(known), max(times, default=None))


def _covered(total: int) -> int:
    """How many of the newest inspections the present test covers: it begins anew after `MOST_INSPECTIONS`."""
    return min(total, total % MOST_INSPECTIONS or MOST_INSPECTIONS)


def _champions(
    store: ArtifactStore, dataset: Dataset, category: str, wanted: set[str], indexed: Sequence[dict[str, Any]]
) -> dict[str, Champion]:
    """The champions with some addresses, as far as what they were made of is still there, by the rows of the index."""
    found: dict[str, Champion] = {}
    nominal = {row["image_id"]: row.get(GROUP) for row in indexed if row["split"] == "test" and row["label"] == 0}
    looks = _looks(store, dataset, category) if wanted else {}
    for name, detector in dataset.detectors.items():
        if not detector.has_champions:
            continue
        for entry in read_history(store, dataset.name, name, category).entries:
            candidate = entry.candidate
            scores = store.artifact("score_maps", candidate.score_maps)
            if candidate.state not in wanted or not scores.exists():
                continue
            states = (store.artifact(kind, candidate.state) for kind in STATES)
            trained_on = next(filter(None, map(read_training_set, states)), None)
            learnt = frozenset(trained_on.images) if trained_on else frozenset()
            left_out = read_score_index(scores).nominal
            judged = {
                image: score
                for ids, _, image_scores in shards(scores)
                for image, score in zip(ids, image_scores.tolist(), strict=True)
                if image in nominal
            }
            numbers: dict[Any, int] = {}
            own = left_out.groups or range(len(left_out.scores))
            of_left_out = [numbers.setdefault(number, len(numbers)) for number in own]
            of_judged = [numbers.setdefault(nominal[image] or image, len(numbers)) for image in judged]
            images = zip((*left_out.image_ids, *judged), (*of_left_out, *of_judged), strict=True)
            shown = [(look, number) for image, number in images if (look := looks.get(content_of(image)))]
            found[candidate.state] = Champion(
                name,
                left_out.scores,
                learnt,
                judged,
                {what: [look[what] for look, _ in shown] for what in (BRIGHTNESS, CONTRAST)},
                of_left_out,
                of_judged,
                [number for _, number in shown],
            )
    return found


def _looks(store: ArtifactStore, dataset: Dataset, category: str) -> dict[str, dict[str, float]]:
    """Content hash -> brightness and contrast of the images that the last scan of a category has described."""
    return {
        file.sha256: {BRIGHTNESS: file.brightness, CONTRAST: contrast_of(file.thumbnail)}
        for file in read_known_files(store, dataset.reader.root, category).values()
        if file.thumbnail and file.brightness is not None
    }


def last_landed(store: ArtifactStore, dataset: str) -> dict[str, datetime.datetime]:
    """Category -> when files of it were last taken from the watched folder, or went."""
    return {
        PurePosixPath(file.path).stem: datetime.datetime.fromtimestamp(file.changed, datetime.UTC)
        for file in store.files(str(PurePosixPath(stamps_path(dataset, "")).parent))
    }
