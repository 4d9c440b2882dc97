"""What a detector learnt from the nominal training images: memory bank, template set or trained model."""

from __future__ import annotations

import time
from typing import Any

from ad_assets.config import Dataset
from ad_assets.defs.features import read_features
from ad_assets.defs.stages import Parts, Stage, Upstream, Work
from ad_assets.methods import Method, Runtime, State

VERSION = 1


def state_stage(dataset: Dataset, detector: str, method: Method[Any], features: Stage) -> Stage:
    """The asset ``<dataset>/<detector>/<memory_bank | template_set | trained_model>``."""

    def parts(upstream: Upstream) -> Parts:
        # A new test image leaves the state's address as it was.
        return {"train": upstream.of(features).parts["train"]}

    def build(work: Work) -> dict[str, Any]:
        train = read_features(work, features, "train")
        started = time.perf_counter()
        state = method.fit(train, runtime(work))
        seconds = time.perf_counter() - started
        work.store.write_tensors(work.artifact.at("state.safetensors"), state.tensors())
        work.store.write_json(work.artifact.at("state.json"), state.info())
        return {**method.describe(state), "training_images": len(train), "fit_seconds": seconds}

    return Stage(
        key=(dataset.name, detector, method.state_asset),
        kind=method.state_asset,
        config={"version": VERSION, **method.stage_config("fit")},
        deps=(features,),
        address=parts,
        build=build,
        partitions=features.partitions,
        group=f"{dataset.name}/{detector}",
        kinds=frozenset({"torch", "safetensors"}),
        description=f"What {method.name} learnt from the nominal training images.",
    )


def runtime(work: Work) -> Runtime:
    """The device, budget and progress that a method gets."""
    return Runtime(work.compute.torch_device(), work.compute.memory_gb, work.progress)


def read_state(work: Work, stage: Stage, method: Method[Any]) -> State:
    """The stored state of a detector."""
    artifact = work.input(stage)
    tensors = work.store.read_tensors(artifact.at("state.safetensors"))
    return method.state_type.from_parts(tensors, work.store.read_json(artifact.at("state.json")))
