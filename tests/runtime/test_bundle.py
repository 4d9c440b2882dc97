"""A bundle gives the numbers that it was exported with, or is refused by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from ad_assets.metrics.thresholds import nominal_quantile
from ad_assets_runtime import engines
from ad_assets_runtime.bundle import BundleError, open_bundle
from ad_assets_runtime.conformal import p_values
from ad_assets_runtime.engine_libraries import import_openvino
from ad_assets_runtime.engines import ENGINES, EngineName
from ad_assets_runtime.graph_file import GraphFileError, check_plain
from ad_assets_runtime.images import ImageError
from tests.support.line_bundles import PLACE, expected, graph, picture, png, write_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("members", [1, 2])
def test_scores_and_maps_are_those_of_numpy(tmp_path: Path, engine: EngineName, members: int) -> None:
    write_bundle(tmp_path, members=members, threshold=None if members > 1 else 40.0)
    bundle = open_bundle(tmp_path, engine=engine)
    rgb = picture(7)
    maps, scores = bundle.member_scores(rgb)
    for number in range(members):
        score_map, score = expected(rgb, 60 + 30 * number)
        np.testing.assert_allclose(maps[number], score_map, rtol=1e-6)
        assert scores[number] == pytest.approx(score, rel=1e-6)
    if members > 1:
        assert bundle.score(rgb)[1] == np.float32(np.mean([(score - 10) / 4 for score in scores]))


def test_threads_do_not_spin_while_another_champion_is_asked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    opened = []
    session = onnxruntime.InferenceSession

    def noted(graph: bytes, options: onnxruntime.SessionOptions, **others: Any) -> object:
        opened.append(options)
        return session(graph, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    open_bundle(folder)
    assert opened
    assert {each.get_session_config_entry("session.intra_op.allow_spinning") for each in opened} == {"0"}


def test_a_prediction_has_decision_p_value_and_regions(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert bundle.place == PLACE
    quiet, alarm = bundle.predict(png(np.full((40, 56, 3), 60, np.uint8))), picture(0)
    assert (quiet.score, quiet.anomalous, quiet.regions, quiet.p_value) == (0.0, False, (), 1.0)
    alarm[10:20, 8:30] = 255
    found = bundle.predict(png(alarm), name="x.png")
    assert (found.anomalous, found.name) == (True, "x.png")
    assert found.p_value == p_values([found.score], np.linspace(1, 39, 20), [])[0] == 1 / 21
    left, top, right, bottom = found.regions[0].box
    assert (left <= 10, top <= 12, right >= 28, bottom >= 18) == (True,) * 4
    assert found.full_map().shape == (40, 56)
    assert nominal_quantile(np.linspace(1, 39, 20), 0.05, []) < 40


def test_a_zip_is_a_bundle_too(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for path in folder.rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    assert open_bundle(tmp_path / "b.zip").score(picture(1))[1] == open_bundle(folder).score(picture(1))[1]
    half, damaged = (tmp_path / "b.zip").read_bytes(), bytearray((tmp_path / "b.zip").read_bytes())
    damaged[len(damaged) // 3] ^= 1
    for data in (b"no zip", half[: len(half) // 2], bytes(damaged)):
        (tmp_path / "no.zip").write_bytes(data)
        with pytest.raises(BundleError, match=r"no\.zip: (no whole \.zip|.*copy)"):
            open_bundle(tmp_path / "no.zip")
    with pytest.raises(BundleError, match=r"gone\.zip: no such file or folder"):
        open_bundle(tmp_path / "gone.zip")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def _edit(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    change(manifest)
    (folder / "bundle.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "bundle.json").unlink(), "bundle.json is missing"),
        (lambda f: (f / "bundle.json").write_text("{"), "no JSON"),
        (lambda f: _edit(f, lambda m: m.update(format=2)), "format 2, this release reads 1"),
        (lambda f: _edit(f, lambda m: m.pop("members")), "lacks what this release reads"),
        (lambda f: _edit(f, lambda m: m["members"][0].update(frame=[1, 2, 3])), "lacks what this release reads"),
        (lambda f: _edit(f, lambda m: m["members"][0]["geometry"].update(resize=[17, 17])), "cannot be scored"),
        (lambda f: _edit(f, lambda m: m["decision"].update(threshold=1e6)), "self-test"),
        (lambda f: _edit(f, lambda m: m.update(selftest=[])), "no image"),
        (lambda f: _edit(f, lambda m: m["files"].update({"../x": {}})), "outside of the bundle"),
        (lambda f: _edit(f, lambda m: m["files"].pop("graphs/g.onnx")), "no hash of it"),
        (lambda f: (f / "graphs/g.onnx").unlink(), "graphs/g.onnx is missing"),
        (lambda f: _flip(f / "states/m0.safetensors"), "m0.safetensors was changed"),
        (lambda f: _flip(f / "graphs/g.onnx"), "g.onnx was changed"),
        (lambda f: _flip(f / "selftest/1.png"), "1.png was changed"),
        (lambda f: (f / "nominal.safetensors").write_bytes(b""), "has 0 bytes instead of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_damaged_is_refused_by_name(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(BundleError, match=message) as refused:
        open_bundle(folder)
    assert len(str(refused.value)) < 2000


def test_a_state_with_the_right_hash_that_is_another_fails_the_self_test(folder: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "other", colour=61.0)
    for name in ("selftest/0.safetensors", "selftest/1.safetensors"):
        shutil.copy(tmp_path / "other" / name, folder / name)
    listed = json.loads((tmp_path / "other" / "bundle.json").read_text())["files"]
    _edit(folder, lambda m: m["files"].update({k: v for k, v in listed.items() if "safetensors" in k and "self" in k}))
    with pytest.raises(BundleError, match=r"self-test: selftest/0\.png scores"):
        open_bundle(folder)
    assert open_bundle(folder, selftest=False).place == PLACE


def test_bfloat16_fails_the_self_test(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = import_openvino()

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    matmul = _matmul_graph()
    write_bundle(folder, onnx=matmul)
    assert open_bundle(folder, engine="openvino")
    monkeypatch.setattr(engines, "_OPENVINO_PRECISION", "bf16")
    with pytest.raises(BundleError, match="bfloat16"):
        open_bundle(folder, engine="openvino")


def _matmul_graph() -> bytes:
    """As `graph`, with the mean over the channels as a product of matrices, which bfloat16 rounds."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(graph())
    thirds = helper.make_tensor("thirds", TensorProto.FLOAT, [3, 1], [1 / 3] * 3)
    model.graph.initializer.append(thirds)
    last = helper.make_tensor("last", TensorProto.INT64, [1], [3])
    model.graph.initializer.append(last)
    nodes = list(model.graph.node)
    nodes[3:4] = [
        helper.make_node("MatMul", ["distance", "thirds"], ["column"]),
        helper.make_node("Squeeze", ["column", "last"], ["map"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def test_graphs_that_reach_outside_are_refused(folder: Path) -> None:
    check_plain(graph())
    for made, message in (
        (graph(external=True), "another file"),
        (graph(domain="com.microsoft"), "com.microsoft"),
        (graph(domain="evil.example"), "evil.example"),
        (graph()[:-9], "cut short|no ONNX model"),
        (b"#!/bin/sh\n", "no ONNX model|cut short"),
        (b"", "no ONNX model"),
    ):
        with pytest.raises(GraphFileError, match=message):
            check_plain(made)
    write_bundle(folder, onnx=graph(external=True))
    with pytest.raises(BundleError, match=r"graphs/g\.onnx: a tensor of it lies in another file"):
        open_bundle(folder)


def test_outside_of_the_region_of_interest_nothing_is_told_and_other_sizes_are_refused(tmp_path: Path) -> None:
    inspected = np.zeros((40, 56), np.bool_)
    inspected[:, :28] = True
    write_bundle(tmp_path, inspected=inspected)
    bundle, rgb = open_bundle(tmp_path), np.full((40, 56, 3), 60, np.uint8)
    rgb[10:20, 5:15] = rgb[10:20, 40:50] = 255
    found = bundle.predict(png(rgb))
    assert [region.box[2] <= 28 for region in found.regions] == [True]
    assert (found.full_map()[:, 28:] == found.score_map.min()).all()
    with pytest.raises(ImageError, match="of 56 x 41, and what to inspect is known of images of 56 x 40 alone"):
        bundle.predict(png(picture(1, (41, 56))))


def test_images_that_are_none_are_refused(folder: Path) -> None:
    bundle = open_bundle(folder)
    for data in (b"", b"no image", png(picture(1))[:200]):
        with pytest.raises(ImageError, match=r"x\.png"):
            bundle.predict(data, name="x.png")
    with pytest.raises(ImageError, match="cannot be read"):
        bundle.predict(folder / "nowhere.png")


def test_the_command_verifies_and_predicts(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(picture(3)))
    (tmp_path / "in" / "b.png").write_bytes(b"broken")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ad_assets_runtime", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("verify", folder)
    assert (done.returncode, "parts/mean/bolt: whole" in done.stdout) == (0, True), done.stderr
    done = run("predict", folder, tmp_path / "in", "--heat-maps", tmp_path / "out")
    [line] = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, line["score"]) == (1, pytest.approx(expected(picture(3), 60)[1]))
    assert "FAILED" in done.stderr
    assert len(list((tmp_path / "out").glob("a-*.png"))) == 1
    _flip(folder / "graphs/g.onnx")
    done = run("verify", folder)
    assert (done.returncode, "was changed" in done.stderr, "Traceback" in done.stderr) == (1, True, False)
