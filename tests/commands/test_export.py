"""``ad-assets export`` as a user meets it: files of evaluators and tables, from what was materialized alone."""

import csv
import io
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image

from ad_assets.cli import main
from ad_assets.commands.export import _pixel_threshold
from ad_assets.graph.stages.score_maps import read_score_index, read_shard
from ad_assets.methods.data import NominalScores
from ad_assets.metrics.thresholds import nominal_quantile
from ad_assets.report.submission import SubmissionError
from ad_assets.store.store import Artifact, ArtifactStore
from ad_assets_runtime.geometry import unfit_map
from tests.support.bench_graph import SIDE, Bench, config_tree, draw_image, write_dataset, write_image

RESIZE, CROP = 72, 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A materialized benchmark with a crop, and images of two sizes."""
    folder = tmp_path_factory.mktemp("export")
    write_dataset(folder / "images")
    wide = np.concatenate([draw_image(1), draw_image(2)], axis=1)[:, : SIDE + 30]
    write_image(folder / "images/bolt/test/good/wide.png", wide)
    # The very image of another name: each has a map of its own.
    write_image(folder / "images/bolt/test/good/again.png", wide)
    tree = config_tree(folder)
    tree["extractors"]["lite0"] |= {"resize": RESIZE, "crop": CROP}
    tree["datasets"]["parts"]["detectors"]["both"] = {"method": "ensemble", "members": ["small", "full"]}
    (folder / "bench.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "home"))
        assert main(["materialize", "--config", str(folder / "bench.yaml")]) == 0
    return folder


@pytest.fixture(autouse=True)
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))


def export(folder: Path, what: str, *arguments: object) -> int:
    return main(["export", what, "--config", str(folder / "bench.yaml"), *map(str, arguments)])


def score_maps(store: ArtifactStore, detector: str, category: str) -> Artifact:
    head = store.read_head(("parts", detector, "score_maps"), category)
    assert head is not None
    return store.artifact("score_maps", head["version"])


def image_rows(store: ArtifactStore, category: str) -> list[dict[str, Any]]:
    head = store.read_head(("parts", "image_index"), category)
    assert head is not None
    table = store.read_table(store.artifact("image_index", head["version"]).at("index.parquet"))
    return [row for row in table.to_pylist() if row["split"] == "test"]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_one_raw_map_for_every_test_image(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "maps"
    assert export(folder, "maps", "parts", "small", "--layout", "mvtec_ad", "--out", out) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "bolt: 8 maps",
        "nut: 6 maps",
        f"parts/small/score_maps: 14 maps below {out}",
    ]
    assert "parts/small/score_maps [bolt]: 8 maps written" in printed.err
    store = ArtifactStore(root=str(folder / "store"))
    expected = set()
    for category in ("bolt", "nut"):
        artifact = score_maps(store, "small", category)
        for row in image_rows(store, category):
            path = str(Path(row["path"]).with_suffix(".tiff"))
            expected.add(path)
            found = tifffile.imread(out / path)
            with Image.open(folder / "images" / row["path"]) as image:
                size = image.size[::-1]
            assert (found.dtype, found.shape) == (np.float32, size)
            score_map = read_shard(artifact, row["image_id"])[0].numpy()
            assert found.tobytes() == unfit_map(score_map, size, RESIZE, CROP).tobytes()
    assert files(out) == expected

    # Nothing is replaced unasked, nothing foreign is left among the maps, and a repetition gives the same bytes.
    before = {path: (out / path).read_bytes() for path in expected}
    assert export(folder, "maps", "parts", "full", "--layout", "mvtec_ad", "--out", out) == 1
    assert re.search(r"bolt/test/good/000\.tiff exists, 8 files in all: .*--overwrite", capsys.readouterr().err)
    assert {path: (out / path).read_bytes() for path in expected} == before
    assert export(folder, "maps", "parts", "small", "--layout", "mvtec_ad", "--out", out, "--overwrite") == 0
    assert {path: (out / path).read_bytes() for path in expected} == before
    (out / "bolt/test/good/old.tiff").write_bytes(b"")
    assert export(folder, "maps", "parts", "small", "--layout", "mvtec_ad", "--out", out, "--overwrite") == 1
    assert re.search(r"good/old\.tiff lies where .* of no test image", capsys.readouterr().err)


@pytest.mark.parametrize("detector", ["small", "both"])
def test_the_server_gets_maps_and_decisions_at_a_nominal_threshold(
    folder: Path, tmp_path: Path, capsys: Any, detector: str
) -> None:
    out = tmp_path / "upload"
    arguments = ["parts", detector, "--layout", "mvtec_ad_2", "--category", "bolt", "--out", out]
    assert export(folder, "maps", *arguments, "--set", "evaluation.nominal_false_positive_rate=0.2") == 0
    store = ArtifactStore(root=str(folder / "store"))
    artifact = score_maps(store, detector, "bolt")
    threshold = nominal_quantile(read_score_index(artifact).nominal.map_maxima, 0.2, ())
    assert f"bolt: 8 maps, pixels above {threshold:.6g} are anomalous" in capsys.readouterr().out
    expected = set()
    for row in image_rows(store, "bolt"):
        stem = str(Path(row["path"]).with_suffix(""))
        names = f"anomaly_images/{stem}.tiff", f"anomaly_images_thresholded/{stem}.png"
        expected |= set(names)
        score_map = read_shard(artifact, row["image_id"])[0].numpy()
        fitted = unfit_map(score_map, (row["height"], row["width"]), RESIZE, CROP)
        found = tifffile.imread(out / names[0])
        assert found.dtype == np.float16
        assert found.tobytes() == fitted.astype(np.float16).tobytes()
        with Image.open(out / names[1]) as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), np.where(fitted > threshold, 255, 0))
    assert files(out) == expected


def test_the_nominal_maxima_are_those_of_a_detector_that_never_saw_the_image(bench: Bench) -> None:
    bench.set("datasets.parts.detectors.both", {"method": "ensemble", "members": ["small", "full"]})
    bench.make(categories=["bolt"])
    indexes = {
        name: read_score_index(score_maps(bench.benchmark.store, name, "bolt")) for name in ("small", "full", "both")
    }
    source = bench.images / "bolt/train/good/003.png"
    source.rename(bench.images / "bolt/test/good/moved.png")
    bench.make(categories=["bolt"])
    store = bench.benchmark.store
    [image_id] = [row["image_id"] for row in image_rows(store, "bolt") if row["path"].endswith("moved.png")]
    # A bank without a coreset that leaves an image out is the bank made without that image.
    now, score = read_shard(score_maps(store, "full", "bolt"), image_id)
    place = indexes["full"].nominal.image_ids.index(image_id)
    assert indexes["full"].nominal.map_maxima[place] == pytest.approx(float(now.max()), rel=1e-4)
    assert indexes["full"].nominal.scores[place] == pytest.approx(score, rel=1e-4)

    # Of an ensemble they are the means of the members', in the units of its maps.
    expected = torch.zeros(6)
    for name in ("small", "full"):
        nominal = torch.tensor(indexes[name].nominal.scores)
        expected += (torch.tensor(indexes[name].nominal.map_maxima) - nominal.mean()) / nominal.std() / 2
    assert indexes["both"].nominal.map_maxima == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-4)


def test_without_nominal_scores_there_is_no_threshold() -> None:
    with pytest.raises(SubmissionError, match=r"parts/x \[bolt\]: no nominal training image .* held_out"):
        _pixel_threshold(NominalScores([], [], []), 0.05, "parts/x [bolt]")


def test_what_is_stale_or_missing_is_refused_with_the_command(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "images", ["bolt"])
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(config_tree(tmp_path), sort_keys=False))
    out = tmp_path / "out"
    arguments = ["maps", "parts", "small", "--layout", "mvtec_ad_2", "--out", out]

    def remedy() -> list[str]:
        printed = capsys.readouterr()
        assert not out.exists()
        found = re.search(r"nothing was exported; first run: (.*)", printed.err)
        assert found
        return shlex.split(found[1])[1:]

    assert export(tmp_path, *arguments) == 1
    assert main(remedy()) == 0  # as it was printed
    write_image(tmp_path / "images/bolt/test/good/new.png", draw_image(5))
    capsys.readouterr()
    assert export(tmp_path, *arguments) == 1
    assert main(remedy()) == 0
    capsys.readouterr()
    changed = ["--set", "datasets.parts.detectors.small.sigma=1.5"]
    assert export(tmp_path, *arguments, *changed) == 1
    command = remedy()
    assert command[-4:] == ["--select", 'key:"parts/small/score_maps"', "--category", "bolt"]
    assert changed[1] in command
    assert export(tmp_path, *arguments) == 0

    store = ArtifactStore(root=str(tmp_path / "store"))
    artifact = score_maps(store, "small", "bolt")
    store.write_bytes(artifact.at("maps-00000.safetensors"), b"cut off")
    assert export(tmp_path, *arguments, "--overwrite") == 1
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["maps", "other", "small", "--layout", "mvtec_ad"], "has no dataset 'other'; it has: parts"),
        (["maps", "parts", "tiny", "--layout", "mvtec_ad"], "has no detector 'tiny'; it has: small, full, both"),
        (
            ["maps", "parts", "small", "--layout", "mvtec_ad", "--category", "x"],
            "no category 'x'; there are: bolt, nut",
        ),
        (["leaderboard", "other", "--format", "csv"], "has no dataset 'other'"),
        (["leaderboard", "parts", "--format", "csv", "--metric", "image_ap"], "are of --format latex"),
        (
            ["leaderboard", "parts", "--format", "latex", "--metric", "x"],
            r"no metric x under .* image_auroc \(standard\)",
        ),
    ],
)
def test_a_wrong_call_is_explained(
    folder: Path, tmp_path: Path, capsys: Any, arguments: list[str], message: str
) -> None:
    assert export(folder, *arguments, "--out", tmp_path / "out") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_the_leaderboard_in_every_format(folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert export(folder, "leaderboard", "--format", "csv", "--out", "-") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert {row["detector"] for row in rows} == {"small", "full", "both"}
    assert {row["category"] for row in rows} == {"bolt", "nut", "mean"}
    target = tmp_path / "new" / "board.parquet"
    assert export(folder, "leaderboard", "parts", "--format", "parquet", "--out", target) == 0
    table = ArtifactStore(root=str(target.parent)).read_table(target.name).to_pylist()
    assert [row["metric"] for row in table] == [row["metric"] for row in rows]
    assert [row["value"] for row in table] == [float(row["value"]) if row["value"] else None for row in rows]
    assert files(target.parent) == {"board.parquet"}
    assert export(folder, "leaderboard", "parts", "--format", "latex", "--metric", "pixel_auroc", "--out", "-") == 0
    latex = capsys.readouterr().out
    assert r"\caption{Pixel AUROC in percent on parts; the best is bold.}" in latex
    assert re.search(r"^nut & .*\d\d\.\d", latex, re.MULTILINE)


def test_a_leaderboard_that_is_not_there_or_out_of_date(folder: Path, tmp_path: Path, capsys: Any) -> None:
    empty = ["--set", f"store.root={tmp_path / 'empty'}"]
    assert export(folder, "leaderboard", "parts", "--format", "json", "--out", "-", *empty) == 1
    assert "no leaderboard yet; first run: ad-assets materialize parts --config" in capsys.readouterr().err
    changed = ["--set", "datasets.parts.detectors.small.sigma=1.5"]
    assert export(folder, "leaderboard", "parts", "--format", "json", "--out", "-", *changed) == 0
    assert "parts/leaderboard is incomplete or out of date; to renew it: ad-assets" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert export(folder, "leaderboard", "--format", "json", "--out", tmp_path / "file" / "board.json") == 1
    assert "board.json cannot be written" in capsys.readouterr().err
