"""The asset ``comparisons/<name>``: the leaderboards of several datasets as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ad_assets.config.benchmark import Comparison
from ad_assets.graph.stage import Parts, Stage, StageSettings, Upstream, Work
from ad_assets.graph.stages.leaderboard import read_board
from ad_assets.report import comparison
from ad_assets.report.leaderboard import to_table
from ad_assets.report.markdown import fenced

COMPARISONS = "comparisons"
TEXT, PAGE = "comparison.txt", "comparison.html"
VERSION = 1


@dataclass(frozen=True)
class ComparisonSettings(StageSettings):
    """Which datasets stand side by side, under which name."""

    name: str
    datasets: tuple[str, ...]


def comparison_stage(compared: Comparison, leaderboards: Mapping[str, Stage]) -> Stage:
    """The asset of one comparison.

    Args:
        compared: which datasets.
        leaderboards: dataset -> its leaderboard stage.
    """
    boards = {dataset: leaderboards[dataset] for dataset in compared.datasets}

    def parts(upstream: Upstream) -> Parts:
        return {dataset: upstream.of(stage).version for dataset, stage in boards.items()}

    def build(work: Work) -> dict[str, Any]:
        import pandas as pd

        rows = pd.concat([read_board(work.input(stage)) for stage in boards.values()], ignore_index=True)
        table = comparison.compare(rows)
        text = comparison.text_table(table)
        work.store.write_table(work.artifact.at("comparison.parquet"), to_table(rows))
        work.store.write_text(work.artifact.at(TEXT), text)
        page = work.artifact.at(PAGE)
        work.store.write_text(page, comparison.render_comparison(work.settings.name, table))
        return {
            "table": {"md": fenced(text)},
            **{f"{detector}_leads": count for detector, count in table.leads().items()},
            "report": {"path": work.store.location(page)},
        }

    return Stage(
        key=(COMPARISONS, compared.name),
        kind="comparison",
        settings=ComparisonSettings(VERSION, compared.name, compared.datasets),
        deps=tuple(boards.values()),
        address=parts,
        build=build,
        partitions=None,
        group=COMPARISONS,
        kinds=frozenset({"html"}),
        description=f"Means over categories on {', '.join(compared.datasets)}, detectors side by side.",
    )
