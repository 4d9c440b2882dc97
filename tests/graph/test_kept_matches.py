"""Scores after an update: what images had found is kept, what came is searched alone, and all is as from scratch."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch

from ad_assets.graph.build import materialize
from ad_assets.graph.stages.score_maps import read_score_index, shards
from ad_assets.methods import METHODS
from ad_assets.methods.memory_bank.patch_bank import PatchBank
from ad_assets.methods.retrieval.spade import Spade
from tests.support.bench_graph import Bench, draw_image, write_dataset, write_image

LANES: dict[str, dict[str, Any]] = {
    "bank": {"method": "patchcore", "pooling": "concat", "coreset_ratio": 1.0, "neighbours": 2},
    "lof": {"method": "patchcore_lof", "pooling": "concat", "neighbours": 3},
    "tokens": {"method": "superadd", "max_rows": None},
    "templates": {"method": "hetmm", "windows": [3, 1]},
    "pyramid": {"method": "spade", "neighbours": 3},
    "patches": {"method": "rad", "neighbours": 40},
}
CATEGORY = "bolt"


def started(folder: Path, lanes: Sequence[str]) -> Bench:
    if not (folder / "images").exists():
        write_dataset(folder / "images", categories=[CATEGORY])
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    bench.tree["datasets"]["parts"]["detectors"] = {lane: {"extractor": "lite0", **LANES[lane]} for lane in lanes}
    bench.reload()
    return bench


def land(bench: Bench, number: int, split: str = "train") -> None:
    write_image(bench.images / CATEGORY / split / "good" / f"new{number}.png", draw_image(70 + number))


def scores(bench: Bench, lane: str) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    store = bench.benchmark.store
    head = store.read_head(("parts", lane, "score_maps"), CATEGORY)
    assert head is not None
    artifact = store.artifact("score_maps", head["version"])
    maps = {image: own for ids, found, _ in shards(artifact) for image, own in zip(ids, found, strict=True)}
    nominal = read_score_index(artifact).nominal
    return maps, dict(zip(nominal.image_ids, nominal.scores, strict=True))


def assert_as_from_scratch(bench: Bench, folder: Path, lanes: Sequence[str]) -> None:
    """Against a fit of all in an empty store."""
    folder.mkdir()
    (folder / "images").symlink_to(bench.images)
    scratch = started(folder, lanes)
    scratch.make()
    for lane in lanes:
        (maps, nominal), (expected, left_out) = scores(bench, lane), scores(scratch, lane)
        assert maps.keys() == expected.keys()
        assert list(nominal) == list(left_out)
        for image, own in expected.items():
            torch.testing.assert_close(maps[image], own, rtol=1e-5, atol=1e-5)
        assert all(math.isclose(nominal[image], own, rel_tol=1e-5) for image, own in left_out.items()), lane


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many images were compared with a whole state, by method."""
    counts = dict.fromkeys(METHODS, 0)

    def counted(method: Any, name: str, take: Callable[[Any], int]) -> None:
        search = getattr(method, name)

        def wrapped(self: Any, state: Any, batch: Any, *rest: Any, **more: Any) -> Any:
            if len(state.image_ids) > 1:  # not the new one alone
                counts[self.name] += take(batch)
            return search(self, state, batch, *rest, **more)

        monkeypatch.setattr(method, name, wrapped)

    for method, name in ((PatchBank, "_search"), (METHODS["superadd"], "_search"), (METHODS["hetmm"], "search")):
        counted(method, name, lambda batch: len(batch.taps[0]))
    counted(Spade, "search", lambda batch: len(batch.taps[0]))
    return counts


@pytest.mark.parametrize(
    "lanes", [["bank", "templates", "pyramid"], pytest.param(list(LANES), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_an_image_more_is_searched_alone_step_after_step(
    lanes: list[str], tmp_path: Path, searched: dict[str, int]
) -> None:
    bench = started(tmp_path / "bench", lanes)
    bench.make()
    # The new nominal image alone, left out of the state and, where densities are read, with it.
    alone = {LANES[lane]["method"]: 2 if lane == "lof" else 1 for lane in lanes if lane != "patches"}
    for number in range(2):
        land(bench, number)
        before = dict(searched)
        bench.make()
        assert {name: searched[name] - before[name] for name in alone} == alone
    before = dict(searched)
    land(bench, 5, "test")
    bench.make()
    assert searched["patchcore"] - before["patchcore"] == searched["spade"] - before["spade"] == 1  # that test image
    assert_as_from_scratch(bench, tmp_path / "scratch", lanes)


def test_after_a_removal_another_setting_or_a_forced_run_all_is_searched(
    tmp_path: Path, searched: dict[str, int]
) -> None:
    lanes = ["bank", "pyramid"]
    bench = started(tmp_path / "bench", lanes)
    bench.make()
    whole = dict(searched)
    (bench.images / CATEGORY / "train" / "good" / "001.png").unlink()
    land(bench, 0)
    for change in (
        lambda: None,
        lambda: bench.set("datasets.parts.detectors.bank.patch_size", 1),
    ):
        change()
        before = dict(searched)
        bench.make()
        assert searched["patchcore"] - before["patchcore"] == whole["patchcore"]
    before = dict(searched)
    bench.make(force=True)
    assert {name: searched[name] - before[name] for name in ("patchcore", "spade")} == {
        name: whole[name] for name in ("patchcore", "spade")
    }


def test_a_run_killed_between_a_state_and_its_scores_goes_on_from_what_was_kept(
    tmp_path: Path, searched: dict[str, int]
) -> None:
    lanes = ["bank", "pyramid"]
    bench = started(tmp_path / "bench", lanes)
    bench.make()
    land(bench, 0)
    store, compute = bench.benchmark.store, bench.benchmark.compute
    for stage in bench.stages:
        if stage.kind in ("image_index", "features", "memory_bank"):
            materialize(stage, CATEGORY, store, compute, logging.getLogger(__name__))
    land(bench, 1)
    before = dict(searched)
    bench.make()
    assert searched["patchcore"] - before["patchcore"] == searched["spade"] - before["spade"] == 2
    # What was kept is damaged: it is not believed.
    head = store.read_head(("parts", "bank", "neighbours"), CATEGORY)
    assert head is not None
    path = next(Path(store.root, file.path) for file in store.files(f"artifacts/neighbours/{head['version']}"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    land(bench, 2)
    before = dict(searched)
    bench.make()
    assert (searched["patchcore"] - before["patchcore"], searched["spade"] - before["spade"]) == (7, 1)
    assert_as_from_scratch(bench, tmp_path / "scratch", lanes)
