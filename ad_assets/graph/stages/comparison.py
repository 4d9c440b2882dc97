"""The asset ``comparisons/<name>``: the leaderboards of several datasets as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ad_assets.config.benchmark import Comparison
from ad_assets.graph.stage import Parts, Stage, StageSettings, Upstream, Work
from ad_assets.graph.stages.leaderboard import read_board
from ad_assets.report import comparison, html
from ad_assets.report.leaderboard import to_table
from ad_assets.report.markdown import fenced
from ad_assets.store.store import ArtifactStore

COMPARISONS = "comparisons"
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
        work.store.write_text(work.artifact.at("comparison.txt"), text)
        page = work.artifact.at("comparison.html")
        work.store.write_text(page, html.render_comparison(work.settings.name, table))
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


def comparison_text(store: ArtifactStore, stages: Sequence[Stage], name: str) -> str:
    """The table of a comparison and where its page lies, for a terminal; empty if it was never made."""
    key = (COMPARISONS, name)
    head = store.read_head(key, None)
    if head is None or not any(stage.key == key for stage in stages):
        return ""
    artifact = store.artifact("comparison", head["version"])
    page = store.location(artifact.at("comparison.html"))
    return f"{name}\n\n{store.read_text(artifact.at('comparison.txt'))}\n\nreport: {page}"
