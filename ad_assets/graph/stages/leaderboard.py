"""The leaderboard: all detectors on all categories of a dataset, compared with the papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ad_assets.config.benchmark import Dataset
from ad_assets.graph.stage import Parts, Stage, StageSettings, Upstream, Work
from ad_assets.graph.stages.metrics import read_rows, read_scored_images
from ad_assets.papers import published as papers
from ad_assets.report import leaderboard
from ad_assets.report.markdown import fenced
from ad_assets.report.text import text_table
from ad_assets.store.store import Artifact, ArtifactStore

if TYPE_CHECKING:
    import pandas as pd

    from ad_assets.metrics.uncertainty import Interval

VERSION = 2
BOARD, TEXT = "leaderboard.parquet", "leaderboard.txt"


@dataclass(frozen=True)
class LeaderboardSettings(StageSettings):
    """Which detectors have rows, in which order, and the papers that they are compared with.

    Args:
        dataset: its name, which the rows have.
        papers: detector -> published system and dataset.
        tables: fingerprint of the papers' numbers.
        order: the detectors.
    """

    dataset: str
    papers: dict[str, tuple[str, str]]
    tables: str
    order: tuple[str, ...]


def leaderboard_stage(dataset: Dataset, metrics: Mapping[str, Stage]) -> Stage:
    """The asset ``<dataset>/leaderboard``.

    Args:
        dataset: the dataset.
        metrics: detector name -> its metrics stage.
    """
    settings = LeaderboardSettings(VERSION, dataset.name, _papers(dataset), papers.tables_fingerprint(), tuple(metrics))

    def parts(upstream: Upstream) -> Parts:
        return {
            f"{detector}/{category}": head.version
            for detector, stage in metrics.items()
            for category, head in sorted(upstream.all(stage).items())
        }

    def build(work: Work) -> dict[str, Any]:
        settings: LeaderboardSettings = work.settings
        rows = []
        intervals = {}
        for detector, stage in metrics.items():
            heads = sorted(work.upstream.all(stage).items())
            scored = [read_scored_images(work.input(stage, category)).images for category, _ in heads]
            interval = _mean_interval(scored)
            if interval:
                intervals[detector] = interval
            for category, head in heads:
                place = {"dataset": settings.dataset, "category": category, "detector": detector}
                measured = read_rows(work.input(stage, category))
                rows += [{**place, **row, "fingerprint": head.version} for row in measured]
        board = leaderboard.build(rows, settings.papers, intervals)
        text = text_table(board)
        work.store.write_table(work.artifact.at(BOARD), leaderboard.to_table(board))
        work.store.write_text(work.artifact.at(TEXT), text)
        means = board[board["category"].eq(leaderboard.MEAN) & board["protocol"].eq(leaderboard.STANDARD)]
        numbers = {f"{row.detector}_{row.metric}": row.value for row in means.itertuples()}
        return {"rows": len(board), "table": {"md": fenced(text)}, **numbers}

    return Stage(
        key=(dataset.name, "leaderboard"),
        kind="leaderboard",
        settings=settings,
        deps=tuple(metrics.values()),
        address=parts,
        build=build,
        partitions=None,
        group=f"{dataset.name}/results",
        kinds=frozenset({"parquet"}),
        description="Tidy rows of all detectors and categories, means over categories, the papers' numbers and the "
        "differences. Rows made under another setting are left out until they are made again.",
    )


def _mean_interval(scored: Sequence[Sequence[Mapping[str, Any]]]) -> Interval | None:
    """The interval of the mean image AUROC of one detector; None where some category has one class only."""
    from ad_assets.metrics.uncertainty import mean_auroc_interval

    categories = [([image["score"] for image in images], [image["label"] for image in images]) for images in scored]
    if not categories or any(len(set(labels)) < 2 for _, labels in categories):
        return None
    return mean_auroc_interval(categories)


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


def leaderboard_text(store: ArtifactStore, stages: Sequence[Stage], dataset: str) -> str:
    """The leaderboard of a dataset for a terminal; empty if it was never made."""
    key = (dataset, "leaderboard")
    head = store.read_head(key, None)
    if head is None or not any(stage.key == key for stage in stages):
        return ""
    return store.read_text(store.artifact("leaderboard", head["version"]).at(TEXT))
