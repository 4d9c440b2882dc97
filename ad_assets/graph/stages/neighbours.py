"""The matches of a category's images in a memory bank, kept so that another way of scoring costs no search.

In shards of a few images, as score maps are. Detectors with the same bank and search share one artifact.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ad_assets.config.benchmark import Dataset, Detector, fingerprint
from ad_assets.graph.stage import GPU, MethodSettings, Parts, Stage, Upstream, Work, settings_of_lane
from ad_assets.graph.stages.earlier import earlier_of
from ad_assets.graph.stages.features import read_features
from ad_assets.graph.stages.fitted_state import read_state, runtime_of
from ad_assets.graph.stages.joint_bank import images_joined
from ad_assets.methods import Features, LoadMatches, Matches, Method, State
from ad_assets.methods.data import by_image, together
from ad_assets.methods.growth import Matched, match_grown
from ad_assets.methods.memory_bank.bank import MemoryBank
from ad_assets.report.joint import OWN_CATEGORY
from ad_assets.store.store import Artifact

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 3
INDEX = "images.json"
SHARD_IMAGES = 32
KIND = "neighbours"


def neighbours_stage(dataset: Dataset, detector: Detector, state: Stage, features: Stage) -> Stage | None:
    """The asset ``<dataset>/<detector>/neighbours``; None for methods that score features directly."""
    method = detector.method
    if method is None or not method.matched:
        return None
    settings, own_settings = settings_of_lane(detector, lambda each: MethodSettings(VERSION, each, "match"))
    splits = method.matched
    # A joint bank stands for a category once it holds the category's own state.
    joined = state.deps if state.partitions is None else ()

    def parts(upstream: Upstream) -> Parts:
        images = upstream.of(features).parts
        # Images that both train and are tested are matched once.
        matched = sorted({images[split] for split in splits})
        return {"state": upstream.of(state).version, "images": fingerprint(matched)}

    def build(work: Work) -> dict[str, Any]:
        method = work.settings.method
        own = images_joined(work.input(state), work.partition, state.name) if joined else None
        images = [read_features(work, features, split, method.layers) for split in method.matched]
        ids = tuple(sorted({image_id for each in images for image_id in each.image_ids}))
        fitted = read_state(work.input(state), method)
        made = _write(work, state, fitted, replace(images[0], image_ids=ids))
        nominal = read_features(work, features, "train", method.layers)
        made |= method.search_quality(fitted, nominal, runtime_of(work))
        if own is None or not isinstance(fitted, MemoryBank):
            return made
        share = _share_of_own(fitted, work.artifact, read_features(work, features, "test", method.layers), own)
        return {**made, **({OWN_CATEGORY: share} if share is not None else {})}

    return Stage(
        key=(dataset.name, detector.name, KIND),
        kind=KIND,
        settings=settings,
        deps=(state, features, *joined),
        address=parts,
        build=build,
        partitions=features.partitions,
        pool=GPU,
        group=f"{dataset.name}/{detector.lane}",
        kinds=frozenset({"torch", "safetensors"}),
        description="The nearest rows of the memory bank for every patch: distances and row numbers, nearest first.",
        own_settings=own_settings,
    )


def _shard_path(artifact: Artifact, number: int) -> str:
    return artifact.at(f"neighbours-{number:05d}.safetensors")


def _write(work: Work, stage: Stage, state: State, images: Features) -> dict[str, Any]:
    """Match all images and store the matches, shard by shard; shards of an interrupted run are kept."""
    artifact, ids, method = work.artifact, images.image_ids, work.settings.method
    shards = dict(enumerate(ids[first : first + SHARD_IMAGES] for first in range(0, len(ids), SHARD_IMAGES)))
    sound = set() if work.force else artifact.sound_tensors()
    stored = {n for n in shards if _shard_path(artifact, n) in sound}
    missing = {number: own for number, own in shards.items() if number not in stored}
    wanted = tuple(image_id for own in missing.values() for image_id in own)
    waiting = list(missing)
    pending: dict[str, Matches] = {}
    started = time.perf_counter()
    matched, earlier = _matched(work, stage, method, state, replace(images, image_ids=wanted))
    for batch, matches in matched:
        pending |= by_image(batch, matches)
        while waiting and len(pending) >= len(missing[waiting[0]]):
            number = waiting.pop(0)
            work.store.write_tensors(_shard_path(artifact, number), dict(together(missing[number], pending)))
            for image_id in missing[number]:
                del pending[image_id]
    seconds = time.perf_counter() - started
    work.store.write_json(artifact.at(INDEX), {"image_ids": list(ids), "shard_images": SHARD_IMAGES})
    # How long a new image takes is not told by what was kept of earlier ones.
    rate = earlier.facts().get("images_per_second") if earlier else len(wanted) / seconds if wanted else None
    return {
        "images": len(ids),
        "bytes": sum(artifact.present_files().values()),
        **({"images_per_second": rate} if rate else {}),
        **({"searched": "what came since the neighbours before"} if earlier else {}),
    }


def _matched(
    work: Work, stage: Stage, method: Method[Any], state: State, images: Features
) -> tuple[Matched, Artifact | None]:
    """The matches of images, and the neighbours before, if these were kept and the state alone grew."""
    runtime = runtime_of(work)
    here = state.to(runtime.device)
    match = partial(method.match, here, runtime=runtime)
    earlier = earlier_of(work, stage)
    growth = method.growth(here, read_state(earlier.state, method), runtime) if earlier else None
    if earlier is None or growth is None:
        return match(images), None
    load = read_matches(earlier.artifact)
    return match_grown(growth, images, matched_images(earlier.artifact), load, match), earlier.artifact


def _share_of_own(bank: MemoryBank, matched: Artifact, test: Features, own: Collection[str]) -> float | None:
    """The part of the patches of test images whose nearest row comes from some images; None where that is not known."""
    import torch

    if not len(test) or bool((bank.source < 0).any()):
        return None
    of_own = torch.tensor([image_id in own for image_id in bank.image_ids])[bank.source]
    load, found = read_matches(matched), []
    for first in range(0, len(test), SHARD_IMAGES):
        rows = load(test.image_ids[first : first + SHARD_IMAGES])["rows"][:, :, 0].long()
        found.append(of_own[rows].double().mean(dim=1))
    return float(torch.cat(found).mean())


def _read_index(artifact: Artifact) -> tuple[list[str], int]:
    """The images in order, and how many a shard holds."""
    path = artifact.at(INDEX)
    with artifact.store.valid_content(path):
        stored = artifact.store.read_json(path)
        return stored["image_ids"], stored["shard_images"]


def matched_images(artifact: Artifact) -> set[str]:
    """The ids of the images whose matches are there."""
    return set(_read_index(artifact)[0])


def read_matches(artifact: Artifact) -> LoadMatches:
    """Reads the matches of images, by their ids."""
    ids, size = _read_index(artifact)
    position = {image_id: number for number, image_id in enumerate(ids)}

    def load(image_ids: Sequence[str]) -> dict[str, Tensor]:
        import torch

        numbers = [divmod(position[image_id], size) for image_id in image_ids]
        read = {n: artifact.store.read_tensors(_shard_path(artifact, n)) for n in dict.fromkeys(n for n, _ in numbers)}
        return {name: torch.stack([read[n][name][row] for n, row in numbers]) for name in next(iter(read.values()))}

    return load


def seconds_each(neighbours: Artifact) -> float:
    """The seconds that matching one image took."""
    rate = neighbours.facts().get("images_per_second")
    return 1 / rate if rate else 0.0
