"""Computing what a numbered table reads, and nothing else: what cannot be had is named and left out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from ad_assets.commands.live_progress import live_progress
from ad_assets.commands.output import show
from ad_assets.commands.table.measured import Measurements, at_hand, is_features
from ad_assets.graph.graph import Graph, closure
from ad_assets.graph.stage import Key, Stage
from ad_assets.papers.numbered_tables import Part


def note_missing_data(graph: Measurements, part: Part, chosen: Sequence[str] | None) -> tuple[str, list[str]]:
    """Why the images of a part cannot be had, empty where they can; and the categories that have some."""
    wanted = [category for category in graph.categories(part) if not chosen or category in chosen]
    try:
        present = at_hand(graph.dataset(part), wanted)
    except (OSError, ValueError) as error:
        return str(error), []
    if not present:
        root = graph.dataset(part).reader.root
        return f"{root} holds no images of: {', '.join(wanted) or 'the categories chosen'}; is it the right folder?", []
    return "", present


def bring_up_to_date(
    graph: Measurements, targets: Mapping[Key, Stage], present: Mapping[str, Sequence[str]]
) -> tuple[dict[Key, str], tuple[str, ...]]:
    """Run what is stale of some assets and of what they read.

    Args:
        graph: their benchmark.
        targets: the assets by key.
        present: dataset -> the categories to run.

    Returns:
        Those of the targets that lack their weights, with the reason; and what failed.
    """
    from ad_assets.defs.build import build_definitions
    from ad_assets.defs.partitions import register_categories
    from ad_assets.defs.plan import plan
    from ad_assets.defs.runs import execute, open_instance

    definitions, stages = build_definitions(graph.benchmark)
    instance = open_instance(graph.benchmark.source)
    register_categories(stages, instance)
    steps = plan(
        graph.benchmark,
        Graph(stages, graph.store),
        instance,
        selected=targets.keys(),
        categories={category for categories in present.values() for category in categories},
    )
    read = closure(targets.values())
    # A plan goes on to what lies downstream, such as leaderboards and reports, which no table reads.
    steps = [step for step in steps if step.stage.key in read and step.partition in present.get(step.stage.key[0], ())]
    extracted = {step.stage.key for step in steps if is_features(step.stage) and step.action != "reuse"}
    reasons = _without_weights(graph, sorted({key[2] for key in extracted}))
    lacking: dict[Key, str] = {}
    for key, stage in targets.items():
        names = [k[2] for k in closure([stage]) if k in extracted and k[2] in reasons]
        if names:
            lacking[key] = reasons[names[0]]
    read = closure(stage for key, stage in targets.items() if key not in lacking)
    steps = [step for step in steps if step.stage.key in read]
    if not steps:
        return lacking, ()
    with live_progress(len(steps)):
        outcome = execute(steps, definitions, instance, before=lambda title: print(f"== {title}", file=sys.stderr))
    for failure in outcome.failures:
        show(f"FAILED {failure}", sys.stderr)
    return lacking, outcome.failures


def _without_weights(graph: Measurements, names: Sequence[str]) -> dict[str, str]:
    """Extractor -> why its backbone cannot be had, of those that cannot."""
    from ad_assets.backbones.weights import cached_weights
    from ad_assets.commands.doctor import weights

    reasons: dict[str, str] = {}
    unreachable = False
    for name in names:
        extractor = graph.benchmark.extractors[name]
        absent = extractor.weights == "hub" and not cached_weights(extractor)
        if absent and unreachable:  # one long wait for a hub that does not answer is enough
            reasons[name] = f"no weights for {extractor.backbone}: the hub could not be reached"
            continue
        finding = weights(graph.benchmark, name)
        if not finding.healthy:
            reasons[name] = finding.message
            unreachable |= absent
    return reasons
