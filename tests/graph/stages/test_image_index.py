"""The stamps of an index are those of the files that it was made from, whatever runs overlap or are cut off."""

import dataclasses
import logging
from typing import Any

import pytest

from ad_assets.graph.build import materialize
from ad_assets.graph.stage import Stage
from ad_assets.graph.stages.image_index import changed_files
from tests.support.bench_graph import Bench, draw_image, write_image

LOG = logging.getLogger(__name__)


@pytest.fixture
def index(bench: Bench) -> Stage:
    """The image index of a dataset, made once."""
    [stage] = [stage for stage in bench.stages if stage.kind == "image_index"]
    run(bench, stage)
    return stage


def run(bench: Bench, stage: Stage) -> str:
    """Index a category; returns the version of the result."""
    result = materialize(stage, "bolt", bench.benchmark.store, bench.benchmark.compute, LOG)
    return result.head.version


def changes(bench: Bench) -> dict[str, str]:
    return changed_files(bench.benchmark.datasets["parts"], bench.benchmark.store, ["bolt"])


def after_scan(index: Stage, act: Any) -> Stage:
    """The stage, with something that happens between its look at the folder and its head."""

    def scan(*arguments: Any) -> Any:
        assert index.scan
        seen = index.scan(*arguments)
        act()
        return seen

    return dataclasses.replace(index, scan=scan)


def land(bench: Bench) -> None:
    write_image(bench.images / "bolt" / "train" / "good" / "new.png", draw_image(9))


def test_an_older_run_that_ends_last_leaves_what_it_did_not_see_due(bench: Bench, index: Stage) -> None:
    def overtake() -> None:
        land(bench)
        run(bench, index)
        assert changes(bench) == {}

    older = run(bench, after_scan(index, overtake))
    head = bench.benchmark.store.read_head(index.key, "bolt")
    assert head
    assert head["version"] == older
    assert "bolt" in changes(bench)
    assert run(bench, index) != older
    assert changes(bench) == {}


def test_a_run_that_is_cut_off_after_its_look_leaves_what_it_saw_due(bench: Bench, index: Stage) -> None:
    def cut_off() -> None:
        raise KeyboardInterrupt

    before = bench.benchmark.store.read_head(index.key, "bolt")
    land(bench)
    with pytest.raises(KeyboardInterrupt):
        run(bench, after_scan(index, cut_off))
    assert bench.benchmark.store.read_head(index.key, "bolt") == before
    assert changes(bench) == {"bolt": "files 1 added"}


def test_a_head_that_is_replaced_while_stamps_are_written_keeps_its_own(
    bench: Bench, index: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ad_assets.graph.stages import image_index as images

    real, overtaken = images.read_head, []

    def read_head(*place: Any) -> Any:
        found = real(*place)
        if not overtaken:  # another run ends between this look at the head and the write of the stamps
            overtaken.append(True)
            land(bench)
            overtaken.append(run(bench, index))
        return found

    monkeypatch.setattr(images, "read_head", read_head)
    run(bench, index)
    head = bench.benchmark.store.read_head(index.key, "bolt")
    assert head
    assert head["version"] == overtaken[1]
    assert changes(bench) == {}
