"""The categories of a dataset as Dagster partitions: static, or dynamic where folders come and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

from ad_assets.graph.categories import LiveCategories
from ad_assets.graph.stage import Stage


def partitions_of(stage: Stage) -> dg.PartitionsDefinition[Any] | None:
    """The Dagster partitions of a stage."""
    if stage.partitions is None:
        return None
    if isinstance(stage.partitions, LiveCategories):
        return dg.DynamicPartitionsDefinition(name=stage.partitions.dataset)
    return dg.StaticPartitionsDefinition(list(stage.partitions))


def register_categories(stages: Sequence[Stage], instance: dg.DagsterInstance) -> None:
    """Make the live categories known to a Dagster instance, and forget those that are seen to be gone."""
    live = {p.dataset: p for p in (stage.partitions for stage in stages) if isinstance(p, LiveCategories)}
    for dataset, categories in live.items():
        before = set(instance.get_dynamic_partitions(dataset))
        instance.add_dynamic_partitions(dataset, [name for name in categories if name not in before])
        for name in categories.gone(before):
            instance.delete_dynamic_partition(dataset, name)
