"""What a detector learnt from the nominal training images: memory bank, template set or trained model.

A training leaves checkpoints in the folder of the artifact that it will become, and keeps the weights of epochs there.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ad_assets.config.benchmark import Dataset, Detector
from ad_assets.graph.provenance import MADE_OF, is_outdated
from ad_assets.graph.stage import GPU, MethodSettings, Parts, Stage, Upstream, Work, settings_of_lane
from ad_assets.graph.stages.feature_files import feature_path
from ad_assets.graph.stages.features import extractor_of, read_features
from ad_assets.graph.stages.image_index import GROUPS, declared_groups, group_parts
from ad_assets.graph.stages.kept_pictures import keep_picture
from ad_assets.graph.stages.region_of_interest import (
    PART,
    learns_inside,
    read_region,
    region_parts,
    region_source,
    region_tensor,
)
from ad_assets.graph.stages.turned_features import Turned, turned_by, turned_parts, with_turned
from ad_assets.methods import Features, Method, Runtime, State
from ad_assets.methods.needs import disk_warning, growth_warning, most_images
from ad_assets.methods.runtime import Checkpoints, ProgressReport
from ad_assets.report import picture_files, pictures
from ad_assets.report.curves import plot
from ad_assets.settings.compute import Compute
from ad_assets.store.layout import CHECKPOINT
from ad_assets.store.store import Artifact, ArtifactStore, CorruptArtifactError

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")
_LOG = logging.getLogger(__name__)
VERSION = 3
TENSORS, INFO, TRAINING_SET = "state.safetensors", "state.json", "train.json"
PICTURE_SIDE = 160
STATES = ("memory_bank", "template_set", "trained_model")  # what a state is called, by what it is in the field


def state_stage(dataset: Dataset, detector: Detector, features: Stage, turned: Turned) -> Stage:
    """The asset ``<dataset>/<detector>/<memory_bank | template_set | trained_model>``.

    Args:
        dataset: the dataset.
        detector: the lane.
        features: of its extractor.
        turned: of the same, of nominal images turned.

    Raises:
        TypeError: the lane is an ensemble, which learns nothing.
    """
    settings, own = settings_of_lane(detector, lambda method: MethodSettings(VERSION, method, "fit"))
    kind, title = settings.method.state_asset, detector.name
    inside = {category: learns_inside(each.method) for category, each in {"": settings, **own}.items()}
    holding = {name: holds_out_groups(dataset, detector, each.method) for name, each in {"": settings, **own}.items()}
    source = region_source(dataset, features) if any(inside.values()) else ()
    source = features.deps[:1] if any(holding.values()) else source
    turns = {category: turned_by(detector, category) for category in ("", *own)}

    def of(values: Mapping[str, Value], category: str | None) -> Value:
        return values.get(category or "", values[""])

    def parts(upstream: Upstream) -> Parts:
        region = region_parts(upstream, source) if of(inside, upstream.partition) else {}
        groups = group_parts(upstream, source) if of(holding, upstream.partition) else {}
        # A new test image leaves the state's address as it was, and where the whole image is learnt another region.
        directions = turned_parts(upstream, turned, of(turns, upstream.partition))
        return {"train": upstream.of(features).parts["train"], **region, **groups, **directions}

    def build(work: Work) -> dict[str, Any]:
        method = work.settings.method
        train = with_turned(read_features(work, features, "train", method.layers), work, turned, method)
        read = parts(work.upstream)
        digest = read.get(PART, "")
        region = region_tensor(read_region(work.store, digest), extractor_of(features))
        train = replace(train, region=region, groups=declared_groups(work.input(source[0])) if GROUPS in read else ())
        earlier, before = _earlier(work, features, digest)
        new = [image for image in train.image_ids if image not in before]
        checkpoints = StoreCheckpoints.of(work, work.artifact)
        runtime = replace(
            runtime_of(work), checkpoints=checkpoints, precision=extractor_of(features).training_precision
        )
        needs = _warned_needs(work, method, train, runtime.memory_gb)
        started = time.perf_counter()
        # An update can add images; what an image that is gone has left behind takes a fit of the others.
        updates = method.updatable and new and before <= set(train.image_ids) and not work.force
        if earlier and updates:
            added = replace(train, image_ids=tuple(new))
            state = method.update(read_state(earlier, method), added, runtime)
        else:
            state = method.fit(train, runtime)
        seconds = time.perf_counter() - started
        work.store.write_tensors(work.artifact.at(TENSORS), state.tensors())
        work.store.write_json(work.artifact.at(INFO), state.info())
        trained_on = TrainingSet(features.code_version, list(train.image_ids), digest, read.get(GROUPS, ""))
        work.store.write_json(work.artifact.at(TRAINING_SET), asdict(trained_on))
        checkpoints.clear()
        curves = method.curves(state)
        return {
            "training_images": len(train),
            "fit_seconds": seconds,
            **method.describe(state),
            "fitted": method.update_reads if earlier and updates else "on all images",
            **_changes(before, set(train.image_ids)),
            **needs,
            **_pictures(work, method.maps(state)),
            **(keep_picture(work, "losses", "losses", plot(title, curves)) if curves else {}),
        }

    return Stage(
        key=(dataset.name, detector.name, kind),
        kind=kind,
        settings=settings,
        deps=(features, *(turned[turn] for turn in sorted(set().union(*turns.values()))), *source),
        address=parts,
        build=build,
        partitions=features.partitions,
        pool=GPU,
        group=f"{dataset.name}/{detector.lane}",
        kinds=frozenset({"torch", "safetensors"}),
        description=f"What {settings.of_method()['method']} learnt from the nominal training images.",
        own_settings=own,
    )


def holds_out_groups(dataset: Dataset, detector: Detector, method: Method[Any] | None) -> bool:
    """Whether declared groups decide which images a method keeps from its training, and so what it learns."""
    asked = dataset.reader.has_groups and dataset.leaves_out_groups(detector)
    return asked and method is not None and method.holds_out


def _earlier(work: Work, features: Stage, region: str) -> tuple[Artifact | None, set[str]]:
    """What this asset partition was, if made with the same settings on features of the same extractor; its images."""
    head = work.before
    if head is None or head.code_version != work.stage.code_version:
        return None, set()
    artifact = work.store.artifact(work.stage.kind, head.version)
    if not artifact.exists():
        return None, set()
    if is_outdated(artifact.record().get(MADE_OF, {}), work.stage.made_of(work.upstream)):
        return None, set()  # it learnt from features that were those of other bytes
    trained_on = read_training_set(artifact)
    if trained_on is None or (trained_on.features, trained_on.region) != (features.code_version, region):
        return None, set()
    return artifact, set(trained_on.images)


def _warned_needs(work: Work, method: Method[Any], train: Features, memory_gb: float) -> dict[str, Any]:
    """What a fit of all images needs, as metadata; warns where it will soon be refused, before an update goes on."""
    from ad_assets.kernels.scratch import free_bytes, scratch_folder

    sample = train.sample()
    most = most_images(lambda images: method.needs(sample, images), memory_gb)
    needs = method.needs(sample, len(train))
    warnings = [growth_warning(len(train), most)] if most is not None else []
    warnings.append(disk_warning(needs, memory_gb, free_bytes(), str(scratch_folder())))
    for warning in filter(None, warnings):
        _LOG.warning("%s, %s: %s", work.stage.name, work.partition, warning)
    return {"fit_needs": needs.sentence(memory_gb), **({"most_images": most} if most is not None else {})}


def _changes(before: set[str], now: set[str]) -> dict[str, str]:
    """How the training images differ from those that this asset was last made of."""
    if not before:
        return {}
    changes = [f"{sign}{len(ids)} images" for sign, ids in (("+", now - before), ("-", before - now)) if ids]
    return {"updated": ", ".join(changes)} if changes else {}


def _pictures(work: Work, maps: dict[str, Tensor]) -> dict[str, dict[str, str]]:
    """Maps as pictures, each with the numbers that its darkest and brightest colours stand for."""
    shown: dict[str, dict[str, str]] = {}
    for number, (title, values) in enumerate(maps.items(), start=1):
        low, high = float(values.min()), float(values.max())
        repeat = max(1, PICTURE_SIDE // max(values.shape))
        drawn = pictures.heat_map(values.numpy(), low, high).repeat(repeat, axis=0).repeat(repeat, axis=1)
        shown |= keep_picture(work, f"map_{number}", f"{title}: {low:g} to {high:g}", picture_files.to_jpeg(drawn))
    return shown


def runtime_of(work: Work) -> Runtime:
    """The device, budget and progress that a method gets."""
    return runtime_on(work.compute, work.progress)


def runtime_on(compute: Compute, report: ProgressReport) -> Runtime:
    """The same without a build."""
    device = compute.torch_device()
    return Runtime(device, compute.memory_gb, report, device_memory_gb=compute.device_budget_gb(device))


def read_state(artifact: Artifact, method: Method[Any]) -> State:
    """What a detector has learnt, from the artifact of its state stage."""
    tensors, info = artifact.at(TENSORS), artifact.at(INFO)
    with artifact.store.valid_content(info):
        return method.state_type.from_parts(artifact.store.read_tensors(tensors), read_info(artifact))


def method_of(state: Stage, category: str) -> Method[Any]:
    """The configured method of a state stage, as a category has it."""
    settings = state.settings_for(category)
    if not isinstance(settings, MethodSettings):
        raise TypeError(f"{state.name} is no state")
    return settings.method


def read_info(artifact: Artifact) -> dict[str, Any]:
    """The values of a state that are no tensors, such as the losses of a training."""
    info: dict[str, Any] = artifact.store.read_json(artifact.at(INFO))
    return info


@dataclass(frozen=True)
class TrainingSet:
    """What a state was fitted on.

    Args:
        features: address of the features.
        images: ids of the images.
        region: content of the region of interest outside which nothing was learnt; empty: whole images were.
        groups: fingerprint of the declared groups that were held out of the training whole; empty: images were alone.
    """

    features: str
    images: list[str]
    region: str = ""
    groups: str = ""

    @property
    def parts(self) -> Parts:
        """What of the image index the state was made of, beside the images."""
        return {part: value for part, value in ((PART, self.region), (GROUPS, self.groups)) if value}

    def feature_files(self) -> set[str]:
        """The paths of their features."""
        return {feature_path(self.features, image) for image in self.images}


def read_training_set(artifact: Artifact) -> TrainingSet | None:
    """What a state was fitted on; None where the store does not say."""
    try:
        return TrainingSet(**artifact.store.read_json(artifact.at(TRAINING_SET)))
    except FileNotFoundError:
        return None


class StoreCheckpoints(Checkpoints):
    """One file a training, renamed into place; the artifact's address says what it is a checkpoint of.

    Args:
        store: where it lies.
        artifact: what the training will become.
        every: steps between two checkpoints.
    """

    def __init__(self, store: ArtifactStore, artifact: Artifact, every: int) -> None:
        super().__init__(every)
        self._store, self._artifact, self._path = store, artifact, artifact.at(CHECKPOINT)
        self._may_lie_there = False

    @classmethod
    def of(cls, work: Work, artifact: Artifact) -> StoreCheckpoints:
        """Those of what is being built; a forced build takes none up."""
        checkpoints = cls(work.store, artifact, work.compute.checkpoint_steps)
        if work.force:
            checkpoints._may_lie_there = True
            checkpoints.clear()
        return checkpoints

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint, or None; a damaged one is as if absent."""
        self._may_lie_there = True
        try:
            # In one go: another process that trains the same may replace or clear it meanwhile.
            tensors, notes = self._store.read_noted_tensors(self._path)
            return tensors, json.loads(notes["info"])
        except FileNotFoundError:
            self._may_lie_there = False
            return None
        except (CorruptArtifactError, KeyError, ValueError) as error:
            _LOG.warning("%s; the training begins anew", error)
            return None

    def save(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Replace the checkpoint; its values lie in the header of the tensors, so that both are of one moment."""
        self._may_lie_there = True
        self._store.write_tensors(self._path, tensors, {"info": json.dumps(info, allow_nan=False)})

    def keep(self, epoch: int, weights: dict[str, Tensor]) -> None:
        """Keep the weights after an epoch, in the artifact of the trained model."""
        self._store.write_tensors(epoch_path(self._artifact, epoch), weights)

    def clear(self) -> None:
        """Delete the checkpoint, if there may be one: whoever keeps any looks for an earlier one first."""
        if self._may_lie_there:
            self._store.delete([self._path])


def epoch_path(artifact: Artifact, epoch: int) -> str:
    """Where the weights after an epoch lie."""
    return artifact.at(f"epochs/{epoch:06d}.safetensors")


def kept_epochs(artifact: Artifact) -> list[int]:
    """The epochs whose weights were kept, ascending."""
    files = artifact.store.files(artifact.at("epochs"))
    return sorted(
        int(file.path.rpartition("/")[2].partition(".")[0]) for file in files if not file.path.endswith(".tmp")
    )
