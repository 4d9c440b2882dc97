"""Score maps as the files that public evaluators read: where each lies, and its bytes.

``mvtec_ad``, the offline evaluators of MVTec AD and MVTec LOCO::

    <category>/test/<defect type>/NNN.tiff                             float32

``mvtec_ad_2``, the server of MVTec AD 2, which has no masks to choose a threshold on, so it is told one's outcome::

    anomaly_images/<category>/<split>/NAME.tiff                        float16
    anomaly_images_thresholded/<category>/<split>/NAME.png             uint8, 0 or 255

Higher is more anomalous. Maps have the size of the original image, and a name follows that of the image.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Layout = Literal["mvtec_ad", "mvtec_ad_2"]

# The folder of test images: MVTec AD has one, MVTec AD 2 also test_public, test_private and test_private_mixed.
_SPLITS = {"mvtec_ad": re.compile("test"), "mvtec_ad_2": re.compile(r"test(_\w+)?")}

_SUFFIXES = (".tiff", ".png")


class SubmissionError(ValueError):
    """Test images or maps that have no place in a layout."""


@dataclass(frozen=True)
class Target:
    """What one test image becomes.

    Args:
        image_id: whose map it is.
        path: the image's own path, for messages.
        size: height and width of the image.
        map_path: of the TIFF, relative to the folder of the export.
        mask_path: of the thresholded PNG; empty in layouts without.
    """

    image_id: str
    path: str
    size: tuple[int, int]
    map_path: str
    mask_path: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """All its files."""
        return tuple(filter(None, (self.map_path, self.mask_path)))


def targets(layout: Layout, category: str, rows: Iterable[Mapping[str, Any]]) -> list[Target]:
    """The files of a category: one target for every test row of its image index, in the order of the paths.

    What lies below the folder of test images keeps its place. Datasets without such a folder get one folder for each
    defect type (``mvtec_ad``) or none below the split, which is then called ``test`` (``mvtec_ad_2``).

    Args:
        layout: which evaluator.
        category: its name.
        rows: of the image index; others than test rows are passed over, and training images held out for judging.

    Raises:
        SubmissionError: two images would get one file, or a path leads out of the folder.
    """
    found: dict[str, Target] = {}
    tested = (row for row in rows if row["split"] == "test" and not row.get("held_out"))
    for row in sorted(tested, key=lambda row: str(row["path"])):
        place = _place(layout, category, row["path"], row["defect_type"])
        if place in found:
            other = found[place].path
            raise SubmissionError(f"{other} and {row['path']} would both be {place}.tiff: rename one of the images")
        names = (f"{top}/{place}{suffix}" for top, suffix in zip(folders(layout, category), _SUFFIXES, strict=False))
        found[place] = Target(row["image_id"], row["path"], (row["height"], row["width"]), *names)
    return list(found.values())


def folders(layout: Layout, category: str) -> tuple[str, ...]:
    """The folders that hold the files of one category, and nothing else."""
    if layout == "mvtec_ad":
        return (category,)
    return (f"anomaly_images/{category}", f"anomaly_images_thresholded/{category}")


def encode(target: Target, score_map: npt.NDArray[np.float32], threshold: float | None) -> dict[str, bytes]:
    """The files of one image: path -> bytes.

    Args:
        target: of `targets`.
        score_map: ``(H, W)`` float32 of the image's size.
        threshold: pixels above it are anomalous; not read in layouts without thresholded maps.

    Raises:
        SubmissionError: a score is not finite, or too large for the layout's float16.
        ValueError: the map has another size, or a threshold is missing.
    """
    import numpy as np

    if score_map.shape != target.size:
        raise ValueError(f"{target.path}: a map of shape {score_map.shape}, the image has {target.size}")
    if not np.isfinite(score_map).all():
        raise SubmissionError(f"{target.path}: its map holds scores that are not finite: materialize with --force")
    if not target.mask_path:
        return {target.map_path: tiff(score_map)}
    if threshold is None:
        raise ValueError(f"{target.path}: the layout needs a threshold")
    with np.errstate(over="ignore"):
        halved = score_map.astype(np.float16)
    if not np.isfinite(halved).all():
        raise SubmissionError(
            f"{target.path}: scores up to {np.abs(score_map).max():.6g} do not fit the float16 of mvtec_ad_2 (65504), "
            "and clipping would rank them equal: choose a detector with smaller scores, or an ensemble of detectors, "
            "whose scores are in standard deviations"
        )
    # Decided on the unrounded scores, as every other decision is.
    return {target.map_path: tiff(halved), target.mask_path: png(score_map > threshold)}


def tiff(pixels: npt.NDArray[np.floating[Any]]) -> bytes:
    """A TIFF of ``(H, W)`` floats in their own precision: uncompressed, so that any reader can, and without a date."""
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="minisblack", metadata=None, software=False)
    return buffer.getvalue()


def png(mask: npt.NDArray[np.bool_]) -> bytes:
    """A grey PNG of a ``(H, W)`` mask, 255 where it is true."""
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def _place(layout: Layout, category: str, path: str, defect_type: str) -> str:
    """Where the map of an image lies below the folder of its category, without suffix."""
    parts = path.split("/")
    first = 1 if parts[0] == category and len(parts) > 2 and _SPLITS[layout].fullmatch(parts[1]) else 0
    if len(parts) > first + 1 and _SPLITS[layout].fullmatch(parts[first]):
        folder = parts[first:]
    else:
        folder = ["test", defect_type, parts[-1]] if layout == "mvtec_ad" else ["test", parts[-1]]
    named = "/".join([category, path, *folder]).split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in named):
        raise SubmissionError(f"{path!r} (defect type {defect_type!r}) of {category!r} is no plain relative path")
    *above, name = folder
    return "/".join([*above, PurePosixPath(name).stem])
