"""Bundles of a tiny detector, made by hand: its map is the distance of each pixel from a colour, its state."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper
from PIL import Image
from safetensors.numpy import save

SIDE = 16
PLACE = ("parts", "mean", "bolt")


def picture(seed: int, size: tuple[int, int] = (40, 56)) -> NDArray[np.uint8]:
    """A noisy picture, each of another brightness, so that each has a score of its own."""
    rng = np.random.default_rng(seed)
    level = 20 + seed * 7 % 200
    return np.clip(rng.normal(level, 12, (*size, 3)), 0, 255).astype(np.uint8)


def png(rgb: NDArray[np.uint8]) -> bytes:
    """Pixels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def expected(rgb: NDArray[np.uint8], colour: float) -> tuple[NDArray[np.float32], float]:
    """Map and score by NumPy: Pillow's resize, mean distance over the channels, times the gain of the graph."""
    small = np.asarray(Image.fromarray(rgb).resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(np.float32)
    score_map = np.abs(small - np.float32(colour)).mean(axis=2)
    return score_map.astype(np.float32), float(score_map.max())


def graph(*, domain: str = "", external: bool = False) -> bytes:
    """The graph: ``image`` uint8 (1, h, w, 3) and the state ``colour`` float32 (3,) to ``map`` and ``score``."""
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [3])
    both = helper.make_tensor("both", TensorProto.INT64, [2], [1, 2])
    if external:
        axes.data_location = TensorProto.EXTERNAL
        entry = axes.external_data.add()
        entry.key, entry.value = "location", "../../secret"
    nodes = [
        helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["values", "colour"], ["apart"]),
        helper.make_node("Abs", ["apart"], ["distance"]),
        helper.make_node("ReduceMean", ["distance", "axes"], ["map"], keepdims=0),
        helper.make_node("ReduceMax", ["map", "both"], ["score"], keepdims=0),
    ]
    if domain:
        nodes.append(helper.make_node("Gelu", ["score"], ["other"], domain=domain))
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, [1, SIDE, SIDE, 3]),
        helper.make_tensor_value_info("colour", TensorProto.FLOAT, [3]),
    ]
    outputs = [
        helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, SIDE, SIDE]),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, [1]),
    ]
    made = helper.make_graph(nodes, "mean", inputs, outputs, [axes, both])
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(made, opset_imports=opsets, ir_version=10)
    if not domain and not external:
        checker.check_model(model)
    return bytes(model.SerializeToString())


def write_bundle(
    folder: Path,
    *,
    colour: float = 60.0,
    threshold: float | None = 40.0,
    place: tuple[str, str, str] = PLACE,
    members: int = 1,
    onnx: bytes | None = None,
    inspected: NDArray[np.bool_] | None = None,
    change: dict[str, Any] | None = None,
) -> str:
    """A bundle whose state is a grey; sha256 of its ``bundle.json``.

    Args:
        folder: where to.
        colour: the state; of further members 30 more each.
        threshold: of images; that of pixels is 5 less.
        place: dataset, lane, category.
        members: how many; several are fused by mean 10 and deviation 4.
        onnx: the graph, if not `graph`.
        inspected: the region of interest.
        change: entries of ``bundle.json`` that are set afterwards.
    """
    files: dict[str, bytes] = {"graphs/g.onnx": onnx or graph()}
    if inspected is not None:
        buffer = io.BytesIO()
        Image.fromarray(inspected).save(buffer, "PNG")
        files["roi.png"] = buffer.getvalue()
    names = [f"m{number}" for number in range(members)]
    for number, name in enumerate(names):
        state = {"colour": np.full(3, colour + 30 * number, np.float32)}
        files[f"states/{name}.safetensors"] = save(state)
    nominal = np.linspace(1, 39, 20)
    files["nominal.safetensors"] = save({"scores": nominal, "groups": np.zeros(0, np.int64), "map_maxima": nominal})
    tests = []
    for number in range(2):
        rgb = picture(100 + number)
        maps, scores = zip(*(expected(rgb, colour + 30 * n) for n in range(members)), strict=True)
        score_map, score = maps[0], scores[0]
        if members > 1:
            score_map = (sum((m.astype(np.float64) - 10) / 4 for m in maps) / members).astype(np.float32)
            score = float(np.float32(sum((s - 10) / 4 for s in scores) / members))
        files[f"selftest/{number}.png"] = png(rgb)
        files[f"selftest/{number}.safetensors"] = save({"map": score_map, "score": np.array(score)})
        anomalous = None if threshold is None else score > threshold
        test = {"image": f"selftest/{number}.png", "expected": f"selftest/{number}.safetensors", "score": score}
        tests.append({**test, "anomalous": anomalous})
    manifest: dict[str, Any] = {
        "format": 1,
        **dict(zip(("dataset", "lane", "category"), place, strict=True)),
        "champion": {"state": f"state-{colour:g}", "since": "2026-01-02T03:04:05+00:00", "reason": "passed the gates"},
        "image": {"decoding": {"bit_depth": None, "turn": True}},
        "members": [
            {
                "name": name,
                "address": f"state-{colour:g}",
                "graph": "graphs/g.onnx",
                "state": f"states/{name}.safetensors",
                "geometry": {"resize": [SIDE, SIDE], "crop": None, "interpolation": "bilinear"},
                "frame": [SIDE, SIDE],
                "map_size": [SIDE, SIDE],
            }
            for name in names
        ],
        "fuse": None if members == 1 else {"mean": [10.0] * members, "std": [4.0] * members},
        "decision": {
            "threshold": threshold,
            "pixel_threshold": None if threshold is None else threshold - 5,
            "false_alarm_rate": 0.05,
            "promise": "at most 5 % of new nominal images are called anomalous",
        },
        "colours": None,
        "selftest": tests,
        "files": {path: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for path, d in files.items()},
        **(change or {}),
    }
    text = json.dumps(manifest, sort_keys=True).encode()
    for path, data in {**files, "bundle.json": text}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return hashlib.sha256(text).hexdigest()


def promote(root: Path, bundle: str, sha256: str, place: tuple[str, str, str] = PLACE, **more: Any) -> None:
    """Point to a bundle below a root, atomically."""
    path = root / "champion_bundles" / place[0] / place[1] / f"{place[2]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest = root / bundle / "bundle.json"
    champion = json.loads(manifest.read_text()).get("champion", {}) if manifest.is_file() else {}
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps({"format": 1, "bundle": bundle, "sha256": sha256, **champion, **more}))
    temporary.replace(path)
