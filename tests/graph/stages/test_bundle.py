"""The bundle of a lane in the graph: parity, shared graphs, and champions that go out only with their bundle."""

import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from ad_assets.bundle.parity import Parity, compare
from ad_assets.bundle.writer import Scored, sha256
from ad_assets.cli import main
from ad_assets.config.load import ConfigError
from ad_assets.graph.garbage import unreferenced
from ad_assets.graph.graph import Graph
from ad_assets.graph.stages import bundle as stage_module
from ad_assets.graph.stages.bundle import read_bundle, read_manifest, shared_graphs
from ad_assets.prediction.loading import load_detector
from ad_assets.production.champion_history import read_history
from ad_assets_runtime.bundle import MANIFEST, Bundle, open_bundle
from tests.support.bench_graph import Bench, draw_image, write_dataset, write_image

TINY = {"backbone": "test_resnet", "weights": "random(0)", "taps": ["layer1", "layer2"], "resize": [64, 64]}
LANE = {"method": "patchcore", "extractor": "lite0", "pooling": "concat", "coreset_ratio": 0.03}
EXPORT = {"runtime": "onnx"}


def _bench(folder: Path, detectors: dict[str, Any], **dataset: Any) -> Bench:
    bench = Bench(folder, dg.DagsterInstance.ephemeral())
    bench.tree["extractors"]["lite0"] = TINY
    bench.tree["datasets"]["parts"] |= {"detectors": detectors, **dataset}
    bench.reload()
    return bench


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A production dataset of two categories with champions and their bundles."""
    folder = tmp_path_factory.mktemp("line")
    write_dataset(folder / "images")
    production = {"settle_seconds": 0, "margin": 1.0}
    bench = _bench(folder, {"small": {**LANE, "export": EXPORT}}, production=production)
    bench.make()
    return bench


def _graphs_of(line: Bench, folder: Path) -> None:
    """Give another store the graphs, which take seconds to write: they follow from the settings alone."""
    shutil.copytree(Path(line.benchmark.store.root) / "artifacts/onnx_graph", folder / "store/artifacts/onnx_graph")


def _version(bench: Bench, category: str = "bolt", kind: str = "bundle") -> str:
    head = bench.benchmark.store.read_head(("parts", "small", kind), category)
    assert head is not None
    return str(head["version"])


def _pointer(bench: Bench, category: str = "bolt") -> dict[str, Any]:
    pointer: dict[str, Any] = bench.benchmark.store.read_json(f"champion_bundles/parts/small/{category}.json")
    return pointer


def test_a_bundle_says_all_that_a_line_needs(line: Bench) -> None:
    store = line.benchmark.store
    artifact = store.artifact("bundle", _version(line))
    manifest, files = read_manifest(artifact), read_bundle(artifact)
    assert manifest["files"] == {
        path: {"bytes": len(data), "sha256": sha256(data)} for path, data in files.items() if path != MANIFEST
    }
    assert manifest["parity"]["images"] == 6
    assert manifest["parity"]["flips"] == 0
    assert manifest["parity"]["largest_map"] < 1e-5
    assert [each["image"] for each in manifest["selftest"]] == [f"selftest/{n}.png" for n in range(3)]
    [member] = manifest["members"]
    assert member["geometry"] == {"resize": [64, 64], "crop": None, "interpolation": "bilinear"}
    assert member["inputs"] == {"image": "image", "state": ["bank"]}
    detector = load_detector("parts", "small", "bolt", line.benchmark, record=False)
    decision = manifest["decision"]
    assert decision["threshold"] == detector.threshold
    assert decision["pixel_threshold"] == detector.pixel_threshold
    assert decision["promise"] == detector.promise


def test_graphs_are_shared_and_an_update_writes_a_small_state(line: Bench, tmp_path: Path) -> None:
    shutil.copytree(line.folder, tmp_path, dirs_exist_ok=True)
    bench = _bench(
        tmp_path, line.tree["datasets"]["parts"]["detectors"], production=line.tree["datasets"]["parts"]["production"]
    )
    store = bench.benchmark.store
    graphs = [shared_graphs(store.artifact("bundle", _version(bench, each))) for each in ("bolt", "nut")]
    assert graphs[0] == graphs[1]
    before, pointer = bench.files(), _pointer(bench)
    for number in range(2):
        write_image(bench.images / "bolt/train/good" / f"new{number}.png", draw_image(7000 + number))
    bench.make()
    assert _pointer(bench) != pointer
    assert read_history(store, "parts", "small", "bolt").champion.bundle == _version(bench)  # type: ignore[union-attr]
    written = {
        path for path in bench.files() if path not in before and path.startswith(("artifacts/bundle", "artifacts/onnx"))
    }
    sizes = {path: (Path(store.root) / path).stat().st_size for path in written}
    [graph] = graphs[0].values()
    assert graph not in written
    assert sum(sizes.values()) < 0.5 * (Path(store.root) / graph).stat().st_size
    # The bundle that the champion was before, which a rollback needs, stays, and so does the graph.
    gone = {file.path for file in unreferenced(Graph(bench.stages, store), older_than=-1.0)}
    assert not any(path.startswith(("artifacts/bundle", "artifacts/onnx")) for path in gone)
    _rolls_back(bench, pointer)


def _rolls_back(bench: Bench, earlier: dict[str, Any]) -> None:
    config = ["--config", str(bench.folder / "bench.yaml")]
    assert main(["rollback", "parts", "small", "bolt", "--reason", "it saw too little", *config]) == 0
    now = _pointer(bench)
    assert (now["bundle"], now["sha256"], now["state"]) == (earlier["bundle"], earlier["sha256"], earlier["state"])
    assert now["reason"] == "rolled back: it saw too little"
    assert main(["promote", "parts", "small", "bolt", "--reason", "after all", *config]) == 0
    assert _pointer(bench)["bundle"] == f"artifacts/bundle/{_version(bench)}"


def test_a_line_follows_a_file_that_names_the_champion_and_its_bundle(line: Bench) -> None:
    store, pointer = line.benchmark.store, _pointer(line)
    history = read_history(store, "parts", "small", "bolt")
    assert pointer["state"] == history.champion.state  # type: ignore[union-attr]
    assert pointer["since"] == history.entries[-1].when
    assert pointer["sha256"] == sha256(store.read_bytes(f"{pointer['bundle']}/{MANIFEST}"))
    for path, where in pointer["shared"].items():
        expected = store.read_json(f"{pointer['bundle']}/{MANIFEST}")["files"][path]["sha256"]
        assert sha256(store.read_bytes(where)) == expected


def test_a_champion_is_exported_as_a_folder_or_a_zip(
    line: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "bundle", "parts", "small", "--category", "nut", "--config", str(line.folder / "bench.yaml")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_bytes())
    assert manifest["champion"]["state"] == _version(line, "nut", "memory_bank")
    for path, each in manifest["files"].items():
        assert sha256((tmp_path / "out" / path).read_bytes()) == each["sha256"]
    assert main([*command, "--out", str(tmp_path / "nut.zip")]) == 0
    shutil.unpack_archive(tmp_path / "nut.zip", tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / MANIFEST).read_bytes() == (tmp_path / "out" / MANIFEST).read_bytes()
    assert "0 decisions changed" in capsys.readouterr().out
    bundle = open_bundle(tmp_path / "nut.zip")
    assert bundle.manifest == manifest
    detector = load_detector("parts", "small", "nut", line.benchmark, record=False)
    for image in sorted((line.images / "nut" / "test").rglob("*.png")):
        ours, theirs = bundle.predict(image), detector.predict(image)
        assert (ours.anomalous, ours.p_value, ours.threshold) == (theirs.anomalous, theirs.p_value, theirs.threshold)
        np.testing.assert_allclose(ours.score_map, theirs.score_map, rtol=0, atol=1e-5 * theirs.score_map.max())
        assert len(ours.regions) == len(theirs.regions)
    assert main([*command, "--out", str(tmp_path / "out")]) != 0
    assert "exists: choose another --out" in capsys.readouterr().err


def _in_tenths(score_map: np.ndarray, score: float) -> tuple[np.ndarray, float]:
    return np.round(score_map, 1), round(score, 1)


def test_without_parity_nothing_is_promoted(
    line: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "images", ["bolt"])
    _graphs_of(line, tmp_path)
    honest = Bundle.score
    monkeypatch.setattr(Bundle, "score", lambda bundle, rgb: _in_tenths(*honest(bundle, rgb)))
    production = {"settle_seconds": 0}
    bench = _bench(tmp_path, {"small": {**LANE, "export": EXPORT}}, production=production)
    bench.outcome()
    store = bench.benchmark.store
    assert store.read_head(("parts", "small", "bundle"), "bolt")["blocked"] == ["parity"]  # type: ignore[index]
    assert store.read_head(("parts", "small", "champion"), "bolt") is None
    assert not list(store.files("champion_bundles"))
    assert read_history(store, "parts", "small", "bolt").champion is None
    config = ["--config", str(bench.folder / "bench.yaml")]
    assert (
        main(["export", "bundle", "parts", "small", "--category", "bolt", "--out", str(tmp_path / "o"), *config]) != 0
    )
    assert "has no champion" in capsys.readouterr().err


def test_a_lane_outside_of_production_has_a_bundle_without_test_images_too(line: Bench, tmp_path: Path) -> None:
    write_dataset(tmp_path / "images", ["bolt"])
    for gone in ("test", "ground_truth"):
        shutil.rmtree(tmp_path / "images" / "bolt" / gone)
    _graphs_of(line, tmp_path)
    bench = _bench(tmp_path, {"small": {**LANE, "export": EXPORT}})
    bench.make()
    manifest = read_manifest(bench.benchmark.store.artifact("bundle", _version(bench)))
    assert manifest["parity"]["images"] == 6  # mirrored training images, which the bank does not hold
    assert manifest["parity"]["flips"] == 0
    assert min(each["score"] for each in manifest["selftest"]) > 0.1


@pytest.mark.parametrize(
    ("lane", "extractor", "fault"),
    [
        ({"search": "ivfpq"}, {}, "ivfpq"),
        ({}, {"tiles": {"size": 32, "overlap": 0}, "taps": ["/4", "/8"]}, "tiles: a graph takes whole images"),
        ({}, {"precision": "bfloat16"}, "computes in float32"),
        ({}, {"storage": "float16"}, "rounds no features"),
        (
            {"method": "padim", "channels": None},
            {"resize": [1024, 1024]},
            r"its state takes 1.5 GB, more than 1 GB: keep less of what is learnt \(channels",
        ),
    ],
)
def test_what_cannot_go_out_says_why_at_load(
    tmp_path: Path, lane: dict[str, Any], extractor: dict[str, Any], fault: str
) -> None:
    write_dataset(tmp_path / "images", ["bolt"])
    bench = Bench(tmp_path, dg.DagsterInstance.ephemeral())
    bench.tree["extractors"]["lite0"] |= extractor
    own = {"method": "padim", "extractor": "lite0"} if "method" in lane else LANE
    bench.tree["datasets"]["parts"]["detectors"] = {"small": {**own, **lane, "export": EXPORT}}
    with pytest.raises(ConfigError, match=f"detectors.small.export: small cannot be exported: .*{fault}"):
        bench.reload()


def test_parity_counts_differences_and_flips() -> None:
    rgb = np.zeros((2, 2, 3), np.uint8)
    said = [Scored(rgb, np.array([[2.0, -4.0]], np.float32), 3.0), Scored(rgb, np.array([[1.0, 1.0]], np.float32), 8.0)]
    answers = iter([(np.array([[2.0, -4.4]], np.float32), 3.2), (np.array([[1.0, 1.0]], np.float32), 8.0)])
    found = compare(said, lambda _: next(answers), 3.1, {"name": "none", "version": "0"})
    assert (found.images, found.flips) == (2, 1)
    assert found.largest_map == pytest.approx(0.1)
    assert found.largest_score == pytest.approx(0.05)
    assert "1 of 2 decisions are others" in found.fault
    nan = Parity(1, float("nan"), 0.0, 0, 1.0, 1e-4, {})
    assert nan.fault
    assert not Parity(1, 1e-5, 1e-5, 0, 1.0, 1e-4, {}).fault
    assert Parity(0, 0.0, 0.0, 0, None, 1e-4, {}).fault


def test_a_state_too_large_for_a_line_is_refused_once_it_is_known(
    line: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_module, "size_fault", lambda size: f"its state takes {size} bytes" if size > 1000 else "")
    write_dataset(tmp_path / "images", ["bolt"])
    _graphs_of(line, tmp_path)
    bench = _bench(tmp_path, {"small": {**LANE, "export": EXPORT}})
    [failure, *_] = bench.outcome().failures
    assert "parts/small/bundle [bolt]: small cannot go out: its state takes" in failure


def test_an_ensemble_goes_out_with_its_members(line: Bench, tmp_path: Path) -> None:
    write_dataset(tmp_path / "images", ["bolt"])
    _graphs_of(line, tmp_path)
    members = {"one": LANE, "two": {**LANE, "coreset_ratio": 1.0}}
    both = {"method": "ensemble", "members": ["one", "two"], "export": EXPORT}
    bench = _bench(tmp_path, {**members, "small": both})
    bench.make()
    manifest = read_manifest(bench.benchmark.store.artifact("bundle", _version(bench)))
    assert [each["name"] for each in manifest["members"]] == ["one", "two"]
    detector = load_detector("parts", "small", "bolt", bench.benchmark, record=False)
    spread = [np.std(each.nominal.scores, ddof=1) for each in detector.members]
    assert manifest["fuse"]["std"] == pytest.approx(spread)
    assert manifest["decision"]["threshold"] == detector.threshold
    assert manifest["parity"]["flips"] == 0
    assert manifest["parity"]["largest_map"] < 1e-5
