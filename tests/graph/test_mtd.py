"""All 1344 real images of Magnetic Tile Defects through the graph, each figure recomputed by independent code.

Peak memory is that of the command that ran; the figures come from the stored maps, the masks are read again from disk.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import load_file
from skimage.measure import label
from sklearn.metrics import average_precision_score, roc_auc_score

from tests.support.places import MAGNETIC_TILES, REPOSITORY

PEAK_BYTES = 6e9
# Figures that the tests of tests/metrics work out anew.
HELD_ELSEWHERE = {
    ("interval_95", "image_auroc_low"),
    ("interval_95", "image_auroc_high"),
    ("per_image_fpr", "aupro_0.30"),
    ("standard", "regions_vanished"),
}
DETECTORS = ("patchcore_1", "hetmm_60", "hetmm_all")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not (MAGNETIC_TILES / "MT_Free").is_dir(), reason=f"no Magnetic Tile Defects in {MAGNETIC_TILES}"
    ),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mtd")
    settings = [f"datasets.mtd.root={MAGNETIC_TILES}", f"store.root={folder / 'store'}"]
    made = subprocess.Popen(
        [sys.executable, "-m", "ad_assets.cli", "materialize", "--config", "mtd"]
        + [part for setting in settings for part in ("--set", setting)]
        + ["--select", " or ".join(f'key:"mtd/{detector}/metrics"' for detector in DETECTORS)],
        cwd=REPOSITORY,
        env={**os.environ, "DAGSTER_HOME": str(folder / "home")},
    )
    _, status, used = os.wait4(made.pid, 0)  # the peak of this process, and of no other that a test has started
    made.returncode = os.waitstatus_to_exitcode(status)
    assert made.returncode == 0
    assert used.ru_maxrss * 1024 < PEAK_BYTES
    return folder / "store"


def head(store: Path, *key: str, partition: str = "magnetic_tile") -> str:
    path = store / "heads" / Path(*key) / f"{partition}.json"
    return str(json.loads(path.read_text())["version"])


def area_under(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Trapezoids from 0 to the limit, the last one cut at it; divided by the limit."""
    inside = x <= limit
    total = float(np.trapezoid(y[inside], x[inside]))
    if not inside.all():
        first = int(np.argmin(inside))
        x0, y0, x1, y1 = x[first - 1], y[first - 1], x[first], y[first]
        cut = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        total += float((limit - x0) * (y0 + cut) / 2)
    return total / limit


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_figure_of_the_row(store: Path, detector: str) -> None:
    artifacts = store / "artifacts"
    board = pq.read_table(
        artifacts / "leaderboard" / head(store, "mtd", "leaderboard", partition="_") / "leaderboard.parquet"
    ).to_pylist()
    rows = {
        (row["protocol"], row["metric"]): row
        for row in board
        if (row["category"], row["detector"]) == ("magnetic_tile", detector) and row["protocol"] != "timing"
    }
    index = pq.read_table(artifacts / "image_index" / head(store, "mtd", "image_index") / "index.parquet").to_pylist()
    assert len(index) == 1344
    folder = artifacts / "score_maps" / head(store, "mtd", detector, "score_maps")
    stored = json.loads((folder / "scores.json").read_text())
    shards = [load_file(path) for path in sorted(folder.glob("maps-*.safetensors"))]
    maps = np.concatenate([shard["maps"] for shard in shards])
    scores = np.concatenate([shard["image_scores"] for shard in shards])
    by_id = {row["image_id"]: row for row in index if row["split"] == "test"}
    assert sorted(by_id) == stored["image_ids"]
    truth = [by_id[image] for image in stored["image_ids"]]
    labels = np.array([row["label"] for row in truth])
    assert labels.sum() == 392

    masks = np.zeros(maps.shape, bool)
    for place, row in enumerate(truth):
        for path in row["mask_paths"]:
            mask = Image.open(MAGNETIC_TILES / path).convert("L").point(lambda value: 255 * (value > 127))
            masks[place] = np.asarray(mask.resize(maps.shape[:0:-1], Image.Resampling.NEAREST)) > 0
    figures = image_figures(scores.astype(np.float64), labels, stored["nominal"]["scores"])
    figures |= pixel_figures(maps, masks)
    assert figures.keys() == rows.keys() - HELD_ELSEWHERE
    for key, expected in figures.items():
        tolerance = 1e-6 if key[1].startswith(("pixel", "aupro", "best")) else 1e-9
        assert rows[key]["value"] == pytest.approx(expected, abs=tolerance), key


def image_figures(scores: np.ndarray, labels: np.ndarray, nominal: list[float]) -> dict[tuple[str, str], Any]:
    def errors(above: np.ndarray) -> tuple[int, int, float]:
        alarms, misses = int((above & (labels == 0)).sum()), int((~above & (labels == 1)).sum())
        hits = int(labels.sum()) - misses
        return alarms, misses, 2 * hits / (2 * hits + alarms + misses)

    best = max(np.unique(scores), key=lambda threshold: errors(scores >= threshold)[2])
    rank = min(math.ceil(round((len(nominal) + 1) * 0.95, 9)), len(nominal))
    from_nominal = sorted(nominal)[rank - 1]
    figures: dict[tuple[str, str], Any] = {
        ("standard", "image_auroc"): roc_auc_score(labels, scores),
        ("standard", "image_ap"): average_precision_score(labels, scores),
    }
    for protocol, threshold, above in (
        ("oracle_f1", best, scores >= best),
        ("nominal_threshold", from_nominal, scores > from_nominal),
    ):
        alarms, misses, f1 = errors(above)
        figures |= {
            (protocol, "threshold"): threshold,
            (protocol, "image_f1"): f1,
            (protocol, "false_positives"): alarms,
            (protocol, "false_negatives"): misses,
        }
    return figures


def pixel_figures(maps: np.ndarray, masks: np.ndarray) -> dict[tuple[str, str], Any]:
    """By one sort of all pixels."""
    weights = np.zeros(maps.shape)
    regions = 0
    for place, mask in enumerate(masks):
        components = label(mask, connectivity=2)
        areas = np.bincount(components.ravel())
        weights[place][mask] = 1 / areas[components[mask]]
        regions += len(areas) - 1
    order = np.argsort(-maps.ravel(), kind="stable")
    sorted_scores, anomalous = maps.ravel()[order], masks.ravel()[order]
    last = np.append(np.diff(sorted_scores) != 0, True)
    hits = np.cumsum(anomalous)[last]
    alarms = np.cumsum(~anomalous)[last]
    recall, fall_out = np.append(0, hits / hits[-1]), np.append(0, alarms / alarms[-1])
    overlap = np.append(0, np.cumsum(weights.ravel()[order])[last] / regions)
    return {
        ("standard", "pixel_auroc"): float(np.trapezoid(recall, fall_out)),
        ("standard", "pixel_ap"): float(np.sum(np.diff(recall) * hits / (hits + alarms))),
        ("standard", "aupro_0.30"): area_under(fall_out, overlap, 0.3),
        ("standard", "aupro_0.05"): area_under(fall_out, overlap, 0.05),
        ("oracle_threshold", "best_iou"): float(np.max(hits / (hits[-1] + alarms))),
    }
