"""What is computed of a numbered table, and what stands in the way: from names and heads alone, running nothing."""

from __future__ import annotations

from collections.abc import Iterable

from ad_assets.backbones.weights import cached_weights
from ad_assets.commands.table.measured import Measurements, extractors
from ad_assets.papers.numbered_tables import Part
from ad_assets.settings.home import without_tilde


def state(parts: Iterable[tuple[Part, Measurements | None, str]]) -> str:
    """One line on a table: ``computed``, ``partly computed`` or ``not computed``, and why.

    Args:
        parts: each with its graph, or the reason why there is none.
    """
    done = total = 0
    reasons: dict[str, None] = {}
    fetched: set[str] = set()
    for part, graph, reason in parts:
        if graph is None or part.dataset not in graph.benchmark.datasets:
            total += 1
            reasons[reason or f"{graph.benchmark.source if graph else ''} has no dataset {part.dataset!r}"] = None
            continue
        stages = list(graph.targets(part).values())
        slots = [(stage, category) for stage in stages for category in graph.categories(part)]
        there = sum(graph.current(stage, category) is not None for stage, category in slots)
        done, total = done + there, total + len(slots)
        if there < len(slots):
            root = graph.dataset(part).reader.root
            if not _is_there(root):
                reasons[f"no data at {root}"] = None
            used = {graph.benchmark.extractors[name] for name in extractors(stages)}
            fetched |= {each.backbone for each in used if not cached_weights(each)}
    if fetched:
        reasons[f"weights from the hub: {', '.join(sorted(fetched))}"] = None
    if done == total:
        return "computed"
    head = f"partly computed ({done} of {total} assets)" if done else "not computed"
    return "; ".join([head, *reasons])


def _is_there(root: str) -> bool:
    """Whether a local folder has something in it; of others nothing is asked."""
    if "://" in root:
        return True
    folder = without_tilde(root)
    return folder.is_dir() and any(folder.iterdir())
