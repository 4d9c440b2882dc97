"""Promise 5: a run killed at any moment loses the work in hand and nothing else."""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from ad_assets.cli import main
from ad_assets.store.store import ArtifactStore
from tests.support import forked
from tests.support.bench_graph import config_tree, write_dataset
from tests.support.forked import Forked
from tests.support.places import REPOSITORY

# Wall-clock figures differ from run to run; everything else of a leaderboard row must not.
TIMED = ("seconds",)
# A memory bank, a template set, and all that they need.
LANES = ("--select", 'key:"demo/patchcore_1/metrics" or key:"demo/hetmm_10/metrics"')


def command(folder: Path) -> list[str]:
    """Materialize the file ``bench.yaml`` of a folder, or the demo in that folder."""
    own = folder / "bench.yaml"
    settings = {"store.root": folder / "store", "datasets.demo.root": folder / "images"}
    demo = ["demo", *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]
    return ["materialize", "--config", *([str(own)] if own.exists() else demo)]


def start(folder: Path, *arguments: str) -> Forked:
    """Run the command in a process of its own."""
    return Forked(
        forked.command([*command(folder), *arguments]), folder / "log.txt", {"DAGSTER_HOME": str(folder / "home")}
    )


def board(folder: Path) -> list[dict[str, Any]]:
    store = ArtifactStore(root=str(folder / "store"))
    [dataset] = (path.name for path in (folder / "store" / "heads").iterdir())
    head = store.read_head((dataset, "leaderboard"), None)
    assert head is not None
    path = folder / "store" / store.artifact("leaderboard", head["version"]).at("leaderboard.parquet")
    rows = pq.read_table(path).to_pylist()
    return [{k: v for k, v in row.items() if k not in TIMED} for row in rows if row["protocol"] != "timing"]


def feature_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Shards of features, which hold those of many images."""
    root = folder / "store" / "features"
    return {
        str(path.relative_to(root)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in root.rglob("*.safetensors")
        if not path.name.startswith(".")
    }


def run_and_kill(folder: Path, due: Callable[[float], bool], *arguments: str) -> None:
    """Start a run and kill it once it is due; no feature file that was there before may be written again."""
    before, started = feature_files(folder), time.monotonic()
    run = start(folder, *arguments)
    while run.poll() is None and not due(time.monotonic() - started):
        time.sleep(0.005)
    run.kill()
    after = feature_files(folder)
    assert {path: after[path] for path in before} == before, "extracted again"


def finish(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run to the end, in this process, and return the leaderboard."""
    before = feature_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "home"))
        patch.chdir(REPOSITORY)
        assert main([*command(folder), *arguments]) == 0
    after = feature_files(folder)
    assert {path: after[path] for path in before} == before, "extracted again after a kill"
    return board(folder)


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path: Path) -> None:
    calm = tmp_path / "calm"
    calm.mkdir()
    started = time.monotonic()
    expected = finish(calm, *LANES)
    length = time.monotonic() - started
    moments = random.Random(0)  # noqa: S311 - repeatable, not secret
    for number in range(20):
        folder = tmp_path / f"kill{number}"
        folder.mkdir()
        moment = moments.uniform(0.5, length)
        run_and_kill(folder, lambda seconds, moment=moment: seconds > moment, *LANES)
        assert finish(folder, *LANES) == expected, f"another leaderboard after a kill at {moment:.1f} s"
        assert len(feature_files(folder)) == len(feature_files(calm))
        shutil.rmtree(folder)


def test_a_run_killed_among_its_features_and_among_its_fits(tmp_path: Path) -> None:
    folder, calm = tmp_path / "killed", tmp_path / "calm"
    for place in (folder, calm):
        write_dataset(place / "images", ("bolt",))
        tree = config_tree(place)
        sheets = {"method": "hetmm", "extractor": "lite0", "windows": [3, 3], "sheets": 3}
        detectors = tree["datasets"]["parts"]["detectors"]
        tree["datasets"]["parts"]["detectors"] = {"small": detectors["small"], "sheets": sheets}
        (place / "bench.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    expected = finish(calm)
    artifacts = folder / "store" / "artifacts"
    run_and_kill(folder, lambda _: bool(feature_files(folder)))
    assert feature_files(folder)
    run_and_kill(folder, lambda _: any((artifacts / kind).exists() for kind in ("memory_bank", "template_set")))
    assert len(feature_files(folder)) == len(feature_files(calm))
    assert not (artifacts / "leaderboard").exists()
    assert finish(folder) == expected
