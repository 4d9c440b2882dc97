"""Rows of predictions, and the tables that are made of them: Parquet for programs, CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ad_assets.datasets.names import plain
from ad_assets.production.inspections import region_type
from ad_assets_runtime.defect_regions import DefectRegion
from ad_assets_runtime.images import ImageError
from ad_assets_runtime.prediction import Prediction

# The fields of PredictionRow with explicit types, since a column may have no value to infer one from.
_SCHEMA = [
    ("image", "string"),
    ("score", "float64"),
    ("threshold", "float64"),
    ("p_value", "float64"),
    ("anomalous", "bool"),
    ("decided", "string"),
    ("height", "int32"),
    ("width", "int32"),
    ("seen", "float64"),
    ("seconds", "float64"),
    ("picture", "string"),
    ("raw_map", "string"),
    ("error", "string"),
]
_COLUMNS = (
    *("image", "decision", "score", "threshold", "p_value", "regions", "area"),
    *("left", "top", "width", "height", "peak", "x", "y", "error", "decided"),
)
_FORMULA = tuple("=+-@\t\r\n|%")  # as cells begin that a spreadsheet would run


@dataclass(frozen=True)
class PredictionRow:
    """One image in the tables; `error` instead of a score where it could not be read. Sizes in pixels, `seen`
    the part of the picture that was looked at, 0..1; `regions` in pixels of the whole image, highest peak first;
    `decided` is when a person called it a false alarm, where its score alone would be one."""

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
    regions: tuple[DefectRegion, ...] = ()
    decided: str | None = None

    @property
    def decision(self) -> str:
        """The decision as a word."""
        if self.error is not None:
            return "failed"
        return {None: "-", False: "nominal", True: "anomalous"}[self.anomalous]

    @property
    def area(self) -> int:
        """Pixels of all regions together."""
        return sum(region.area for region in self.regions)


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
        regions=prediction.regions,
        decided=prediction.decided or None,
    )


def failed_row(error: ImageError) -> PredictionRow:
    """The row of an image that could not be read."""
    return PredictionRow(error.path, error=plain(error.message))


def parquet_of(rows: Sequence[PredictionRow]) -> bytes:
    """The rows as a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    named = [
        asdict(row) | {name: _text(getattr(row, name)) for name in ("image", "picture", "raw_map")} for row in rows
    ]
    schema = pa.schema([*_SCHEMA, ("regions", pa.list_(region_type()))])
    parquet.write_table(pa.Table.from_pylist(named, schema=schema), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def csv_of(rows: Sequence[PredictionRow]) -> bytes:
    """The rows as a CSV file, one an image, for spreadsheets: UTF-8 with a byte order mark, separated by commas.

    Of several regions the number and the area of all are told, and place, size and peak of the one with the highest
    peak. A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows([_cell(value) for value in _values(row)] for row in rows)
    return text.getvalue().encode("utf-8-sig", "backslashreplace")


def _values(row: PredictionRow) -> list[Any]:
    place: list[Any] = [""] * 7
    if row.regions:
        first = row.regions[0]
        left, top, right, bottom = first.box
        place = [left, top, right - left, bottom - top, first.peak, *(round(each, 1) for each in first.centroid)]
    counts = ["", ""] if row.error else [len(row.regions), row.area]
    return [row.image, row.decision, row.score, row.threshold, row.p_value, *counts, *place, row.error, row.decided]


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) and value != "-" else value


def _text(name: str | None) -> str | None:
    """A file name as valid UTF-8, with undecodable bytes escaped."""
    return None if name is None else name.encode("utf-8", "backslashreplace").decode()
