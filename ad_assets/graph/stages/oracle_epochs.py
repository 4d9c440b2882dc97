"""The test set scored with the weights of several epochs, for the protocol of papers that choose among them.

The authors of SimpleNet and FOD report the epoch that is best on the test images. Lanes that ask for it
(`oracle_every`) keep the weights of several epochs; this asset measures them all, and metrics adds the best as
``oracle_best_epoch``, beside the last epoch's honest rows and never in their place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Dataset, Detector
from ad_assets.graph.stage import GPU, MethodSettings, Parts, Stage, Upstream, Work, settings_of_lane
from ad_assets.graph.stages.features import read_features
from ad_assets.graph.stages.fitted_state import epoch_path, kept_epochs, read_state, runtime_of
from ad_assets.graph.stages.ground_truth import GroundTruth, MeasuredScores, quality
from ad_assets.graph.stages.kept_pictures import keep_picture
from ad_assets.graph.stages.region_of_interest import read_region, region_digest, region_parts, region_tensor
from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods.training.base import TrainedMethod, TrainedNetwork
from ad_assets.report.curves import plot

VERSION = 3
ROWS = "rows.json"

Row = dict[str, Any]


@dataclass(frozen=True)
class EpochSettings(MethodSettings):
    """How the weights of each epoch score.

    Args:
        choice: the authors' rule of choosing an epoch.
        map_size: height and width of the maps.
        map_step: as `Scorer` has it.
    """

    choice: str
    map_size: tuple[int, int]
    map_step: int = 1


def oracle_epochs_stage(
    dataset: Dataset, detector: Detector, index: Stage, state: Stage, features: Stage, extractor: Extractor
) -> Stage | None:
    """The asset ``<dataset>/<detector>/oracle_epochs``; None for lanes that keep no epochs."""
    if not any(_keeps(method) for method in (detector.method, *detector.categories.values())):
        return None
    size, step = extractor.map_size, extractor.map_step
    settings, own = settings_of_lane(
        detector, lambda method: EpochSettings(VERSION, method, "score", _choice(method), size, step)
    )
    reader, title, sealed = dataset.reader, detector.name, dataset.sealed

    def parts(upstream: Upstream) -> Parts:
        return {
            "state": upstream.of(state).version,
            "test": upstream.of(features).parts["test"],
            "truth": upstream.of(index).parts["truth"],
            **region_parts(upstream, (index,)),
        }

    def build(work: Work) -> dict[str, Any]:
        settings: EpochSettings = work.settings
        method = settings.method
        truth = GroundTruth.of(work, index, sealed=sealed)
        train, test = (read_features(work, features, split, method.layers) for split in ("train", "test"))
        fitted, artifact = read_state(work.input(state), method), work.input(state)
        epochs = kept_epochs(artifact)
        inspected = read_region(work.store, region_digest(work.upstream.of(index)))
        region = region_tensor(inspected, extractor)
        rows: list[Row] = []
        if not isinstance(fitted, TrainedNetwork):
            raise TypeError(f"{method.name} keeps no epochs")
        for done, epoch in enumerate(epochs):
            weights = work.store.read_tensors(epoch_path(artifact, epoch))
            of_epoch, size, step = replace(fitted, weights=weights), settings.map_size, settings.map_step
            scorer = Scorer(method, of_epoch, train, None, size, runtime_of(work), map_step=step, region=region)
            comparison = MeasuredScores(truth, reader, extractor, work.compute.memory_gb, inspected=inspected)
            for ids, result in scorer(test):
                comparison.add(ids, result.maps, result.image_scores)
            rows += [
                {"epoch": epoch, "metric": metric, "value": value, "n": n}
                for metric, defect, value, n in quality(truth, comparison)
                if not defect
            ]
            work.progress("epochs scored", done + 1, len(epochs))
        work.store.write_json(work.artifact.at(ROWS), rows)
        curves = {
            metric: [row["value"] for row in rows if row["metric"] == metric]
            for metric in dict.fromkeys(row["metric"] for row in rows)
        }
        return {
            "epochs": len(epochs),
            **{f"{row['metric']}_epoch": row["epoch"] for row in best_epoch(rows, settings.choice)},
            **(keep_picture(work, "plot", "epochs", plot(title, curves, epochs)) if rows else {}),
        }

    return Stage(
        key=(dataset.name, detector.name, "oracle_epochs"),
        kind="oracle_epochs",
        settings=settings,
        deps=(index, state, features),
        address=parts,
        build=build,
        partitions=features.partitions,
        pool=GPU,
        group=f"{dataset.name}/{detector.lane}",
        kinds=frozenset({"python"}),
        description="The test set after every kept epoch, measured with its labels: what a choice of the best epoch, "
        "as the authors make it, reports. Nothing reads it but the rows called oracle_best_epoch.",
        own_settings=own,
    )


def _keeps(method: object) -> bool:
    return isinstance(method, TrainedMethod) and method.oracle_every is not None


def _choice(method: object) -> str:
    return method.oracle_choice if isinstance(method, TrainedMethod) else ""


def best_epoch(rows: list[Row], choice: str) -> list[Row]:
    """The rows that the authors' rule chooses.

    Args:
        rows: epoch, metric, value.
        choice: ``image_auroc``: all of the epoch with the best image AUROC, ties broken by pixel AUROC; where no image
            metric is defined, by that alone. ``each``: every metric of its own best epoch.
    """
    values = {(row["metric"], row["epoch"]): row["value"] for row in rows if row["value"] is not None}
    known = [row for row in rows if row["value"] is not None]
    # The first of equals, as a comparison of epoch after epoch would have it.
    if choice == "each":
        metrics = dict.fromkeys(row["metric"] for row in known)
        return [
            max((row for row in known if row["metric"] == metric), key=lambda row: row["value"]) for metric in metrics
        ]
    epochs = dict.fromkeys(row["epoch"] for row in known)
    if not epochs:
        return []

    def rank(epoch: int) -> tuple[float, float]:
        return values.get(("image_auroc", epoch), 0.0), values.get(("pixel_auroc", epoch), 0.0)

    best = max(epochs, key=rank)
    return [row for row in known if row["epoch"] == best]


def read_best(work: Work, stage: Stage) -> list[Row]:
    """The rows of one category that the authors' rule chooses."""
    settings = stage.settings_for(work.partition)
    if not isinstance(settings, EpochSettings):
        raise TypeError(f"{stage.name} keeps no epochs")
    return best_epoch(work.store.read_json(work.input(stage).at(ROWS)), settings.choice)
