"""Files of backbone features, one an image and packed in shards, and those read or written lately."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING

from ad_assets.backbones.extractor import Extractor
from ad_assets.methods import Features
from ad_assets.settings.compute import Compute
from ad_assets.store.shard_writer import ShardWriter
from ad_assets.store.store import Artifact, ArtifactStore, CorruptArtifactError

if TYPE_CHECKING:
    from torch import Tensor

IMAGES = "features.json"
CACHED = 1e9 / 4  # bytes a GB of the budget: the rest is for the methods' own temporary tensors
HASHED_MARK, REMADE_MARK = "+", "-"  # before the seconds in a feature file, whose length they leave as it was


def feature_path(address: str, image_id: str) -> str:
    """By which the features of one image are read, though they lie in a shard."""
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


def sound_features(store: ArtifactStore, prefix: str, wanted: set[str]) -> set[str]:
    """Those of some features that are stored; all of an extractor have one size, what has another is looked into."""
    files = store.files(prefix)
    usual = max(Counter(file.size for file in files).items(), key=lambda item: item[1], default=(0, 0))[0]
    own = (file for file in files if file.path in wanted)
    return {file.path for file in own if (usual and file.size == usual) or store.holds_tensors(file.path)}


def drop_damaged(store: ArtifactStore, paths: Iterable[str]) -> set[str]:
    """Delete those of some features whose checksums do not match, and return them; all are read."""

    def is_damaged(path: str) -> bool:
        try:
            store.checksum(path)
        except (CorruptArtifactError, FileNotFoundError):
            return True
        return False

    listed = sorted(paths)
    damaged = {path for path, bad in zip(listed, store.each(is_damaged, listed, threads=4), strict=True) if bad}
    store.delete(sorted(damaged))
    return damaged


def unhashed(store: ArtifactStore, paths: Iterable[str]) -> set[str]:
    """Those of some features that an earlier release stored, which did not hash what it read: of any bytes."""
    return {path for path, mark in _marks(store, paths) if mark not in (HASHED_MARK, REMADE_MARK)}


def noted(store: ArtifactStore, paths: Iterable[str], mark: str) -> list[str]:
    """The images of those features that carry a mark, sorted."""
    return sorted(PurePosixPath(path).stem for path, own in _marks(store, paths) if own == mark)


def seconds_of(store: ArtifactStore, paths: Sequence[str]) -> list[float]:
    """What each of some features took."""
    return [abs(float(notes["seconds"])) for notes in store.read_many_notes(paths)]


def _marks(store: ArtifactStore, paths: Iterable[str]) -> list[tuple[str, str]]:
    """Path and mark of each of some features."""
    listed = list(paths)
    return [(path, notes["seconds"][:1]) for path, notes in zip(listed, store.read_many_notes(listed), strict=True)]


def _differ(store: ArtifactStore, address: str, image_id: str, taps: Sequence[Tensor]) -> bool:
    """Whether the stored taps of an image are others, or were noted to be so before."""
    import torch

    path = feature_path(address, image_id)
    try:
        if noted(store, [path], REMADE_MARK):
            return True
        stored = store.read_tensors(path)
    except CorruptArtifactError:  # unknown, and so to be made again
        return True
    own = {f"tap{level}": tap for level, tap in enumerate(taps)}
    return stored.keys() != own.keys() or not all(torch.equal(stored[name], own[name].cpu()) for name in own)


def write_features(store: ArtifactStore, address: str, image_id: str, taps: Sequence[Tensor], seconds: float) -> None:
    """Store the taps of one image, each (C, H, W), and the seconds that it took, as a file of its own."""
    path, tensors = feature_path(address, image_id), _named(taps)
    _CACHE.drop(store.location(path))
    store.write_tensors(path, tensors, {"seconds": _noted_seconds(HASHED_MARK, seconds)})


def known_features(store: ArtifactStore, address: str, image_id: str) -> list[Tensor] | None:
    """The stored taps of one image, each (C, H, W); None where there are none, or damaged ones."""
    path = feature_path(address, image_id)
    if not store.exists(path):
        return None
    try:
        return _taps_of(store.read_tensors(path))
    except CorruptArtifactError:
        return None


def write_extracted(
    store: ArtifactStore,
    shards: ShardWriter,
    address: str,
    image_id: str,
    taps: Sequence[Tensor],
    seconds: float,
    doubtful: bool,
    memory_gb: float,
) -> None:
    """Pack the taps of one image, and keep them for the stages of the same run; note whether what is doubtful differed.

    Threads may call it. The taps are copied: they hold on to no batch.
    """
    remade = doubtful and _differ(store, address, image_id, taps)
    own = [tap.clone() for tap in taps]
    path = feature_path(address, image_id)
    _CACHE.drop(store.location(path))
    shards.add(path, _named(own), {"seconds": _noted_seconds(REMADE_MARK if remade else HASHED_MARK, seconds)})
    _CACHE.put(store.location(path), own, memory_gb * CACHED)


def forget_features(store: ArtifactStore, address: str, image_ids: Iterable[str]) -> None:
    """Let go of features in memory and of what is known of their shards, which another process has written anew."""
    for image in image_ids:
        _CACHE.drop(store.location(feature_path(address, image)))
    store.look(f"features/{address}")


def _named(taps: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"tap{level}": tap for level, tap in enumerate(taps)}


def _taps_of(named: Mapping[str, Tensor]) -> list[Tensor]:
    return [named[f"tap{level}"] for level in range(len(named))]


def _noted_seconds(mark: str, seconds: float) -> str:
    """Seconds as features note them. The mark says that the image's bytes were hashed when they were read: features of
    earlier releases have none."""
    # Of one length, so that all features of an extractor are files of one size.
    return f"{mark}{seconds:012.6f}"


class _Cache:
    """Feature tensors written or read lately, so that the stages of one run read each file once, or never.

    Bounded in bytes. Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._entries: OrderedDict[str, list[Tensor]] = OrderedDict()
        self._bytes = 0

    def get(self, path: str) -> list[Tensor] | None:
        with self._lock:
            if path in self._entries:
                self._entries.move_to_end(path)
            return self._entries.get(path)

    def drop(self, path: str) -> None:
        with self._lock:
            self._drop(path)

    def put(self, path: str, taps: list[Tensor], budget: float) -> None:
        with self._lock:
            self._drop(path)
            self._entries[path] = taps
            self._bytes += size_of(taps)
            while self._bytes > budget and self._entries:
                self._drop(next(iter(self._entries)))

    def _drop(self, path: str) -> None:
        self._bytes -= size_of(self._entries.pop(path, []))


def size_of(taps: Sequence[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(tap.nbytes for tap in taps)


_CACHE = _Cache()


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


def stacked(images: Sequence[Sequence[Tensor]], positions: tuple[int, ...] | None) -> list[Tensor]:
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
            found[path] = _taps_of(tensors)
            _CACHE.put(store.location(path), found[path], memory_gb * CACHED)
    return [found[path] for path in paths]
