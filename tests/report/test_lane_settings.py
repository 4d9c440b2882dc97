"""Settings of lanes in words: what all share is told once, a category has its own, and nothing is lost."""

from types import SimpleNamespace
from typing import Any, cast

from ad_assets.report.lane_settings import ALL, row_settings, told_settings


def row(detector: str, category: str, settings: str) -> Any:
    return cast(Any, SimpleNamespace(detector=detector, category=category, settings=settings))


def test_what_all_lanes_share_is_told_once_and_a_category_tells_its_own() -> None:
    rows = [
        row("a", "bolt", "padim; net(resize=64)"),
        row("a", "nut", "padim(channels=5); net(resize=64)"),
        row("a", "mean", "padim; net(resize=64)"),
        row("b", "bolt", "padim; net(resize=64); decision(false_alarm_rate=0.1)"),
    ]
    assert told_settings(rows) == [
        (ALL, "net(resize=64)"),
        ("a", "padim"),
        ("a [nut]", "padim(channels=5)"),
        ("b", "padim; decision(false_alarm_rate=0.1)"),
    ]
    assert told_settings(rows[:1]) == [("a", "padim; net(resize=64)")]
    assert told_settings([row("a", "bolt", "")]) == []


def test_a_category_without_settings_of_its_own_has_those_of_the_lane() -> None:
    known = {("a", "mean"): "padim", ("a", "nut"): "padim(channels=5)"}
    assert [row_settings(known, "a", name) for name in ("mean", "bolt", "nut")] == [
        "padim",
        "padim",
        "padim(channels=5)",
    ]
    assert row_settings(known, "b", "nut") == ""
