"""Features of many images written, read in batches and read at random: one file an image, shards, and other formats.

    python -m tests.benchmarks.bench_feature_shards [IMAGES] [KILOBYTES] [FOLDER]

On a local disk, and on an S3 server behind a proxy that lets each request wait 30 ms. Zarr and Lance are measured where
they are installed, for instance in FOLDER, and on the local disk alone. Each cell is the wall time of one run, read by
a store that has seen nothing before; numbers of objects and requests follow.
"""

from __future__ import annotations

import importlib.util
import random
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ad_assets.graph.stages.feature_files import feature_path
from ad_assets.store.background import BackgroundWrites
from ad_assets.store.shard_writer import ShardWriter
from ad_assets.store.store import ArtifactStore
from tests.conftest import S3_SERVER, s3_server
from tests.support.latency_proxy import LatencyProxy, latency_proxy

if TYPE_CHECKING:
    from torch import Tensor

MILLISECONDS = 30.0
BATCH, AT_RANDOM = 16, 50
SHARD = 8 << 20


class Format(ABC):
    """A way to keep features: (K,) float32 by image id."""

    def __init__(self, root: str, options: dict[str, str]) -> None:
        self.root, self.options = root, options

    @abstractmethod
    def write(self, ids: Sequence[str], features: Sequence[np.ndarray]) -> None:
        """Write all."""

    @abstractmethod
    def read(self, ids: Sequence[str]) -> list[np.ndarray]:
        """Read some."""


class Single(Format):
    """One safetensors file an image."""

    def store(self) -> ArtifactStore:
        """A store."""
        storage = {"endpoint_url": self.options["endpoint"]} if self.options else {}
        return ArtifactStore(root=self.root, storage_options=storage)

    def write(self, ids: Sequence[str], features: Sequence[np.ndarray]) -> None:
        """As the graph wrote them."""
        import torch

        store = self.store()

        def write_one(image: str, tensor: Tensor) -> None:
            store.write_tensors(feature_path("x", image), {"tap0": tensor}, {"seconds": "+00000.012345"})

        with BackgroundWrites(store.requests_at_once, 1e8) as writes:
            for image, each in zip(ids, features, strict=True):
                tensor = torch.from_numpy(each)
                writes.submit(each.nbytes, lambda image=image, tensor=tensor: write_one(image, tensor))

    def read(self, ids: Sequence[str]) -> list[np.ndarray]:
        """In batches."""
        if not hasattr(self, "_store"):
            self._store = self.store()
        found = self._store.read_many_tensors([feature_path("x", image) for image in ids])
        return [each["tap0"].numpy() for each in found]


class Shards(Single):
    """Ours."""

    def write(self, ids: Sequence[str], features: Sequence[np.ndarray]) -> None:
        """As the graph writes them."""
        import torch

        store = self.store()

        def write_one(shards: ShardWriter, image: str, tensor: Tensor) -> None:
            shards.add(feature_path("x", image), {"tap0": tensor}, {"seconds": "+00000.012345"})

        with ShardWriter(store, "features/x") as shards, BackgroundWrites(store.requests_at_once, 1e8) as writes:
            for image, each in zip(ids, features, strict=True):
                tensor = torch.from_numpy(each)
                writes.submit(each.nbytes, lambda image=image, tensor=tensor: write_one(shards, image, tensor))


class Parquet(Format):
    """Files of 8 MB, a row an image, one row group a row, not compressed; the index is the names in the footers."""

    def _fs(self) -> tuple[object, str]:
        import fsspec

        return fsspec.core.url_to_fs(self.root, **({"endpoint_url": self.options["endpoint"]} if self.options else {}))

    def write(self, ids: Sequence[str], features: Sequence[np.ndarray]) -> None:
        """One file after another."""
        import pyarrow as pa
        from pyarrow import parquet

        fs, base = self._fs()
        fs.makedirs(base, exist_ok=True)
        per = max(1, SHARD // features[0].nbytes)
        for first in range(0, len(ids), per):
            own = [each.tobytes() for each in features[first : first + per]]
            sink = pa.BufferOutputStream()
            table = pa.table({"id": list(ids[first : first + per]), "tap0": pa.array(own, pa.large_binary())})
            parquet.write_table(table, sink, compression="none", use_dictionary=False, row_group_size=1)
            fs.pipe_file(f"{base}/{first:07d}.parquet", sink.getvalue().to_pybytes())

    def read(self, ids: Sequence[str]) -> list[np.ndarray]:
        """Row group by row group."""
        from pyarrow import parquet

        if not hasattr(self, "_where"):
            fs, base = self._fs()
            self._where = {}
            for path in sorted(fs.find(base)):
                file = parquet.ParquetFile(fs.open(path, cache_type="none"), pre_buffer=False)
                for group in range(file.num_row_groups):
                    image = file.metadata.row_group(group).column(0).statistics.min
                    self._where[image] = file, group
        rows = [self._where[image] for image in ids]
        return [
            np.frombuffer(file.read_row_group(group, ["tap0"]).column(0)[0].as_py(), np.float32) for file, group in rows
        ]


class Zarr(Format):
    """An array of version 3, a chunk an image, in shards of 8 MB."""

    def write(self, ids: Sequence[str], features: Sequence[np.ndarray]) -> None:
        """Shard by shard."""
        import zarr

        per, length = max(1, SHARD // features[0].nbytes), features[0].size
        array = zarr.create_array(
            f"{self.root}/zarr",
            shape=(len(ids), length),
            chunks=(1, length),
            shards=(per, length),
            dtype="float32",
            compressors=None,
        )
        for first in range(0, len(ids), per):
            array[first : first + per] = np.stack(features[first : first + per])
        Path(self.root, "ids").write_text("\n".join(ids))

    def read(self, ids: Sequence[str]) -> list[np.ndarray]:
        """Row by row."""
        import zarr

        if not hasattr(self, "_array"):
            self._array = zarr.open_array(f"{self.root}/zarr", mode="r")
            self._rows = {image: row for row, image in enumerate(Path(self.root, "ids").read_text().split("\n"))}
        return [self._array[self._rows[image]] for image in ids]


class Lance(Format):
    """A dataset of version 2.1, a row an image."""

    def write(self, ids: Sequence[str], features: Sequence[np.ndarray]) -> None:
        """In batches of 8 MB, as one fragment."""
        import lance
        import pyarrow as pa

        schema = pa.schema([("id", pa.string()), ("tap0", pa.large_binary())])
        per = max(1, SHARD // features[0].nbytes)
        batches = (
            pa.record_batch(
                [list(ids[first : first + per]), [each.tobytes() for each in features[first : first + per]]], schema
            )
            for first in range(0, len(ids), per)
        )
        lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), f"{self.root}/lance")

    def read(self, ids: Sequence[str]) -> list[np.ndarray]:
        """By row numbers."""
        import lance

        if not hasattr(self, "_data"):
            self._data = lance.dataset(f"{self.root}/lance")
            names = self._data.to_table(columns=["id"])["id"].to_pylist()
            self._rows = {image: row for row, image in enumerate(names)}
        found = self._data.take([self._rows[image] for image in ids], columns=["tap0"])["tap0"]
        return [np.frombuffer(each.as_py(), np.float32) for each in found]


def measure(kind: type[Format], root: str, options: dict[str, str], images: int, kilobytes: int) -> list[float]:
    """Wall seconds to write all, to read all in batches, and to read some at random; all is compared."""
    draw = np.random.default_rng(0)
    features = [draw.standard_normal(kilobytes * 256, np.float32) for _ in range(images)]
    ids = sorted(f"{number * 2654435761 % (1 << 32):08x}" + "0" * 56 for number in range(images))
    seconds = []

    def timed(started: float) -> None:
        seconds.append(time.perf_counter() - started)

    started = time.perf_counter()
    kind(root, options).write(ids, features)
    timed(started)
    reader, started = kind(root, options), time.perf_counter()
    for first in range(0, images, BATCH):
        found = reader.read(ids[first : first + BATCH])
        assert all(np.array_equal(a, b) for a, b in zip(found, features[first : first + BATCH], strict=True))
    timed(started)
    some = random.Random(0).sample(range(images), AT_RANDOM)  # noqa: S311 - repeatable, not secret
    reader, started = kind(root, options), time.perf_counter()
    found = reader.read([ids[row] for row in some])
    timed(started)
    assert all(np.array_equal(each, features[row]) for each, row in zip(found, some, strict=True))
    return seconds


def show(name: str, seconds: Sequence[float], more: str) -> None:
    """Print a row."""
    print(f"{name:<22}" + "".join(f"{each:9.2f} s" for each in seconds) + f"   {more}", flush=True)


def main(images: int, kilobytes: int, installed: str) -> None:
    """Measure and print."""
    sys.path.append(installed)
    others = [kind for kind, name in ((Zarr, "zarr"), (Lance, "lance")) if importlib.util.find_spec(name)]
    print(f"{images} features of {kilobytes} kB{'':<10}write, read all, read {AT_RANDOM} at random")
    for kind in (Single, Shards, Parquet, *others):
        with tempfile.TemporaryDirectory() as root:
            seconds = measure(kind, root, {}, images, kilobytes)
            files = sum(path.is_file() for path in Path(root).rglob("*"))
            show(f"local {kind.__name__}", seconds, f"{files} files")
    with s3_server(str(S3_SERVER), "-H", "127.0.0.1", "-p") as server:
        import s3fs

        s3fs.S3FileSystem(endpoint_url=server).mkdir("bench")
        for kind in (Single, Shards, Parquet):
            with latency_proxy(server, MILLISECONDS, kind.__name__) as proxy:
                seconds = measure(kind, f"s3://bench/{kind.__name__}", {"endpoint": proxy.endpoint}, images, kilobytes)
                show(f"S3 {kind.__name__}", seconds, requests_of(proxy))


def requests_of(proxy: LatencyProxy) -> str:
    """Requests by verb."""
    verbs: dict[str, int] = {}
    for request in proxy.requests():
        verbs[request.verb] = verbs.get(request.verb, 0) + 1
    return ", ".join(f"{count} {verb}" for verb, count in sorted(verbs.items()))


if __name__ == "__main__":
    main(int((sys.argv[1:2] or ["2000"])[0]), int((sys.argv[2:3] or ["112"])[0]), (sys.argv[3:4] or [""])[0])
