"""One search for near-copies serves all lanes of an extractor, until the training images change."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ad_assets.graph.garbage import unreferenced
from ad_assets.graph.graph import Graph
from ad_assets.graph.stages import near_copies
from ad_assets.graph.stages.score_maps import read_score_index
from tests.support.bench_graph import Bench, draw_image, write_image


def test_lanes_of_one_extractor_search_once_and_again_when_training_images_change(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[int] = []
    search = near_copies.near_copy_groups

    def counted(features: Any, *rest: Any) -> Any:
        searched.append(len(features))
        return search(features, *rest)

    def left_out(lane: str) -> str:
        head = store.read_head(("parts", lane, "score_maps"), "bolt")
        assert head
        return read_score_index(store.artifact("score_maps", head["version"])).nominal.left_out

    def kept() -> set[str]:
        return {file.path for file in store.files(f"artifacts/{near_copies.KIND}")}

    monkeypatch.setattr(near_copies, "near_copy_groups", counted)
    shutil.rmtree(bench.images / "nut")
    good = bench.images / "bolt" / "train" / "good"
    for number in range(6, 11):
        write_image(good / f"{number:03}.png", draw_image(1000 + number))
    write_image(good / "copy.png", np.clip(draw_image(1003).astype(int) + 1, 0, 255).astype(np.uint8))
    bench.set("datasets.parts.decision", {"false_alarm_rate": 0.2})
    bench.make()
    store = bench.benchmark.store
    assert searched == [12]
    assert left_out("small") == left_out("full") == "by near-copies: 11 groups of 12 images"
    before = kept()

    write_image(bench.images / "bolt" / "test" / "good" / "new.png", draw_image(1200))
    bench.make()
    assert searched == [12]
    write_image(good / "new.png", draw_image(1300))
    bench.make()
    assert searched == [12, 13]
    assert left_out("full") == "by near-copies: 12 groups of 13 images"
    unread = {file.path for file in unreferenced(Graph(bench.stages, store), older_than=-1)}
    assert kept() & unread == before

    for path in kept() - before:
        if path.endswith(near_copies.GROUPS):
            (Path(store.root) / path).write_text("[]")
    bench.set("datasets.parts.detectors.full.sigma", 3.0)
    bench.make()
    assert searched == [12, 13, 13], "what is damaged was read"
    assert left_out("full") == "by near-copies: 12 groups of 13 images"
