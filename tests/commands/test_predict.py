"""``ad-assets predict`` and ``latency`` as a user meets them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from ad_assets.cli import main
from ad_assets.prediction import load_detector
from ad_assets.prediction.files import image_paths, result_names
from ad_assets.prediction.latency import measure
from ad_assets.report.panels import CAPTION_HEIGHT, GAP
from tests.support.bench_graph import config_tree, draw_image, write_dataset, write_image


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark file of one dataset with one category and one lane, materialized."""
    folder = tmp_path_factory.mktemp("commands")
    write_dataset(folder / "images", ["bolt"])
    tree = config_tree(folder)
    del tree["datasets"]["parts"]["detectors"]["full"]
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "home"))
        assert main(["materialize", "--config", str(path)]) == 0
    return path


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """Four images, one of them defective, one broken, one large, and what is no image."""
    folder = tmp_path / "inbox"
    write_image(folder / "good.png", draw_image(5))
    write_image(folder / "late/spoilt.png", draw_image(6, defect=True))
    write_image(folder / "late/large.png", np.tile(draw_image(7), (20, 30, 1)))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    (folder / "notes.txt").write_text("no image")
    return folder


def predict(config: Path, *arguments: str) -> int:
    return main(["predict", "--config", str(config), *arguments])


def test_a_folder_is_predicted_and_written(config: Path, inbox: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert predict(config, str(inbox), "--out", str(out), "--raw-maps") == 1
    said = capsys.readouterr()
    assert re.search(r"good\.png +\d\S+ +\d\S+ +[01]\S*  nominal\n", said.out)
    assert re.search(r"spoilt\.png +\d\S+ +\d\S+ +0\.\d+  anomalous\n", said.out)
    assert re.search(r"broken\.png +- +- +-  failed\n", said.out)
    assert "FAILED" in said.err
    assert "broken.png: not an image of a known format" in said.err
    assert re.search(r"4 images: \d anomalous, \d nominal, 1 failed", said.err)
    assert "images are 64 x 64 to 1920 x 1280, small looks at 100 % of them, one cell is 8 x 8 to 240 x 160" in said.err

    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    told = json.loads((out / "predictions.json").read_text())
    assert told["predictions"] == rows
    assert (told["dataset"], told["detector"], told["category"]) == ("parts", "small", "bolt")
    assert [Path(row["image"]).name for row in rows] == ["broken.png", "good.png", "large.png", "spoilt.png"]
    assert rows[0]["score"] is None
    assert rows[0]["error"].startswith("not an image")
    assert {row["threshold"] for row in rows[1:]} == {told["threshold"]}
    assert re.search(
        r"decision: 5 % of false alarms needs 19 nominal scores, there are 6: .* promises 14.3 %", said.err
    )
    assert (told["false_alarm_rate"], told["nominal_scores"]) == (0.05, 6)
    assert {row["p_value"] for row in rows if row["anomalous"]} == {1 / 7}
    detector = load_detector("parts", "small", "bolt", config)
    assert told["versions"] == detector.versions
    for row in rows[1:]:
        prediction = detector.predict(row["image"])
        assert row["score"] == pytest.approx(prediction.score, rel=1e-5)
        raw = np.load(out / row["raw_map"])
        assert raw.dtype == np.float32
        assert raw == pytest.approx(prediction.score_map, rel=1e-4)
    sides = {"good": (256, 256), "late/large": (512, 341), "late/spoilt": (256, 256)}
    assert {row["picture"]: Image.open(out / row["picture"]).size for row in rows[1:]} == {
        f"pictures/{name}.png": (3 * width + 2 * GAP, height + 2 * CAPTION_HEIGHT)
        for name, (width, height) in sides.items()
    }
    assert told["pixel_threshold"] == detector.pixel_threshold
    assert all(region["peak"] > told["pixel_threshold"] for row in rows[1:] for region in row["regions"])
    spoilt = rows[3]["regions"][0]
    left, top, right, bottom = spoilt["box"]
    defect = np.abs(draw_image(6).astype(int) - draw_image(6, defect=True)).max(axis=2) > 0
    assert defect[top:bottom, left:right].sum() > defect.sum() / 2

    with (out / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [cell["decision"] for cell in cells] == [
        "failed",
        *(("nominal", "anomalous")[row["anomalous"]] for row in rows[1:]),
    ]
    assert (cells[3]["left"], cells[3]["width"]) == (str(left), str(right - left))
    assert cells[0]["error"] == rows[0]["error"]
    page = (out / "report.html").read_text()
    assert "spoilt.png" in page
    assert "broken.png" in page
    assert "data:image/jpeg;base64," in page
    assert not re.search(r"(src|href)=.(?!data:)", page)
    assert not [path for path in out.rglob("*") if path.suffix == ".tmp"]
    # Twice into the folder that is predicted: results are no images.
    for _ in range(2):
        assert predict(config, str(inbox / "late"), "--out", str(inbox / "late")) == 0
        assert len(pq.read_table(inbox / "late/predictions.parquet")) == 2


def test_a_script_reads_a_json_object_a_line(config: Path, inbox: Path, capsys: Any) -> None:
    assert predict(config, str(inbox), "--json") == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = {Path(row["image"]).name: row["decision"] for row in rows}
    assert told.items() >= {"broken.png": "failed", "good.png": "nominal", "spoilt.png": "anomalous"}.items()
    assert all((row["score"] is None) == (row["decision"] == "failed") for row in rows)


def test_what_an_interrupted_run_leaves_is_whole(
    config: Path, inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ad_assets.store.store import ArtifactStore

    out, written = tmp_path / "out", ArtifactStore.write_bytes

    def interrupted(self: ArtifactStore, path: str, data: bytes) -> None:
        if "spoilt" in path:
            raise KeyboardInterrupt
        written(self, path, data)

    monkeypatch.setattr(ArtifactStore, "write_bytes", interrupted)
    assert predict(config, str(inbox), "--out", str(out)) == 130
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert found == ["pictures/good.png", "pictures/late/large.png"]


def test_a_list_comes_on_stdin(config: Path, inbox: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{inbox / 'good.png'}\n\n{inbox / 'gone.png'}\n"))
    names = ("--dataset", "parts", "--detector", "small", "--category", "bolt")
    assert predict(config, *names, "-") == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 3
    assert "gone.png: cannot be read: No such file or directory" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["INBOX", "--dataset", "nuts"], "has no dataset 'nuts'; it has: parts"),
        (["INBOX", "--detector", "full"], "has no detector 'full'; it has: small"),
        (["INBOX", "--category", "nut"], "has no category 'nut'; it has: bolt"),
        (["INBOX", "--set", "datasets.parts.detectors.small.coreset_ratio=0.5"], "another setting .* run: ad-assets"),
        (["INBOX", "--set", "store.root=EMPTY"], "parts/small .bolt. was never materialized"),
        (["INBOX", "--set", "compute.device=cuda:99"], "cannot be loaded: compute.device: cuda:99 is not there"),
        (["INBOX", "--raw-maps"], "--raw-maps needs --out, the folder to write to"),
        (["EMPTY"], "no image in"),
        (["INBOX", "--out", "INBOX/good.png"], "good.png/pictures/.* cannot be written"),
    ],
)
def test_a_wrong_call_is_explained(
    config: Path, inbox: Path, tmp_path: Path, capsys: Any, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    told = [text.replace("INBOX", str(inbox)).replace("EMPTY", str(tmp_path / "empty")) for text in arguments]
    assert predict(config, *told) == 2
    assert re.search(message, capsys.readouterr().err)


def test_what_is_stale_is_used_on_request_and_says_so(config: Path, inbox: Path, capsys: Any) -> None:
    changed = ["--set", "datasets.parts.detectors.small.coreset_ratio=0.5", "--allow-stale"]
    assert predict(config, str(inbox / "good.png"), *changed) == 0
    assert "STALE parts/small [bolt] was made under another setting" in capsys.readouterr().err


def test_names_of_results_are_those_of_the_images(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/1.jpg", "b/c/2.png", "b/.hidden/3.png", "b/note.txt"):
        write = tmp_path / name
        write.parent.mkdir(parents=True, exist_ok=True)
        write.write_bytes(b"")
    found, others = image_paths([str(tmp_path / "b"), str(tmp_path / "a"), str(tmp_path / "a/1.png"), "gone"])
    assert [Path(path).name for path in others] == ["note.txt", ".hidden"]
    assert [Path(path).name for path in found] == ["2.png", "1.jpg", "1.png", "gone"]
    assert list(result_names(found[:2]).values()) == ["b/c/2", "a/1"]
    assert list(result_names(found[:3]).values()) == ["b/c/2.png", "a/1.jpg", "a/1.png"]
    assert result_names(["x/y.png"]) == {"x/y.png": "y"}
    assert result_names([]) == {}


def test_latency_by_step(config: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "latency.json"
    arguments = ["parts", "--batch", "1", "--batch", "4", "--images", "8", "--out", str(out)]
    assert main(["latency", "--config", str(config), *arguments]) == 0
    said = capsys.readouterr().out
    assert "device cpu, precision float32, engine torch, threads" in said
    told = json.loads(out.read_text())
    steps = ["decode", "backbone", "match", "post", "total"]
    assert [(row["batch_size"], row["step"]) for row in told["rows"]] == [(n, step) for n in (1, 4) for step in steps]
    for row in told["rows"]:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["by"] == "product"
        assert re.search(
            f"small +product +{row['batch_size']}  {row['step']} +{row['p50_ms']:.3f} +{row['p95_ms']:.3f}", said
        )
    assert {row["batches"] for row in told["rows"]} == {8, 5}  # at least five
    assert main(["latency", "--config", str(config), "parts", "--detector", "full"]) == 2
    assert "has no detector 'full'" in capsys.readouterr().err
    other = ["--set", "datasets.parts.detectors.small.coreset_ratio=0.5", "--batch", "1"]
    assert main(["latency", "--config", str(config), *other]) == 1
    assert "FAILED parts/small [bolt] was made under another setting" in capsys.readouterr().err
    with pytest.raises(ValueError, match="latency needs at least one image"):
        measure(load_detector("parts", "small", "bolt", config), [], 1, 1)
