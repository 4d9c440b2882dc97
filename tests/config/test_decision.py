"""The section ``decision``: which rate counts, what reads it, and that it changes no address where it says nothing."""

from pathlib import Path
from typing import Any

import pytest

from ad_assets.config.benchmark import Benchmark
from ad_assets.config.parse import SectionParser
from ad_assets.graph.lanes import stages_of
from ad_assets.graph.stages.score_maps import calibration_images
from tests.support.bench_graph import config_tree, draw_image, write_image


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    for category in ("bolt", "nut"):
        write_image(tmp_path / "images" / category / "train/good/0.png", draw_image(0))
    tree = config_tree(tmp_path)
    lanes = tree["datasets"]["parts"]["detectors"]
    tree["datasets"]["parts"]["detectors"] = {
        "small": lanes["small"],
        "maps": {"method": "hetmm", "extractor": "lite0", "windows": [3, 3]},
        "both": {"method": "ensemble", "members": ["small", "maps"]},
    }
    return tree


def parsed(tree: dict[str, Any], decision: Any = None, own: Any = None) -> Benchmark:
    parts = tree["datasets"]["parts"]
    for section, value in ((parts, decision), (parts["detectors"]["small"], own)):
        section.pop("decision", None)
        if value is not None:
            section["decision"] = value
    return SectionParser("test").benchmark(tree)


@pytest.mark.parametrize(
    ("decision", "own", "expected"),
    [
        (None, None, (0.05, 0.05)),
        ({"false_alarm_rate": 0.01}, None, (0.01, 0.01)),
        ({"false_alarm_rate": 0.01, "categories": {"bolt": {"false_alarm_rate": 0.001}}}, None, (0.001, 0.01)),
        ({"categories": {"bolt": {"false_alarm_rate": 0.1}}}, None, (0.1, 0.05)),
        ({"false_alarm_rate": 0.01}, {"false_alarm_rate": 0.2}, (0.2, 0.2)),
        ({"categories": {"bolt": {"false_alarm_rate": 0.1}}}, {"false_alarm_rate": 0.2}, (0.2, 0.2)),
        ({"false_alarm_rate": 0.01}, {"categories": {"nut": {"false_alarm_rate": 0.3}}}, (0.01, 0.3)),
        ({"false_alarm_rate": 0.01, "categories": {"bolt": {}}}, None, (0.01, 0.01)),
    ],
)
def test_a_detector_counts_before_its_dataset_and_a_category_before_all(
    tree: dict[str, Any], decision: Any, own: Any, expected: tuple[float, float]
) -> None:
    benchmark = parsed(tree, decision, own)
    parts = benchmark.datasets["parts"]
    rates = [parts.false_alarm_rate(parts.detectors["small"], each, benchmark.evaluation) for each in ("bolt", "nut")]
    assert tuple(rates) == expected
    # As many nominal images are scored as an asked rate needs.
    most = [calibration_images(parts, parts.detectors["small"], each, benchmark.evaluation) for each in ("bolt", "nut")]
    assert most == [max(64, round(1 / rate - 1)) for rate in expected]


def test_a_rate_is_read_by_metrics_and_where_it_needs_more_images_by_score_maps(tree: dict[str, Any]) -> None:
    def addresses(*decisions: Any) -> dict[tuple[str, str], str]:
        stages = stages_of(parsed(tree, *decisions))
        return {
            (stage.name, category): stage.make_head(category, {}).version
            for stage in stages
            for category in ("bolt", "nut")
        }

    def touched(*decisions: Any) -> set[tuple[str, str]]:
        return {each for each, address in addresses(*decisions).items() if before[each] != address}

    before = addresses()
    assert not touched({})
    alone = {"leave_out": "image"}
    assert not touched(alone)
    assert not touched({"false_alarm_rate": 0.05, **alone}, {"categories": {"bolt": {"false_alarm_rate": 0.05}}})
    lanes = [f"parts/{lane}/metrics" for lane in ("small", "maps", "both")]
    assert touched({"categories": {"nut": {"false_alarm_rate": 0.1}}, **alone}) == {(lane, "nut") for lane in lanes}
    assert touched(alone, {"false_alarm_rate": 0.01}) == {
        (f"parts/small/{kind}", category) for kind in ("score_maps", "metrics") for category in ("bolt", "nut")
    }
    # Whoever asks for a rate wants it kept on images to come: near-copies are left out together.
    assert touched(None, {"false_alarm_rate": 0.05}) == {("parts/small/score_maps", each) for each in ("bolt", "nut")}


@pytest.mark.parametrize(
    ("production", "decision", "own", "expected"),
    [
        (False, None, None, False),
        (True, None, None, True),
        (False, {"false_alarm_rate": 0.01}, None, True),
        (False, {"categories": {"bolt": {"false_alarm_rate": 0.01}}}, None, True),
        (False, None, {"false_alarm_rate": 0.01}, True),
        (False, {"leave_out": "group"}, None, True),
        (True, {"leave_out": "image"}, None, False),
        (True, {"leave_out": "image"}, {"leave_out": "group"}, True),
    ],
)
def test_groups_are_left_out_together_where_decisions_are_to_hold_on_images_to_come(
    tree: dict[str, Any], production: bool, decision: Any, own: Any, expected: bool
) -> None:
    if production:
        tree["datasets"]["parts"]["production"] = {}
    parts = parsed(tree, decision, own).datasets["parts"]
    assert parts.leaves_out_groups(parts.detectors["small"]) is expected


def test_a_category_that_a_decision_names_and_nobody_has_is_told(tree: dict[str, Any]) -> None:
    benchmark = parsed(tree, {"categories": {"bolts": {}}}, {"categories": {"nit": {}}})
    told = benchmark.datasets["parts"].unknown_categories(["bolt", "nut"])
    assert told == [
        "datasets.parts.decision.categories: no category bolts; did you mean 'bolt'? choose from: bolt, nut",
        "datasets.parts.detectors.small.decision.categories: no category nit; did you mean 'nut'? choose from: "
        "bolt, nut",
    ]
