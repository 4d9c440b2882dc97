"""Published settings of HETMM: the paper's, one set a dataset, and the public implementation's, one set a category.

Windows and weights are in the order of the layers that the extractor taps, shallow to deep.

The public implementation (commit 345f185, MVTec AD) has other windows, weights and even post-processing for every
category, which can only have been chosen on the test images: `repo_tuned_on_test` says so. It filters maps differently
for the pixel AUROC and for PRO; a lane has one map, so each has a preset of its own.
"""

from __future__ import annotations

import re
from typing import Any

Settings = dict[str, Any]

# category: forward x backward window, alpha and weight of layers 1, 2, 3; filter of image score, pixel map, PRO map.
# "raw": none, "g s,k": Gaussian of sigma s and side k with zeros outside, "mp k": mean of the map max-pooled by k.
_REPO = """
bottle:     5x3 .3 1  | 5x3 .3 1  | 7x3 .3 .8 | raw      | g 4.1,39  | raw
cable:      13x7 .7 1 | 5x5 .7 .8 | 7x1 .3 .8 | g 5.5,39 | g 8.6,61  | raw
capsule:    13x7 .5 1 | 9x5 .5 .5 | 7x3 .3 .3 | raw      | g 7.8,61  | g 3.6,11
carpet:     7x3 .7 1  | 9x1 .3 .8 | 3x1 .3 .5 | g 5.5,35 | raw       | g 3.0,11
grid:       13x3 .7 1 | 9x1 .7 .5 | 7x1 .3 .3 | raw      | raw       | raw
hazelnut:   13x3 .7 1 | 9x5 .7 .5 | 7x3 .3 .8 | raw      | raw       | raw
leather:    11x3 .5 1 | 9x3 .3 1  | 7x3 .3 .3 | raw      | raw       | raw
metal_nut:  13x5 .5 1 | 9x5 .3 .5 | 7x3 .3 .8 | raw      | g 15,61   | raw
pill:       11x5 .5 1 | 9x1 .7 .5 | 7x1 .3 .5 | mp 25    | g 15,61   | raw
screw:      5x3 .5 1  | 5x3 .7 .8 | 7x3 .3 .3 | raw      | g 3.3,45  | g 3.1,17
tile:       13x7 .3 1 | 7x5 .3 .5 | 5x3 .3 .5 | raw      | raw       | raw
toothbrush: 13x3 .3 1 | 9x5 .3 .8 | 7x3 .3 .5 | raw      | g 3.0,11  | raw
transistor: 13x5 .3 1 | 5x3 .5 .5 | 5x1 .3 .8 | g 5.1,31 | g 15,61   | g 6.6,39
wood:       7x3 .7 1  | 5x3 .7 .8 | 7x1 .7 .3 | raw      | raw       | raw
zipper:     13x5 .3 1 | 7x5 .7 1  | 7x1 .7 .3 | mp 11    | g 10.4,61 | g 6.0,31
"""
_MAP_COLUMNS = {"pixel": 4, "pro": 5}


def _filter(text: str, prefix: str) -> Settings:
    """One column of post-processing as fields whose names start with ``image_`` or ``map_``."""
    if text == "raw":
        return {f"{prefix}_sigma": 0.0}
    if pooled := re.fullmatch(r"mp (\d+)", text):
        return {f"{prefix}_sigma": 0.0, f"{prefix}_score": "mean_of_max_pool", f"{prefix}_pool": int(pooled[1])}
    sigma, size = text.removeprefix("g ").split(",")
    return {f"{prefix}_sigma": float(sigma), f"{prefix}_blur_size": int(size)}


def repo_settings(metric: str) -> dict[str, Settings]:
    """Category -> settings of the public implementation.

    Args:
        metric: whose map filter to take, ``pixel`` or ``pro``.
    """
    found: dict[str, Settings] = {}
    for line in _REPO.strip().splitlines():
        category, _, rest = line.partition(":")
        columns = [column.strip() for column in rest.split("|")]
        layers = [column.split() for column in columns[:3]]
        sides = [layer[0].split("x") for layer in layers]
        found[category] = {
            "windows": [int(forward) for forward, _ in sides],
            "windows_backward": [int(backward) for _, backward in sides],
            "alpha": [float(layer[1]) for layer in layers],
            "weights": [float(layer[2]) for layer in layers],
            **_filter(columns[3], "image"),
            **_filter(columns[_MAP_COLUMNS[metric]], "map"),
        }
    return found


_PAPER = {"selection": "sum"}  # equation 9, for few sheets
PRESETS: dict[str, Settings] = {
    "mvtec_ad": {**_PAPER, "windows": [9, 7, 5], "alpha": 0.8},  # layers 1, 2, 3; MVTec SL AD too
    "mtd": {**_PAPER, "windows": [3, 3]},  # layers 1, 2
    "mstc": {**_PAPER, "windows": [9, 5]},  # layers 2, 3
    "mvtec_loco": {**_PAPER, "windows": [11, 9, 7], "alpha": 0.6},  # layers 2, 3, 4
    "repo_tuned_on_test": {**_PAPER, "border": "zero", "categories": repo_settings("pixel")},
    "repo_tuned_on_test_pro": {**_PAPER, "border": "zero", "categories": repo_settings("pro")},
}
