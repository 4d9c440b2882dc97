"""CIFAR-10 as ten one-class problems: the protocol of SimpleNet (Liu et al., CVPR 2023, table 4).

A category is a class: its 5000 training images are nominal, and all 10,000 test images are tested, those of the nine
other classes as anomalies of that type. So each test image is in all ten categories, with different labels. There are
no masks, hence no pixel metrics.

`prepare` unpacks the public **binary** version (Krizhevsky, "Learning multiple layers of features from tiny images",
2009) from `source` into PNG files below `root`, named by their position in it. The Python version is refused: it is
pickled, and loading a pickle can run any code.
"""

from __future__ import annotations

import lzma
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad_assets.datasets.base import Candidate, Problem, ProgressReport, register_reader
from ad_assets.datasets.names import NOMINAL, is_image
from ad_assets.datasets.readers.published import count_problem
from ad_assets.datasets.readers.unpacking import UnpackedReader, make_once
from ad_assets.settings.home import without_tilde

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNTS = {"nominal train": 5000, "nominal test": 1000, "anomalous test": 9000}
BATCHES = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}
META = "batches.meta.txt"
PIXELS = 3 * 32 * 32
BATCH_RECORDS = 10_000
REPORT_EVERY = 1000

_PICKLES = frozenset({"data_batch_1", "test_batch", "batches.meta"})
_LABELS = {0: "nominal", 1: "anomalous", None: "unlabelled"}
_FOLDER = "cifar-10-batches-bin"
_PATH = re.compile(r"(?P<split>train|test)/(?P<kind>[^/]+)/[^/]+")
Split = Literal["train", "test"]


@register_reader
class Cifar10OneClassReader(UnpackedReader):
    """Reader of the unpacked images."""

    name: ClassVar[str] = "cifar10_one_class"
    version: ClassVar[int] = 1
    paper_dataset: ClassVar[str | None] = "CIFAR-10 one-class"
    origin: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz (cite Krizhevsky 2009)"
    layout: ClassVar[str] = f"""\
source, as published: cifar-10-binary.tar.gz, or its folder with
  data_batch_{{1,2,3,4,5}}.bin   test_batch.bin   {META}
in root, unpacked from it:
  {{train,test}}/<class>/NNNNN.png   (airplane ... truck)"""
    published_copies: ClassVar[bool] = True

    def categories(self) -> list[str]:
        """The ten classes."""
        return list(CLASSES)

    def prepare(self, category: str | None = None, report: ProgressReport | None = None) -> None:
        """Unpack the images of all classes, since each category tests on all; safe in several processes at once.

        Args:
            category: ignored.
            report: called as ``report(what, done, total)`` from time to time.

        Raises:
            ValueError: the source is missing, damaged or of another version, or root was not unpacked from it.
        """
        del category
        if self.source is None:
            return
        source, facts = without_tilde(self.source), {"reader": self.name, "version": self.version}
        for split in ("train", "test"):
            write = partial(_unpack, source, split, report or (lambda *_: None))
            make_once(without_tilde(self.root) / split, facts, write)

    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        train: dict[str, list[Candidate]] = {kind: [] for kind in CLASSES}
        test: dict[str, list[str]] = {kind: [] for kind in CLASSES}
        for split, kind, path in sorted(_files(paths)):
            if split == "train" and kind in train:
                train[kind].append(Candidate(path, "train", 0, NOMINAL))
            elif split == "test" and kind in test:
                test[kind].append(path)
        nominal = {kind: [Candidate(path, "test", 0, NOMINAL) for path in test[kind]] for kind in CLASSES}
        # The nine other categories share one candidate for each image, to save memory.
        foreign = {kind: [Candidate(path, "test", 1, kind) for path in test[kind]] for kind in CLASSES}
        assigned = {
            category: [
                *train[category],
                *(c for kind in CLASSES for c in (nominal if kind == category else foreign)[kind]),
            ]
            for category in CLASSES
        }
        return {category: candidates for category, candidates in assigned.items() if candidates}

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        problems = [
            Problem(path, f"is not in the folder of a class: expected one of {', '.join(CLASSES)}")
            for _, kind, path in sorted(_files(paths))
            if kind not in CLASSES
        ]
        if self.check_counts:
            counts = Counter(f"{_LABELS[c.label]} {c.split}" for c in candidates)
            problems += [
                count_problem(category, kind, expected, counts[kind])
                for kind, expected in COUNTS.items()
                if counts[kind] != expected
            ]
        return problems


def _files(paths: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Split, class and path of every image."""
    for path in paths:
        match = _PATH.fullmatch(path)
        if match and is_image(path):
            yield match["split"], match["kind"], path


def _unpack(source: Path, split: Split, report: ProgressReport, folder: Path) -> list[str]:
    for kind in CLASSES:
        (folder / kind).mkdir()
    names_read: set[str] = set()
    for name, data in _published(source, (*BATCHES[split], META)):
        names_read.add(name)
        if name == META:
            _check_classes(source, data)
        else:
            labels, images = _records(source, name, data)
            first = BATCHES[split].index(name) * BATCH_RECORDS
            for number, (label, image) in enumerate(zip(labels, images, strict=True), start=first):
                Image.fromarray(image).save(folder / CLASSES[label] / f"{number:05d}.png")
                if number % REPORT_EVERY == 0:
                    report(f"images of {name} unpacked", number - first, len(labels))
    missing = [name for name in (*BATCHES[split], META) if name not in names_read]
    if missing:
        raise ValueError(f"{source} lacks {', '.join(missing)}: download the binary version again")
    return []


def _check_classes(source: Path, data: bytes) -> None:
    named = tuple(data.decode("ascii", errors="replace").split())
    if named != CLASSES:
        raise ValueError(f"{source}: {META} names other classes than {', '.join(CLASSES)}: is it CIFAR-10?")


def _records(source: Path, name: str, data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels (N,) and images (N, 32, 32, 3) of one batch."""
    size = 1 + PIXELS
    if not data or len(data) % size:
        raise ValueError(
            f"{source}: {name} of {len(data)} bytes is not a whole number of records of {size}: download it again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    labels = records[:, 0]
    if labels.max() >= len(CLASSES):
        wrong = int(np.argmax(labels >= len(CLASSES)))
        raise ValueError(f"{source}: {name} has the label {labels[wrong]} in record {wrong}, expected 0 to 9")
    return labels, records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _published(source: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of those of the named files that are there."""
    if source.is_dir():
        folder = source / _FOLDER if (source / _FOLDER).is_dir() else source
        _refuse_pickles(source, (path.name for path in folder.iterdir()))
        for name in names:
            if (folder / name).is_file():
                _check_size(source, name, (folder / name).stat().st_size)
                yield name, (folder / name).read_bytes()
    elif source.is_file():
        yield from _archived(source, names)
    else:
        raise ValueError(
            f"{source} does not exist: name cifar-10-binary.tar.gz, or its folder, as datasets.<name>.source, or set "
            "source: null where root is unpacked already"
        )


def _archived(source: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    # Nothing is extracted: files of known names are read into memory, whatever their folder in the archive.
    seen = set()
    try:
        with tarfile.open(source, "r:*") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                _refuse_pickles(source, (name,))
                stream = archive.extractfile(member) if member.isreg() and name in names else None
                if stream is None:
                    continue
                if name in seen:
                    raise ValueError(f"{source} holds {name} twice: download it again")
                _check_size(source, name, member.size)
                seen.add(name)
                yield name, stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{source}: cannot be read as a tar archive ({error}): download it again") from None


def _check_size(source: Path, name: str, size: int) -> None:
    if size > BATCH_RECORDS * (1 + PIXELS):
        raise ValueError(f"{source}: {name} of {size} bytes is larger than any published file: download it again")


def _refuse_pickles(source: Path, names: Iterator[str] | tuple[str, ...]) -> None:
    if _PICKLES.intersection(names):
        raise ValueError(
            f"{source} is the Python version of CIFAR-10, whose pickles could run any code when loaded: use the "
            "binary version, cifar-10-binary.tar.gz"
        )
