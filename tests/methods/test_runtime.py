"""A detector that grows past what a fit of all takes is warned about before the fit is refused."""

from __future__ import annotations

import dagster as dg
import pytest

from ad_assets.commands.doctor import Finding, _growth
from ad_assets.methods.runtime import growth_warning
from tests.support.bench_graph import Bench, draw_image, write_image

BANK = [dg.AssetKey(["parts", "small", "memory_bank"])]


def told(bench: Bench) -> Finding:
    (finding,) = (finding for finding in _growth(bench.benchmark, "parts") if finding.subject.endswith("/small"))
    return finding


def test_a_budget_warns_from_four_fifths_on() -> None:
    assert growth_warning(80, 100) == ""
    assert "81 nominal images, and 100 are the most" in growth_warning(81, 100)
    assert "101 will be refused" in growth_warning(100, 100)
    assert "so the next fit of all, or scoring, is refused" in growth_warning(101, 100)


def test_a_bank_that_updates_past_its_wall_is_told_of(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def most() -> int:
        store = bench.benchmark.store
        head = store.read_head(("parts", "small", "memory_bank"), "bolt")
        assert head is not None
        return int(store.artifact("memory_bank", head["version"]).record()["metadata"]["most_images"])

    bench.run(selected=BANK, categories=["bolt"])
    far = told(bench)
    assert far.healthy
    assert f"bolt 6 of {most()}" in far.message
    assert "warning" not in far.message
    assert "will be refused" not in caplog.text

    tight = 6.5 * bench.benchmark.compute.memory_gb / most()
    bench.set("compute.memory_gb", tight)
    near = told(bench)
    assert near.healthy
    assert near.message.startswith("warning: bolt: 6 nominal images, and 6 are the most")

    write_image(bench.images / "bolt/train/good/new.png", draw_image(70))
    bench.run(selected=BANK, categories=["bolt"])  # an update looks at the new image alone
    assert most() == 6
    assert "7 nominal images, and 6 are the most" in caplog.text
    assert not told(bench).healthy
    failed = bench.outcome(selected=BANK, categories=["bolt"], force=True)
    assert "raise compute.memory_gb" in failed.failures[0]
