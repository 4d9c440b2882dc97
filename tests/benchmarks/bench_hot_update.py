"""New nominal images in a folder of 300: updating template sets through the graph against making them from scratch.

Run: ``python -m tests.benchmarks.bench_hot_update``. Both sides run the image index, the features of EfficientNet-Lite0
at reductions 4, 8 and 16 and the template sets, ALL images and 60 sheets, and must end with equal template sets.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import dagster as dg
import numpy as np
import torch

from ad_assets.defs.terminal import TERMINAL_RUN_CONFIG
from tests.support.bench_graph import Bench, write_image

IMAGES, NEWS, SIDE = 300, (1, 10, 50), 256
LANES = {"all": {}, "sheets_60": {"sheets": 60}}


def texture(seed: int) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: stripes at a random phase under noise."""
    random = np.random.default_rng(seed)
    stripes = 120 + 60 * np.sin(np.arange(SIDE) / 9 + random.uniform(0, 6))
    return np.clip(stripes[None, :, None] + random.normal(0, 12, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def new_bench(folder: Path, images: Path) -> Bench:
    """A benchmark with an empty store on a folder of images."""
    folder.mkdir()
    (folder / "images").symlink_to(images)
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    bench.tree["compute"] = {"device": "cpu", "batch_size": 16, "memory_gb": 4}
    bench.tree["extractors"]["lite0"] |= {"taps": ["/4", "/8", "/16"], "resize": [SIDE, SIDE]}
    lane = {"method": "hetmm", "extractor": "lite0"}
    bench.tree["datasets"]["parts"]["detectors"] = {name: lane | own for name, own in LANES.items()}
    bench.reload()
    return bench


def seconds(bench: Bench) -> dict[str, float]:
    """Materialize what a template set needs; seconds by asset."""
    keys = [stage.key for stage in bench.stages if stage.kind in ("image_index", "features", "template_set")]
    result = bench.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[dg.AssetKey(list(key)) for key in keys],
        partition_key="weave",
        instance=bench.instance,
        run_config=TERMINAL_RUN_CONFIG,
    )
    spent = {}
    for event in result.get_asset_materialization_events():
        made = event.step_materialization_data.materialization
        spent[made.asset_key.path[1]] = float(made.metadata["stage_seconds"].value)  # type: ignore[arg-type]
    return spent


def templates(bench: Bench, lane: str) -> list[torch.Tensor]:
    """What the template set of a lane holds."""
    store = bench.benchmark.store
    head = store.read_head(("parts", lane, "template_set"), "weave")
    assert head is not None
    artifact = store.artifact("template_set", head["version"])
    ids = store.read_json(artifact.at("state.json"))["image_ids"]
    tensors = store.read_tensors(artifact.at("state.safetensors"))
    return [*(tensors[name] for name in sorted(tensors)), torch.tensor([int(i[:12], 16) for i in ids])]


def main() -> None:
    """Measure, print, and fail where an updated set differs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "weaves"
        for split, first, count in (("train", 0, IMAGES), ("test", 9000, 2)):
            for number in range(count):
                write_image(images / "weave" / split / "good" / f"{number}.png", texture(first + number))
        updated = new_bench(folder / "updated", images)
        seconds(updated)
        known = IMAGES
        for news in NEWS:
            # Each update starts from the 300: the images of the one before are taken away again.
            for number in range(IMAGES, known):
                (images / f"weave/train/good/{number}.png").unlink()
            shutil.rmtree(folder / "updated" / "store")
            seconds(updated)
            for number in range(IMAGES, IMAGES + news):
                write_image(images / f"weave/train/good/{number}.png", texture(number))
            known = IMAGES + news
            mine = seconds(updated)
            scratch = new_bench(folder / f"scratch{news}", images)
            theirs = seconds(scratch)
            for lane in LANES:
                pairs = zip(templates(updated, lane), templates(scratch, lane), strict=True)
                same = all(torch.equal(a, b) for a, b in pairs)
                total, full = (sum(s[asset] for asset in ("image_index", "features", lane)) for s in (mine, theirs))
                parts = [f"(features {s['features']:.2f}, set {s[lane]:.2f})" for s in (mine, theirs)]
                print(f"{lane}, {IMAGES} + {news} images, equal {same}: updated in {total:.2f} s {parts[0]}, ", end="")
                print(f"from scratch in {full:.2f} s {parts[1]}, ratio {full / total:.1f}", flush=True)
                assert same


if __name__ == "__main__":
    main()
