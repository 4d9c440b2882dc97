"""Backbone features, one file an image: only images never seen by this extractor pass the backbone."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ad_assets.backbones.backbone import load_backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.view import View
from ad_assets.config.benchmark import Dataset, fingerprint
from ad_assets.datasets.base import Reader
from ad_assets.datasets.files import ImageFiles, read_image_bytes
from ad_assets.graph.provenance import REMADE
from ad_assets.graph.stage import (
    GPU,
    Check,
    CheckReport,
    CheckResult,
    Parts,
    Stage,
    StageError,
    StageSettings,
    Upstream,
    Work,
    read_head,
)
from ad_assets.graph.stages.image_index import images_part, read_index
from ad_assets.methods import Features
from ad_assets.settings.compute import Compute
from ad_assets.store.layout import MARKER
from ad_assets.store.records import recall
from ad_assets.store.store import Artifact, ArtifactStore, CorruptArtifactError
from ad_assets_runtime.images import decoded_batches

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
IMAGES = "features.json"
NOT_FINITE = "another compute.precision, storage: float32, or other weights; the images themselves were read"
HASHED_MARK, REMADE_MARK = "+", "-"  # before the seconds in a feature file, whose length they leave as it was
FINITE = Check("finite", "All features are finite numbers.", blocking=True)


@dataclass(frozen=True)
class FeaturesSettings(StageSettings):
    """The extractor with all that changes features; see `Extractor.identity`."""

    extractor: Extractor

    def address(self) -> dict[str, Any]:
        """As `StageSettings.address`."""
        identity = self.extractor.identity()
        # Beside the others, where it has always been: so features made before stay found.
        return {"version": self.version, "precision": identity.pop("precision"), "extractor": identity}


def features_stage(dataset: Dataset, index: Stage, name: str, extractor: Extractor) -> Stage:
    """The asset ``<dataset>/features/<extractor>``."""
    settings = FeaturesSettings(VERSION, extractor)
    address = features_address(extractor)
    reader, production, own_images = dataset.reader, dataset.production is not None, dataset.own_images

    def parts(upstream: Upstream) -> Parts:
        images = upstream.of(index).parts
        # Labels and masks are not read here: relabelling an image changes nothing.
        return {split: fingerprint([address, images[split]]) for split in ("train", "test")}

    def build(work: Work) -> dict[str, Any]:
        extractor = work.settings.extractor
        rows = read_index(work.input(index))
        images = {row["image_id"]: row for row in rows}
        wanted = {feature_path(address, image) for image in images}
        stored = _sound(work.store, f"features/{address}", wanted)
        doubtful = stored if work.force else _unhashed(work.store, stored) if work.verify else set()
        missing = [image for image in sorted(images) if feature_path(address, image) not in stored - doubtful]
        shapes, odd = _extract(work, reader, address, {image: images[image] for image in missing}, doubtful)
        remade = _remade(work, address, images)
        if odd and not production:
            raise StageError(f"features of {odd[0]} and others are not finite: {NOT_FINITE}")
        split = {name: sorted({row["image_id"] for row in rows if row["split"] == name}) for name in ("train", "test")}
        work.store.write_json(work.artifact.at(IMAGES), {"extractor": address, **split})
        some = [abs(float(work.store.read_notes(feature_path(address, i))["seconds"])) for i in sorted(images)[:200]]
        return {
            "images": len(images),
            "extracted": len(missing),
            "images_per_second": len(some) / sum(some) if some and sum(some) else 0.0,
            "backbone": f"{extractor.backbone} ({extractor.weights})",
            "taps": ", ".join(extractor.taps),
            **View.of(extractor, ((row["height"], row["width"]) for row in rows)).facts(name, own_images),
            **({"tap_shapes": shapes} if shapes else {}),
            **({"not_finite": odd} if odd else {}),
            **({REMADE: remade} if remade else {}),
        }

    def answer_checks(work: Work) -> CheckReport:
        odd = work.artifact.record()["metadata"].get("not_finite", [])
        metadata = {"images": "\n".join(odd[:20]) or "all", "remedy": NOT_FINITE}
        return CheckReport((CheckResult("finite", not odd, metadata),))

    return Stage(
        key=(dataset.name, "features", name),
        kind="features",
        settings=settings,
        deps=(index,),
        address=parts,
        build=build,
        must_rebuild=_must_rebuild,
        shared_files=feature_files,
        answer_checks=answer_checks if production else None,
        checks=(FINITE,) if production else (),
        partitions=index.partitions,
        pool=GPU,
        group=f"{dataset.name}/features",
        kinds=frozenset({"torch", "safetensors"}),
        description=f"Features of {extractor.backbone} ({extractor.weights} weights) at {', '.join(extractor.taps)}, "
        "one file an image, addressed by the image's content and the extractor's settings.",
    )


def features_address(extractor: Extractor) -> str:
    """Under which the features of all images lie; the code version of their asset."""
    return fingerprint(FeaturesSettings(VERSION, extractor).address())


def extractor_of(features: Stage) -> Extractor:
    """The extractor of a features stage."""
    settings = features.settings
    if not isinstance(settings, FeaturesSettings):
        raise TypeError(f"{features.name} extracts no features")
    return settings.extractor


def train_part(address: str, image_ids: Sequence[str]) -> str:
    """The ``train`` part of the head of features whose training images are these."""
    return fingerprint([address, images_part(image_ids)])


def feature_path(address: str, image_id: str) -> str:
    """Where the features of one image lie."""
    return f"features/{address}/{image_id[:2]}/{image_id}.safetensors"


def feature_files(artifact: Artifact) -> list[str]:
    """The paths of the features that an artifact lists, sorted."""
    address, images = read_feature_index(artifact)
    return sorted({feature_path(address, image) for ids in images.values() for image in ids})


def read_feature_index(artifact: Artifact) -> tuple[str, dict[str, list[str]]]:
    """The address of the features that an artifact lists, and split -> image ids, sorted."""
    path = artifact.at(IMAGES)
    with artifact.store.valid_content(path):
        index = artifact.store.read_json(path)
        return index["extractor"], {split: index[split] for split in ("train", "test")}


def _must_rebuild(artifact: Artifact) -> bool:
    """Whether features of an earlier release, or ones that differ, make an extraction again worth while."""
    paths = feature_files(artifact)
    known = artifact.record()["metadata"].get(REMADE, [])
    return bool(_unhashed(artifact.store, paths)) or _noted(artifact.store, paths, REMADE_MARK) != known


def _sound(store: ArtifactStore, prefix: str, wanted: set[str]) -> set[str]:
    """Those of some features that are stored; all of an extractor have one size, what has another is looked into."""
    files = store.files(prefix)
    usual = max(Counter(file.size for file in files).items(), key=lambda item: item[1], default=(0, 0))[0]
    own = (file for file in files if file.path in wanted)
    return {file.path for file in own if (usual and file.size == usual) or store.holds_tensors(file.path)}


def _unhashed(store: ArtifactStore, paths: Iterable[str]) -> set[str]:
    """Those of some features that an earlier release stored, which did not hash what it read: of any bytes."""
    return {path for path in paths if _mark(store, path) not in (HASHED_MARK, REMADE_MARK)}


def _noted(store: ArtifactStore, paths: Iterable[str], mark: str) -> list[str]:
    """The images of those features that carry a mark, sorted."""
    return sorted(PurePosixPath(path).stem for path in paths if _mark(store, path) == mark)


def _mark(store: ArtifactStore, path: str) -> str:
    return store.read_notes(path)["seconds"][:1]


def _remade(work: Work, address: str, images: Collection[str]) -> list[str]:
    """Those of some images whose features were those of other bytes; read from all files where all is verified."""
    if work.verify or work.force:
        return _noted(work.store, (feature_path(address, image) for image in images), REMADE_MARK)
    head = read_head(work.store, work.stage.key, work.partition)
    before = recall(work.store, work.store.artifact("features", head.version).at(MARKER)) if head else None
    return sorted(set((before or {"metadata": {}})["metadata"].get(REMADE, [])) & set(images))


def _extract(
    work: Work,
    reader: Reader,
    address: str,
    rows: dict[str, dict[str, Any]],
    doubtful: Collection[str],
) -> tuple[str, list[str]]:
    """Run the backbone over images and store each one's taps; returns their shapes, and the paths of odd images.

    Of those features that are `doubtful`, it is noted whether they were others.
    """
    if not rows:
        return "", []
    import torch

    compute = work.compute
    extractor: Extractor = work.settings.extractor
    backbone = load_backbone(extractor, compute)
    files, decoding = ImageFiles(reader.root), reader.decoding.of(*rows)
    shapes = ""
    odd: list[str] = []

    def decode(image_id: str) -> tuple[str, Tensor]:
        row = rows[image_id]
        return image_id, backbone.preprocess(decoding.rgb(read_image_bytes(files, row), row["path"]))

    with ThreadPoolExecutor(max_workers=4) as pool:
        done = 0
        for batch in decoded_batches(pool, decode, list(rows), extractor.images_a_batch(compute.batch_size)):
            started = time.perf_counter()
            taps = backbone.extract(torch.stack([pixels for _, pixels in batch]))
            seconds = (time.perf_counter() - started) / len(batch)
            shapes = "; ".join("x".join(map(str, tap.shape[1:])) for tap in taps)
            for row, (image_id, _) in enumerate(batch):
                own = [tap[row] for tap in taps]
                remade = feature_path(address, image_id) in doubtful and _differ(work.store, address, image_id, own)
                write_features(work.store, address, image_id, own, seconds, remade=remade)
                if not all(bool(torch.isfinite(tap[row]).all()) for tap in taps):
                    odd.append(rows[image_id]["path"])
            done += len(batch)
            work.progress("images through the backbone", done, len(rows))
    return shapes, odd


def _differ(store: ArtifactStore, address: str, image_id: str, taps: Sequence[Tensor]) -> bool:
    """Whether the stored taps of an image are others, or were noted to be so before."""
    import torch

    path = feature_path(address, image_id)
    try:
        if _mark(store, path) == REMADE_MARK:
            return True
        stored = store.read_tensors(path)
    except CorruptArtifactError:  # unknown, and so to be made again
        return True
    own = {f"tap{level}": tap for level, tap in enumerate(taps)}
    return stored.keys() != own.keys() or not all(torch.equal(stored[name], own[name].cpu()) for name in own)


def write_features(
    store: ArtifactStore,
    address: str,
    image_id: str,
    taps: Sequence[Tensor],
    seconds: float,
    *,
    remade: bool = False,
) -> None:
    """Store the taps of one image, each (C, H, W), and the seconds that it took.

    The image's bytes were hashed when they were read, which the sign of the seconds notes: files of earlier releases
    have none. `remade`: other taps lay there before.
    """
    # Cloned: a slice would drag the whole batch into the file's buffer.
    tensors = {f"tap{level}": tap.clone() for level, tap in enumerate(taps)}
    # Of one length, so that all features of an extractor are files of one size.
    mark = REMADE_MARK if remade else HASHED_MARK
    _CACHE.drop(store.location(feature_path(address, image_id)))
    store.write_tensors(feature_path(address, image_id), tensors, {"seconds": f"{mark}{seconds:012.6f}"})


class _Cache:
    """Feature tensors read lately, so that the stages of one run read each file once. Bounded in bytes."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, list[Tensor]] = OrderedDict()
        self._bytes = 0

    def get(self, path: str) -> list[Tensor] | None:
        if path in self._entries:
            self._entries.move_to_end(path)
        return self._entries.get(path)

    def drop(self, path: str) -> None:
        self._bytes -= _size(self._entries.pop(path, []))

    def put(self, path: str, taps: list[Tensor], budget: float) -> None:
        self._entries[path] = taps
        self._bytes += _size(taps)
        while self._bytes > budget and self._entries:
            _, dropped = self._entries.popitem(last=False)
            self._bytes -= _size(dropped)


def _size(taps: list[Tensor]) -> int:
    return sum(tap.numel() * tap.element_size() for tap in taps)


_CACHE = _Cache()


def read_features(work: Work, features: Stage, split: str, layers: tuple[int, ...] | None) -> Features:
    """The stored features of one split, in the order of image ids; `layers` as a method has them, from 1."""
    address, images = read_feature_index(work.input(features))
    return stored_features(work.store, work.compute, address, images[split], layers, extractor_of(features))


def stored_features(
    store: ArtifactStore,
    compute: Compute,
    address: str,
    image_ids: Sequence[str],
    layers: tuple[int, ...] | None,
    extractor: Extractor,
) -> Features:
    """The stored features of some images, in their order; `address` is the fingerprint of the extractor's stage."""

    def load(image_ids: Sequence[str], positions: tuple[int, ...] | None) -> list[Tensor]:
        images = _load_images(store, [feature_path(address, image) for image in image_ids], compute.memory_gb)
        return stacked(images, positions)

    return Features(tuple(image_ids), load, extractor.images_a_batch(compute.batch_size), positions_of(layers))


def stacked(images: Sequence[list[Tensor]], positions: tuple[int, ...] | None) -> list[Tensor]:
    """Taps ``(C, h, w)`` of single images as a batch of float32: those at `positions`, from 0; None: all."""
    import torch

    return [torch.stack([image[level] for image in images]).float() for level in positions or range(len(images[0]))]


def positions_of(layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Taps as `Features` counts them, from 0, of layers as methods name them, from 1."""
    return tuple(layer - 1 for layer in layers) if layers else None


def _load_images(store: ArtifactStore, paths: list[str], memory_gb: float) -> list[list[Tensor]]:
    cached = {path: _CACHE.get(store.location(path)) for path in paths}
    found = {path: taps for path, taps in cached.items() if taps is not None}
    absent = [path for path in cached if path not in found]
    if absent:
        for path, tensors in zip(absent, store.read_many_tensors(absent), strict=True):
            found[path] = [tensors[f"tap{level}"] for level in range(len(tensors))]
            # A quarter of the budget: the rest is for the methods' own temporary tensors.
            _CACHE.put(store.location(path), found[path], memory_gb * 1e9 / 4)
    return [found[path] for path in paths]
