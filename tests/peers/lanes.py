"""What is compared: the detectors that both have, in the settings of each side, and the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ad_assets.backbones.extractor import Extractor
from ad_assets.datasets.base import Reader
from ad_assets.datasets.readers.demo.reader import DemoReader
from ad_assets.datasets.readers.mtd import MtdReader

FIRST, AGAIN, CHANGED, MORE = "first", "again", "changed", "five more images"
MORE_IMAGES = 5
# anomalib keeps nothing between runs: asked these, it does its first run anew.
ANEW = {AGAIN: FIRST, MORE: FIRST}


@dataclass(frozen=True)
class Detector:
    """One detector in the settings of both sides, which say the same.

    Args:
        name: as the page has it.
        ours: keys of a benchmark file.
        theirs: name of the class in ``anomalib.models``, and its arguments.
        seeded: whether its result depends on the seed.
        changed: another value of one setting of the fit, by ours' key and theirs.
        changed_text: that, for the page.
    """

    name: str
    ours: dict[str, Any]
    theirs: tuple[str, dict[str, Any]]
    seeded: bool = True
    changed: tuple[dict[str, Any], dict[str, Any]] | None = None
    changed_text: str = ""


@dataclass(frozen=True)
class Dataset:
    """One dataset with the settings that both sides share.

    Args:
        name: as the page has it.
        reader: of its images and its split.
        extractor: backbone, taps and transform.
        detectors: those that are compared on it.
    """

    name: str
    reader: Reader
    extractor: Extractor
    detectors: tuple[Detector, ...]


def patchcore(ratio: float) -> Detector:
    """PatchCore with the choices of anomalib: averaged and joined taps, image scores by equation 7 with nine rows."""
    ours = {"method": "patchcore", "pooling": "concat", "coreset_ratio": ratio, "image_score": "reweighted"}
    return Detector(
        f"patchcore, {100 * ratio:g} %",
        ours,
        ("Patchcore", {"coreset_sampling_ratio": ratio, "num_neighbors": 9}),
        changed=({"coreset_ratio": ratio / 2}, {"coreset_sampling_ratio": ratio / 2}),
        changed_text=f"{50 * ratio:g} % of the patches",
    )


PADIM = Detector(
    "padim, 100 channels",
    {"method": "padim", "channels": 100},
    ("Padim", {"n_features": 100}),
    changed=({"channels": 50}, {"n_features": 50}),
    changed_text="50 channels",
)
# Without a draw: both have the same Gaussians to compute, so what differs is code.
PADIM_ALL = Detector(
    "padim, all channels", {"method": "padim", "channels": None}, ("Padim", {"n_features": 152}), False
)


def datasets(images: Path, magnetic_tiles: Path | None) -> list[Dataset]:
    """The demo's four categories, generated below a folder, and the magnetic tiles where they are given."""
    common: dict[str, Any] = {
        "backbone": "tf_efficientnet_lite0",
        "weights": "bundled",
        "taps": ("blocks.2", "blocks.4"),
    }
    demo = DemoReader(root=str(images))
    found = [Dataset("demo", demo, Extractor(**common, resize=256, crop=224), (patchcore(0.01), PADIM, PADIM_ALL))]
    if magnetic_tiles:
        tiles = MtdReader(root=str(magnetic_tiles))
        # 779,264 patches: at 1 % anomalib's selection, which compares all with each pick, would take hours here.
        detectors = (patchcore(0.001), PADIM, PADIM_ALL)
        found.append(Dataset("magnetic tiles", tiles, Extractor(**common, resize=(256, 256)), detectors))
    return found
