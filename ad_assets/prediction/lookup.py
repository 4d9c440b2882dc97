"""What the names of a call stand for: dataset, lane and category of a benchmark file, and the stages of the lane.

Nothing but the benchmark file and the store is read, so that a detector can be loaded where the images that it learnt
are not.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ad_assets.config.benchmark import Benchmark, Dataset, Detector
from ad_assets.config.load import ConfigError, load_config
from ad_assets.graph.lanes import ScoringStages, scoring_stages
from ad_assets.graph.stages.features import features_stage
from ad_assets.graph.stages.image_index import image_index_stage

Named = TypeVar("Named")


class DetectorError(ConfigError):
    """What a call names is not there, or not what the benchmark file says; the message says what to do."""


@dataclass(frozen=True)
class Lookup:
    """A benchmark file, and how a user would name it on the command line.

    Args:
        benchmark: what the file says.
        options: the options of `ad-assets` that lead to it.
    """

    benchmark: Benchmark
    options: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, config: str | Path | Benchmark | None = None, overrides: Iterable[str] = ()) -> Lookup:
        """A benchmark, or the file that `load_config` takes for `config` and `overrides`.

        Raises:
            ConfigError: the file is wrong.
        """
        if isinstance(config, Benchmark):
            return cls(config)
        overrides = tuple(overrides)
        named = ("--config", str(config)) if config else ()
        return cls(load_config(config, overrides), (*named, *(o for text in overrides for o in ("--set", text))))

    def dataset(self, name: str | None) -> Dataset:
        """The dataset of a name; without one, the only dataset.

        Raises:
            DetectorError: there is none, or there are several.
        """
        return _chosen(name, self.benchmark.datasets, "dataset", self.benchmark.source)

    def detector(self, dataset: Dataset, name: str | None) -> Detector:
        """The detector of a name; without one, the only detector of the dataset.

        Raises:
            DetectorError: there is none, or there are several.
        """
        return _chosen(name, dataset.detectors, "detector", f"dataset {dataset.name!r}")

    def categories(self, dataset: Dataset) -> list[str]:
        """The categories of a dataset: of its folder, or where that is not there, of its heads in the store."""
        return self._categories(dataset)[0]

    def _categories(self, dataset: Dataset) -> tuple[list[str], str]:
        try:
            return dataset.reader.categories(), ""
        except (ValueError, OSError) as error:
            prefix = f"heads/{dataset.name}/features/"
            names = (Path(file.path).stem for file in self.benchmark.store.files(prefix))
            return sorted({name for name in names if not name.startswith(".")}), f" ({error})"

    def category(self, dataset: Dataset, name: str | None) -> str:
        """The category of a name; without one, the only category of the dataset.

        Raises:
            DetectorError: there is none, or there are several.
        """
        categories, unseen = self._categories(dataset)
        return _chosen(name, {each: each for each in categories}, "category", f"dataset {dataset.name!r}{unseen}")

    def stages(self, dataset: Dataset, detector: Detector, category: str) -> ScoringStages:
        """The stages of a lane that is no ensemble, as the graph has them, for one category."""
        index = image_index_stage(dataset, (category,))
        name = detector.extractor
        features = features_stage(dataset, index, name, self.benchmark.extractors[name])
        return scoring_stages(self.benchmark, dataset, detector, features)

    def command(self, dataset: Dataset, detector: Detector, category: str) -> str:
        """What brings a lane of one category up to date."""
        options = " ".join(map(shlex.quote, self.options))
        select = shlex.quote(f'key:"{dataset.name}/{detector.name}/*"')
        return (
            f"ad-assets materialize {dataset.name} --category {category} --select {select}"
            f"{f' {options}' if options else ''}"
        )


def _chosen(name: str | None, known: Mapping[str, Named], what: str, where: str) -> Named:
    names = ", ".join(known) or "none"
    if name is None:
        if len(known) == 1:
            return next(iter(known.values()))
        raise DetectorError(f"name a {what}: {where} has several: {names}" if known else f"{where} has no {what}")
    if name not in known:
        raise DetectorError(f"{where} has no {what} {name!r}; it has: {names}")
    return known[name]
