"""What the parts of a numbered table need of the graph, and reading what was measured.

An artifact is looked up at the address that the current benchmark file and image index give it, so a table is the same
whichever benchmark file on the same store ran last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ad_assets.config.benchmark import Benchmark, Dataset
from ad_assets.datasets import ImageFiles, Reader
from ad_assets.graph.graph import Graph, closure
from ad_assets.graph.lanes import stages_of
from ad_assets.graph.stage import Key, Stage
from ad_assets.graph.stages import studies
from ad_assets.graph.stages.fitted_state import read_info
from ad_assets.graph.stages.ground_truth import read_masks
from ad_assets.graph.stages.image_index import read_index
from ad_assets.graph.stages.metrics import read_curves, read_rows
from ad_assets.papers import published as papers
from ad_assets.papers.numbered_tables import Counts, Detectors, Images, Part, StudyPart, Systems
from ad_assets.report.numbered.cells import TRAINING, Measured
from ad_assets.report.numbered.curves import LOSS
from ad_assets.store.store import Artifact, ArtifactStore

_TRAINED = ("gmacs_per_image", "parameters", "seconds_per_epoch")


@dataclass
class Measurements:
    """What a store holds of the assets that numbered tables read.

    Args:
        benchmark: the checked benchmark file.
        stages: all its stages by key, upstream first.
    """

    benchmark: Benchmark
    stages: dict[Key, Stage]
    _graph: Graph
    _areas: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, benchmark: Benchmark) -> Measurements:
        """Those of a benchmark.

        Raises:
            ValueError: the categories of a dataset cannot be told, because its folder is missing or empty.
        """
        graph = Graph(stages_of(benchmark), benchmark.store)
        return cls(benchmark, graph.stages, graph)

    @property
    def store(self) -> ArtifactStore:
        """Where artifacts lie."""
        return self.benchmark.store

    def forget(self) -> None:
        """Look at all heads anew: something ran."""
        self._graph = Graph(self.stages.values(), self.store)

    def target(self, part: Part, name: str) -> Stage | None:
        """The asset that measures a detector or study of a part, None where the graph has none."""
        return self.stages.get(_key(part, name))

    def targets(self, part: Part) -> dict[str, Stage]:
        """Those that there are, by detector or study; of a lane with draws each draw, by its own name."""
        drawn = [draw for name in names(part) for draw in self.draws(part, name)]
        return {name: stage for name in drawn if (stage := self.target(part, name))}

    def draws(self, part: Part, name: str) -> list[str]:
        """A detector of a part and its further draws, or its study; speed is that of the first draw."""
        known = self.benchmark.datasets.get(part.dataset)
        detectors = known.detectors if known and part.kind in ("systems", "counts", "curves") else {}
        return [name, *(each.name for each in detectors.values() if each.draw_of == name)]

    def dataset(self, part: Part) -> Dataset:
        """The dataset of a part.

        Raises:
            ValueError: the benchmark file has none of that name.
        """
        found = self.benchmark.datasets.get(part.dataset)
        if found is None:
            names = ", ".join(self.benchmark.datasets)
            raise ValueError(f"{self.benchmark.source} has no dataset {part.dataset!r}; it has: {names}")
        return found

    def categories(self, part: Part) -> tuple[str, ...]:
        """All categories of the dataset of a part."""
        return tuple(self.stages[part.dataset, "image_index"].partitions or ())

    def current(self, stage: Stage, category: str) -> Artifact | None:
        """What an asset is under the benchmark file and the images as they were last indexed, if it was made."""
        return self._graph.artifact((stage.key, category))

    def read(self, part: Part, chosen: Collection[str] = ()) -> Measured:
        """What the store holds for a part.

        Args:
            part: of a numbered table.
            chosen: only these categories; empty for all.
        """
        dataset, categories = self.dataset(part), self.categories(part)
        wanted = tuple(category for category in categories if not chosen or category in chosen)
        rows: list[dict[str, Any]] = []
        curves: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
        made = {
            name: {category: found for category in wanted if (found := self.current(stage, category))}
            for name, stage in self.targets(part).items()
        }
        # A mean over draws is of the same categories in each.
        drawn = [
            (name, draw, own)
            for name in names(part)
            for draw, own in enumerate(self.draws(part, name))
            if own in made and made[own].keys() >= made[name].keys()
        ]
        for name, draw, own in drawn:
            for category, artifact in ((each, made[own][each]) for each in made[name]):
                match part:
                    case StudyPart():
                        rows += studies.read_rows(artifact)
                    case Images():
                        rows.append({"category": category, **self._statistics(dataset, artifact)})
                    case Detectors(kind="curves"):
                        curves.setdefault(name, {})[category, draw] = self._curves(part, artifact)
                        rows += self._metric_rows(artifact, name, category, draw) if LOSS not in part.metrics else []
                    case _:
                        rows += self._metric_rows(artifact, name, category, draw)
                        rows += self._training_rows(part, name, category)
        study = dataset.studies.get(part.study) if isinstance(part, StudyPart) else None
        return Measured(
            rows,
            categories,
            wanted,
            tuple(variant.name for variant in study.variants) if study else (),
            curves,
            _same_data(part, dataset),
            tuple(name for name in made if name not in {own for _, _, own in drawn}),
        )

    def _metric_rows(self, artifact: Artifact, detector: str, category: str, draw: int) -> list[dict[str, Any]]:
        place = {"category": category, "detector": detector, "draw": draw}
        return [{**place, **row} for row in read_rows(artifact)]

    def _training_rows(self, part: Part, detector: str, category: str) -> list[dict[str, Any]]:
        """What a trained model says of its own cost, where a part asks."""
        stage = self.stages.get((part.dataset, detector, "trained_model"))
        artifact = self.current(stage, category) if stage and part.kind == "speed" else None
        told = artifact.record()["metadata"] if artifact else {}
        place = {"category": category, "detector": detector, "protocol": TRAINING, "n": 0}
        return [{**place, "metric": metric, "value": told[metric]} for metric in _TRAINED if metric in told]

    def _curves(self, part: Part, artifact: Artifact) -> dict[str, Any]:
        if LOSS in part.metrics:
            return {LOSS: read_info(artifact)["losses"]}
        return read_curves(artifact)

    def _statistics(self, dataset: Dataset, artifact: Artifact) -> dict[str, float | None]:
        """Counts of the images that a dataset's detectors see; in a blind setting the test rows are all of them."""
        rows = read_index(artifact)
        seen = [row for row in rows if row["split"] == "test" or not dataset.reader.blind]
        anomalous = sum(bool(row["label"]) for row in seen)
        pixels = sum(row["width"] * row["height"] for row in seen)
        marked = sum(self._marked(dataset.reader, row) for row in seen if row["label"])
        return {
            "nominal_images": len(seen) - anomalous,
            "anomalous_images": anomalous,
            "nominal_image_percent": 100 * (len(seen) - anomalous) / len(seen) if seen else None,
            "anomalous_pixel_percent": 100 * marked / pixels if pixels else None,
        }

    def _marked(self, reader: Reader, row: dict[str, Any]) -> int:
        """Anomalous pixels of an image in the frame of its file; a mask is read once for all settings."""
        if row["mask_id"] not in self._areas:
            masks = [mask.anomalous for mask in read_masks(reader, row)]
            union = np.logical_or.reduce(masks) if masks else np.zeros((1, 1), bool)
            self._areas[row["mask_id"]] = (int(union.sum()), union.size)
        area, of = self._areas[row["mask_id"]]
        # A mask of another size than its image stands for the same part of it.
        return round(area * row["width"] * row["height"] / of)


def names(part: Part) -> list[str]:
    """The detectors of a part, or its study; of images what they are called."""
    match part:
        case Systems(systems=systems) | Counts(systems=systems):
            found: Iterable[str | None] = systems.values()
        case Detectors(rows=rows):
            found = (row.detector for row in rows.values())
        case StudyPart(study=study):
            found = (study,)
        case Images():
            found = ("image_index",)
    return list(dict.fromkeys(name for name in found if name is not None))


def _key(part: Part, name: str) -> Key:
    if isinstance(part, StudyPart):
        return part.dataset, "studies", name
    if isinstance(part, Images):
        return part.dataset, name
    return part.dataset, name, "trained_model" if LOSS in part.metrics else "metrics"


def extractors(stages: Iterable[Stage]) -> list[str]:
    """Names of the extractors on whose features stages rest."""
    return sorted({stage.key[2] for stage in closure(stages).values() if is_features(stage)})


def is_features(stage: Stage) -> bool:
    """Whether a stage extracts features, so that it needs a backbone."""
    return stage.key[1:2] == ("features",)


def at_hand(dataset: Dataset, categories: Sequence[str]) -> list[str]:
    """The categories that have images; what is generated on demand has.

    Raises:
        ValueError: the folder is missing or empty.
    """
    dataset.reader.prepare()
    assigned = dataset.reader.assign(sorted(ImageFiles(dataset.reader.root).listing()))
    return [category for category in categories if assigned.get(category)]


def _same_data(part: Part, dataset: Dataset) -> bool:
    """Whether images and options are those of the paper's protocol, as far as the reader can say."""
    paper = part.paper_dataset if isinstance(part, Systems | Counts) else None
    return paper is None or papers.same_dataset(dataset.reader.compared_with, paper)
