"""Runs the files of a bundle as a line's computer does."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ad_assets.bundle.parity import Score
from ad_assets.bundle.writer import MANIFEST, Files
from ad_assets_runtime.geometry import fit_image
from ad_assets_runtime.images import RgbImage


def runner(folder: Path, files: Files) -> tuple[Score, dict[str, str]]:
    """What scores an image with a bundle, and its name and version.

    Args:
        folder: an empty one, for the files.
        files: of the bundle.
    """
    import onnxruntime
    from safetensors.numpy import load

    manifest = json.loads(files[MANIFEST])
    members = []
    for member in manifest["members"]:
        options = onnxruntime.SessionOptions()
        session = onnxruntime.InferenceSession(files[member["graph"]], options, providers=["CPUExecutionProvider"])
        members.append((member, session, load(files[member["state"]])))

    def score(rgb: RgbImage) -> tuple[NDArray[np.float32], float]:
        found = []
        for member, session, state in members:
            geometry = member["geometry"]
            resize = geometry["resize"] if isinstance(geometry["resize"], int) else tuple(geometry["resize"])
            pixels = fit_image(rgb, resize, geometry["crop"], geometry["interpolation"])
            score_map, value = session.run(["map", "score"], {"image": pixels[None], **state})
            found.append((score_map[0], float(value[0])))
        if manifest["fuse"] is None:
            return found[0]
        scales = list(zip(manifest["fuse"]["mean"], manifest["fuse"]["std"], strict=True))
        maps = [(m.astype(np.float64) - mean) / std for (m, _), (mean, std) in zip(found, scales, strict=True)]
        values = [(value - mean) / std for (_, value), (mean, std) in zip(found, scales, strict=True)]
        return np.mean(maps, axis=0).astype(np.float32), float(np.float32(np.mean(values)))

    del folder
    return score, {"name": "onnxruntime", "version": metadata.version("onnxruntime")}
