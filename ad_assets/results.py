"""Results in a notebook: what is current in the store of a benchmark file as data frames and arrays, without Dagster.

>>> from ad_assets import results
>>> board = results.leaderboard("parts", config="parts.yaml")
>>> mean = board.query("metric == 'image_auroc' and category == 'mean'").set_index("detector")
>>> float(mean.loc["gauss", "value"])
1.0

All functions take the name of a dataset and a benchmark file as the command line does: a path, the name of a shipped
file, or None for ``AD_ASSETS_CONFIG`` and then the demo. Nothing is computed. What was made under another setting or
from other images is left out, and an `OutOfDateWarning` names it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from ad_assets.config.benchmark import Dataset
from ad_assets.config.faults import check_name
from ad_assets.config.load import load_config, materialize_command
from ad_assets.graph.graph import Graph
from ad_assets.graph.lanes import stages_of
from ad_assets.graph.stage import Stage
from ad_assets.graph.stages.image_index import INDEX
from ad_assets.graph.stages.leaderboard import read_board, read_few_shot
from ad_assets.graph.stages.metrics import read_rows
from ad_assets.report.few_shot import to_table
from ad_assets.report.leaderboard import COLUMNS, typed
from ad_assets.store.store import Artifact, ArtifactStore

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

SHOWN = 5  # places that a message names


class ResultsError(Exception):
    """There is no such result; the message says what to run."""


class OutOfDateWarning(UserWarning):
    """Results that are left out, or incomplete, because something changed since they were made."""


def leaderboard(dataset: str, config: str | Path | None = None) -> pd.DataFrame:
    """The leaderboard of a dataset: tidy rows of all detectors, means over categories, the papers' numbers.

    One that is out of date is returned as it is, with an `OutOfDateWarning`.

    Raises:
        ResultsError: it was never materialized.
        ConfigError: the benchmark file has faults, or no such dataset.
    """
    return read_board(_leaderboard(dataset, config))


def few_shot(dataset: str, config: str | Path | None = None) -> pd.DataFrame:
    """The few-shot rows of the leaderboard: detectors fitted on few images, `value` and its `spread` over draws.

    Empty where no study varies `train_images`. Out of date as `leaderboard`.

    Raises:
        ResultsError: the leaderboard was never materialized.
        ConfigError: the benchmark file has faults, or no such dataset.
    """
    return to_table(read_few_shot(_leaderboard(dataset, config))).to_pandas()


def _leaderboard(dataset: str, config: str | Path | None) -> Artifact:
    opened = _Opened.of(dataset, config)
    stage = opened.stage("leaderboard")
    head = opened.graph.head((stage.key, None))
    if head is None:
        raise ResultsError(f"{stage.name} is not in this store; first run: {opened.remedy(stage)}")
    if head != opened.graph.planned((stage.key, None)):
        _warn(f"{stage.name} is incomplete or out of date; to renew it: {opened.remedy(stage)}")
    return opened.store.artifact(stage.kind, head.version)


def metrics(dataset: str, config: str | Path | None = None) -> pd.DataFrame:
    """The metrics of all detectors and categories as tidy rows; `value` is NaN where a metric is not defined.

    Raises:
        ResultsError: none are current.
        ConfigError: the benchmark file has faults, or no such dataset.
    """
    import pandas as pd

    opened = _Opened.of(dataset, config)
    rows = []
    for stage, category, artifact in opened.current([opened.stage(d, "metrics") for d in opened.dataset.detectors]):
        place = {"dataset": dataset, "category": category, "detector": stage.key[1], "fingerprint": artifact.version}
        rows += [{**place, **row} for row in read_rows(artifact)]
    return typed(pd.DataFrame(rows))[COLUMNS]


def image_index(dataset: str, config: str | Path | None = None) -> pd.DataFrame:
    """The images of all categories, training and test, with labels, masks and sizes; paths are below its root.

    Raises:
        ResultsError: none are indexed.
        ConfigError: the benchmark file has faults, or no such dataset.
    """
    import pandas as pd

    opened = _Opened.of(dataset, config)
    frames = []
    for _, category, artifact in opened.current([opened.stage("image_index")]):
        table = opened.store.read_table(artifact.at(INDEX))
        frame = table.to_pandas(types_mapper={pa.int8(): pd.Int8Dtype()}.get)
        frame.insert(0, "category", category)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def score_maps(
    dataset: str, detector: str, category: str, config: str | Path | None = None
) -> Iterator[tuple[tuple[str, ...], NDArray[np.float32]]]:
    """The score maps of a detector on the test images of a category, a few images at a time.

    Yields:
        image ids (B,), as the image index has them, and maps (B, H, W) float32; higher is more anomalous.

    Raises:
        ResultsError: they are not current.
        ConfigError: the benchmark file has faults, or no such dataset, detector or category.
    """
    from ad_assets.graph.stages.score_maps import shards

    opened = _Opened.of(dataset, config)
    check_name("detector", detector, opened.dataset.detectors, dataset)
    stage = opened.stage(detector, "score_maps")
    check_name("category", category, stage.partitions or (), dataset)
    [(_, _, artifact)] = opened.current([stage], [category])
    return ((image_ids, maps.numpy()) for image_ids, maps, _ in shards(artifact))


@dataclass(frozen=True)
class _Opened:
    """One dataset of a benchmark with its graph and its store."""

    dataset: Dataset
    store: ArtifactStore
    graph: Graph
    config: str | Path | None

    @classmethod
    def of(cls, dataset: str, config: str | Path | None) -> _Opened:
        benchmark = load_config(config)
        check_name("dataset", dataset, benchmark.datasets, benchmark.source)
        stages = stages_of(benchmark, unseen=benchmark.datasets)  # the store knows the categories if nobody else does
        return cls(benchmark.datasets[dataset], benchmark.store, Graph(stages, benchmark.store), config)

    def stage(self, *name: str) -> Stage:
        """An asset of the dataset."""
        key = (self.dataset.name, *name)
        if key not in self.graph.stages:
            raise ResultsError(
                f"{self.dataset.name} has no {' '.join(name)}: its folder is not there, or no detector is"
            )
        return self.graph.stages[key]

    def current(self, stages: list[Stage], wanted: list[str] | None = None) -> list[tuple[Stage, str, Artifact]]:
        """The artifacts of the asset partitions that are what they should be, with stage and category.

        Raises:
            ResultsError: there are none.
        """
        found, faults = [], []
        for stage in stages:
            for category in wanted or stage.partitions or ():
                slot = (stage.key, category)
                why, artifact = self.graph.absence_reason(slot), self.graph.artifact(slot)
                if artifact and not why:
                    found.append((stage, category, artifact))
                else:
                    faults.append(f"{stage.name} [{category}]: {why}")
        told = "; ".join([*faults[:SHOWN], *([f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else [])])
        remedy = self.remedy(stages[0] if len(stages) == 1 else None)
        if not found:
            raise ResultsError(f"{told or f'{self.dataset.name} has no categories'}; first run: {remedy}")
        if faults:
            _warn(f"left out: {told}; to renew them: {remedy}")
        return found

    def remedy(self, stage: Stage | None = None) -> str:
        """The command that makes the assets of the dataset, or one of them, what they should be."""
        return materialize_command(self.dataset.name, self.config, asset=stage.name if stage else None)


def _warn(message: str) -> None:
    warnings.warn(OutOfDateWarning(message), stacklevel=4)
