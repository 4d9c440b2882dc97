"""A lane with draws: features shared, one row with its spread over seeds, predictions and ensembles of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from ad_assets.config.draws import further_draws
from ad_assets.config.faults import ConfigError
from ad_assets.config.parse import SectionParser
from ad_assets.graph.build import materialize
from ad_assets.prediction import load_detector
from ad_assets.results import leaderboard
from tests.support.bench_graph import Bench, config_tree

DRAWS = ("small", "small_draw_2", "small_draw_3")
RESULTS = {("parts/leaderboard", None), ("parts/report", None)}


def lane(detector: str, *assets: str) -> set[tuple[str, str | None]]:
    return {(f"parts/{detector}/{asset}", category) for asset in assets for category in ("bolt", "nut")}


@pytest.fixture(scope="module")
def drawn(materialized: Bench, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A benchmark after a first run without draws, and one with three."""
    bench = materialized.copied(tmp_path_factory.mktemp("drawn"))
    bench.set("datasets.parts.detectors.small.draws", 3)
    every = ("memory_bank", "neighbours", "score_maps", "metrics")
    # The first draw is found where it was, and no image is extracted again.
    assert bench.run() == (lane(DRAWS[1], *every) | lane(DRAWS[2], *every) | RESULTS, set())
    return bench


def test_the_rows_of_draws_are_one_with_its_spread(drawn: Bench) -> None:
    board = leaderboard("parts", drawn.folder / "bench.yaml")
    assert set(board.detector) == {"small", "full"}
    own = board[(board.protocol == "standard") & (board.metric == "pixel_auroc")].set_index(["detector", "category"])
    for category in ("bolt", "nut"):
        values = [drawn.rows(name, category)["standard", "pixel_auroc"] for name in DRAWS]
        assert len(set(values)) == 3  # other seeds, other banks
        row = own.loc["small", category]
        assert row.value == pytest.approx(sum(values) / 3)
        assert row.draws == 3
        assert row.seed_std > 0
    assert own.loc["full", "mean"][["draws", "seed_std"]].tolist() == [1, 0.0]  # all patches: no seed has a part
    assert {"interval_95", "interval_95_seeds"} <= set(board[board.detector == "small"].protocol)
    assert "interval_95_seeds" not in set(board[board.detector == "full"].protocol)
    store = drawn.benchmark.store
    head = store.read_head(("parts", "report"), None)
    assert head
    page = store.read_text(store.artifact("report", head["version"]).at("report.html"))
    assert "±" in page
    assert DRAWS[1] not in page
    head = store.read_head(("parts", "category_report"), "bolt")
    assert head
    page = store.read_text(store.artifact("category_report", head["version"]).at("page.html"))
    assert 'id="lane-0"' in page  # of the first draw
    assert not [name for name in DRAWS[1:] if name in page]


def test_a_draw_that_is_not_up_to_date_is_left_out_by_name(drawn: Bench, tmp_path: Path) -> None:
    bench = drawn.copied(tmp_path)
    bench.benchmark.store.delete(["heads/parts/small_draw_3/metrics/nut.json"])
    bench.reload()
    assert not bench.plan(categories=["bolt"])  # which is shown as it is
    [stage] = [stage for stage in bench.stages if stage.name == "parts/leaderboard"]
    materialize(stage, None, bench.benchmark.store, bench.benchmark.compute, logging.getLogger(__name__))
    board = leaderboard("parts", bench.folder / "bench.yaml")
    own = board[(board.detector == "small") & (board.metric == "pixel_auroc")].set_index("category")
    assert own.draws.to_dict() == {"bolt": 3, "nut": 2, "mean": 2}


def test_one_member_with_draws_is_the_ensemble_of_these(drawn: Bench, tmp_path: Path) -> None:
    bench = drawn.copied(tmp_path)
    bench.set("datasets.parts.detectors.together", {"method": "ensemble", "members": ["small"]})
    pages = {("parts/category_report", category) for category in ("bolt", "nut")}
    assert bench.run()[0] == lane("together", "score_maps", "metrics") | pages | RESULTS
    image = next((bench.images / "bolt/test/spot").iterdir())
    loaded = {
        name: load_detector("parts", name, "bolt", config=bench.folder / "bench.yaml", record=False)
        for name in ("together", *DRAWS)
    }
    assert [member.lane for member in loaded["together"].members] == list(DRAWS)
    scores = {name: detector.predict(image).score for name, detector in loaded.items()}
    assert len({scores[name] for name in DRAWS}) == 3  # a lane predicts with its first draw


def parsed(folder: Path, detectors: dict[str, Any], **dataset: Any) -> Any:
    tree = config_tree(folder)
    tree["datasets"]["parts"] |= {"detectors": tree["datasets"]["parts"]["detectors"] | detectors, **dataset}
    return SectionParser("test").benchmark(tree).datasets["parts"]


LANE = {"method": "patchcore", "extractor": "lite0"}


def test_draws_have_seeds_in_order_and_are_no_champions(tmp_path: Path) -> None:
    own = {**LANE, "seed": 7, "draws": 3, "categories": {"bolt": {"seed": 20}}, "export": {"runtime": "onnx"}}
    lanes = {"bank": own, "few": {**LANE, "draws": 2}, "one": {"method": "joint", "of": "few"}}
    dataset = parsed(tmp_path, lanes, production={})
    bank, *others = (dataset.detectors[name] for name in ("bank", "bank_draw_2", "bank_draw_3"))
    assert [each.method_for("nut").seed for each in (bank, *others)] == [7, 8, 9]
    assert [each.method_for("bolt").seed for each in (bank, *others)] == [20, 21, 22]
    assert [each.has_champions for each in (bank, *others)] == [True, False, False]
    assert [each.export is None for each in (bank, *others)] == [False, True, True]
    assert further_draws(dataset.detectors["one"]) == {}


@pytest.mark.parametrize(
    ("detectors", "message"),
    [
        ({"bank": {**LANE, "draws": 0}}, "bank.draws: a number of seeds from 1 to 100 .got 0"),
        ({"bank": {**LANE, "draws": True}}, "bank.draws: a number of seeds"),
        ({"all": {**LANE, "draws": 2, "coreset_ratio": 1}}, "all.draws: no seed has a part in this detector"),
        ({"spade": {"method": "spade", "extractor": "lite0", "draws": 2}}, "no seed has a part"),
        ({"bank": {**LANE, "draws": 2}, "bank_draw_2": LANE}, "bank_draw_2: the name is that of a draw of bank"),
        ({"both": {"method": "ensemble", "members": ["small"]}}, "small is alone and has one seed"),
    ],
)
def test_draws_that_mean_nothing_are_refused(tmp_path: Path, detectors: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(tmp_path, detectors)


def test_draws_of_a_variant_are_those_of_its_study(tmp_path: Path) -> None:
    study = {"base": "small", "vary": {"draws": [1, 2]}}
    with pytest.raises(ConfigError, match="as many draws as the study"):
        parsed(tmp_path, {}, studies={"some": study})
    study = {"base": "bank", "vary": {"sigma": [1.0]}}
    dataset = parsed(tmp_path, {"bank": {**LANE, "draws": 3}}, studies={"some": study})
    assert [variant.detector.draws for variant in dataset.studies["some"].variants] == [1]
