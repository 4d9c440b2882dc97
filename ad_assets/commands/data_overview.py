"""What ``data describe`` shows of a category: its statistics as a row, and a row of sample pictures."""

from __future__ import annotations

import csv
import functools
import operator
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ad_assets.datasets import ImageError, ImageFiles, Reader, read_image_bytes, read_mask_bytes
from ad_assets.datasets.index import ImageIndex
from ad_assets.datasets.names import plain
from ad_assets.datasets.overview import Overview

if TYPE_CHECKING:
    from ad_assets_runtime.images import RgbImage

HEADS = (
    "category",
    "train",
    "test good",
    "test anomalous",
    "defect types",
    "kinds",
    "size",
    "modes",
    "MB",
    "mask share %",
    "problems",
)


def cells(overview: Overview) -> tuple[str, ...]:
    """The statistics of a category as texts below `HEADS`."""

    def counts(numbers: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in numbers.items()) or "–"

    def span(ends: tuple[int, int]) -> str:
        return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}..{ends[1]}"

    share = "–"
    if overview.mask_shares:
        mean, low, high = (100 * part for part in overview.mask_shares)
        share = f"{mean:.2g} ({low:.2g}..{high:.2g})"
    return (
        overview.category,
        str(overview.train),
        str(overview.test_good),
        str(overview.test_anomalous),
        counts(overview.defect_types),
        counts(overview.kinds),
        f"{span(overview.widths)} x {span(overview.heights)}",
        ", ".join(overview.modes),
        f"{overview.bytes / 1e6:.1f}",
        share,
        str(overview.problems),
    )


def write_csv(path: Path, overviews: Sequence[Overview]) -> None:
    """Write the statistics of categories, a row each."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [_spreadsheet_row(overview) for overview in overviews]
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def record(overview: Overview) -> dict[str, Any]:
    """The statistics of a category as JSON values; shares of an image are from 0 to 1."""
    mean, low, high = overview.mask_shares or (None, None, None)
    return {
        "category": overview.category,
        "train": overview.train,
        "test_good": overview.test_good,
        "test_anomalous": overview.test_anomalous,
        "defect_types": overview.defect_types,
        "kinds": overview.kinds,
        "unmasked": overview.unmasked,
        "width_min": overview.widths[0],
        "width_max": overview.widths[1],
        "height_min": overview.heights[0],
        "height_max": overview.heights[1],
        "modes": list(overview.modes),
        "bytes": overview.bytes,
        "mask_share_mean": mean,
        "mask_share_min": low,
        "mask_share_max": high,
        "problems": overview.problems,
    }


def _spreadsheet_row(overview: Overview) -> dict[str, Any]:
    """The same, each in one cell."""

    def counts(numbers: dict[str, int]) -> str:
        text = plain("; ".join(f"{name} {count}" for name, count in numbers.items()))
        # Spreadsheets would run such a cell as a formula.
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text

    told = {"defect_types": counts(overview.defect_types), "kinds": counts(overview.kinds)}
    return {**record(overview), **told, "modes": " ".join(overview.modes)}


def sample_row(reader: Reader, overview: Overview, index: ImageIndex) -> list[RgbImage]:
    """Tiles of a sheet: the statistics of a category, then some of its images with their masks."""
    from ad_assets.report.panels import tile, title_tile
    from ad_assets.report.samples import choose_samples

    files = ImageFiles(reader.root)
    counts = [f"{overview.train} train", f"{overview.test_good} test good", f"{overview.test_anomalous} anomalous"]
    tiles = [title_tile([overview.category, *counts])]
    for row in choose_samples(index.table.to_pylist()):
        name = Path(row["path"]).stem
        title = f"{row['defect_type'] if row['label'] else row['split']} {name}"
        try:
            rgb = reader.decoding.of(row["image_id"]).rgb(read_image_bytes(files, row), row["path"])
            read = zip(read_mask_bytes(files, row), row["mask_paths"], strict=True)
            masks = [reader.decoding.mask(data, path).anomalous for data, path in read]
        except (ImageError, OSError) as error:  # changed since it was indexed
            print(plain(f"left out of the sheet: {error}"), file=sys.stderr)
            continue
        mask = functools.reduce(operator.or_, masks) if masks else None
        tiles.append(tile(rgb, mask, label=row["label"], title=plain(title)))
    return tiles


def write_sheet(path: Path, rows: Sequence[Sequence[RgbImage]]) -> None:
    """Write rows of tiles as one picture."""
    from PIL import Image

    from ad_assets.report.samples import sample_sheet

    Image.fromarray(sample_sheet(rows)).save(path)
