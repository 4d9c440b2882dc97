"""Features pass from the backbone to the store in threads, and to the methods of the same run without the store."""

import logging
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch

from ad_assets.backbones import backbone as backbones
from ad_assets.backbones.backbone import load_backbone
from ad_assets.cli import main
from ad_assets.graph.build import materialize
from ad_assets.graph.stage import Stage
from ad_assets.graph.stages import feature_files
from ad_assets.graph.stages.feature_files import read_feature_index, stored_features
from ad_assets.graph.stages.features import extractor_of
from ad_assets.settings.compute import Compute
from ad_assets.store import shard_format
from ad_assets.store.shard_format import Unpacked
from ad_assets.store.store import ArtifactStore
from tests.support.bench_graph import Bench, write_dataset
from tests.support.emulated_device import cuda_device

LOG = logging.getLogger(__name__)
IMAGES = 12


class Extracted:
    """A category whose images are indexed, and its stage of features."""

    def __init__(self, bench: Bench) -> None:
        self.store: ArtifactStore = bench.benchmark.store
        self.compute: Compute = bench.benchmark.compute
        [index] = [stage for stage in bench.stages if stage.kind == "image_index"]
        [self.stage] = [stage for stage in bench.stages if stage.kind == "features"]
        self.build(index)

    def build(self, stage: Stage | None = None, compute: Compute | None = None) -> dict[str, Any]:
        """Materialize an asset, features where none is named; its metadata."""
        stage, compute = stage or self.stage, compute or self.compute
        return dict(materialize(stage, "bolt", self.store, compute, LOG).metadata)

    def paths(self) -> list[str]:
        """The stored feature files."""
        return [file.path for file in self.store.files("features")]

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """What they hold."""
        return {path: dict(self.store.read_noted_tensors(path)[0]) for path in self.paths()}

    def batches(self, compute: Compute | None = None) -> list[list[torch.Tensor]]:
        """The features of the training images, as methods read them."""
        head = self.store.read_head(self.stage.key, "bolt")
        assert head
        address, images = read_feature_index(self.store.artifact("features", head["version"]))
        extractor = extractor_of(self.stage)
        features = stored_features(self.store, compute or self.compute, address, images["train"], None, extractor)
        return [taps for _, taps in features.batches()]


@pytest.fixture
def extracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Extracted:
    monkeypatch.setattr(feature_files, "_CACHE", feature_files._Cache())
    write_dataset(tmp_path / "images", ["bolt"])
    return Extracted(Bench(tmp_path, dg.DagsterInstance.ephemeral()))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the tensor files that are read."""
    paths: list[str] = []
    read = ArtifactStore.read_many_tensors

    def counted(self: ArtifactStore, wanted: list[str]) -> Any:
        paths.extend(wanted)
        return read(self, wanted)

    monkeypatch.setattr(ArtifactStore, "read_many_tensors", counted)
    return paths


def test_what_was_extracted_is_not_read_again_in_the_same_run(
    extracted: Extracted, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert extracted.build()["extracted"] == IMAGES
    kept = extracted.batches()
    assert reads == []
    monkeypatch.setattr(feature_files, "_CACHE", feature_files._Cache())  # as in another process
    read = extracted.batches()
    assert len(reads) == 6
    for mine, stored in zip(kept, read, strict=True):
        assert all(torch.equal(*pair) for pair in zip(mine, stored, strict=True))


def test_features_are_kept_within_a_quarter_of_the_budget(extracted: Extracted, reads: list[str]) -> None:
    small = extracted.compute.model_copy(update={"memory_gb": 4 * 2.5 * 17_408 / 1e9})  # two images of 48,128 bytes
    extracted.build(compute=small)
    assert sum(tensor.nbytes for tensor in extracted.tensors()[extracted.paths()[0]].values()) == 17_408
    assert feature_files._CACHE._bytes == 2 * 17_408
    extracted.batches(small)
    assert reads


def test_a_write_that_fails_stops_the_run_by_its_own_name_and_what_was_written_is_kept(
    extracted: Extracted, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ArtifactStore.write_shard
    written: list[str] = []

    def fails_at_last(self: ArtifactStore, folder: str, files: list[Unpacked], generation: int) -> None:
        if len(written) >= 5:
            raise OSError(f"{folder}: the disk is full")
        write(self, folder, files, generation)
        written.extend(file.path for file in files)

    with monkeypatch.context() as patch:
        patch.setattr(shard_format, "SHARD", 1)
        patch.setattr(ArtifactStore, "write_shard", fails_at_last)
        with pytest.raises(OSError, match="the disk is full"):
            extracted.build()
    assert extracted.store.read_head(extracted.stage.key, "bolt") is None
    assert extracted.paths() == sorted(written)
    assert extracted.build()["extracted"] == IMAGES - len(written)


def test_features_are_written_while_others_are_computed(extracted: Extracted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first batch no shard is whole until the second is computed, which would wait forever for one thread."""
    monkeypatch.setattr(shard_format, "SHARD", 1)
    second, write = threading.Event(), ArtifactStore.write_shard
    start, started = backbones.Backbone.start, []

    def begun(self: Any, batch: torch.Tensor) -> Any:
        started.append(len(batch))
        if len(started) == 2:
            second.set()
        return start(self, batch)

    def waits(self: ArtifactStore, *rest: Any) -> None:
        assert second.wait(20)
        write(self, *rest)

    monkeypatch.setattr(backbones.Backbone, "start", begun)
    monkeypatch.setattr(ArtifactStore, "write_shard", waits)
    extracted.build()
    assert started == [4, 4, 4]
    assert len(extracted.paths()) == IMAGES


def test_a_gpu_is_waited_for_once_a_batch_and_stores_what_the_cpu_stores(
    extracted: Extracted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones, "_LOADED", OrderedDict())
    extracted.build()
    expected = extracted.tensors()
    extracted.store.delete(extracted.paths())
    on_gpu = Compute(device="cuda", batch_size=4)
    with cuda_device() as device:
        load_backbone(extractor_of(extracted.stage), on_gpu)
        device.counts.reset()
        materialize(extracted.stage, "bolt", extracted.store, on_gpu, LOG, verify=True)
        waits, copies = dict(device.counts.waits), (device.counts.copies_in, device.counts.copies_out)
    assert waits == {"synchronize": 3}
    assert copies == (3, 3 * 3)
    found = extracted.tensors()
    assert found.keys() == expected.keys()
    for path, tensors in expected.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(found[path][name], tensor, rtol=1e-4, atol=1e-4)


def test_a_store_of_single_files_is_read_and_packed_by_a_command(
    extracted: Extracted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    extracted.build()
    store, expected = extracted.store, extracted.tensors()
    contents = {path: store.fetch(path) for path in extracted.paths()}
    shards = {store.shard_of(path) for path in contents}
    for path, content in contents.items():  # as an earlier release has it
        store.write_bytes(path, content)
    store.delete_files(shards)

    def same() -> None:
        monkeypatch.setattr(feature_files, "_CACHE", feature_files._Cache())
        head = store.read_head(extracted.stage.key, "bolt")
        assert head
        assert store.artifact("features", head["version"]).damaged(deep=True) == []
        assert {path: store.fetch(path) for path in extracted.paths()} == contents
        for path, tensors in extracted.tensors().items():
            assert all(torch.equal(tensors[name], tensor) for name, tensor in expected[path].items())
        result = materialize(extracted.stage, "bolt", store, extracted.compute, LOG, verify=True)
        assert result.found

    same()
    assert not any(map(store.shard_of, contents))
    assert main(["pack", "--config", str(tmp_path / "bench.yaml")]) == 0
    assert "12 files before, 1 now" in capsys.readouterr().out
    same()
    assert all(map(store.shard_of, contents))
