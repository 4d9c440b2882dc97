"""Before a run `doctor` says what each detector needs, and an update that grows past a fit of all says so first."""

from __future__ import annotations

import dagster as dg
import pytest

from ad_assets.commands.needs_checks import needs_checks
from tests.support.bench_graph import Bench, draw_image, write_image

BANK = [dg.AssetKey(["parts", "small", "memory_bank"])]


def told(bench: Bench) -> tuple[bool, str]:
    ((healthy, message),) = (
        (healthy, message)
        for subject, healthy, message in needs_checks(bench.benchmark, "parts")
        if subject == "needs of parts/small"
    )
    return healthy, message


def test_needs_are_told_before_anything_ran_and_growth_before_an_update(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def record() -> dict[str, str | int]:
        head = bench.benchmark.store.read_head(("parts", "small", "memory_bank"), "bolt")
        assert head is not None
        return dict(bench.benchmark.store.artifact("memory_bank", head["version"]).record()["metadata"])

    healthy, before = told(bench)  # from the images in the folder and the shapes of the taps
    assert healthy
    assert before.startswith("bolt, 6 nominal images of at most ")
    assert "GB in memory, a state of" in before
    bench.run(selected=BANK, categories=["bolt"])
    assert told(bench) == (True, before)
    most = int(record()["most_images"])
    assert str(record()["fit_needs"]) in before
    assert "will be refused" not in caplog.text

    tight = 6.5 * bench.benchmark.compute.memory_gb / most
    bench.set("compute.memory_gb", tight)
    healthy, message = told(bench)
    assert healthy
    assert "warning: bolt: 6 nominal images, and 6 are the most" in message

    write_image(bench.images / "bolt/train/good/new.png", draw_image(70))
    bench.run(selected=BANK, categories=["bolt"])  # an update looks at the new image alone
    assert record()["most_images"] == 6
    assert "7 nominal images, and 6 are the most" in caplog.text
    assert not told(bench)[0]
    failed = bench.outcome(selected=BANK, categories=["bolt"], force=True)
    assert "select in more parts (parts: 2)" in failed.failures[0]
