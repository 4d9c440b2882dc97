"""Extraction on Ray: tasks decode images, and actors that hold the backbone store what it makes of them.

An actor is handed as many images as fill a shard, in the batches of extraction in process, so that a GPU computes the
same. It answers when their features are written. If it dies, Ray hands them to another one, which may write them a
second time: of one generation they are the same features twice.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from ad_assets.backbones.backbone import load_backbone
from ad_assets.config.benchmark import fingerprint
from ad_assets.datasets.files import ImageFiles
from ad_assets.graph.stage import StageError, Work
from ad_assets.graph.stages.extraction import PASSING, Extracted, ExtractionJob, Rows, opened_store, stored_batches
from ad_assets.graph.stages.feature_files import feature_path, forget_features
from ad_assets.graph.stages.ray_cluster import connected
from ad_assets.graph.stages.told_errors import read_error, told_error
from ad_assets.store import shard_format
from ad_assets.store.shard_packing import drop_replaced
from ad_assets.store.shard_writer import ShardWriter, first_generation
from ad_assets_runtime.images import ROOM

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

MOST_DECODED = 64 << 20  # bytes of decoded images that an actor is handed at once, if one batch is no more
# Of a core each has one actor and one task that decodes, which takes about a third of its time.
ACTOR_CORE, TASK_CORE = 0.75, 0.25
FAULT = "fault"  # the column that holds an error in words instead of images

Columns = dict[str, Any]


def extract_on_ray(work: Work, job: ExtractionJob, rows: Rows, doubtful: set[str]) -> Extracted:
    """As `extract_in_process`, by workers of Ray, which write the same features to the same store.

    Raises:
        StageError: Ray is not there, has no GPU though one is asked for, or its workers see another store or would make
            other features.
        Exception: what a worker raised.
    """
    ray, store = connected(work.extract, work.compute), work.store
    resources = ray.cluster_resources()
    gpus = 0 if job.compute.device == "cpu" else int(resources.get("GPU", 0))
    if job.compute.device == "cuda" and not gpus:
        raise StageError("compute.device: cuda is not there: Ray has no GPU; write device: auto or cpu")
    if not gpus:
        job = replace(job, compute=job.compute.model_copy(update={"device": "cpu"}))
    job = replace(job, generation=first_generation(store, job.folder, doubtful))
    at_once = work.extract.actors or gpus or max(1, int(resources.get("CPU", 1)))
    parts = _parts(job, rows, doubtful, at_once)
    decoding, computing = (1, {"num_gpus": 1}) if gpus else (TASK_CORE, {"num_cpus": ACTOR_CORE})
    strategy = ray.data.ActorPoolStrategy(size=min(at_once, len(parts)))
    made = (
        ray.data.from_arrow(parts)
        .map_batches(decoded, batch_size=None, batch_format="numpy", fn_args=(job,), num_cpus=decoding)
        .map_batches(
            BackboneActor,
            batch_size=None,
            batch_format="numpy",
            compute=strategy,
            fn_constructor_args=(job,),
            **computing,
        )
        .iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
    )
    done = Extracted()
    for answer in made:
        _raise_fault(answer)
        images = [str(image) for image in answer["image"]]
        if not done.seconds:
            _check_store(work, job, images)
        for image, shapes, finite, seconds in zip(
            images, answer["shapes"], answer["finite"], answer["seconds"], strict=True
        ):
            done.add([image], str(shapes), [bool(finite)], float(seconds))
        work.progress(PASSING, len(done.seconds), len(rows))
    forget_features(store, job.address, rows)
    _check_store(work, job, rows)
    if doubtful:
        drop_replaced(store, job.folder, doubtful)
    done.odd.sort()
    return done


def _parts(job: ExtractionJob, rows: Rows, doubtful: set[str], at_once: int) -> list[pa.Table]:
    """Images by what an actor is handed at once: whole batches, about a shard, and some for each actor."""
    import pyarrow as pa

    images, size = list(rows), job.images_a_batch
    share = -(-len(images) // (size * at_once))
    count = size * max(1, min(share, _batches_a_shard(job)))
    starts = range(0, len(images), count)
    own = [images[start : start + count] for start in starts]
    return [
        pa.table(
            {
                "image": part,
                "path": [rows[image]["path"] for image in part],
                "doubtful": [feature_path(job.address, image) in doubtful for image in part],
                "batch": [number // size for number in range(len(part))],
            }
        )
        for part in own
    ]


def _batches_a_shard(job: ExtractionJob) -> int:
    extractor, size = job.extractor, job.images_a_batch
    shapes = extractor.tabled_shapes
    if not shapes:
        return 1
    stored = sum(map(prod, shapes)) * (2 if extractor.storage == "float16" else 4)
    decoded = 3 * prod(extractor.input_size) * (1 if extractor.tiles else 4)
    return int(min(shard_format.SHARD // (stored * size), MOST_DECODED // (decoded * size)))


def decoded(rows: Columns, job: ExtractionJob) -> Columns:
    """Images with their pixels, in a task of Ray."""
    import numpy as np

    try:
        ROOM.limit(job.compute.memory_gb)
        files = ImageFiles(job.root)
        asked = [
            {"path": str(path), "image_id": str(image)} for path, image in zip(rows["path"], rows["image"], strict=True)
        ]
        with ThreadPoolExecutor(files.requests_at_once) as pool:
            return {**rows, "pixels": np.stack(list(pool.map(lambda row: job.pixels(files, row), asked)))}
    except Exception as error:  # noqa: BLE001 - raised where the run is
        return _fault(error)


class BackboneActor:
    """Holds the backbone in an actor of Ray."""

    def __init__(self, job: ExtractionJob) -> None:
        self._job = job

    def __call__(self, rows: Columns) -> Columns:
        """Store the features of some decoded images; all are written when it returns."""
        if FAULT in rows:
            return rows
        try:
            return self._stored(rows)
        except Exception as error:  # noqa: BLE001 - raised where the run is
            return _fault(error)

    def _stored(self, rows: Columns) -> Columns:
        import numpy as np

        job, store, done = self._job, opened_store(self._job.store), Extracted()
        if fingerprint(job.settings.address()) != job.address:
            raise StageError(
                f"the worker of Ray on {socket.gethostname()} would make other features of {job.extractor.backbone}: "
                "its weights differ from those of the run; install the same there"
            )
        backbone = load_backbone(job.extractor, job.compute)
        images = [str(image) for image in rows["image"]]
        doubtful = {
            feature_path(job.address, image) for image, doubt in zip(images, rows["doubtful"], strict=True) if doubt
        }

        def batches() -> Iterator[tuple[list[str], Tensor]]:
            import torch

            for number in sorted(set(rows["batch"].tolist())):
                own = np.flatnonzero(rows["batch"] == number)
                # Copied: what Ray hands over cannot be written to, which PyTorch takes for a fault.
                yield (
                    [images[row] for row in own],
                    backbone.stack([torch.from_numpy(rows["pixels"][row].copy()) for row in own]),
                )

        with ShardWriter(store, job.folder, generation=job.generation) as shards:
            # Nothing is kept in memory: no later stage runs here.
            for each in stored_batches(job, store, shards, backbone, batches(), doubtful, 0.0):
                done.add(*each)
        odd = set(done.odd)
        return {
            "image": np.array(images),
            "finite": np.array([image not in odd for image in images]),
            "seconds": np.array([done.seconds[image] for image in images]),
            "shapes": np.array([done.shapes] * len(images)),
        }


def _fault(error: Exception) -> Columns:
    """An exception as a worker of Ray answers with it: raised there, it would arrive as another class."""
    import numpy as np

    return {FAULT: np.array([told_error(error)], dtype=object)}


def _raise_fault(answer: Mapping[str, Any]) -> None:
    if FAULT in answer:
        raise read_error(answer[FAULT][0])


def _check_store(work: Work, job: ExtractionJob, images: Sequence[str] | Rows) -> None:
    """Refuse workers whose store is another one.

    Raises:
        StageError: features of some images are not in the store here.
    """
    state = work.store.look(job.folder)
    lost = [image for image in images if not state.has(feature_path(job.address, image))]
    if lost:
        raise StageError(
            f"extract.address: workers of Ray at {work.extract.address} stored features of {len(lost)} images that are "
            f"not in {work.store.root} here: their store.root is another place; write one that all machines see, such "
            "as s3://bucket/prefix"
        )
