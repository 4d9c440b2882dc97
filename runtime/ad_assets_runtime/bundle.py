"""A bundle: a detector of one category as files, checked before anything of it is used.

bundle = open_bundle("bolt-patchcore")           # a folder, or its .zip
bundle.predict("new.png").anomalous

`open_bundle` reads each file once, compares it with the size and hash in ``bundle.json`` and uses what it has read.
Then it scores the self-test's images on this very machine: another Pillow, or arithmetic in bfloat16, gives other
scores, and such a bundle is refused.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ad_assets_runtime.bundle_files import MANIFEST, NOMINAL, REGION, BundleError, BundleFiles, Read, parse_manifest
from ad_assets_runtime.conformal import p_values
from ad_assets_runtime.decoding import ImageDecoding
from ad_assets_runtime.engines import Engine, EngineError, EngineName, open_engine
from ad_assets_runtime.geometry import Interpolation, Mask, Resize, fit_image
from ad_assets_runtime.graph_file import GraphFileError, check_plain
from ad_assets_runtime.identity import content_id, content_of
from ad_assets_runtime.images import ImageError, RgbImage, opened
from ad_assets_runtime.prediction import Prediction
from ad_assets_runtime.selftest import check_scores

__all__ = ["MANIFEST", "Bundle", "BundleError", "Inspected", "load_bundle", "open_bundle"]

ScoreMap = NDArray[np.float32]


@dataclass(frozen=True)
class Geometry:
    """What brings images into the frame of a member; see `ad_assets_runtime.prediction.Framed`."""

    resize: Resize
    crop: int | None
    interpolation: Interpolation
    frame: tuple[int, int]
    map_size: tuple[int, int]

    @property
    def geometry(self) -> tuple[Resize, int | None]:
        """Resize and crop of images."""
        return self.resize, self.crop

    @property
    def map_geometry(self) -> tuple[Resize, int | None]:
        """Resize and crop of score maps, which have cells instead of pixels where the extractor has tiles."""
        return self.geometry if self.map_size == self.frame else (self.map_size, None)


@dataclass(frozen=True)
class Member:
    """One fitted method of a bundle: its name, its geometry, its graph with its state."""

    name: str
    geometry: Geometry
    engine: Engine


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle that has been checked. Threads may share it.

    Args:
        manifest: content of ``bundle.json``.
        identity: sha256 of ``bundle.json``, which holds the hashes of all else.
        members: its fitted methods; several for ensembles only.
        decoding: how its images are decoded.
        nominal: scores of nominal images and their groups, as `p_values` takes them; None: there are none.
        inspected: ``(H, W)`` bool, the region of interest; None: images are inspected whole.
    """

    manifest: Mapping[str, Any]
    identity: str
    members: tuple[Member, ...]
    decoding: ImageDecoding
    nominal: tuple[NDArray[np.float64], NDArray[np.int64]] | None
    inspected: Mask | None

    @property
    def place(self) -> tuple[str, str, str]:
        """Dataset, lane and category."""
        return self.manifest["dataset"], self.manifest["lane"], self.manifest["category"]

    @property
    def threshold(self) -> float | None:
        """Scores above it are anomalous; None: nothing is decided."""
        value: float | None = self.manifest["decision"]["threshold"]
        return value

    @property
    def pixel_threshold(self) -> float | None:
        """Scores of the map above it are defect regions; None: none is told."""
        value: float | None = self.manifest["decision"]["pixel_threshold"]
        return value

    @property
    def colours(self) -> tuple[float, float] | None:
        """Scores that pictures show as the lowest and highest colour; None: not known."""
        scale = self.manifest.get("colours")
        return (float(scale[0]), float(scale[1])) if scale else None

    @property
    def champion(self) -> Mapping[str, str]:
        """Address of its state, since when it is champion (ISO 8601), and why: empty where it is none."""
        own = {"state": "+".join(member["address"] for member in self.manifest["members"]), "since": "", "reason": ""}
        return own | (self.manifest.get("champion") or {})

    def score(self, rgb: RgbImage) -> tuple[ScoreMap, float]:
        """Score map ``(h, w)`` float32 and image score of a decoded image ``(H, W, 3)`` uint8."""
        maps, scores = self.member_scores(rgb)
        fuse = self.manifest.get("fuse")
        if not fuse:
            return maps[0], scores[0]
        # As `ad_assets.methods.ensemble.fuse`: sums in float64, rounded once at the end.
        scale = list(zip(fuse["mean"], fuse["std"], strict=True))
        whole = sum((m.astype(np.float64) - mean) / std for m, (mean, std) in zip(maps, scale, strict=True))
        mean_score = sum((score - mean) / std for score, (mean, std) in zip(scores, scale, strict=True)) / len(scores)
        return np.asarray(whole / len(maps)).astype(np.float32), float(np.float32(mean_score))

    def member_scores(self, rgb: RgbImage) -> tuple[list[ScoreMap], list[float]]:
        """As `score`, of each member, before they are fused."""
        fitted: dict[Geometry, NDArray[np.uint8]] = {}
        maps, scores = [], []
        for member in self.members:
            own = member.geometry
            if own not in fitted:
                fitted[own] = fit_image(rgb, *own.geometry, own.interpolation)[None]
            score_map, score = member.engine.run(fitted[own])
            maps.append(score_map)
            scores.append(score)
        return maps, scores

    def decode(self, data: bytes, name: str) -> tuple[str, RgbImage]:
        """Id and pixels ``(H, W, 3)`` uint8 of an image file.

        Raises:
            ImageError: it cannot be read, or is of another size than the region of interest.
        """
        image_id, rgb = self.decoding.identified(data, name)
        if self.inspected is not None and rgb.shape[:2] != self.inspected.shape:
            (h, w), (height, width) = rgb.shape[:2], self.inspected.shape
            raise ImageError(
                name,
                f"is of {w} x {h}, and what to inspect is known of images of {width} x {height} alone, the size of the "
                "region of interest",
            )
        return image_id, rgb

    def predict(self, image: str | Path | bytes, *, name: str = "image 1") -> Prediction:
        """Score one image file.

        Args:
            image: its path, or its bytes.
            name: of bytes, in errors.

        Raises:
            ImageError: it cannot be read; the message names it.
        """
        if not isinstance(image, bytes):
            name = str(image)
            try:
                image = Path(image).read_bytes()
            except OSError as error:
                raise ImageError(name, f"cannot be read: {error.strerror or error}") from error
        return self.inspect(image, name, {}).prediction

    def inspect(self, data: bytes, name: str, decided: Mapping[str, str]) -> Inspected:
        """Score the bytes of an image file, and keep what it was decoded to.

        Args:
            data: the file's bytes.
            name: of the image.
            decided: sha256 of the files that a person called a false alarm -> when (ISO 8601).

        Raises:
            ImageError: it cannot be read; the message names it.
        """
        started = time.perf_counter()
        image_id, rgb = self.decode(data, name)
        decoded = time.perf_counter()
        score_map, score = self.score(rgb)
        scored = time.perf_counter()
        nominal = self.nominal
        p_value = None if nominal is None else float(p_values([score], nominal[0], nominal[1].tolist())[0])
        above = self.threshold is not None and score > self.threshold
        prediction = Prediction(
            name,
            score,
            self.threshold,
            p_value,
            score_map,
            (rgb.shape[0], rgb.shape[1]),
            self.members[0].geometry,
            {"decode": decoded - started, "score": scored - decoded},
            self.pixel_threshold,
            self.inspected,
            decided.get(content_of(image_id), "") if above else "",
        )
        return Inspected(self, prediction, image_id, rgb, data)


@dataclass(frozen=True, eq=False)
class Inspected:
    """An image that was scored: by which bundle, with what result, its id, its pixels and the bytes of its file."""

    bundle: Bundle
    prediction: Prediction
    image_id: str
    rgb: RgbImage
    data: bytes


def open_bundle(
    folder: str | Path, *, selftest: bool = True, engine: EngineName = "onnxruntime", threads: int | None = None
) -> Bundle:
    """Read, check and load a bundle.

    Args:
        folder: the bundle, or its ``.zip``.
        selftest: whether its self-test must pass on this machine.
        engine: what runs its graphs.
        threads: of one image; None: as many as the engine takes.

    Raises:
        BundleError: a file is missing or was changed, the format is unknown, the graph is not plain, or the self-test
            gives other scores than those of the project that exported it.
    """
    path = Path(folder)
    try:
        with _reading(path) as read:
            return load_bundle(read, selftest=selftest, engine=engine, threads=threads)
    except zipfile.BadZipFile as error:
        raise BundleError(
            f"{path}: no whole .zip ({error}): copy it again, or name the folder of a bundle, with its {MANIFEST}"
        ) from error
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error


@contextmanager
def _reading(path: Path) -> Iterator[Read]:
    """What reads the files of a folder or a ``.zip``."""
    if path.is_file():
        with zipfile.ZipFile(path) as archive:
            yield archive.read
    elif path.exists():
        yield lambda name: (path / name).read_bytes()
    else:
        raise BundleError("no such file or folder")


def load_bundle(
    read: Read,
    *,
    selftest: bool = True,
    engine: EngineName = "onnxruntime",
    threads: int | None = None,
    champion: Mapping[str, str] | None = None,
) -> Bundle:
    """As `open_bundle`, of files that `read` has by their paths in the bundle.

    Args:
        read: gives the content of a file; raises OSError or KeyError where there is none.
        selftest: as there.
        engine: as there.
        threads: as there.
        champion: state, since and reason, where these are told elsewhere than in the bundle.
    """
    try:
        text = read(MANIFEST)
    except (OSError, KeyError) as error:
        raise BundleError(f"{MANIFEST} is missing: copy the whole bundle") from error
    manifest = parse_manifest(text)
    if champion is not None:
        manifest["champion"] = dict(champion)
    try:
        bundle = _loaded(BundleFiles(read, manifest["files"]), manifest, content_id(text), engine, threads, selftest)
    except BundleError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise BundleError(f"{MANIFEST} lacks what this release reads ({error}): export the bundle again") from error
    return bundle


def _loaded(
    files: BundleFiles, manifest: dict[str, Any], identity: str, engine: EngineName, threads: int | None, selftest: bool
) -> Bundle:
    decoding = manifest["image"]["decoding"]
    bundle = Bundle(
        manifest,
        identity,
        tuple(_member(files, entry, engine, threads) for entry in manifest["members"]),
        ImageDecoding(decoding["bit_depth"], decoding["turn"]),
        _nominal(files),
        _region(files[REGION]) if REGION in files else None,
    )
    if not bundle.members or (len(bundle.members) > 1) != bool(manifest.get("fuse")):
        rule = "a" if manifest.get("fuse") else "no"
        raise BundleError(f"{MANIFEST} has {len(bundle.members)} members and {rule} rule to fuse them")
    _ = bundle.place, bundle.threshold, bundle.pixel_threshold, bundle.champion, bundle.colours
    if selftest:
        check_scores(files, bundle)
    return bundle


def _member(files: BundleFiles, entry: Mapping[str, Any], engine: EngineName, threads: int | None) -> Member:
    resize = entry["geometry"]["resize"]
    geometry = Geometry(
        resize if isinstance(resize, int) else _size(resize),
        entry["geometry"]["crop"],
        entry["geometry"]["interpolation"],
        _size(entry["frame"]),
        _size(entry["map_size"]),
    )
    graph, state = files[entry["graph"]], files.tensors(entry["state"])
    try:
        check_plain(graph)
        return Member(entry["name"], geometry, open_engine(engine, graph, state, threads))
    except (GraphFileError, EngineError) as error:
        raise BundleError(f"{entry['graph']}: {error}") from error


def _nominal(files: BundleFiles) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    if NOMINAL not in files:
        return None
    tensors = files.tensors(NOMINAL)
    return (tensors["scores"], tensors["groups"]) if len(tensors["scores"]) else None


def _region(data: bytes) -> Mask:
    try:
        with opened(data, REGION) as image:
            return np.asarray(image.convert("L")) > 127
    except ImageError as error:
        raise BundleError(str(error)) from error


def _size(pair: Any) -> tuple[int, int]:
    height, width = pair
    return int(height), int(width)
