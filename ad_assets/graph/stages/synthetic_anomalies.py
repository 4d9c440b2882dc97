"""How a lane scores synthetic anomalies, drawn into the nominal test images of a watched category.

The features of an image's anomalies are kept under the image, the generator and the extractor, so that a new state of
the lane scores them without the backbone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ad_assets.backbones.backbone import load_backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Dataset, Detector, fingerprint
from ad_assets.datasets import synthetic
from ad_assets.datasets.base import Reader
from ad_assets.datasets.files import ImageFiles, read_image_bytes
from ad_assets.graph.stage import GPU, Parts, Stage, StageSettings, Upstream, Work
from ad_assets.graph.stages.feature_files import positions_of, stacked
from ad_assets.graph.stages.features import features_address, read_features
from ad_assets.graph.stages.fitted_state import method_of
from ad_assets.graph.stages.image_index import read_index
from ad_assets.graph.stages.lane_scorer import lane_scorer
from ad_assets.methods import Features
from ad_assets.store.store import Artifact, ArtifactStore

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
KIND, FEATURES = "synthetic_anomalies", "synthetic_features"
SCORES, TENSORS = "scores.json", "features.safetensors"
MOST_IMAGES = 12


@dataclass(frozen=True)
class SyntheticSettings(StageSettings):
    """What is drawn, and into how many images at most."""

    drawn: int
    most_images: int


@dataclass(frozen=True)
class SyntheticScore:
    """The image score of one synthetic anomaly: into which image it is drawn, its kind and strength."""

    image_id: str
    kind: str
    strength: int
    score: float


def synthetic_stage(
    dataset: Dataset,
    detector: Detector,
    extractor: Extractor,
    index: Stage,
    features: Stage,
    state: Stage,
    score_maps: Stage,
) -> Stage:
    """The asset ``<dataset>/<detector>/synthetic_anomalies`` of a production dataset."""
    reader = dataset.reader

    def parts(upstream: Upstream) -> Parts:
        # Score maps know the state and all settings of scoring; the truth, which test images are nominal.
        return {"score_maps": upstream.of(score_maps).version, "truth": upstream.of(index).parts["truth"]}

    def build(work: Work) -> dict[str, Any]:
        rows = chosen_images(read_index(work.input(index)), work.settings.most_images)
        if not rows:
            work.store.write_json(work.artifact.at(SCORES), [])
            return {"images": 0, "why": "there is no nominal test image, and none is held out"}
        layers = method_of(state, work.partition).layers
        train = read_features(work, features, "train", layers)
        scorer = lane_scorer(work, state, score_maps, train)
        found: list[dict[str, Any]] = []
        for done, row in enumerate(rows):
            drawn = _features(work, reader, extractor, row)
            for ids, result in scorer(_as_features(drawn, layers, train.batch_size), new=True):
                scored = zip(ids, result.image_scores.tolist(), strict=True)
                found += [_named(row["image_id"], name, score) for name, score in scored]
            work.progress("images with synthetic anomalies scored", done + 1, len(rows))
        work.store.write_json(work.artifact.at(SCORES), found)
        return {"images": len(rows), "synthetic_anomalies": len(found)}

    return Stage(
        key=(dataset.name, detector.name, KIND),
        kind=KIND,
        settings=SyntheticSettings(VERSION, synthetic.VERSION, MOST_IMAGES),
        deps=(index, features, state, score_maps),
        address=parts,
        build=build,
        partitions=features.partitions,
        pool=GPU,
        group=f"{dataset.name}/{detector.lane}",
        kinds=frozenset({"torch", "json"}),
        description="Scores of pasted patches, scars, blurred places and spots, drawn into nominal test images: a "
        "smoke alarm for new states, and no measure of what real defects score.",
    )


def chosen_images(rows: Iterable[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """The rows of the nominal test images that anomalies are drawn into: the first by content, each once.

    A set that grows keeps most of them.
    """
    nominal = {row["image_id"]: row for row in rows if row["split"] == "test" and row["label"] == 0}
    return [nominal[image] for image in sorted(nominal, key=lambda image: fingerprint(["synthetic", image]))[:most]]


def read_synthetic(artifact: Artifact) -> list[SyntheticScore]:
    """The scores of synthetic anomalies in an artifact."""
    path = artifact.at(SCORES)
    with artifact.store.valid_content(path):
        return [SyntheticScore(**each) for each in artifact.store.read_json(path)]


def features_of(artifact: Artifact, extractors: Iterable[str]) -> set[str]:
    """The addresses of the features of the anomalies in an artifact, by the addresses of extractors."""
    images = {each.image_id for each in read_synthetic(artifact)}
    return {_address(extractor, image) for extractor in extractors for image in images}


def _address(extractor: str, image_id: str) -> str:
    return fingerprint({"version": synthetic.VERSION, "features": extractor, "image": image_id})


def _features(work: Work, reader: Reader, extractor: Extractor, row: Mapping[str, Any]) -> dict[str, list[Tensor]]:
    """Name of an anomaly -> taps, of all anomalies drawn into one image; extracted where they are not kept."""
    stored = work.store.artifact(FEATURES, _address(features_address(extractor), row["image_id"]))
    if not stored.is_sound() or work.force:
        tensors = _extracted(work, reader, extractor, row)
        work.store.write_tensors(stored.at(TENSORS), tensors)
        stored.commit({"asset": work.stage.name, "metadata": {}})
    found: dict[str, list[Tensor]] = {}
    for name, tap in sorted(_read(work.store, stored).items()):
        found.setdefault(name.rpartition("/")[0], []).append(tap)
    return found


def _read(store: ArtifactStore, stored: Artifact) -> dict[str, Tensor]:
    return store.read_tensors(stored.at(TENSORS))


def _extracted(work: Work, reader: Reader, extractor: Extractor, row: Mapping[str, Any]) -> dict[str, Tensor]:
    backbone = load_backbone(extractor, work.compute)
    data = read_image_bytes(ImageFiles(reader.root), dict(row))
    rgb = reader.decoding.of(row["image_id"]).rgb(data, row["path"])
    anomalies = list(synthetic.synthetic_anomalies(rgb, row["image_id"]))
    tensors: dict[str, Tensor] = {}
    size = extractor.images_a_batch(work.compute.batch_size)
    for first in range(0, len(anomalies), size):
        batch = anomalies[first : first + size]
        taps = backbone.extract(backbone.stack([backbone.preprocess(each.rgb) for each in batch]))
        for position, each in enumerate(batch):
            for level, tap in enumerate(taps):
                tensors[f"{each.kind}/{each.strength}/tap{level:02}"] = tap[position].clone()
    return tensors


def _as_features(drawn: Mapping[str, list[Tensor]], layers: tuple[int, ...] | None, batch: int) -> Features:
    def load(names: Sequence[str], positions: tuple[int, ...] | None) -> list[Tensor]:
        return stacked([drawn[name] for name in names], positions)

    return Features(tuple(drawn), load, batch, positions_of(layers))


def _named(image_id: str, name: str, score: float) -> dict[str, Any]:
    kind, strength = name.split("/")
    return {"image_id": image_id, "kind": kind, "strength": int(strength), "score": score}
