"""What would run, as people read it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ad_assets.commands.plan_text import plan_text, plan_values


def step(asset: str, category: str | None, reason: str, action: str = "compute") -> Any:
    return SimpleNamespace(
        stage=SimpleNamespace(key=tuple(asset.split("/")), name=asset), partition=category, reason=reason, action=action
    )


PLAN = [
    *(step("d/image_index", name, "files 1 added", "scan") for name in ("a", "b")),
    *(step("d/features/x", name, "image_index is rebuilt") for name in ("a", "b")),
    *(step("d/small/bank", name, "features/x is rebuilt") for name in ("a", "b")),
    *(step("d/large/bank", name, "made under another setting: sigma 1 -> 2") for name in "abcde"),
    *(step("d/large/maps", name, "large/bank is rebuilt") for name in "abcde"),
    *(step("d/small/metrics", name, "image_index is rebuilt") for name in ("a", "b")),
    step("d/small/metrics", "c", "its files are damaged"),
    step("d/leaderboard", None, "small/metrics is rebuilt"),
    step("d/report", None, "image_index is rebuilt"),
    step("e/features/x", "a", "not in this store", "reuse"),
]


def test_each_lane_has_a_line_for_each_reason_and_what_follows_is_told_with_it() -> None:
    rows = [" ".join(line.split()) for line in plan_text(PLAN).splitlines()]
    assert rows == [
        "d",
        "scan image_index [a, b] files 1 added",
        "compute features: x [a, b] image_index is rebuilt",
        "compute small: bank, metrics [a, b] features/x is rebuilt",
        "compute small: metrics [c] its files are damaged",
        "compute large: bank, maps [5 categories] made under another setting: sigma 1 -> 2",
        "compute leaderboard, report small/metrics is rebuilt",
        "e",
        "reuse features: x [a] not in this store",
    ]
    assert len(plan_values(PLAN)) == len(PLAN)
