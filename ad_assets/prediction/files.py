"""Resolves the images named on the command line, and writes results: pictures, score maps, tables.

Every file is written under a temporary name and renamed, the tables last, so that an interrupted run leaves complete
files.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ad_assets.config.load import ConfigError
from ad_assets.datasets.images import ImageError, RgbImage
from ad_assets.datasets.listing import walk_local
from ad_assets.datasets.names import is_foreign, is_image, plain, plain_name
from ad_assets.prediction.predictor import Prediction, Predictor
from ad_assets.report import pictures
from ad_assets.store.store import ArtifactStore

PICTURES = "pictures"
PICTURE_SIDE = 1024  # pixels; a larger image is shown smaller


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


# The fields of PredictionRow with explicit types, since a column may have no value to infer one from.
_SCHEMA = [
    ("image", "string"),
    ("score", "float64"),
    ("threshold", "float64"),
    ("p_value", "float64"),
    ("anomalous", "bool"),
    ("height", "int32"),
    ("width", "int32"),
    ("seen", "float64"),
    ("seconds", "float64"),
    ("picture", "string"),
    ("raw_map", "string"),
    ("error", "string"),
]


@dataclass(frozen=True)
class PredictionRow:
    """One image in the tables; `error` instead of a score where it could not be read. Sizes in pixels, `seen`
    the part of the picture that was looked at, 0..1."""

    image: str
    score: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    anomalous: bool | None = None
    height: int | None = None
    width: int | None = None
    seen: float | None = None
    seconds: float | None = None
    picture: str | None = None
    raw_map: str | None = None
    error: str | None = None

    @property
    def decision(self) -> str:
        """The decision as a word."""
        if self.error is not None:
            return "failed"
        return {None: "-", False: "nominal", True: "anomalous"}[self.anomalous]


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

    def add(self, prediction: Prediction, rgb: RgbImage) -> PredictionRow:
        """Write the picture, and the map if requested, of one image ``(H, W, 3)`` uint8.

        Raises:
            ConfigError: the folder cannot be written.
        """
        picture = f"{PICTURES}/{self._names[prediction.name]}.png"
        self._write(picture, pictures.to_png(self._picture(prediction, rgb)))
        raw_map = f"maps/{self._names[prediction.name]}.npy" if self._raw_maps else None
        if raw_map:
            buffer = io.BytesIO()
            np.save(buffer, prediction.score_map, allow_pickle=False)
            self._write(raw_map, buffer.getvalue())
        return row_of(prediction, picture, raw_map)

    def finish(self, rows: Sequence[PredictionRow]) -> None:
        """Write the tables ``predictions.parquet`` and ``predictions.json``, which also names the detector.

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
            "false_alarm_rate": detector.false_alarm_rate,
            "nominal_scores": len(detector.nominal.scores),
            "predictions": [vars(row) for row in rows],
        }
        self._write("predictions.parquet", _parquet(rows))
        self._write("predictions.json", json.dumps(document, indent=1).encode())

    def _write(self, path: str, data: bytes) -> None:
        try:
            self._store.write_bytes(path, data)
        except OSError as error:
            raise ConfigError(f"{self._store.location(path)} cannot be written: {error.strerror or error}") from error

    def _picture(self, prediction: Prediction, rgb: RgbImage) -> RgbImage:
        """The heat map over the image; its colours span the category's range if known, else the map's own."""
        from PIL import Image

        height, width = prediction.shape
        scale = min(1.0, PICTURE_SIDE / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        if size != prediction.shape:
            rgb = np.asarray(Image.fromarray(rgb).resize(size[::-1], Image.Resampling.LANCZOS))
        score_map, inspected = prediction.full_map(size), prediction.inspected_at(size)
        rgb = rgb if inspected is None else pictures.inspected(rgb, inspected)
        low, high = self._detector.colour_scale or (float(np.nanmin(score_map)), float(np.nanmax(score_map)))
        return pictures.overlay(rgb, score_map, low, high, seen=prediction.seen_mask(size))


def row_of(prediction: Prediction, picture: str | None = None, raw_map: str | None = None) -> PredictionRow:
    """The row of a scored image."""
    height, width = prediction.shape
    return PredictionRow(
        prediction.name,
        prediction.score,
        prediction.threshold,
        prediction.p_value,
        prediction.anomalous,
        height,
        width,
        prediction.seen,
        prediction.seconds,
        picture,
        raw_map,
    )


def failed_row(error: ImageError) -> PredictionRow:
    """The row of an image that could not be read."""
    return PredictionRow(error.path, error=plain(error.message))


def _parquet(rows: Sequence[PredictionRow]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    named = [vars(row) | {name: _text(getattr(row, name)) for name in ("image", "picture", "raw_map")} for row in rows]
    parquet.write_table(pa.Table.from_pylist(named, schema=pa.schema(_SCHEMA)), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _text(name: str | None) -> str | None:
    """A file name as valid UTF-8, with undecodable bytes escaped."""
    return None if name is None else name.encode("utf-8", "backslashreplace").decode()
