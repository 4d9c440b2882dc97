"""The joint bank of a lane: what another lane has learnt of each category, as one state for all of them.

One asset over all categories. It is joined of the stored states of those that are up to date; the others are named, and
once they are, it is made anew, with all that is scored with it. No image is extracted again, and no state fitted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ad_assets.config.benchmark import Dataset, Detector
from ad_assets.graph.stage import (
    Check,
    CheckReport,
    CheckResult,
    MethodSettings,
    Parts,
    Stage,
    StageError,
    Upstream,
    Work,
)
from ad_assets.graph.stages.fitted_state import (
    INFO,
    TENSORS,
    TRAINING_SET,
    TrainingSet,
    read_state,
    read_training_set,
    runtime_of,
)
from ad_assets.report.joint import JOINED_CATEGORIES
from ad_assets.store.store import Artifact

VERSION = 1
KIND = "joint_bank"
JOINED = "joined.json"
JOINING = 2e-9  # GB a byte of the banks: they are read, and the joint one lies beside them
ALL_JOINED = Check("all_categories", "What was learnt of every category is in it.")


@dataclass(frozen=True)
class JointSettings(MethodSettings):
    """How states are joined, and how they were fitted.

    Args:
        joint: version of the code of the stage.
    """

    joint: int


@dataclass(frozen=True)
class Joined:
    """What a joint bank was made of.

    Args:
        states: category -> address of its state.
        images: category -> ids of the images that this was fitted on.
    """

    states: Mapping[str, str]
    images: Mapping[str, list[str]]

    @property
    def parts(self) -> Parts:
        """The parts of the address of the joint bank."""
        return {f"{category}/state": version for category, version in sorted(self.states.items())}

    def categories_of(self, image_id: str) -> list[str]:
        """The categories that learnt an image, sorted."""
        return sorted(category for category, images in self.images.items() if image_id in images)


def joint_bank_stage(dataset: Dataset, detector: Detector, state: Stage) -> Stage:
    """The asset ``<dataset>/<detector>/joint_bank``.

    Args:
        dataset: the dataset.
        detector: a joint lane.
        state: the stage of the states that it joins.
    """
    settings = JointSettings(VERSION, detector.method_for(""), "fit", VERSION)

    def parts(upstream: Upstream) -> Parts:
        return Joined({category: head.version for category, head in upstream.all(state).items()}, {}).parts

    def build(work: Work) -> dict[str, Any]:
        method = work.settings.method
        versions = {category: head.version for category, head in sorted(work.upstream.all(state).items())}
        artifacts = {category: work.input(state, category) for category in versions}
        size = sum(size for artifact in artifacts.values() for size in artifact.sizes(artifact.record()).values())
        remedy = "choose a smaller coreset_ratio, a larger stride, fewer dimensions, or split the dataset"
        what = f"{len(artifacts)} banks, and the joint one beside them"
        runtime_of(work).check_budget("the joined banks", JOINING * size, what, remedy)
        started = time.perf_counter()
        joint = method.join([read_state(artifact, method) for artifact in artifacts.values()])
        seconds = time.perf_counter() - started
        trained_on = {category: read_training_set(artifact) for category, artifact in artifacts.items()}
        images = {category: learnt.images for category, learnt in trained_on.items() if learnt}
        work.store.write_tensors(work.artifact.at(TENSORS), joint.tensors())
        work.store.write_json(work.artifact.at(INFO), joint.info())
        everything = sorted({image for learnt in images.values() for image in learnt})
        work.store.write_json(
            work.artifact.at(TRAINING_SET), asdict(TrainingSet(state.deps[0].code_version, everything))
        )
        work.store.write_json(work.artifact.at(JOINED), asdict(Joined(versions, images)))
        return {
            JOINED_CATEGORIES: len(versions),
            "categories": ", ".join(versions),
            "training_images": len(everything),
            "join_seconds": seconds,
            **method.describe(joint),
        }

    def answer_checks(work: Work) -> CheckReport:
        lacking = "\n".join(work.upstream.left_out)
        return CheckReport((CheckResult(ALL_JOINED.name, not lacking, {"lacks": lacking or "none"}),))

    return Stage(
        key=(dataset.name, detector.name, KIND),
        kind=KIND,
        settings=settings,
        deps=(state,),
        address=parts,
        build=build,
        partitions=None,
        checks=(ALL_JOINED,),
        answer_checks=answer_checks,
        group=f"{dataset.name}/{detector.lane}",
        kinds=frozenset({"torch", "safetensors"}),
        description=f"The states of {state.key[1]} of all categories as one: every row with its image and place. A "
        "category whose state is not up to date is left out, by name, until it is.",
    )


def read_joined(artifact: Artifact) -> Joined:
    """What a joint bank was made of."""
    path = artifact.at(JOINED)
    with artifact.store.valid_content(path):
        return Joined(**artifact.store.read_json(path))


def images_joined(artifact: Artifact, category: str, name: str) -> list[str]:
    """The ids of the images of a category that a joint bank has learnt.

    Args:
        artifact: the joint bank.
        category: the category.
        name: of the asset, for the message.

    Raises:
        StageError: it has nothing of the category, whose images it would take for anomalous.
    """
    joined = read_joined(artifact)
    if category not in joined.states:
        raise StageError(
            f"{name} has nothing of {category}, only of {', '.join(sorted(joined.states))}: materialize it again"
        )
    return joined.images[category]
