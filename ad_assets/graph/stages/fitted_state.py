"""What a detector learnt from the nominal training images: memory bank, template set or trained model."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ad_assets.config.benchmark import Dataset, Detector
from ad_assets.graph.provenance import MADE_OF, is_outdated
from ad_assets.graph.stage import GPU, Parts, Stage, Upstream, Work, read_head
from ad_assets.graph.stages.checkpoints import StoreCheckpoints
from ad_assets.graph.stages.features import read_features
from ad_assets.methods import Method, Runtime, State
from ad_assets.methods.runtime import ProgressReport, growth_warning
from ad_assets.report import pictures
from ad_assets.report.curves import plot_uri
from ad_assets.settings.compute import Compute
from ad_assets.store.store import Artifact

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)
VERSION = 2
PICTURE_SIDE = 160
STATES = ("memory_bank", "template_set", "trained_model")  # what a state is called, by what it is in the field


def state_stage(dataset: Dataset, detector: Detector, features: Stage) -> Stage:
    """The asset ``<dataset>/<detector>/<memory_bank | template_set | trained_model>``.

    Raises:
        TypeError: the lane is an ensemble, which learns nothing.
    """
    config, categories = detector.stage_configs("fit")
    kind = detector.method_for("").state_asset

    def parts(upstream: Upstream) -> Parts:
        # A new test image leaves the state's address as it was.
        return {"train": upstream.of(features).parts["train"]}

    def build(work: Work) -> dict[str, Any]:
        method = detector.method_for(work.partition)
        train = read_features(work, features, "train", method.layers)
        earlier, before = _earlier(work, features)
        new = [image for image in train.image_ids if image not in before]
        checkpoints = StoreCheckpoints.of(work, work.artifact)
        tools = replace(runtime(work), checkpoints=checkpoints, precision=features.config["precision"])
        started = time.perf_counter()
        # An update can add images; what an image that is gone has left behind takes a fit of the others.
        updates = method.updatable and new and before <= set(train.image_ids) and not work.force
        if earlier and updates:
            added = replace(train, image_ids=tuple(new))
            state = method.update(read_state(earlier, method), added, tools)
        else:
            state = method.fit(train, tools)
        seconds = time.perf_counter() - started
        work.store.write_tensors(work.artifact.at("state.safetensors"), state.tensors())
        work.store.write_json(work.artifact.at("state.json"), state.info())
        work.store.write_json(
            work.artifact.at("train.json"), {"features": features.code_version, "images": list(train.image_ids)}
        )
        checkpoints.clear()
        most = method.most_images(train.sample(), tools)
        if most is not None and (warning := growth_warning(len(train), most)):
            _LOG.warning("%s, %s: %s", work.stage.name, work.partition, warning)
        sheet = _pictures(method.maps(state))
        curves = method.curves(state)
        return {
            "training_images": len(train),
            "fit_seconds": seconds,
            **method.describe(state),
            "fitted": method.update_reads if earlier and updates else "on all images",
            **_changes(before, set(train.image_ids)),
            **({"most_images": most} if most is not None else {}),
            **({"maps": {"md": sheet}} if sheet else {}),
            **({"losses": {"md": f"![losses]({plot_uri(detector.name, curves)})"}} if curves else {}),
        }

    return Stage(
        key=(dataset.name, detector.name, kind),
        kind=kind,
        config={"version": VERSION, **config},
        deps=(features,),
        address=parts,
        build=build,
        partitions=features.partitions,
        pool=GPU,
        group=f"{dataset.name}/{detector.name}",
        kinds=frozenset({"torch", "safetensors"}),
        description=f"What {config['method']} learnt from the nominal training images.",
        categories=categories,
    )


def _earlier(work: Work, features: Stage) -> tuple[Artifact | None, set[str]]:
    """What this asset partition was, if made with the same settings on features of the same extractor; its images."""
    head = read_head(work.store, work.stage.key, work.partition)
    if head is None or head.code_version != work.stage.code_version:
        return None, set()
    artifact = work.store.artifact(work.stage.kind, head.version)
    path = artifact.at("train.json")
    if not artifact.exists() or not work.store.exists(path):
        return None, set()
    if is_outdated(artifact.record().get(MADE_OF, {}), work.stage.made_of(work.upstream)):
        return None, set()  # it learnt from features that were those of other bytes
    train = work.store.read_json(path)
    return (artifact, set(train["images"])) if train["features"] == features.code_version else (None, set())


def _changes(before: set[str], now: set[str]) -> dict[str, str]:
    """How the training images differ from those that this asset was last made of."""
    if not before:
        return {}
    changes = [f"{sign}{len(ids)} images" for sign, ids in (("+", now - before), ("-", before - now)) if ids]
    return {"updated": ", ".join(changes)} if changes else {}


def _pictures(maps: dict[str, Tensor]) -> str:
    """Maps as Markdown pictures, each with the numbers that its darkest and brightest colours stand for."""
    texts = []
    for title, values in maps.items():
        low, high = float(values.min()), float(values.max())
        repeat = max(1, PICTURE_SIDE // max(values.shape))
        drawn = pictures.heat_map(values.numpy(), low, high).repeat(repeat, axis=0).repeat(repeat, axis=1)
        texts.append(f"{title}: {low:g} to {high:g}\n\n![{title}]({pictures.data_uri(pictures.to_jpeg(drawn))})")
    return "\n\n".join(texts)


def runtime(work: Work) -> Runtime:
    """The device, budget and progress that a method gets."""
    return runtime_on(work.compute, work.progress)


def runtime_on(compute: Compute, report: ProgressReport) -> Runtime:
    """The same without a build."""
    return Runtime(compute.torch_device(), compute.memory_gb, report)


def read_state(artifact: Artifact, method: Method[Any]) -> State:
    """What a detector has learnt, from the artifact of its state stage."""
    tensors, info = artifact.at("state.safetensors"), artifact.at("state.json")
    with artifact.store.valid_content(info):
        return method.state_type.from_parts(artifact.store.read_tensors(tensors), artifact.store.read_json(info))
