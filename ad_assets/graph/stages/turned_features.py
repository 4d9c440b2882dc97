"""Features of turned nominal images: which directions the lanes of a dataset learn, and in which categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Dataset, Detector
from ad_assets.graph.stage import Parts, Stage, Upstream, Work
from ad_assets.graph.stages.features import features_stage, read_features
from ad_assets.methods import Features, Method

Turned = Mapping[int, Stage]  # degrees -> features of images turned by so many


def turned_stages(dataset: Dataset, index: Stage, name: str, extractor: Extractor) -> dict[int, Stage]:
    """The assets ``<dataset>/features/<extractor>/turned_<degrees>``, all that a lane or study reads."""
    variants = [variant.detector for study in dataset.studies.values() for variant in study.variants]
    lanes = [each for each in (*dataset.detectors.values(), *variants) if each.method and each.extractor == name]
    categories = {"", *(category for lane in lanes for category in lane.categories)}
    wanted = {category: {turn for lane in lanes for turn in turned_by(lane, category)} for category in categories}
    stages = {}
    for turn in sorted(set().union(*wanted.values())):
        turned_in = {category: turn in turns for category, turns in wanted.items()}
        stages[turn] = features_stage(dataset, index, name, extractor, turn, turned_in)
    return stages


def turned_by(detector: Detector, category: str) -> tuple[int, ...]:
    """Degrees by which a lane learns the images of a category turned; those of no category's own under no name."""
    return detector.method_for(category).turned_by


def all_turned_by(detector: Detector) -> list[int]:
    """Those of any category, ascending."""
    return sorted({turn for category in ("", *detector.categories) for turn in turned_by(detector, category)})


def turned_parts(upstream: Upstream, turned: Turned, turns: Sequence[int]) -> Parts:
    """What a fit reads of features of turned images."""
    return {f"turned_{turn}": upstream.of(turned[turn]).parts["train"] for turn in turns}


def with_turned(train: Features, work: Work, turned: Turned, method: Method) -> Features:
    """Features of nominal images with those of the same images turned, as a method learns them."""
    read = (read_features(work, turned[turn], "train", method.layers) for turn in method.turned_by)
    return replace(train, turned=tuple(each.load for each in read))
