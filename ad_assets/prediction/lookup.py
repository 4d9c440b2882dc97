"""Resolves the names of a call: dataset, detector and category of a benchmark file, and the stages of the detector.

Reads only the benchmark file and the store, so that a detector can be loaded where its training images are not.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ad_assets.config.benchmark import Benchmark, Dataset, Detector
from ad_assets.config.faults import did_you_mean
from ad_assets.config.load import ConfigError, load_config
from ad_assets.graph.lanes import ScoringStages, scoring_stages
from ad_assets.graph.stages.features import features_stage
from ad_assets.graph.stages.image_index import image_index_stage
from ad_assets.graph.stages.turned_features import turned_stages
from ad_assets_runtime.identity import content_of

Named = TypeVar("Named")


class DetectorError(ConfigError):
    """A named dataset, detector or category does not exist, or cannot be loaded; the message has the remedy."""


@dataclass(frozen=True)
class Lookup:
    """A benchmark, and the command line options that load it.

    Args:
        benchmark: the loaded benchmark file.
        options: options of `ad-assets` for it, which messages quote.
    """

    benchmark: Benchmark
    options: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, config: str | Path | Benchmark | None = None, overrides: Iterable[str] = ()) -> Lookup:
        """From a benchmark, or from the file that `load_config` loads for `config` and `overrides`.

        Raises:
            ConfigError: the file is invalid.
        """
        if isinstance(config, Benchmark):
            return cls(config)
        overrides = tuple(overrides)
        named = ("--config", str(config)) if config else ()
        return cls(load_config(config, overrides), (*named, *(o for text in overrides for o in ("--set", text))))

    def dataset(self, name: str | None) -> Dataset:
        """The dataset of this name; the only one if `name` is None.

        Raises:
            DetectorError: there is no such dataset, or there are several and no name.
        """
        return _chosen(name, self.benchmark.datasets, "dataset", self.benchmark.source)

    def detector(self, dataset: Dataset, name: str | None) -> Detector:
        """The detector of this name; the only one of the dataset if `name` is None.

        Raises:
            DetectorError: there is no such detector, or there are several and no name.
        """
        return _chosen(name, dataset.detectors, "detector", f"dataset {dataset.name!r}")

    def categories(self, dataset: Dataset) -> list[str]:
        """The categories of a dataset, from its folder, or from heads in the store where the folder is missing."""
        return self._categories(dataset)[0]

    def _categories(self, dataset: Dataset) -> tuple[list[str], str]:
        try:
            return dataset.reader.categories(), ""
        except (ValueError, OSError) as error:
            prefix = f"heads/{dataset.name}/features/"
            names = (Path(file.path).stem for file in self.benchmark.store.files(prefix))
            return sorted({name for name in names if not name.startswith(".")}), f" ({error})"

    def category(self, dataset: Dataset, name: str | None) -> str:
        """The category of this name; the only one of the dataset if `name` is None.

        Raises:
            DetectorError: there is no such category, or there are several and no name.
        """
        categories, unseen = self._categories(dataset)
        return _chosen(name, {each: each for each in categories}, "category", f"dataset {dataset.name!r}{unseen}")

    def stages(self, dataset: Dataset, detector: Detector, category: str) -> ScoringStages:
        """The stages of a detector that is not an ensemble, as in the graph, for one category."""
        index = image_index_stage(dataset, self.categories(dataset) if detector.joins else (category,))
        name = detector.extractor
        read = dataset, index, name, self.benchmark.extractors[name]
        return scoring_stages(self.benchmark, dataset, detector, features_stage(*read), turned_stages(*read))

    def reject_command(self, dataset: Dataset, category: str, images: Mapping[str, str]) -> str:
        """What takes training images, id -> path, away for good: a command, or in words where there is no gate."""
        if dataset.production is None:
            return f"move out of the training folder, then run ad-assets materialize: {', '.join(images.values())}"
        ids = " ".join(content_of(image_id)[:12] for image_id in images)
        return " ".join(["ad-assets quarantine", dataset.name, category, "--reject", ids, *self._quoted()])

    def _quoted(self) -> list[str]:
        return [shlex.quote(option) for option in self.options]

    def command(self, dataset: Dataset, detector: Detector, category: str) -> str:
        """The command that brings a detector of one category up to date."""
        options = " ".join(self._quoted())
        select = shlex.quote(f'key:"{dataset.name}/{detector.name}/*"')
        return (
            f"ad-assets materialize {dataset.name} --category {category} --select {select}"
            f"{f' {options}' if options else ''}"
        )


def _chosen(name: str | None, choices: Mapping[str, Named], what: str, where: str) -> Named:
    names = ", ".join(choices) or "none"
    if name is None:
        if len(choices) == 1:
            return next(iter(choices.values()))
        raise DetectorError(f"name a {what}: {where} has several: {names}" if choices else f"{where} has no {what}")
    if name not in choices:
        raise DetectorError(f"{where} has no {what} {name!r}; {did_you_mean(name, choices)}it has: {names}")
    return choices[name]
