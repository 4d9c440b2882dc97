"""A state fitted again from stored features is measured as the graph measures its own."""

import numpy as np
import pytest

from ad_assets.graph.build import materialize
from ad_assets.graph.stage import read_head
from ad_assets.graph.stages.image_index import current_index, read_index
from ad_assets.graph.stages.metrics import read_rows
from ad_assets.prediction import DetectorError
from ad_assets.prediction.lookup import Lookup
from ad_assets.prediction.refits import Refits
from ad_assets.store.layout import MARKER
from tests.support.bench_graph import Bench, write_image

LANE = ("memory_bank", "neighbours", "score_maps", "metrics")


class Quiet:
    def info(self, message: str) -> None:
        """Drop it."""


def refits(bench: Bench, metric: str) -> Refits:
    dataset = bench.benchmark.datasets["parts"]
    lookup = Lookup.of(bench.benchmark)
    return Refits(lookup, dataset, dataset.detectors["small"], "bolt", metric, lambda *_: None)


@pytest.mark.parametrize("kind", ["whole", "region of interest", "turned"])
def test_a_refit_has_the_values_of_the_metrics_asset(bench: Bench, kind: str) -> None:
    directions = [f"features/lite0/turned_{turn}" for turn in (90, 180, 270) if kind == "turned"]
    if kind == "turned":
        bench.tree["datasets"]["parts"]["detectors"]["small"]["turns"] = 4
        bench.reload()
    if kind == "region of interest":
        inspected = np.zeros((64, 64), np.uint8)
        inspected[:, :40] = 255
        write_image(bench.images / "roi" / "bolt.png", inspected)
        bench.tree["datasets"]["parts"]["roi"] = "roi/{category}.png"
        bench.tree["datasets"]["parts"]["detectors"]["small"]["roi_fit"] = True
        bench.reload()
    stages = {stage.name: stage for stage in bench.stages}
    store = bench.benchmark.store
    for name in ("image_index", "features/lite0", *directions, *(f"small/{kind}" for kind in LANE)):
        materialize(stages[f"parts/{name}"], "bolt", store, bench.benchmark.compute, Quiet())
    heads = {kind: read_head(store, ("parts", "small", kind), "bolt") for kind in LANE}
    assert heads["metrics"]
    assert heads["memory_bank"]
    rows = {row["metric"]: row["value"] for row in read_rows(store.artifact("metrics", heads["metrics"].version))}
    index = current_index(store, "parts", "bolt")
    assert index
    images = [row["image_id"] for row in read_index(index) if row["split"] == "train"]
    for metric, name in (("pixel_ap", "pixel_ap"), ("image_auroc", "image_auroc"), ("false_alarms", "false_positives")):
        made = refits(bench, metric)
        refit = made.fit(images)
        assert refit.found == (metric == "pixel_ap")
        assert refit.value == pytest.approx(rows[name], abs=1e-9)
        store.delete([store.artifact("memory_bank", heads["memory_bank"].version).at(MARKER)])


def test_a_lane_that_cannot_be_fitted_again_is_refused(bench: Bench) -> None:
    with pytest.raises(DetectorError, match="has no test images"):
        refits(bench, "image_auroc")
    bench.set("datasets.parts.detectors.both", {"method": "ensemble", "members": ["small", "full"]})
    dataset = bench.benchmark.datasets["parts"]
    with pytest.raises(DetectorError, match="name one of its members"):
        Refits(Lookup.of(bench.benchmark), dataset, dataset.detectors["both"], "bolt", "image_auroc", lambda *_: None)
