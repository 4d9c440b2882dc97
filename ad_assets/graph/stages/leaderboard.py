"""The leaderboard: all detectors on all categories of a dataset, compared with the papers.

Beside them stand few-shot rows, read from the stored rows of the studies that vary the number of training images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ad_assets.config.benchmark import Dataset
from ad_assets.graph.stage import CheckReport, Parts, Stage, StageError, StageSettings, Upstream, Work
from ad_assets.graph.stages.metrics import read_rows, read_scored_images
from ad_assets.graph.stages.studies import read_study
from ad_assets.metrics.catalogue import compared
from ad_assets.papers import published as papers
from ad_assets.production.test_set_openings import NEVER, told_openings
from ad_assets.report import few_shot as few_shot_rows
from ad_assets.report import leaderboard
from ad_assets.report.few_shot import FewShotRow, Shots
from ad_assets.report.markdown import fenced
from ad_assets.report.text import text_table
from ad_assets.store.store import Artifact

if TYPE_CHECKING:
    import pandas as pd

    from ad_assets.metrics.uncertainty import Interval

SHOWN = 5  # categories of a lane that are named
VERSION = 3
SHOWN_AT_ONCE = 1_000  # characters of Markdown; Dagster's pages show what is longer behind a click alone
BOARD, TEXT = "leaderboard.parquet", "leaderboard.txt"
FEW_SHOT = "few_shot.parquet"
MISSING = "missing"  # a part of its head: the rows that it lacks, in words


@dataclass(frozen=True)
class LeaderboardSettings(StageSettings):
    """Which detectors have rows, in which order, and the papers that they are compared with.

    Args:
        dataset: its name, which the rows have.
        papers: detector -> published system and dataset.
        tables: fingerprint of the papers' numbers.
        order: the detectors.
        few_shot: the variants of studies that are fitted on few images.
        draws: lane -> the draws that are in its rows, after the first.
        unseeded: detectors in which no seed has a part; told where a lane has draws, for comparisons with it.
        told: (detector, category or ``"mean"``) -> its settings in words, for the rows.
    """

    dataset: str
    papers: dict[str, tuple[str, str]]
    tables: str
    order: tuple[str, ...]
    few_shot: tuple[Shots, ...] = ()
    draws: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unseeded: tuple[str, ...] = ()
    told: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def address(self) -> dict[str, Any]:
        """As `StageSettings.address`, without `told`: the addresses of the metrics cover these settings."""
        values = super().address()
        del values["told"]
        few_shot = {"few_shot": [asdict(each) for each in self.few_shot], "spread": "sample"}
        return {**values, **(few_shot if self.few_shot else {})}


def leaderboard_stage(
    dataset: Dataset,
    metrics: Mapping[str, Stage],
    studies: Mapping[str, Stage],
    told: Mapping[tuple[str, str], str],
) -> Stage:
    """The asset ``<dataset>/leaderboard``.

    Args:
        dataset: the dataset.
        metrics: detector name -> its metrics stage.
        studies: study name -> its stage.
        told: as `LeaderboardSettings`.
    """
    shots = tuple(
        Shots(study.name, variant.name, variant.detector.name, variant.train_images)
        for study in dataset.studies.values()
        for variant in study.variants
        if variant.train_images is not None
    )
    table, order = papers.tables_fingerprint(), tuple(metrics)
    draws = {
        lane: tuple(name for name, each in dataset.detectors.items() if each.draw_of == lane)
        for lane, detector in dataset.detectors.items()
        if detector.draws > 1
    }
    unseeded = tuple(name for name in order if draws and not dataset.is_random(dataset.detectors[name]))
    settings = LeaderboardSettings(VERSION, dataset.name, _papers(dataset), table, order, shots, draws, unseeded, told)
    few_shot = {name: stage for name, stage in studies.items() if any(each.study == name for each in shots)}

    def parts(upstream: Upstream) -> Parts:
        read = {**metrics, **{f"studies/{name}": stage for name, stage in few_shot.items()}}
        missing = missing_rows(metrics, upstream)
        return {
            **{
                f"{name}/{category}": head.version
                for name, stage in read.items()
                for category, head in sorted(upstream.all(stage).items())
            },
            **({MISSING: missing} if missing else {}),
        }

    def build(work: Work) -> dict[str, Any]:
        settings: LeaderboardSettings = work.settings
        rows = []
        scored: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for detector, stage in metrics.items():
            for category, head in sorted(work.upstream.all(stage).items()):
                scored.setdefault(detector, {})[category] = read_scored_images(work.input(stage, category)).images
                place = {"dataset": settings.dataset, "category": category, "detector": detector}
                measured = read_rows(work.input(stage, category))
                rows += [{**place, **row, "fingerprint": head.version} for row in measured]
        if not rows:
            raise StageError(f"{work.stage.name}: no metrics are up to date, only studies: materialize the lanes first")
        total = len({category for stage in metrics.values() for category in stage.partitions or ()})
        intervals = {
            (detector, *place): interval
            for detector, own in scored.items()
            for place, interval in _intervals(
                [own, *(scored.get(name, {}) for name in settings.draws.get(detector, ()))]
            )
        }
        board = leaderboard.build(
            rows, settings.papers, intervals, total, settings.draws, settings.unseeded, settings.told
        )
        missing = missing_rows(metrics, work.upstream)
        text = "\n\n".join(filter(None, [text_table(board), missing]))
        if settings.few_shot:
            shown = few_shot_rows.build(
                settings.dataset, settings.few_shot, {name: read_study(work, stage) for name, stage in few_shot.items()}
            )
            work.store.write_table(work.artifact.at(FEW_SHOT), few_shot_rows.to_table(shown))
            blocks = text, few_shot_rows.text_table(shown, total)
            text = "\n\n".join(filter(None, blocks))
        work.store.write_table(work.artifact.at(BOARD), leaderboard.to_table(board))
        work.store.write_text(work.artifact.at(TEXT), text)
        means = board[board["category"].eq(leaderboard.MEAN) & board["protocol"].eq(leaderboard.STANDARD)]
        # Dagster shows metadata by name, the table first, and plots numbers over time, where a mean over other
        # categories would be a jump that means nothing.
        plotted = [row for row in leaderboard.rows_of(means) if row.n == row.complete and row.metric in compared()]
        numbers = {f"mean/{row.detector}/{row.metric}": round(row.value, 4) for row in plotted if row.value is not None}
        return {**_shown(text), "rows": len(board), **numbers}

    def tell_openings(work: Work) -> CheckReport:
        categories = sorted({category for stage in metrics.values() for category in stage.partitions or ()})
        return CheckReport(metadata={"test_set": told_openings(work.store, work.settings.dataset, categories) or NEVER})

    return Stage(
        key=(dataset.name, "leaderboard"),
        kind="leaderboard",
        settings=settings,
        deps=(*metrics.values(), *few_shot.values()),
        address=parts,
        build=build,
        answer_checks=tell_openings if dataset.sealed else None,
        partitions=None,
        paced=True,
        group=f"{dataset.name}/results",
        kinds=frozenset({"parquet"}),
        description="Tidy rows of all detectors and categories, means over categories, the papers' numbers and the "
        "differences, and few-shot rows of studies. Rows made under another setting are left out until they are made "
        "again.",
    )


def _shown(text: str) -> dict[str, Any]:
    """The table as metadata: as many of its blocks as Dagster shows at once, and then all of it behind a click."""
    first = ""
    for block in text.split("\n\n"):
        longer = f"{first}\n\n{block}" if first else block
        if first and len(fenced(longer)) >= SHOWN_AT_ONCE:
            break
        first = longer
    whole = {} if first == text else {"whole_leaderboard": {"md": fenced(text)}}
    return {"leaderboard": {"md": fenced(first)}, **whole}


Scored = Mapping[str, Sequence[Mapping[str, Any]]]  # category -> its test images with score and label


def _intervals(draws: Sequence[Scored]) -> Iterator[tuple[tuple[str, str], Interval]]:
    """Intervals of image AUROC of a lane, over its draws: of all categories, and of each where there are several draws.

    Args:
        draws: of each draw; one that lacks a category is left out.

    Yields:
        Category or ``"mean"`` with the protocol, and the interval; none where a category has one class only.
    """
    from ad_assets.metrics.uncertainty import mean_auroc_interval

    own = [each for each in draws if each.keys() == draws[0].keys()]
    fits = {
        category: ([[image["score"] for image in each[category]] for each in own], [image["label"] for image in images])
        for category, images in own[0].items()
    }
    whole = fits and all(len(set(labels)) == 2 for _, labels in fits.values())
    groups = {leaderboard.MEAN: list(fits.values())} if whole else {}
    if len(own) > 1:
        groups |= {category: [fit] for category, fit in fits.items() if len(set(fit[1])) == 2}
    for place, categories in groups.items():
        yield (place, leaderboard.INTERVAL), mean_auroc_interval(categories)
        if len(own) > 1:
            yield (place, leaderboard.SEED_INTERVAL), mean_auroc_interval(categories, seeds=True)


def _papers(dataset: Dataset) -> dict[str, tuple[str, str]]:
    """Detector -> (published system, published dataset) where the papers have numbers for this dataset."""
    published = dataset.reader.compared_with
    return {
        name: (detector.paper, published)
        for name, detector in dataset.detectors.items()
        if detector.paper and published and published in papers.datasets(detector.paper)
    }


def read_board(artifact: Artifact) -> pd.DataFrame:
    """The leaderboard in an artifact."""
    return leaderboard.from_table(artifact.store.read_table(artifact.at(BOARD)))


def read_few_shot(artifact: Artifact) -> list[FewShotRow]:
    """The few-shot rows in an artifact; none where no study is of few images."""
    path = artifact.at(FEW_SHOT)
    return few_shot_rows.from_table(artifact.store.read_table(path)) if artifact.store.exists(path) else []


def missing_rows(metrics: Mapping[str, Stage], upstream: Upstream) -> str:
    """Which lanes have no rows, or none of some categories, since these are not up to date; empty where all have.

    Args:
        metrics: detector name -> its metrics stage.
        upstream: what a leaderboard reads.
    """
    lacking = []
    for name, stage in metrics.items():
        there = upstream.all(stage)
        absent = [category for category in stage.partitions or () if category not in there]
        shown = ", ".join(absent) if len(absent) <= SHOWN else f"{len(absent)} categories"
        lacking += [f"{name} [{shown}]"] if absent else []
    return f"left out, not up to date: {', '.join(lacking)}" if lacking else ""
