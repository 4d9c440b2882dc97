"""Images pass a backbone, and what it makes of each is stored: all in the run's process, or a part in another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ad_assets.backbones.backbone import Backbone, load_backbone
from ad_assets.backbones.extractor import Extractor
from ad_assets.backbones.network_input import network_input
from ad_assets.backbones.turning import VERSION as TURNING_VERSION
from ad_assets.backbones.turning import turned
from ad_assets.config.benchmark import fingerprint
from ad_assets.datasets.base import Reader
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.files import ImageFiles, read_image_bytes
from ad_assets.graph.stage import StageSettings, Work
from ad_assets.graph.stages.feature_files import feature_path, size_of, write_extracted
from ad_assets.settings.compute import Compute
from ad_assets.store.background import BackgroundWrites
from ad_assets.store.shard_writer import ShardWriter
from ad_assets.store.store import ArtifactStore
from ad_assets_runtime.images import decoded_batches

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

WAITING = 1e9 / 8  # bytes a GB of the budget, each of images decoded ahead and of features that wait to be written
PASSING = "images through the backbone"  # as progress calls them

Rows = Mapping[str, Mapping[str, Any]]  # image id -> its row of the image index


@dataclass(frozen=True)
class FeaturesSettings(StageSettings):
    """The extractor with all that changes features; see `Extractor.identity`.

    Args:
        extractor: the extractor.
        turn: degrees, counterclockwise, by which images are turned ahead of it; 0: they are not.
    """

    extractor: Extractor
    turn: int = 0

    def address(self) -> dict[str, Any]:
        """As `StageSettings.address`."""
        identity = self.extractor.identity()
        # Beside the others, where it has always been: so features made before stay found.
        turned = {"turn": [TURNING_VERSION, self.turn]} if self.turn else {}
        return {"version": self.version, "precision": identity.pop("precision"), "extractor": identity, **turned}


@dataclass(frozen=True)
class ExtractionJob:
    """How images become stored features: all that a process has to know beside which images.

    Args:
        settings: those of the stage.
        address: the fingerprint of these, under which features lie.
        compute: device, budgets and batches.
        root: of the images.
        decoding: how their files become pixels.
        store: where features go, as `opened_store` takes it.
        generation: of the shards; see `ShardWriter`.
    """

    settings: FeaturesSettings
    address: str
    compute: Compute
    root: str
    decoding: Decoding
    store: Mapping[str, Any]
    generation: int | None = None

    @classmethod
    def of(cls, work: Work, reader: Reader, images: Iterable[str]) -> ExtractionJob:
        """The job of a features stage for some images."""
        settings, store = work.settings, work.store.model_dump()
        root, store["root"] = _from_anywhere(reader.root), _from_anywhere(store["root"])
        address = fingerprint(settings.address())
        return cls(settings, address, work.compute, root, reader.decoding.of(*images), store)

    @property
    def extractor(self) -> Extractor:
        """The extractor."""
        return self.settings.extractor

    @property
    def folder(self) -> str:
        """Of the features in the store."""
        return f"features/{self.address}"

    @property
    def images_a_batch(self) -> int:
        """Images that pass the backbone at once."""
        return self.extractor.images_a_batch(self.compute.batch_size)

    @property
    def room(self) -> float:
        """Bytes that may wait on either side of the backbone."""
        return self.compute.memory_gb * WAITING

    def pixels(self, files: ImageFiles, row: Mapping[str, Any]) -> npt.NDArray[np.generic]:
        """One image as `Backbone.extract` takes it: ``(3, h, w)``.

        Raises:
            ImageError: it is damaged, or no longer what was indexed.
            OSError: it cannot be read.
        """
        rgb = self.decoding.rgb(read_image_bytes(files, row), row["path"])
        return network_input(self.extractor, turned(rgb, self.settings.turn) if self.settings.turn else rgb)


@dataclass
class Extracted:
    """What has passed the backbone.

    Args:
        shapes: ``(C, h, w)`` of each tap, in words.
        odd: images whose features are not all finite.
        seconds: image id -> the seconds that it took.
    """

    shapes: str = ""
    odd: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, images: Sequence[str], shapes: str, finite: Iterable[bool], seconds: float) -> None:
        """Take in a batch, each of whose images took so many seconds."""
        self.shapes = shapes
        self.odd += [image for image, is_finite in zip(images, finite, strict=True) if not is_finite]
        self.seconds |= dict.fromkeys(images, seconds)


def opened_store(options: Mapping[str, Any]) -> ArtifactStore:
    """A store of a job, in this process."""
    return ArtifactStore.model_validate(dict(options))


def _from_anywhere(root: str) -> str:
    """A root whose name has the same meaning in other working directories."""
    return root if "://" in root or root.startswith("~") else str(Path(root).absolute())


def extract_in_process(work: Work, job: ExtractionJob, rows: Rows, doubtful: set[str]) -> Extracted:
    """Let images pass the backbone in this process, and store the features of each.

    Args:
        work: of the stage.
        job: how.
        rows: the images.
        doubtful: paths of stored features that are made anew: it is noted whether they were others.
    """
    from ad_assets.kernels.parallel import helper_threads

    store, files = work.store, ImageFiles(job.root)
    backbone = load_backbone(job.extractor, job.compute)
    done = Extracted()

    def decode(image_id: str) -> tuple[str, Tensor]:
        import torch

        return image_id, torch.from_numpy(job.pixels(files, rows[image_id]))

    def labelled(batches: Iterable[list[tuple[str, Tensor]]]) -> Iterator[tuple[list[str], Tensor]]:
        for batch in batches:
            yield [image_id for image_id, _ in batch], backbone.stack([pixels for _, pixels in batch])

    threads = max(helper_threads(), files.requests_at_once)
    with (
        ThreadPoolExecutor(threads) as pool,
        closing(
            decoded_batches(pool, decode, list(rows), job.images_a_batch, lambda each: size_of(each[1:]), job.room)
        ) as batches,
        ShardWriter(store, job.folder, doubtful) as shards,
    ):
        for images, shapes, finite, seconds in stored_batches(
            job, store, shards, backbone, labelled(batches), doubtful, job.compute.memory_gb
        ):
            done.add(images, shapes, finite, seconds)
            work.progress(PASSING, len(done.seconds), len(rows))
    return done


def stored_batches(
    job: ExtractionJob,
    store: ArtifactStore,
    shards: ShardWriter,
    backbone: Backbone,
    batches: Iterable[tuple[list[str], Tensor]],
    doubtful: set[str],
    kept_gb: float,
) -> Iterator[tuple[list[str], str, list[bool], float]]:
    """Let batches pass the backbone while threads write what it made of those before; all is written at the end.

    Args:
        job: how.
        store: where features go.
        shards: that take them.
        backbone: of the job's extractor.
        batches: image ids and ``(B, 3, h, w)``.
        doubtful: see `extract_in_process`.
        kept_gb: budget of which a part keeps features in memory for later stages.

    Yields:
        Of each batch its images, the shapes of the taps, whether all features of an image are finite, and the seconds
        that an image took.
    """
    with BackgroundWrites(store.requests_at_once, job.room) as writes:
        for images, found in backbone.extract_each(batches):
            seconds = found.seconds / len(images)
            for row, image in enumerate(images):
                own = [tap[row] for tap in found.taps]
                doubt = feature_path(job.address, image) in doubtful
                write = partial(write_extracted, store, shards, job.address, image, own, seconds, doubt, kept_gb)
                writes.submit(size_of(own), write)
            shapes = "; ".join("x".join(map(str, tap.shape[1:])) for tap in found.taps)
            yield images, shapes, found.finite, seconds
