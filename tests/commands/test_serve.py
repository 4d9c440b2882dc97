"""From images that land to the answer of a server that follows the store: the same numbers, the next champion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from ad_assets.cli import main
from ad_assets.prediction import load_detector
from ad_assets.production.champion_history import read_history
from ad_assets.production.inspections import read
from ad_assets_runtime.identity import content_id
from tests.support.bench_graph import Bench, draw_image, write_dataset, write_image
from tests.support.line_server import LineServer, until

TINY = {"backbone": "test_resnet", "weights": "random(0)", "taps": ["layer1", "layer2"], "resize": [64, 64]}
LANE = {"method": "patchcore", "extractor": "lite0", "pooling": "concat", "coreset_ratio": 0.03}


class Served(LineServer):
    """`ad-assets serve` on a benchmark."""

    module = "ad_assets.cli"

    def command(self, source: Path, home: Path) -> list[str]:
        return ["serve", "--config", str(source), "--home", str(home)]


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A production dataset with a champion and its bundle."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    write_dataset(tmp_path / "images")
    bench = Bench(tmp_path, dg.DagsterInstance.ephemeral())
    bench.tree["extractors"]["lite0"] = TINY
    bench.tree["datasets"]["parts"] |= {
        "detectors": {"small": {**LANE, "export": {"runtime": "onnx"}}},
        "production": {"settle_seconds": 0, "margin": 1.0},
    }
    bench.reload()
    bench.run()
    return bench


@pytest.mark.slow
def test_the_server_says_what_the_graph_says_and_follows_its_champions(line: Bench, tmp_path: Path) -> None:
    store, predict = line.benchmark.store, "/v1/parts/bolt/predict"
    first = read_history(store, "parts", "small", "bolt").champion
    assert first
    images = sorted((line.images / "bolt" / "test").rglob("*.png"))
    detector = load_detector("parts", "small", "bolt", line.benchmark, record=False)
    with Served(tmp_path / "bench.yaml", tmp_path / "home") as server:
        for path in images:
            status, told, _ = server.ask("POST", f"{predict}?name={path.name}", path.read_bytes())
            own = detector.predict(path)
            assert status == 200
            assert told["score"] == pytest.approx(own.score, rel=1e-5)
            assert told["p_value"] == own.p_value
            assert (told["threshold"], told["anomalous"]) == (own.threshold, own.anomalous)
            assert [tuple(each["box"]) for each in told["regions"]] == [each.box for each in own.regions]
            assert told["champion"]["state"] == first.state
        assert {row.image_id for row in read(store, "parts", "bolt")} <= {content_id(p.read_bytes()) for p in images}

        # An operator calls an alarm false; the next run learns the image.
        false_alarm = tmp_path / "odd.png"
        write_image(false_alarm, draw_image(77, defect=True))
        told = server.ask("POST", predict, false_alarm.read_bytes())[1]
        assert told["anomalous"]
        body = json.dumps({"image_id": told["image_id"], "said": "false_alarm", "reason": "dust"}).encode()
        header = {"Content_Type": "application/json"}
        until(lambda: server.ask("POST", "/v1/parts/bolt/feedback", body, **header)[0] == 200)
        train = line.images / "bolt" / "train" / "good"
        until(lambda: list(train.glob("false_alarm_*.png")), 60)
        landed = time.monotonic()
        line.run()
        second = read_history(store, "parts", "small", "bolt").champion
        assert second
        assert second.state != first.state
        until(lambda: server.ask("POST", predict, images[0].read_bytes())[1]["champion"]["state"] == second.state, 30)
        print(f"{time.monotonic() - landed:.1f} s from the image in the folder to the first answer of its champion")
        assert server.stop() == 0
    rows = read(store, "parts", "bolt")
    assert len([row for row in rows if row.source == "line"]) >= len(images) + 2
    assert {row.champion for row in rows} == {first.state, second.state}


def test_a_benchmark_without_champions_is_served_as_not_ready(tmp_path: Path) -> None:
    write_dataset(tmp_path / "images")
    Bench(tmp_path, dg.DagsterInstance.ephemeral())
    with Served(tmp_path / "bench.yaml", tmp_path / "home") as server:
        assert server.ask("GET", "/v2/health/live")[0] == 200
        assert server.ask("GET", "/v2/health/ready")[0] == 503
        assert "no champion" in server.ask("POST", "/v1/parts/bolt/predict", b"x")[1]["error"]
    call = [sys.executable, "-m", "ad_assets.cli", "serve", "--host", "0.0.0.0"]  # noqa: S104
    call += ["--config", str(tmp_path / "bench.yaml"), "--home", str(tmp_path / "home")]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert (done.returncode, "AD_ASSETS_LINE_TOKEN" in done.stderr) == (2, True)


@pytest.mark.slow
def test_latency_of_product_bundle_and_server_side_by_side(
    line: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "latency.json"
    arguments = ["--category", "bolt", "--batch", "1", "--images", "5", "--out", str(out)]
    assert main(["latency", "--config", str(line.folder / "bench.yaml"), "parts", *arguments]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["step"] for row in rows if row["by"] == "bundle"] == ["decode", "score", "total"]
    assert [row["step"] for row in rows if row["by"] == "server"] == ["total"]
    assert {row["detector"] for row in rows} == {"small"}
    shown = capsys.readouterr().out
    for row in rows:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert f"{row['p99_ms']:.3f}" in shown
