"""The categories of a dataset as partitions: fixed where a dataset is published, live where folders come and go."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, overload

import dagster as dg

from ad_assets.benchmark import Dataset
from ad_assets.datasets import Reader
from ad_assets.defs.stages import Stage

# One look at the folder serves all that a tick or a plan asks of it.
REMEMBERED_SECONDS = 5.0


class LiveCategories(Sequence[str]):
    """The categories that a dataset's folder holds now.

    Args:
        dataset: name of the dataset, and of its dynamic partitions.
        reader: lists the folder; an empty or missing one has no categories.
    """

    def __init__(self, dataset: str, reader: Reader) -> None:
        self.dataset = dataset
        self._reader = reader
        self._known: tuple[str, ...] = ()
        self._looked = -REMEMBERED_SECONDS

    def now(self) -> tuple[str, ...]:
        """The categories, from a listing at most `REMEMBERED_SECONDS` old."""
        if time.monotonic() - self._looked >= REMEMBERED_SECONDS:
            self._known = _categories(self._reader)
            self._looked = time.monotonic()
        return self._known

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        return self.now()[place]

    def __len__(self) -> int:
        return len(self.now())

    def __iter__(self) -> Iterator[str]:
        return iter(self.now())


def categories_of(dataset: Dataset) -> Sequence[str]:
    """The categories of a dataset.

    Raises:
        ValueError: they cannot be told, because its folder is missing or empty.
    """
    return LiveCategories(dataset.name, dataset.reader) if dataset.production else tuple(dataset.reader.categories())


def partitions_of(stage: Stage) -> dg.PartitionsDefinition[Any] | None:
    """The Dagster partitions of a stage."""
    if stage.partitions is None:
        return None
    if isinstance(stage.partitions, LiveCategories):
        return dg.DynamicPartitionsDefinition(name=stage.partitions.dataset)
    return dg.StaticPartitionsDefinition(list(stage.partitions))


def register_categories(stages: Sequence[Stage], instance: dg.DagsterInstance) -> None:
    """Make the live categories known to a Dagster instance, and forget those that are gone."""
    live = {p.dataset: p for p in (stage.partitions for stage in stages) if isinstance(p, LiveCategories)}
    for dataset, categories in live.items():
        before = set(instance.get_dynamic_partitions(dataset))
        instance.add_dynamic_partitions(dataset, [name for name in categories if name not in before])
        for name in before - set(categories):
            instance.delete_dynamic_partition(dataset, name)


def _categories(reader: Reader) -> tuple[str, ...]:
    try:
        return tuple(reader.categories())
    except ValueError:  # a line whose folder is still empty
        return ()
