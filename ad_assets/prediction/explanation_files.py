"""An explanation as files: a picture with the training image beside the image, and its numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ad_assets.config.benchmark import Dataset
from ad_assets.datasets.files import ImageFiles, read_image_bytes
from ad_assets.graph.stages.ground_truth import read_masks
from ad_assets.graph.stages.image_index import current_index, read_index
from ad_assets.methods.sources import Source
from ad_assets.prediction.explanation import Explanation, box_of
from ad_assets.prediction.lookup import DetectorError
from ad_assets.prediction.predictor import Predictor
from ad_assets.production.landing_history import read_landings
from ad_assets.report import picture_files, pictures
from ad_assets.report.side_by_side import Marked, side_by_side
from ad_assets.store.store import ArtifactStore
from ad_assets_runtime.identity import content_id, content_of
from ad_assets_runtime.images import ImageError, RgbImage

PICTURE, NUMBERS = "explanation.png", "explanation.json"


class KnownImages:
    """The images of a category by content: those of its index, and the names of those that left it.

    Args:
        store: where the index lies.
        dataset: the dataset.
        category: the category.
        joined: other categories, whose images a joint bank has learnt too; only what is asked by content finds them.
    """

    def __init__(self, store: ArtifactStore, dataset: Dataset, category: str, joined: Iterable[str] = ()) -> None:
        self._reader = dataset.reader
        self._rows = _indexed(store, dataset.name, category)
        self._of_others = {
            image_id: (other, row)
            for other in joined
            for image_id, row in _indexed(store, dataset.name, other).items()
            if image_id not in self._rows
        }
        self._place = store, dataset.name, category

    def category(self, image_id: str) -> str:
        """The category that an image is of."""
        return self._of_others[image_id][0] if image_id in self._of_others else self._place[2]

    def path(self, image_id: str) -> str:
        """Its path below the root of the dataset, or the last one that it had; empty: not known."""
        row = self._row(image_id)
        return row["path"] if row else self._earlier_paths.get(image_id, "")

    def _row(self, image_id: str) -> dict[str, Any] | None:
        return self._of_others[image_id][1] if image_id in self._of_others else self._rows.get(image_id)

    @cached_property
    def _earlier_paths(self) -> dict[str, str]:
        return {image.image_id: image.path for landing in read_landings(*self._place) for image in landing.added}

    def find(self, name: str) -> str | None:
        """The id of an image by its path, its file name or the beginning of its id; None: there is none.

        Raises:
            DetectorError: there are several.
        """
        rows = self._rows.items()
        found = [
            image_id
            for image_id, row in rows
            if row["path"] == name or row["path"].endswith(f"/{name}") or (len(name) > 5 and image_id.startswith(name))
        ]
        if len(found) > 1:
            some = ", ".join(sorted(self._rows[image_id]["path"] for image_id in found)[:5])
            raise DetectorError(f"{name!r} names {len(found)} images: {some}; give more of the path")
        return found[0] if found else None

    def id_of(self, data: bytes) -> str | None:
        """The id of the image of the index that has these bytes; None: there is none."""
        content = content_id(data)
        return next((image_id for image_id in self._rows if content_of(image_id) == content), None)

    def data(self, image_id: str) -> bytes:
        """The bytes of an image of the index.

        Raises:
            OSError: it is not there, or another file is in its place.
        """
        return read_image_bytes(ImageFiles(self._reader.root), self._rows[image_id])

    def rgb(self, image_id: str) -> RgbImage | None:
        """Its pixels; None where the folder does not have it any more."""
        row = self._row(image_id)
        if row is None:
            return None
        try:
            data = read_image_bytes(ImageFiles(self._reader.root), row)
            return self._reader.decoding.of(image_id).rgb(data, row["path"])
        except (ImageError, OSError):
            return None

    def defect(self, image_id: str) -> NDArray[np.bool_] | None:
        """What is anomalous in it, ``(H, W)``; None where it has no mask, or an empty one."""
        row = self._rows.get(image_id)
        masks = [mask.anomalous for mask in read_masks(self._reader, row)] if row else []
        joint: NDArray[np.bool_] | None = np.any(masks, axis=0) if masks else None
        return joint if joint is not None and joint.any() else None


def _indexed(store: ArtifactStore, dataset: str, category: str) -> dict[str, dict[str, Any]]:
    """The rows of the current index of a category, by image id."""
    index = current_index(store, dataset, category)
    return {row["image_id"]: row for row in (read_index(index) if index else [])}


def write_explanation(
    folder: Path, explanation: Explanation, detector: Predictor, known: KnownImages, reject: str
) -> tuple[Path, Path]:
    """Write picture and numbers, with the command that rejects the culprit; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    picture, numbers = folder / PICTURE, folder / NUMBERS
    picture.write_bytes(picture_files.to_png(drawn(explanation, detector, known)))
    document = as_json(explanation, known, reject)
    numbers.write_text(json.dumps(document, indent=1, allow_nan=False))
    return picture, numbers


def drawn(explanation: Explanation, detector: Predictor, known: KnownImages) -> RgbImage:
    """The image, its heat map, and the nearest patch of the training image that matters most, side by side."""
    prediction = explanation.prediction
    score_map = prediction.full_map()
    low, high = detector.colour_scale or (float(np.nanmin(score_map)), float(np.nanmax(score_map)))
    heat = pictures.overlay(explanation.rgb, score_map, low, high, seen=prediction.seen_mask())
    source = shown_source(explanation)
    rgb = known.rgb(source.image_id)
    learnt = []
    if rgb is not None:
        title = f"learnt: {Path(known.path(source.image_id)).name}, distance {source.distance:.4g}"
        learnt = [Marked(rgb, box_of(explanation, source, rgb.shape[:2]), title)]
    name = Path(prediction.name).name
    return side_by_side(
        [
            Marked(explanation.rgb, explanation.box, f"{name}, score {prediction.score:.4g}"),
            Marked(heat, explanation.box, f"scores, {explanation.peak:.4g} here"),
            *learnt,
        ]
    )


def shown_source(explanation: Explanation) -> Source:
    """The nearest patch of the training image without which the place would be hottest."""
    return next(each for each in explanation.sources if each.image_id == explanation.culprit.image_id)


def as_json(explanation: Explanation, known: KnownImages, reject: str) -> Mapping[str, Any]:
    """The numbers of an explanation as JSON values; boxes are left, top, right, bottom in pixels."""
    prediction = explanation.prediction

    def source(each: Source) -> dict[str, Any]:
        rgb = known.rgb(each.image_id)
        box = [round(side, 1) for side in box_of(explanation, each, rgb.shape[:2])] if rgb is not None else None
        category = {"category": known.category(each.image_id)}
        named = {"image_id": each.image_id, **category, "path": known.path(each.image_id), "box": box}
        return {**named, "distance": each.distance, **({"layer": each.layer} if each.layer else {})}

    return {
        "image": prediction.name,
        "image_id": explanation.image_id,
        "score": prediction.score,
        "threshold": prediction.threshold,
        "anomalous": prediction.anomalous,
        "chosen": explanation.chosen,
        "place": [round(value, 1) for value in explanation.place],
        "box": [round(side, 1) for side in explanation.box],
        "peak": explanation.peak,
        "sources": [source(each) for each in explanation.sources],
        "without": [{**asdict(each), "path": known.path(each.image_id)} for each in explanation.left_out],
        "reject": reject,
    }
