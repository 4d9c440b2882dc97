"""The results of datasets for a terminal, marked where they are not what the benchmark file says now."""

from __future__ import annotations

from contextlib import suppress

from ad_assets.config.benchmark import Dataset
from ad_assets.graph.graph import Graph
from ad_assets.graph.stage import Key
from ad_assets.graph.stages import comparison, leaderboard
from ad_assets.graph.stages.published_pages import published_location
from ad_assets.production.test_set_openings import NEVER, told_openings
from ad_assets.report.text import WIDTH, text_table
from ad_assets.store.store import Artifact


def dataset_results(graph: Graph, dataset: Dataset, width: int | None = None) -> str:
    """The leaderboard of a dataset, and where its report lies; empty if there is none.

    Args:
        graph: of the benchmark file, with the heads of now.
        dataset: the dataset; where it is sealed, how often its test labels were read is told too.
        width: characters that a line may have, where there is room for a detector; None: as it is stored.
    """
    board, page = _found(graph, (dataset.name, "leaderboard")), _found(graph, (dataset.name, "report"))
    blocks = []
    if board:
        artifact, mark = board
        blocks += [f"{mark}{_text(artifact, width)}"]
        if dataset.sealed:  # of others no ledger is looked for: one a category
            categories = graph.stages[dataset.name, "image_index"].partitions or ()
            blocks += [f"test set: {told_openings(artifact.store, dataset.name, categories) or NEVER}"]
    if page:
        artifact, mark = page
        blocks += [f"{mark}report: {published_location(artifact, dataset.name)}"]
    return "\n\n".join(blocks)


def _text(artifact: Artifact, width: int | None) -> str:
    stored = artifact.store.read_text(artifact.at(leaderboard.TEXT))
    if width is not None and width < WIDTH:
        board = leaderboard.read_board(artifact)
        wide = text_table(board)
        with suppress(ValueError):  # not one detector fits
            return text_table(board, width) + stored.removeprefix(wide) if stored.startswith(wide) else stored
    return stored


def comparison_results(graph: Graph, name: str) -> str:
    """The table of a comparison, and where its page lies; empty if there is none. Arguments as `dataset_results`."""
    found = _found(graph, (comparison.COMPARISONS, name))
    if not found:
        return ""
    artifact, mark = found
    table = artifact.store.read_text(artifact.at(comparison.TEXT))
    return f"{mark}{name}\n\n{table}\n\nreport: {artifact.store.location(artifact.at(comparison.PAGE))}"


def _found(graph: Graph, key: Key) -> tuple[Artifact, str] | None:
    """What an asset over all categories is now, and a line that marks it where it is not what it should be."""
    stage, head = graph.stages.get(key), graph.head((key, None))
    if stage is None or head is None:
        return None
    reason = graph.stale_reason((key, None))
    mark = f"OUT OF DATE {stage.name}: {reason}; what follows was made before\n" if reason else ""
    return graph.store.artifact(stage.kind, head.version), mark
