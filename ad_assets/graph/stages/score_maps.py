"""Raw score maps and image scores of every test image, in shards of a few images that a reader can stream.

Beside them lie the image scores and the highest map scores of nominal training images, each scored without what the
state took from that same image, or of those that were held out of a training: the only scores that a nominal-only
threshold on images or on pixels may use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.config.benchmark import Dataset, Detector, Evaluation
from ad_assets.graph.stage import (
    GPU,
    MethodSettings,
    Parts,
    Stage,
    StageSettings,
    Upstream,
    Work,
)
from ad_assets.graph.stages.extraction import WAITING
from ad_assets.graph.stages.feature_files import size_of
from ad_assets.graph.stages.features import extractor_of, read_features
from ad_assets.graph.stages.fitted_state import read_state, runtime_of
from ad_assets.graph.stages.image_index import declared_groups, group_parts
from ad_assets.graph.stages.joint_bank import images_joined
from ad_assets.graph.stages.kept_matches import memory_of, write_kept, write_shard
from ad_assets.graph.stages.near_copies import kept_near_copies
from ad_assets.graph.stages.neighbours import read_matches, seconds_each
from ad_assets.graph.stages.region_of_interest import PART, read_region, region_parts, region_source, region_tensor
from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import ScoreMaps
from ad_assets.methods.data import NominalScores
from ad_assets.methods.memory_bank.search_quality import DISTANCE, RECALL
from ad_assets.metrics.thresholds import images_for_rate
from ad_assets.report.joint import JOINED_CATEGORIES, OWN_CATEGORY
from ad_assets.store.background import BackgroundWrites
from ad_assets.store.store import Artifact

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 4
ENSEMBLE_VERSION = 2
INDEX = "scores.json"
SHARD_IMAGES = 32


@dataclass(frozen=True)
class ScoreIndex:
    """The contents of a score-map artifact without the maps.

    Args:
        image_ids: the test images in order.
        nominal: nominal training images that were scored left-out.
        shard_images: images a shard.
    """

    image_ids: list[str]
    nominal: NominalScores
    shard_images: int = SHARD_IMAGES


@dataclass(frozen=True)
class ScoreSettings(MethodSettings):
    """How a method scores.

    Args:
        map_size: height and width of the maps.
        calibration_images: most nominal images to be scored left-out.
        map_step: pixels of the extractor's input to a pixel of the maps.
        by_group: whether a nominal image is left out with its group.
    """

    map_size: tuple[int, int]
    calibration_images: int
    map_step: int = 1
    by_group: bool = False

    def address(self) -> dict[str, Any]:
        """As `MethodSettings.address`."""
        # Such scores were those of the smaller states once.
        lowered = {"left_out": "as by all images"} if self.by_group and self.method.scores_fall else {}
        return {**super().address(), **lowered}


@dataclass(frozen=True)
class EnsembleSettings(StageSettings):
    """Whose maps are fused."""

    members: tuple[str, ...]
    map_size: tuple[int, int]

    def address(self) -> dict[str, Any]:
        """As `StageSettings.address`."""
        return {**super().address(), "method": "ensemble"}


def score_maps_stage(
    dataset: Dataset,
    detector: Detector,
    state: Stage,
    features: Stage,
    neighbours: Stage | None,
    evaluation: Evaluation,
) -> Stage:
    """The asset ``<dataset>/<detector>/score_maps`` of a method.

    Raises:
        TypeError: the lane is an ensemble.
    """
    extractor, index = extractor_of(features), features.deps[0]
    source = (index,) if region_source(dataset, features) or dataset.reader.has_groups else ()
    joined = state.deps if state.partitions is None else ()  # as of neighbours, which not every method has
    size, step = extractor.map_size, extractor.map_step

    def settings_in(category: str) -> ScoreSettings:
        most = calibration_images(dataset, detector, category, evaluation)
        method, by_group = detector.method_for(category), dataset.leaves_out_groups(detector)
        return ScoreSettings(VERSION, method, "score", size, most, step, by_group)

    settings = settings_in("")
    named = {name: settings_in(name) for name in {*detector.categories, *dataset.decided_apart(detector)}}
    own = {name: each for name, each in named.items() if each.address() != settings.address()}

    def parts(upstream: Upstream) -> Parts:
        read = {"state": upstream.of(state).version, "test": upstream.of(features).parts["test"]}
        matched = {"neighbours": upstream.of(neighbours).version} if neighbours else {}
        return {**read, **matched, **region_parts(upstream, source), **group_parts(upstream, source)}

    def build(work: Work) -> dict[str, Any]:
        import torch

        settings: ScoreSettings = work.settings
        runtime, method = runtime_of(work), settings.method
        if joined:
            images_joined(work.input(state), work.partition, state.name)  # or it is refused
        train = read_features(work, features, "train", method.layers)
        test = read_features(work, features, "test", method.layers)
        matches = read_matches(work.input(neighbours)) if neighbours else None
        fitted = read_state(work.input(state), method)
        digest = parts(work.upstream).get(PART, "")
        region = region_tensor(read_region(work.store, digest), extractor)
        size, step = settings.map_size, settings.map_step
        memory = memory_of(work, state, features, method, digest)
        scorer = Scorer(method, fitted, train, matches, size, runtime, map_step=step, region=region, memory=memory)

        def score(number: int, image_ids: Sequence[str]) -> ScoreMaps:
            work.progress("test images scored", number * SHARD_IMAGES, len(test))
            pieces = [scores for _, scores in scorer(replace(test, image_ids=tuple(image_ids)))]
            if memory:
                write_shard(work, number, image_ids, memory)
            return ScoreMaps(
                torch.cat([piece.maps for piece in pieces]), torch.cat([piece.image_scores for piece in pieces])
            )

        seconds = _write_shards(work, test.image_ids, score)
        declared = declared_groups(work.input(index)) if group_parts(work.upstream, source) else []
        copies = kept_near_copies(work, features)
        nominal = scorer.nominal(train, settings.calibration_images, settings.by_group, declared, copies)
        scores = ScoreIndex(list(test.image_ids), nominal)
        if memory:
            write_kept(work, state, features, digest, _shards_of(test.image_ids), memory)
        if seconds and neighbours:
            seconds += seconds_each(work.input(neighbours))
        speed = {"features_images_per_second": work.input(features).facts()["images_per_second"]}
        learnt = {**work.input(state).facts(), **(work.input(neighbours).facts() if neighbours else {})}
        passed_on = ("fit_seconds", JOINED_CATEGORIES, OWN_CATEGORY, RECALL, DISTANCE)
        known = {name: learnt[name] for name in passed_on if name in learnt}
        return {**_write_index(work, scores, seconds, settings.map_size), **speed, **known}

    what = f"Raw score maps of {settings.method.name}."
    deps = (state, features, *((neighbours,) if neighbours else ()), *source, *joined)
    return _stage(dataset, detector.name, settings, deps, parts, build, what, own, group=detector.lane)


def calibration_images(dataset: Dataset, detector: Detector, category: str, evaluation: Evaluation) -> int:
    """Most nominal images to be scored left-out: those of `Evaluation`, or as many as an asked rate needs.

    None in a blind setting, where no image is known to be nominal.
    """
    if dataset.reader.blind:
        return 0
    rate = dataset.asked_rate(detector, category)
    return max(evaluation.calibration_images, images_for_rate(rate) if rate is not None else 0)


def ensemble_stage(dataset: Dataset, detector: str, members: dict[str, Stage], extractor: Extractor) -> Stage:
    """The asset ``<dataset>/<detector>/score_maps`` of an ensemble: the fused maps of its members."""
    settings = EnsembleSettings(ENSEMBLE_VERSION, tuple(members), extractor.map_size)

    def parts(upstream: Upstream) -> Parts:
        return {name: upstream.of(stage).version for name, stage in members.items()}

    def build(work: Work) -> dict[str, Any]:
        import torch

        from ad_assets.methods.ensemble import fuse, fuse_nominal

        inputs = [work.input(stage) for stage in members.values()]
        indexes = [read_score_index(artifact) for artifact in inputs]
        nominal = [torch.tensor(index.nominal.scores) for index in indexes]

        def score(number: int, image_ids: Sequence[str]) -> ScoreMaps:
            del image_ids  # members share the canonical order of test images, hence the shards
            tensors = [artifact.store.read_tensors(_shard_path(artifact, number)) for artifact in inputs]
            return fuse([t["maps"] for t in tensors], [t["image_scores"] for t in tensors], nominal)

        seconds = _write_shards(work, indexes[0].image_ids, score)
        index = ScoreIndex(indexes[0].image_ids, fuse_nominal([index.nominal for index in indexes]))
        return _write_index(work, index, seconds, work.settings.map_size)

    return _stage(
        dataset,
        detector,
        settings,
        tuple(members.values()),
        parts,
        build,
        f"Fused maps of {', '.join(members)}.",
    )


def _stage(
    dataset: Dataset,
    detector: str,
    settings: StageSettings,
    deps: tuple[Stage, ...],
    parts: Callable[[Upstream], Parts],
    build: Callable[[Work], dict[str, Any]],
    what: str,
    own_settings: Mapping[str, MethodSettings] | None = None,
    group: str | None = None,
) -> Stage:
    return Stage(
        key=(dataset.name, detector, "score_maps"),
        kind="score_maps",
        settings=settings,
        deps=deps,
        address=parts,
        build=build,
        partitions=deps[-1].partitions,  # the first may be a joint bank, which has none
        pool=GPU,
        group=f"{dataset.name}/{group or detector}",
        kinds=frozenset({"torch", "safetensors"}),
        description=f"{what} Float32, higher is more anomalous; neither clamped nor normalised.",
        own_settings=own_settings or {},
    )


def _shard_path(artifact: Artifact, number: int) -> str:
    return artifact.at(f"maps-{number:05d}.safetensors")


def _shards_of(image_ids: Sequence[str]) -> list[Sequence[str]]:
    return [image_ids[first : first + SHARD_IMAGES] for first in range(0, len(image_ids), SHARD_IMAGES)]


def _write_shards(work: Work, image_ids: Sequence[str], score: Callable[[int, Sequence[str]], ScoreMaps]) -> float:
    """Score and store shard by shard; returns the seconds an image took. Shards of an interrupted run are kept."""
    spent, scored, store = 0.0, 0, work.store
    stored = set() if work.force else work.artifact.sound_tensors()
    with BackgroundWrites(store.requests_at_once, work.compute.memory_gb * WAITING) as writes:
        for number, ids in enumerate(_shards_of(image_ids)):
            path = _shard_path(work.artifact, number)
            if path in stored:
                continue
            started = time.perf_counter()
            result = score(number, ids)
            spent, scored = spent + time.perf_counter() - started, scored + len(ids)
            tensors = {"maps": result.maps, "image_scores": result.image_scores}
            writes.submit(size_of([*tensors.values()]), partial(store.write_tensors, path, tensors))
    return spent / scored if scored else 0.0


def _write_index(work: Work, index: ScoreIndex, seconds: float, map_size: tuple[int, int]) -> dict[str, Any]:
    work.store.write_json(work.artifact.at(INDEX), asdict(index))
    return {
        "test_images": len(index.image_ids),
        "nominal_images": len(index.nominal.image_ids),
        **({"left_out": index.nominal.left_out} if index.nominal.left_out else {}),
        "map_height": map_size[0],
        "map_width": map_size[1],
        **({"score_images_per_second": 1 / seconds} if seconds else {}),
    }


def read_score_index(artifact: Artifact) -> ScoreIndex:
    """Read the contents of a score-map artifact without the maps."""
    path = artifact.at(INDEX)
    with artifact.store.valid_content(path):
        stored = artifact.store.read_json(path)
        return ScoreIndex(stored["image_ids"], NominalScores(**stored["nominal"]), stored["shard_images"])


def shards(artifact: Artifact) -> Iterator[tuple[tuple[str, ...], Tensor, Tensor]]:
    """Yield ``(image ids, maps (B, H, W), image scores (B,))`` shard by shard."""
    index = read_score_index(artifact)
    ids, size = index.image_ids, index.shard_images
    for number, first in enumerate(range(0, len(ids), size)):
        tensors = artifact.store.read_tensors(_shard_path(artifact, number))
        yield tuple(ids[first : first + size]), tensors["maps"], tensors["image_scores"]


def read_maps(artifact: Artifact, image_ids: Sequence[str]) -> list[tuple[Tensor, float]]:
    """The map and the image score of each of some images, for which no shard is read twice."""
    index = read_score_index(artifact)
    position = {image_id: number for number, image_id in enumerate(index.image_ids)}
    places = [divmod(position[image_id], index.shard_images) for image_id in image_ids]
    numbers = sorted({number for number, _ in places})
    read = artifact.store.read_many_tensors([_shard_path(artifact, number) for number in numbers])
    found = dict(zip(numbers, read, strict=True))
    # Copied: a row would hold on to its shard.
    return [(found[n]["maps"][row].clone(), float(found[n]["image_scores"][row])) for n, row in places]


def read_shard(artifact: Artifact, image_id: str) -> tuple[Tensor, float]:
    """The map and the image score of one image."""
    return read_maps(artifact, [image_id])[0]
