"""What a leaderboard tells of a lane's settings: other results have another text, and the same results the same."""

import copy
from pathlib import Path
from typing import Any

import pytest

from ad_assets.config.parse import SectionParser
from ad_assets.graph.lane_settings import all_settings, lane_settings
from tests.support.bench_graph import config_tree, draw_image, write_image


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    for folder in ("images", "elsewhere"):
        write_image(tmp_path / folder / "bolt" / "train/good/0.png", draw_image(0))
    tree = config_tree(tmp_path)
    tree["datasets"]["parts"]["detectors"] = {
        "maps": {"method": "hetmm", "extractor": "lite0", "windows": [3, 3]},
        "gauss": {"method": "padim", "extractor": "lite0"},
        "both": {"method": "ensemble", "members": ["gauss", "maps"]},
    }
    return tree


def told(tree: dict[str, Any], detector: str = "gauss", category: str = "") -> str:
    benchmark = SectionParser("test").benchmark(copy.deepcopy(tree))
    parts = benchmark.datasets["parts"]
    return lane_settings(benchmark, parts, parts.detectors[detector], category)


def put(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(tree)
    *above, last = path.split(".")
    section = changed
    for name in above:
        section = section.setdefault(name, {})
    section[last] = value
    return changed


LANE = "datasets.parts.detectors.gauss"


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        (f"{LANE}.channels", 50, "padim(channels=50)"),
        (f"{LANE}.channels", None, "padim(channels=null)"),
        (f"{LANE}.seed", 3, "padim(seed=3)"),
        (f"{LANE}.draws", 2, "padim(draws=2)"),
        ("extractors.lite0.interpolation", "bicubic", "interpolation=bicubic"),
        ("datasets.parts.decision.false_alarm_rate", 0.2, "decision(false_alarm_rate=0.2, leave_out=group)"),
        ("evaluation.nominal_false_positive_rate", 0.2, "decision(false_alarm_rate=0.2)"),
        ("evaluation.resolution", "original", "evaluation(resolution=original)"),
        ("datasets.parts.groups", "folder", "folder reader(groups=folder"),
    ],
)
def test_a_changed_setting_is_told(tree: dict[str, Any], path: str, value: Any, part: str) -> None:
    before, after = told(tree), told(put(tree, path, value))
    assert part in after
    assert part not in before


def test_defaults_that_are_written_and_where_things_lie_are_not_told(tree: dict[str, Any], tmp_path: Path) -> None:
    same = put(put(tree, f"{LANE}.channels", 100), "datasets.parts.root", str(tmp_path / "elsewhere"))
    assert told(same) == told(tree)
    assert str(tmp_path) not in told(same)


def test_a_category_and_an_ensemble_tell_the_methods_that_they_have(tree: dict[str, Any]) -> None:
    changed = put(tree, f"{LANE}.categories", {"bolt": {"channels": 7}})
    assert told(changed, category="bolt").startswith("padim(channels=7); ")
    assert told(changed).startswith("padim; ")
    assert told(changed, "both", "bolt").startswith("ensemble of padim(channels=7) and hetmm(windows=[3, 3]); ")
    benchmark = SectionParser("test").benchmark(changed)
    known = all_settings(benchmark, benchmark.datasets["parts"])
    assert {place for place in known if place[1] != "mean"} == {("gauss", "bolt"), ("both", "bolt")}
    assert known["gauss", "bolt"].startswith("padim(channels=7); ")
    own = {"bolt": {"false_alarm_rate": 0.1}}
    assert "false_alarm_rate=0.1" in told(put(tree, "datasets.parts.decision.categories", own), category="bolt")
