"""An image that is replaced on disk: at rest, and between the index and those who read it after."""

import os
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ad_assets.datasets import FileStamp
from ad_assets.defs.assets import run_config_of
from tests.support.bench_graph import Bench, draw_image, write_image


@pytest.fixture
def image(bench: Bench) -> Path:
    """A training image of an indexed category whose size in bytes does not depend on the picture."""
    bench.set("datasets.parts.detectors", {"small": bench.tree["datasets"]["parts"]["detectors"]["small"]})
    png = bench.images / "bolt/train/good/000.png"
    png.unlink()
    write_image(png.with_suffix(".bmp"), draw_image(1))
    return png.with_suffix(".bmp")


def replace(path: Path, pixels: Any) -> bytes:
    """Another picture of the same size and modification time, as of ``rsync -t``; returns the old bytes."""
    before, stat = path.read_bytes(), path.stat()
    write_image(path, pixels)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    return before


def rows(bench: Bench) -> dict[str, dict[str, Any]]:
    store = bench.benchmark.store
    head = store.read_head(("parts", "image_index"), "bolt")
    assert head is not None
    table = store.read_table(store.artifact("image_index", head["version"]).at("index.parquet"))
    return {row["path"]: row for row in table.to_pylist()}


def features(bench: Bench) -> dict[str, bytes]:
    """Image id -> the stored taps, without the time that they took."""
    store, found = bench.benchmark.store, {}
    for file in store.files("features"):
        taps = store.read_tensors(file.path)
        found[Path(file.path).stem] = b"".join(taps[name].numpy().tobytes() for name in sorted(taps))
    return found


def forced(bench: Bench, asset: str, partition: str | None = "bolt") -> str:
    """Make one asset again; returns why it failed."""
    job = bench.definitions.resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(asset.split("/"))]
    result = job.execute_in_process(
        asset_selection=keys,
        partition_key=partition,
        instance=bench.instance,
        run_config=run_config_of(keys, force=True),
        raise_on_error=False,
    )
    return "\n".join(
        str(event.step_failure_data.error) for event in result.filter_events(lambda event: event.is_step_failure)
    )


def test_an_image_replaced_in_place_is_another_image_and_put_back_it_is_the_first(bench: Bench, image: Path) -> None:
    bench.make(categories=["bolt"])
    first, stored = rows(bench), features(bench)
    bank = bench.benchmark.store.read_head(("parts", "small", "memory_bank"), "bolt")
    kept = replace(image, draw_image(2, defect=True))
    assert ("parts/image_index", "bolt") in bench.plan()
    bench.make(categories=["bolt"])
    second = rows(bench)
    changed = [path for path in first if first[path] != second[path]]
    assert changed == ["bolt/train/good/000.bmp"]
    assert bench.benchmark.store.read_head(("parts", "small", "memory_bank"), "bolt") != bank
    image.write_bytes(kept)
    built, _ = bench.make(categories=["bolt"])
    assert {name for name, _ in built} <= {"parts/leaderboard", "parts/category_report", "parts/report"}
    assert rows(bench) == first
    assert bench.benchmark.store.read_head(("parts", "small", "memory_bank"), "bolt") == bank
    after = features(bench)
    assert {image_id: after[image_id] for image_id in stored} == stored


def test_force_reads_every_image_again_whatever_its_stamp(bench: Bench, image: Path, monkeypatch: Any) -> None:
    # A file system that tells neither inode nor change time.
    monkeypatch.setattr(FileStamp, "of_local", classmethod(lambda cls, info: cls(info.st_size, str(info.st_mtime_ns))))
    selected = {dg.AssetKey(["parts", "image_index"])}
    bench.make(categories=["bolt"], selected=selected)
    before = rows(bench)
    replace(image, draw_image(2, defect=True))
    assert ("parts/image_index", "bolt") not in bench.plan()
    assert not forced(bench, "parts/image_index")
    assert [path for path, row in rows(bench).items() if row != before[path]] == ["bolt/train/good/000.bmp"]


def test_whoever_reads_a_file_that_changed_since_the_index_refuses_it(bench: Bench, image: Path) -> None:
    bench.make(categories=["bolt"])
    row = rows(bench)["bolt/train/good/000.bmp"]
    before = features(bench)
    kept = replace(image, draw_image(2, defect=True))
    told = forced(bench, "parts/features/lite0")
    assert "bolt/train/good/000.bmp: changed since it was indexed" in told
    assert "index it again with ad-assets materialize" in told
    assert features(bench)[row["image_id"]] == before[row["image_id"]]
    image.write_bytes(kept)
    assert not forced(bench, "parts/features/lite0")

    mask = bench.images / "bolt/ground_truth/spot/000_mask.png"
    kept = mask.read_bytes()
    mask.write_bytes((mask.parent / "001_mask.png").read_bytes())
    assert "bolt/ground_truth/spot/000_mask.png: changed since it was indexed" in forced(bench, "parts/small/metrics")
    bench.set("evaluation", {"resolution": "original"})
    assert "bolt/ground_truth/spot/000_mask.png: changed since it was indexed" in forced(bench, "parts/small/metrics")
    mask.unlink()
    assert "bolt/ground_truth/spot/000_mask.png: is gone since it was indexed" in forced(bench, "parts/small/metrics")
    mask.write_bytes(kept)
    bench.set("evaluation", {})

    shown = bench.images / "bolt/test/spot/000.png"
    write_image(shown, draw_image(3))
    assert "bolt/test/spot/000.png: changed since it was indexed" in forced(bench, "parts/category_report")
