"""One folder of images for both sides: MVTec's layout, links to the dataset's files, masks as ours reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad_assets.backbones.extractor import Extractor
from ad_assets.datasets.base import Reader
from ad_assets.datasets.geometry import fit_mask
from ad_assets.datasets.index import build_index
from ad_assets.datasets.readers.folder import FolderReader
from ad_assets.graph.stages.ground_truth import read_masks

CATEGORY = "images"  # the one folder of a root, for readers of this layout
BAD = "anomalous"


@dataclass(frozen=True)
class Truth:
    """What the test images of a folder are, by the last two parts of their paths.

    Args:
        labels: 0 or 1.
        masks: (H, W) bool in the frame of score maps, of anomalous images.
    """

    labels: dict[str, int]
    masks: dict[str, NDArray[np.bool_]]


def lay_out(root: Path, reader: Reader, category: str, extractor: Extractor, fewer: int = 0) -> Truth:
    """Link the images of a category; masks are written as 0 and 255. What is there already stays.

    A test image that lies there under several names is one, the last of them: so the graph's metrics count pixels.

    Args:
        root: a folder, made where it is missing.
        reader: of the dataset.
        category: one of its categories.
        extractor: whose frame the masks of the truth are wanted in.
        fewer: so many training images are left out, the last by path.
    """
    labels, masks = {}, {}
    rows = build_index(reader, category).rows
    train = sorted(row["path"] for row in rows if row["split"] == "train")
    wanted = set(train[: len(train) - fewer]) | {row["path"] for row in rows if row["split"] == "test"}
    shrink = FolderReader(root=str(root)).decoding.masks.shrink  # that of this project's side, which reads this folder
    last = {row["image_id"]: number for number, row in enumerate(rows) if row["split"] == "test"}
    for number, row in enumerate(rows):
        if row["split"] == "test" and last[row["image_id"]] != number:
            continue
        kind = BAD if row["label"] else "good"
        place = f"{kind}/{number:05d}{Path(row['path']).suffix}"
        if row["path"] in wanted:
            _link(root / CATEGORY / row["split"] / place, Path(reader.root, row["path"]).resolve())
        if row["split"] == "test":
            labels[place] = row["label"]
        if row["label"]:
            [mask] = read_masks(reader, row)
            path = root / CATEGORY / "ground_truth" / BAD / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.anomalous.astype(np.uint8) * 255).save(path)
            masks[place] = fit_mask(mask.anomalous, *extractor.map_geometry, shrink)
    return Truth(labels, masks)


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(target)
