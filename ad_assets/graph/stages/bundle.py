"""The bundle of a lane: what a line's computer scores images with, checked against what the graph says of the same
images.

A bundle lies in its artifact, but for the graphs: they follow from extractor and settings alone, are artifacts of their
own, and all categories and all updates share them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ad_assets.backbones.backbone import load_backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.bundle.onnx_graph import VERSION as EXPORTER
from ad_assets.bundle.onnx_graph import GraphSpec, check_installed, state_inputs
from ad_assets.bundle.parity import Parity, compare
from ad_assets.bundle.writer import BundleFacts, MemberParts, Scored, bundle_files, manifest_bytes
from ad_assets.config.benchmark import Dataset, Detector, Evaluation, fingerprint
from ad_assets.config.export import size_fault
from ad_assets.datasets import ImageFiles, Reader
from ad_assets.datasets.files import read_image_bytes
from ad_assets.graph.stage import (
    Check,
    CheckReport,
    CheckResult,
    Parts,
    Stage,
    StageError,
    StageSettings,
    Upstream,
    Work,
)
from ad_assets.graph.stages.feature_files import positions_of, stacked
from ad_assets.graph.stages.features import read_features
from ad_assets.graph.stages.fitted_state import read_training_set
from ad_assets.graph.stages.image_index import read_index
from ad_assets.graph.stages.lane_scorer import lane_scorer
from ad_assets.graph.stages.region_of_interest import PART, read_region, region_tensor
from ad_assets.graph.stages.score_maps import read_score_index, read_shard
from ad_assets.graph.stages.scorer import Scorer
from ad_assets.methods import Features
from ad_assets.report.pictures import nominal_scale
from ad_assets.store.store import Artifact
from ad_assets_runtime.bundle import MANIFEST, BundleError, load_bundle
from ad_assets_runtime.geometry import Mask
from ad_assets_runtime.images import RgbImage

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
KIND, GRAPH = "bundle", "onnx_graph"
GRAPH_FILE = "graph.onnx"
PARITY = "parity"
COMPARED_IMAGES = 40
SELFTEST_IMAGES = 3


@dataclass(frozen=True)
class BundleSettings(StageSettings):
    """What a bundle is beside the state and the scores that it is of.

    Args:
        exporter: version of what writes graphs.
        rate: of false alarms at which the lane decides.
        compared_images: on which it is compared with the graph, at most.
    """

    exporter: int
    rate: float
    compared_images: int


@dataclass(frozen=True)
class MemberStages:
    """The stages of one fitted method of a bundle."""

    name: str
    extractor: Extractor
    features: Stage
    state: Stage
    neighbours: Stage | None
    score_maps: Stage


def bundle_stage(
    dataset: Dataset,
    detector: Detector,
    index: Stage,
    members: Sequence[MemberStages],
    score_maps: Stage,
    evaluation: Evaluation,
) -> Stage:
    """The asset ``<dataset>/<detector>/bundle``.

    Args:
        dataset: of the lane.
        detector: the lane, with `export`.
        index: the image index.
        members: the lane's own stages, or those of the members of an ensemble.
        score_maps: the lane's own, which for an ensemble are fused.
        evaluation: for the rate of false alarms.
    """

    def settings_in(category: str) -> BundleSettings:
        rate = dataset.false_alarm_rate(detector, category, evaluation)
        return BundleSettings(VERSION, EXPORTER, rate, COMPARED_IMAGES)

    reader = dataset.reader
    settings = settings_in("")
    own = {name: settings_in(name) for name in dataset.decided_apart(detector)}
    read = [stage for each in members for stage in (each.features, each.state, each.neighbours, each.score_maps)]
    deps = tuple(dict.fromkeys(stage for stage in (index, *read, score_maps) if stage))

    def parts(upstream: Upstream) -> Parts:
        # Score maps know the images, the settings of scoring and the region of interest.
        states = {f"state/{each.name}": upstream.of(each.state).version for each in members}
        return {**states, "score_maps": upstream.of(score_maps).version}

    def build(work: Work) -> dict[str, Any]:
        from ad_assets.kernels.parallel import threads

        check_installed()
        lane = _Lane(work, reader, index, members, score_maps)
        images = list(lane.compared(work.settings.compared_images))
        nominal = read_score_index(work.input(score_maps)).nominal
        facts = BundleFacts(
            (work.stage.key[0], work.stage.key[1], work.partition),
            reader.decoding.of(*lane.learnt),
            nominal,
            work.settings.rate,
            lane.inspected,
            lane.scales() if len(members) > 1 else (),
            parts(work.upstream),
            nominal_scale(nominal.map_maxima),
        )
        files = bundle_files(lane.parts(), facts, images[:SELFTEST_IMAGES])
        try:
            # Without its self-test: how far images are off is what is asked.
            made = load_bundle(files.__getitem__, selftest=False, threads=threads())
        except BundleError as error:
            raise StageError(f"{work.stage.name} [{work.partition}]: its own runtime refuses it: {error}") from error
        engine = made.members[0].engine
        found = compare(images, made.score, made.threshold, {"name": engine.name, "version": engine.version})
        files[MANIFEST] = manifest_bytes({**made.manifest, PARITY: found.values()})
        own_files = {path: data for path, data in files.items() if not path.startswith("graphs/")}
        for path, data in own_files.items():
            work.store.write_bytes(work.artifact.at(path), data)
        return {
            "bytes": sum(map(len, own_files.values())),
            "graph_bytes": sum(len(data) for path, data in files.items() if path not in own_files),
            "milliseconds": found.milliseconds,
            PARITY: str(found),
        }

    def answer_checks(work: Work) -> CheckReport:
        found = read_parity(work.artifact)
        why = found.fault or str(found)
        return CheckReport((CheckResult(PARITY, not found.fault, {"why": why, **_numbers(found)}),))

    return Stage(
        key=(dataset.name, detector.name, KIND),
        kind=KIND,
        settings=settings,
        own_settings={name: each for name, each in own.items() if each != settings},
        deps=deps,
        address=parts,
        build=build,
        answer_checks=answer_checks,
        shared_files=graph_files,
        checks=(
            Check(
                PARITY,
                "Run by its own runtime, the bundle scores stored images as the graph does: no map and no score is off "
                "by more than the tolerance, and no decision is another.",
                blocking=True,
            ),
        ),
        partitions=score_maps.partitions,
        group=f"{dataset.name}/{detector.lane}",
        kinds=frozenset({"onnx", "safetensors"}),
        description="What a line's computer scores images with, without this project: graph, state, thresholds and a "
        "self-test.",
    )


def read_manifest(artifact: Artifact) -> dict[str, Any]:
    """The ``bundle.json`` of a bundle."""
    path = artifact.at(MANIFEST)
    with artifact.store.valid_content(path):
        manifest: dict[str, Any] = artifact.store.read_json(path)
        return manifest


def read_parity(artifact: Artifact) -> Parity:
    """What the comparison of a bundle with the graph found."""
    with artifact.store.valid_content(artifact.at(MANIFEST)):
        return Parity(**read_manifest(artifact)[PARITY])


def shared_graphs(artifact: Artifact) -> dict[str, str]:
    """Path in the bundle -> path in the store, of the graphs, which bundles share."""
    store, graphs = artifact.store, {member["graph"] for member in read_manifest(artifact)["members"]}
    return {path: store.artifact(GRAPH, Path(path).stem).at(GRAPH_FILE) for path in sorted(graphs)}


def graph_files(artifact: Artifact) -> list[str]:
    """The paths of its graphs in the store."""
    return list(shared_graphs(artifact).values())


def read_bundle(artifact: Artifact) -> dict[str, bytes]:
    """All files of a bundle by their paths in it, the graphs too."""
    paths, shared = read_manifest(artifact)["files"], shared_graphs(artifact)
    return {path: artifact.store.read_bytes(shared.get(path, artifact.at(path))) for path in (*paths, MANIFEST)}


class _Lane:
    """What a bundle is made of, read from the store."""

    def __init__(
        self, work: Work, reader: Reader, index: Stage, members: Sequence[MemberStages], score_maps: Stage
    ) -> None:
        self._work, self._reader, self._members = work, reader, members
        self._index, self._score_maps = work.input(index), score_maps
        self._scorers = {each.name: self._scorer(each) for each in members}
        trained = {each.name: read_training_set(work.input(each.state)) for each in members}
        self._trained = {name: each.images if each else [] for name, each in trained.items()}
        self.learnt = sorted({image for images in self._trained.values() for image in images})
        self.inspected: Mask | None = read_region(work.store, self._digest)

    @property
    def _digest(self) -> str:
        heads = (self._work.upstream.of(each.score_maps) for each in self._members)
        return next((head.parts[PART] for head in heads if PART in head.parts), "")

    def _scorer(self, member: MemberStages) -> Scorer:
        layers = member.state.settings_for(self._work.partition).method.layers  # type: ignore[attr-defined]
        train = read_features(self._work, member.features, "train", layers)
        return lane_scorer(self._work, member.state, member.score_maps, train, member.neighbours)

    def parts(self) -> list[MemberParts]:
        """The members with their graphs and states."""
        return [self._part(each) for each in self._members]

    def _part(self, member: MemberStages) -> MemberParts:
        scorer = self._scorers[member.name]
        region = region_tensor(self.inspected, member.extractor)
        spec = GraphSpec(member.extractor, scorer.method, region is not None)
        backbone = load_backbone(member.extractor, self._work.compute)
        graph, known = self._graph(spec), spec.scoring(backbone.tap_shapes).state(scorer.state, region)
        state = {name: known[name] for name in state_inputs(graph)}
        size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        if fault := size_fault(size):
            raise StageError(f"{self._work.stage.name} [{self._work.partition}]: {member.name} cannot go out: {fault}")
        address, images = self._work.upstream.of(member.state).version, len(self._trained[member.name])
        return MemberParts(member.name, spec, graph, state, address, images)

    def _graph(self, spec: GraphSpec) -> bytes:
        """The graph's file, found or written."""
        stored = self._work.store.artifact(GRAPH, spec.address)
        if not stored.is_sound() or self._work.force:
            self._work.progress.note("the graph is written; every category and every update will share it")
            self._work.store.write_bytes(stored.at(GRAPH_FILE), spec.to_onnx())
            stored.commit({"asset": self._work.stage.name, "metadata": {}})
        return self._work.store.read_bytes(stored.at(GRAPH_FILE))

    def scales(self) -> list[tuple[float, float]]:
        """Mean and standard deviation of the nominal scores of each member."""
        doubles = (scores.double() for scores in self._nominal)
        return [(float(scores.mean()), float(scores.std())) for scores in doubles]

    @cached_property
    def _nominal(self) -> list[Tensor]:
        """The nominal scores (n,) of each member."""
        import torch

        heads = (self._work.input(each.score_maps) for each in self._members)
        return [torch.tensor(read_score_index(head).nominal.scores) for head in heads]

    def compared(self, most: int) -> Iterator[Scored]:
        """Images that the states have not learnt, with what the graph says of them: test images, in an order by
        content; where there is none, mirrored training images, which no bank holds."""
        learnt = set(self.learnt)
        rows = {row["image_id"]: row for row in read_index(self._index)}
        new = {i: row for i, row in rows.items() if row["split"] == "test" and i not in learnt}
        if new:
            for image in sorted(new, key=lambda image: fingerprint(["compared", image]))[:most]:
                yield self._stored(image, self._pixels(new[image]))
            return
        for image in self.learnt[:most]:
            if image in rows:
                yield self._scored(self._pixels(rows[image])[:, ::-1].copy())

    def _pixels(self, row: Mapping[str, Any]) -> RgbImage:
        data = read_image_bytes(ImageFiles(self._reader.root), row)
        return self._reader.decoding.of(*self.learnt, row["image_id"]).rgb(data, row["path"])

    def _stored(self, image: str, rgb: RgbImage) -> Scored:
        score_map, score = read_shard(self._work.input(self._score_maps), image)
        members = {}
        for each in self._members if len(self._members) > 1 else ():
            own, its_score = read_shard(self._work.input(each.score_maps), image)
            members[each.name] = own.numpy(), its_score
        return Scored(rgb, score_map.numpy(), score, members)

    def _scored(self, rgb: RgbImage) -> Scored:
        import torch

        from ad_assets.methods.ensemble import fuse

        found = {each.name: self._score(each, rgb) for each in self._members}
        if len(found) == 1:
            [(score_map, score)] = found.values()
            return Scored(rgb, score_map.numpy(), score)
        maps, scores = [m[None] for m, _ in found.values()], [torch.tensor([s]) for _, s in found.values()]
        fused = fuse(maps, scores, self._nominal)
        members = {name: (score_map.numpy(), score) for name, (score_map, score) in found.items()}
        return Scored(rgb, fused.maps[0].numpy(), float(fused.image_scores[0]), members)

    def _score(self, member: MemberStages, rgb: RgbImage) -> tuple[Tensor, float]:
        backbone, scorer = load_backbone(member.extractor, self._work.compute), self._scorers[member.name]
        taps = backbone.extract(backbone.preprocess(rgb)[None])

        def load(names: Sequence[str], positions: tuple[int, ...] | None) -> list[Tensor]:
            del names
            return stacked([[tap[0] for tap in taps]], positions)

        features = Features(("new",), load, 1, positions_of(scorer.method.layers))
        [(_, scores)] = scorer(features, new=True)
        return scores.maps[0], float(scores.image_scores[0])


def _numbers(parity: Parity) -> dict[str, Any]:
    return {"images": parity.images, "largest_map": parity.largest_map, "largest_score": parity.largest_score}
