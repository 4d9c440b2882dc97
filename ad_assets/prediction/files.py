"""Resolves the images named on the command line, and writes results: pictures, score maps, tables.

Every file is written under a temporary name and renamed, the tables last, so that an interrupted run leaves complete
files.
"""

from __future__ import annotations

import heapq
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ad_assets.config.load import ConfigError
from ad_assets.datasets.listing import walk_local
from ad_assets.datasets.names import is_foreign, is_image, plain_name
from ad_assets.prediction.predictor import Predictor
from ad_assets.prediction.result_tables import PredictionRow, csv_of, parquet_of, row_of
from ad_assets.report import panels, picture_files, pictures
from ad_assets.report.inspection_picture import inspection_picture, tile_size
from ad_assets.report.predictions import predictions_page
from ad_assets.store.store import ArtifactStore
from ad_assets_runtime.images import RgbImage
from ad_assets_runtime.prediction import Prediction

PICTURES = "pictures"
SHOWN_PICTURES = 40  # in the report, those with the highest scores
PICTURE_BYTES = 60_000  # of each of them


def image_paths(named: Iterable[str], out: str | None = None) -> tuple[list[str], list[str]]:
    """The named files, and the pictures below named folders, without duplicates; and the other files of the folders.

    Pictures of unsupported formats are included, so that they are reported as failed.

    Args:
        named: files and folders; a missing path counts as a file and fails when it is read.
        out: folder of the results, whose pictures are left out.
    """
    drawn = Path(out, PICTURES).resolve() if out else None
    paths: dict[str, None] = {}
    others: list[str] = []
    for name in named:
        if Path(name).is_dir():
            try:
                listed = walk_local(Path(name))
            except OSError as error:
                raise ConfigError(
                    f"{plain_name(name)}: its files cannot be listed ({error.strerror or error})"
                ) from None
            for path in listed:
                whole = str(Path(name, path))
                if is_image(path) or is_foreign(path):
                    if not (drawn and Path(whole).resolve().is_relative_to(drawn)):
                        paths[whole] = None
                elif not out or not Path(whole).resolve().is_relative_to(Path(out).resolve()):
                    others.append(whole)
            others += [str(Path(name, path)) for path in listed.passed_over]
        else:
            paths[name] = None
    return list(paths), others


def result_names(paths: Sequence[str]) -> dict[str, str]:
    """Path -> name of its result files without suffix: the path below the folder that all images share.

    Image suffixes are kept where names would be equal without them.
    """
    whole = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - resolve would follow links to other names
    common = os.path.commonpath([path.parent for path in whole]) if whole else ""
    names = [path.relative_to(common).as_posix() for path in whole]
    short = [str(Path(name).with_suffix("")) for name in names]
    return dict(zip(paths, short if len(set(short)) == len(set(names)) else names, strict=True))


class PredictionWriter:
    """Writes the results of one detector below a folder.

    Args:
        folder: local folder or ``s3://bucket/prefix``.
        detector: the detector that predicts.
        names: `result_names` of the images.
        raw_maps: write the score maps too: ``.npy`` files, float32, in the frame of the detector.
    """

    def __init__(self, folder: str, detector: Predictor, names: dict[str, str], *, raw_maps: bool = False) -> None:
        self._store = ArtifactStore(root=folder)
        self._detector, self._names, self._raw_maps = detector, names, raw_maps
        self._shown: list[tuple[float, str, bytes]] = []  # a heap of score, name and JPEG

    def add(self, prediction: Prediction, rgb: RgbImage) -> PredictionRow:
        """Write the picture, and the map if requested, of one image ``(H, W, 3)`` uint8.

        Raises:
            ConfigError: the folder cannot be written.
        """
        picture = f"{PICTURES}/{self._names[prediction.name]}.png"
        drawn = self._picture(prediction, rgb)
        self._write(picture, picture_files.to_png(drawn))
        self._show(prediction, drawn)
        raw_map = f"maps/{self._names[prediction.name]}.npy" if self._raw_maps else None
        if raw_map:
            buffer = io.BytesIO()
            np.save(buffer, prediction.score_map, allow_pickle=False)
            self._write(raw_map, buffer.getvalue())
        return row_of(prediction, picture, raw_map)

    def finish(self, rows: Sequence[PredictionRow]) -> None:
        """Write ``predictions.parquet``, ``predictions.json``, which also names the detector, ``predictions.csv`` for
        spreadsheets, and ``report.html``, one page that needs no other file.

        Raises:
            ConfigError: the folder cannot be written.
        """
        detector = self._detector
        document = {
            "dataset": detector.dataset,
            "detector": detector.detector,
            "category": detector.category,
            "versions": detector.versions,
            "threshold": detector.threshold,
            "pixel_threshold": detector.pixel_threshold,
            "false_alarm_rate": detector.false_alarm_rate,
            "nominal_scores": len(detector.nominal.scores),
            "predictions": [asdict(row) for row in rows],
        }
        self._write("report.html", self._report(rows).encode())
        self._write("predictions.csv", csv_of(rows))
        self._write("predictions.parquet", parquet_of(rows))
        self._write("predictions.json", json.dumps(document, indent=1).encode())

    def _write(self, path: str, data: bytes) -> None:
        try:
            self._store.write_bytes(path, data)
        except OSError as error:
            raise ConfigError(f"{self._store.location(path)} cannot be written: {error.strerror or error}") from error

    def _picture(self, prediction: Prediction, rgb: RgbImage) -> RgbImage:
        """Image, heat map and regions; the colours span the category's range if known, else the map's own."""
        from PIL import Image

        size = tile_size(prediction.shape)
        if size != prediction.shape:
            rgb = np.asarray(Image.fromarray(rgb).resize(size[::-1], Image.Resampling.LANCZOS))
        score_map, inspected = prediction.full_map(size), prediction.inspected_at(size)
        rgb = rgb if inspected is None else pictures.inspected(rgb, inspected)
        scale = self._detector.colour_scale or (float(np.nanmin(score_map)), float(np.nanmax(score_map)))
        down, right = size[0] / prediction.shape[0], size[1] / prediction.shape[1]
        boxes = [(box[0] * right, box[1] * down, box[2] * right, box[3] * down) for box in _boxes(prediction)]
        label = int(bool(prediction.anomalous))
        words = [f"score {prediction.score:.4g}"]
        words += [] if prediction.threshold is None else [f"threshold {prediction.threshold:.4g}"]
        words += [] if prediction.p_value is None else [f"p {prediction.p_value:.3g}"]
        return inspection_picture(
            rgb,
            score_map,
            scale,
            boxes,
            prediction.pixel_threshold,
            seen=prediction.seen_mask(size),
            head="scored" if prediction.anomalous is None else panels.LABEL_NAMES[label],
            colour=panels.INK if prediction.anomalous is None else panels.LABEL_COLOURS[label],
            title=", ".join(words),
        )

    def _show(self, prediction: Prediction, picture: RgbImage) -> None:
        """Keep the picture for the report if it is among those with the highest scores."""
        entry = (prediction.score, prediction.name)
        if len(self._shown) < SHOWN_PICTURES or entry > self._shown[0][:2]:
            heapq.heappush(self._shown, (*entry, picture_files.to_jpeg(picture, max_bytes=PICTURE_BYTES)))
            if len(self._shown) > SHOWN_PICTURES:
                heapq.heappop(self._shown)

    def _report(self, rows: Sequence[PredictionRow]) -> str:
        detector = self._detector
        decided = {row.image: row.decision for row in rows}
        shown = [entry for entry in sorted(self._shown, reverse=True) if decided.get(entry[1]) != "nominal"]
        return predictions_page(
            f"{detector.dataset}/{detector.detector} [{detector.category}]",
            [asdict(row) | {"decision": row.decision, "area": row.area} for row in rows],
            [(name, jpeg) for _, name, jpeg in shown],
            threshold=detector.threshold,
            pixel_threshold=detector.pixel_threshold,
            promise=detector.promise,
            versions=detector.versions,
        )


def _boxes(prediction: Prediction) -> list[tuple[int, int, int, int]]:
    return [region.box for region in prediction.regions]
