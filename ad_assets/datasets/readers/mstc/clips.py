"""ShanghaiTech Campus as published: clips of scenes, their frames, and the masks of the test clips.

Videos are decoded by PyAV, an optional dependency that unpacked frames do not need. Masks are memory-mapped, since
those of one clip take hundreds of megabytes.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad_assets.datasets.base import ProgressReport
from ad_assets.datasets.decoding import PUBLISHED
from ad_assets.datasets.names import NOMINAL
from ad_assets_runtime.images import ImageError

ANOMALOUS = "anomalous"
VIDEOS, TRAIN_FRAMES = "training/videos", "training/frames"
TEST_FRAMES, PIXEL_MASKS, FRAME_MASKS = "testing/frames", "testing/test_pixel_mask", "testing/test_frame_mask"

_FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
_NAMES = {"train": re.compile(r"(\d{2})_\d{3}"), "test": re.compile(r"(\d{2})_\d{4}")}
# Headers and decoders differ by a frame or two; a video that was cut off lacks many.
_DECODED_SHARE = 0.9
_PNG_LEVEL = 1  # frames are noisy: higher levels take several times as long for a few percent


@dataclass
class Scene:
    """The clips of one scene: name -> video file or folder of frames."""

    train: dict[str, Path] = field(default_factory=dict)
    test: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """The frames of a clip that are used: positions `first`, `first` + `every`, ..., counted from 0."""

    every: int
    first: int

    def takes(self, position: int) -> bool:
        """Whether the frame at this position is used."""
        return position >= self.first and (position - self.first) % self.every == 0


def scenes(source: Path) -> dict[str, Scene]:
    """Scenes by category name, ``scene_01`` and so on, from the names of clips.

    Raises:
        ValueError: the folder is not the published one, or a clip's name has no scene.
    """
    if not any((source / folder).is_dir() for folder in (VIDEOS, TRAIN_FRAMES)):
        raise ValueError(f"{source} holds neither {VIDEOS} nor {TRAIN_FRAMES}: source is the published folder")
    if not (source / TEST_FRAMES).is_dir():
        raise ValueError(f"{source} holds no {TEST_FRAMES}: source is the published folder")
    by_name: dict[str, Scene] = {}
    for path in _entries(source / VIDEOS, ".avi"):
        _scene(by_name, path, "train").train[path.stem] = path
    for path in _entries(source / TRAIN_FRAMES, ""):
        # Unpacked frames take precedence over the video.
        _scene(by_name, path, "train").train[path.name] = path
    for path in _entries(source / TEST_FRAMES, ""):
        _scene(by_name, path, "test").test[path.name] = path
    for folder in (PIXEL_MASKS, FRAME_MASKS):
        for path in _entries(source / folder, ".npy"):
            clip = source / TEST_FRAMES / path.stem
            if _scene(by_name, path, "test").test.setdefault(path.stem, clip) and not clip.is_dir():
                raise ValueError(f"{path}: mask without the frames {TEST_FRAMES}/{path.stem}: copy them, or remove it")
    return dict(sorted(by_name.items()))


def unpack(scene: Scene, source: Path, folder: Path, choice: Choice, report: ProgressReport) -> list[str]:
    """Write the chosen frames of a scene and their masks below `folder`, in the layout of MVTec AD.

    Returns:
        Warnings about frames whose pixel mask and frame mask disagree.

    Raises:
        ValueError: a file is missing or damaged; the message names it.
    """
    good = folder / "train" / NOMINAL
    good.mkdir(parents=True)
    total, done = len(scene.train) + len(scene.test), 0
    for name, path in sorted(scene.train.items()):
        for position, suffix, data in _frames(path, choice):
            (good / f"{name}_{position:05d}{suffix}").write_bytes(data)
        done += 1
        report("clips unpacked", done, total)
    marked, unmarked = [], []
    for name, path in sorted(scene.test.items()):
        for position, anomalous, region in _test_frames(path, name, source, folder, choice):
            if region and not anomalous:
                marked.append(f"{name}_{position:05d}")
            if anomalous and not region:
                unmarked.append(f"{name}_{position:05d}")
        done += 1
        report("clips unpacked", done, total)
    disagreements = (
        (marked, "nominal by the frame mask though the pixel mask marks some pixels; they count as nominal throughout"),
        (unmarked, "anomalous by the frame mask though the pixel mask marks no pixel; their masks are empty"),
    )
    return [f"{len(names)} test frame(s) such as {names[0]}: {message}" for names, message in disagreements if names]


def _entries(folder: Path, suffix: str) -> list[Path]:
    """Sorted files with a suffix, or folders for an empty one; hidden entries are skipped."""
    if not folder.is_dir():
        return []
    shown = (path for path in sorted(folder.iterdir()) if not path.name.startswith((".", "__")))
    return [path for path in shown if (path.is_file() and path.suffix.lower() == suffix if suffix else path.is_dir())]


def _scene(by_name: dict[str, Scene], path: Path, split: str) -> Scene:
    name = path.stem if path.suffix.lower() in (".avi", ".npy") else path.name
    match = _NAMES[split].fullmatch(name)
    if not match:
        expected = "SS_NNN" if split == "train" else "SS_NNNN"
        raise ValueError(f"{path}: clips are called {expected}, two digits of the scene first: rename or remove it")
    return by_name.setdefault(f"scene_{match[1]}", Scene())


def _frames(path: Path, choice: Choice) -> Iterator[tuple[int, str, bytes]]:
    """Position of each chosen frame of a training clip, and the suffix and bytes of its file."""
    if path.is_dir():
        for position, frame in _chosen(_numbered(path), choice):
            yield position, frame.suffix.lower(), _sound(frame)[0]
        return
    for position, rgb in _decoded(path, choice):
        encoded = io.BytesIO()
        Image.fromarray(rgb).save(encoded, "PNG", compress_level=_PNG_LEVEL)
        yield position, ".png", encoded.getvalue()


def _test_frames(clip: Path, name: str, source: Path, folder: Path, choice: Choice) -> Iterator[tuple[int, bool, bool]]:
    """Save each chosen frame of a test clip; yield its position, whether it is anomalous, whether pixels are marked."""
    frames = _numbered(clip)
    label_path, mask_path = source / FRAME_MASKS / f"{name}.npy", source / PIXEL_MASKS / f"{name}.npy"
    labels, masks = _array(label_path, 1), _array(mask_path, 3)
    for path, array in ((label_path, labels), (mask_path, masks)):
        if len(array) != len(frames):
            raise ValueError(f"{path}: is of {len(array)} frames, but {clip} holds {len(frames)}: copy both again")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"{label_path}: holds other values than 0 (nominal) and 1 (anomalous): copy it again")
    for position, frame in _chosen(frames, choice):
        data, shape = _sound(frame)
        if masks.shape[1:] != shape:
            sizes = f"{masks.shape[2]} x {masks.shape[1]} for {frame} of {shape[1]} x {shape[0]}"
            raise ValueError(f"{mask_path}: is of {sizes}: they must have the same size")
        anomalous, mask = bool(labels[position]), np.asarray(masks[position]) != 0
        kind = ANOMALOUS if anomalous else NOMINAL
        to = folder / "test" / kind / f"{name}_{position:05d}{frame.suffix.lower()}"
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(data)
        if anomalous:
            drawn = folder / "ground_truth" / kind / f"{to.stem}_mask.png"
            drawn.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(drawn)
        yield position, anomalous, bool(mask.any())


def _numbered(clip: Path) -> list[Path]:
    """The frames of a clip in order of their numbers, which begin at 0 or 1."""
    frames = sorted(path for path in clip.iterdir() if path.suffix.lower() in _FRAME_SUFFIXES and path.name[0] != ".")
    if not frames:
        raise ValueError(f"{clip} holds no frames FFF.jpg: copy the clip again, or remove it")
    for path in frames:
        if not (path.stem.isascii() and path.stem.isdigit()):
            raise ValueError(f"{path}: frames are called by their number: rename or remove it")
    by_number = {int(path.stem): path for path in frames}
    start = 0 if 0 in by_number else 1
    missing = next((number for number in range(start, start + len(frames)) if number not in by_number), None)
    if missing is not None:
        raise ValueError(f"{clip}: frame {missing} is missing, or another lies there twice: copy the clip again")
    return [by_number[number] for number in sorted(by_number)]


def _chosen(frames: list[Path], choice: Choice) -> list[tuple[int, Path]]:
    return [(position, path) for position, path in enumerate(frames) if choice.takes(position)]


def _sound(path: Path) -> tuple[bytes, tuple[int, int]]:
    """Bytes of an image, and its height and width; decoding it here reports damage while the source is available."""
    try:
        data = path.read_bytes()
        rgb = PUBLISHED.rgb(data, str(path))
    except ImageError as error:
        raise ValueError(str(error)) from None
    return data, (rgb.shape[0], rgb.shape[1])


def _array(path: Path, dimensions: int) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: every test clip has a pixel and a frame mask") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as an array of numbers ({error}): copy it again") from None
    if not isinstance(array, np.ndarray) or array.ndim != dimensions or array.dtype.kind not in "biuf":
        shape = "(frames, height, width)" if dimensions == 3 else "(frames,)"
        actual = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise ValueError(f"{path}: expected numbers of the shape {shape}, found {actual}: copy it again")
    return array


def _decoded(path: Path, choice: Choice) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Position and pixels (H, W, 3) of the chosen frames of a video."""
    try:
        import av
    except ImportError:
        raise ValueError(
            f"{path}: videos are decoded by PyAV, which is not installed: pip install 'ad-assets[video]' (or av), or "
            f"unpack them yourself as {TRAIN_FRAMES}/{path.stem}/000.jpg, ..."
        ) from None
    count = declared = 0
    try:
        # An open file and AVI only, so that a video cannot make the decoder open other files.
        with path.open("rb") as file, av.open(file, mode="r", format="avi") as container:
            if not container.streams.video:
                raise ValueError(f"{path}: has no video stream: copy it again")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            declared = stream.frames
            for count, frame in enumerate(container.decode(stream), start=1):
                if choice.takes(count - 1):
                    yield count - 1, frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    except av.FFmpegError as error:
        raise ValueError(f"{path}: cannot be decoded ({error}): copy it again") from None
    if count < max(1, _DECODED_SHARE * declared):
        raise ValueError(f"{path}: only {count} of {declared or 'its'} frames can be decoded: copy it again")
