"""Manifests: CSV or Parquet tables with one row per image, for datasets whose folder names do not describe the images.

    image_path            relative to the dataset's root, or absolute and below it
    split                 train | test
    label                 0 or a word such as good, 1 or a word such as anomalous; anomalib's label_index also
    category              optional; without it all rows are one category
    defect_type           optional; without it "anomaly" (with label_index, the word in label)
    mask_path             optional, as image_path; may be empty

Names of columns, splits and nominal words are accepted in any case, as folder names are (`ad_assets.datasets.names`).
Other columns are ignored, unless their name is a near miss of one of these, which is an error.

Errors in the table itself stop the index, since part of a table is not a benchmark. Files that it names and that do not
exist are problems of their images, which ``on_problem: skip`` leaves out.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import hashlib
import io
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ad_assets.datasets.base import Candidate, DatasetError, Problem, Reader, shortened
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.names import (
    ANOMALOUS_NAMES,
    CATEGORY_KEY,
    CATEGORY_RULE,
    NOMINAL,
    NOMINAL_NAMES,
    canonical_name,
    is_nominal,
    near_nominal,
)
from ad_assets.store.retry import StorageError

GROUP = "group"  # column, read where the option `groups` asks for it
ANOMALY = "anomaly"  # the defect type where the table has none
_LABELS: dict[str, Literal[0, 1]] = {
    **dict.fromkeys(("0", "0.0", "false", *NOMINAL_NAMES), 0),
    **dict.fromkeys(("1", "1.0", "true", *ANOMALOUS_NAMES), 1),
}


@dataclass(frozen=True)
class ManifestRow:
    """One row: its position for messages, and the image that it describes, whether or not its files exist."""

    where: str
    category: str
    candidate: Candidate


@dataclass(frozen=True)
class Manifest:
    """The rows of a manifest in their order, and those of each category."""

    entries: tuple[ManifestRow, ...]
    by_category: Mapping[str, tuple[ManifestRow, ...]]


class ManifestOption(Reader):
    """Base of readers with the option `manifest`, a file that the user names."""

    manifest: str | None = None

    def index_config(self) -> dict[str, Any]:
        """With a hash of the manifest if it is outside the root, where no listing has its stamp."""
        config = super().index_config()
        if self.manifest and not self.tables(""):
            config["manifest"] = hashlib.sha256(read_file(self.root, self.manifest)).hexdigest()
        return config

    def tables(self, category: str) -> tuple[str, ...]:
        del category
        inside = self.manifest and not _is_absolute(self.manifest) and ".." not in _relative(self.manifest).split("/")
        return (_relative(self.manifest),) if self.manifest and inside else ()


def read_file(root: str, path: str) -> bytes:
    """The bytes of a file below `root`, or anywhere if `path` is absolute or a URL.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        if not _is_absolute(path):
            return ImageFiles(root).read(_relative(path))
        folder, _, name = path.replace("\\", "/").rpartition("/")
        return ImageFiles(folder or "/").read(name)
    except StorageError:
        raise
    except OSError:
        message = f"cannot be read: paths are relative to the dataset's root ({root}), unless absolute or URLs"
        raise DatasetError("manifest", [Problem(path, message)]) from None


def read_manifest(root: str, path: str, *, own_name: str, renamed: Mapping[str, str] | None = None) -> Manifest:
    """Read a manifest.

    Args:
        root: of the dataset.
        path: of the table: relative to the root, absolute, or a URL.
        own_name: the category of rows without one.
        renamed: column name above -> its name in this table, where it differs.

    Raises:
        DatasetError: the table cannot be read or lacks a column, or rows are invalid or contradict each other.
    """
    return _parsed(read_file(root, path), root, path, own_name, tuple((renamed or {}).items()))


def read_groups(root: str, path: str) -> dict[str, str]:
    """Path of an image, as the index has it -> what the column ``group`` of a manifest says of it.

    Raises:
        DatasetError: the table cannot be read, or has no such column.
    """
    head = f"manifest {path} of the dataset at {root!r}"
    columns, rows = _rows(read_file(root, path), path, head)
    if GROUP not in columns:
        near = _nearly(GROUP, columns)
        meant = f"; is it {_shown(near)}? Rename it" if near else ""
        raise DatasetError(head, [Problem(path, f"lacks the column {GROUP}, which the option groups asks for{meant}")])
    files, groups = ImageFiles(root), {}
    for _, row in rows:
        if not isinstance(row, str) and (name := row.get("image_path", "")):
            groups[files.relative(name) if _is_absolute(name) else _relative(name)] = row.get(GROUP, "")
    return {name: group for name, group in groups.items() if name}


@lru_cache(maxsize=8)  # checking thousands of categories parses the same table each time
def _parsed(data: bytes, root: str, path: str, own_name: str, renamed: tuple[tuple[str, str], ...]) -> Manifest:
    head = f"manifest {path} of the dataset at {root!r}"
    columns, rows = _rows(data, path, head)
    called = _called(columns, dict(renamed), path, head, empty=not rows)
    files = ImageFiles(root)
    problems, first = [], dict[tuple[str, str], str]()
    by_category = defaultdict[str, list[ManifestRow]](list)
    entries = []
    for number, row in rows:
        where = f"{path} row {number}"
        if isinstance(row, str):
            problems.append(Problem(where, row))
            continue
        entry = _entry(where, {name: row.get(column, "") for name, column in called.items()}, own_name, files)
        if isinstance(entry, str):
            problems.append(Problem(where, entry))
            continue
        before = first.setdefault((entry.category, entry.candidate.path), where)
        if before != where:
            problems.append(Problem(where, f"names {entry.candidate.path} as {before} does: keep one of them"))
        by_category[entry.category].append(entry)
        entries.append(entry)
    if problems:
        raise DatasetError(head, problems)
    return Manifest(tuple(entries), {name: tuple(rows_of_category) for name, rows_of_category in by_category.items()})


def assigned(entries: Iterable[ManifestRow], paths: Sequence[str]) -> dict[str, list[Candidate]]:
    """Category -> candidates whose image exists, sorted by path, with the masks that exist."""
    there = set(paths)
    by_category: dict[str, list[Candidate]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: (entry.category, entry.candidate.path)):
        image = entry.candidate
        if image.path in there:
            by_category[entry.category].append(
                replace(image, masks=tuple(mask for mask in image.masks if mask in there))
            )
    return dict(by_category)


def folders_of(manifest: Manifest, categories: Iterable[str]) -> set[str] | None:
    """The folders in which images and masks of some categories lie; None where one is the root."""
    entries = (entry for category in categories for entry in manifest.by_category.get(category, ()))
    folders = {posixpath.dirname(path) for e in entries for path in (e.candidate.path, *e.candidate.masks)}
    return None if "" in folders else folders


def manifest_problems(
    entries: Iterable[ManifestRow], paths: Sequence[str], masks_required: bool = False
) -> list[Problem]:
    """Files that a category's rows name and that do not exist, and anomalous images without a mask.

    Args:
        entries: rows of the category.
        paths: relative posix paths of one listing.
        masks_required: whether a missing mask is an error even where the table names none.
    """
    there, entries, problems = set(paths), list(entries), []
    any_mask = any(entry.candidate.masks for entry in entries)
    for entry in entries:
        image = entry.candidate
        if image.path not in there:
            problems.append(Problem(image.path, f"named in {entry.where}, but no such file is under the root"))
        elif gone := [mask for mask in image.masks if mask not in there]:
            problems.append(Problem(image.path, f"has no mask: {gone[0]} ({entry.where}) is not under the root"))
        elif image.label == 1 and not image.masks and (any_mask or masks_required):
            message = f"has no mask: {entry.where} names none"
            left_out = "; pixel metrics leave it out"
            problems.append(
                Problem(image.path, message) if masks_required else Problem(image.path, message + left_out, "warning")
            )
    return problems


_REQUIRED = ("image_path", "split", "label")
_OPTIONAL = ("category", "defect_type", "mask_path")


def _called(columns: Sequence[str], renamed: Mapping[str, str], path: str, head: str, *, empty: bool) -> dict[str, str]:
    """Column name above -> its name in the table.

    Raises:
        DatasetError: a column is missing or duplicated, or has a near miss of its name.
    """
    called = {name: renamed.get(name, name) for name in (*_REQUIRED, *_OPTIONAL)}
    if "label_index" in columns:
        called["label"] = "label_index"
        if called["defect_type"] not in columns:
            called["defect_type"] = "label"
    missing = [called[name] for name in _REQUIRED if called[name] not in columns]
    if missing:
        names = shortened(", ".join(sorted(columns)), 300)
        reason = "it has no rows" if empty and not columns else f"its columns are {names}"
        raise DatasetError(head, [Problem(path, f"lacks {', '.join(missing)}: {reason}")])
    if empty:
        raise DatasetError(head, [Problem(path, "has no rows")])
    others = set(columns) - set(called.values())
    near = {name: _nearly(name, others) for name in (called[each] for each in _OPTIONAL) if name not in columns}
    problems = [
        *(Problem(path, f"has two columns {name}: keep one") for name in called.values() if columns.count(name) > 1),
        *(
            Problem(path, f"has a column {_shown(column)}: is it {name}? Rename it")
            for name, column in near.items()
            if column
        ),
    ]
    if problems:
        raise DatasetError(head, problems)
    return called


def _nearly(name: str, columns: Iterable[str]) -> str | None:
    """The column whose name is a near miss, such as ``Mask path`` or ``defecttype``."""
    short = {re.sub(r"[\W_]+", "", column): column for column in columns}
    near = difflib.get_close_matches(name.replace("_", ""), [each for each in short if len(each) < 40], 1, 0.85)
    return short[near[0]] if near else None


def _entry(where: str, row: Mapping[str, str], own_name: str, files: ImageFiles) -> ManifestRow | str:
    """The parsed row, or what is wrong with it."""
    category, split, label = (
        row["category"] or own_name,
        canonical_name(row["split"]),
        _LABELS.get(row["label"].casefold()),
    )
    defect_type = row["defect_type"] or ANOMALY
    if not row["image_path"]:
        return "names no image"
    if split not in ("train", "test"):
        return f"its split is {_shown(row['split'])}, expected train or test (leave other rows out)"
    if label is None:
        return f"its label is {_shown(row['label'])}, expected 0 or good, 1 or anomalous"
    if split == "train" and label:
        return "an anomalous image in train, where detectors learn what is nominal: it belongs to test"
    if label and (is_nominal(defect_type) or near_nominal(defect_type)):
        return f"an anomalous image of the defect type {_shown(defect_type)}: correct one of them"
    if not CATEGORY_KEY.fullmatch(category):
        return f"its category {_shown(category)} cannot be a key: {CATEGORY_RULE}"
    paths = []
    for path in (row["image_path"], row["mask_path"] if label else ""):
        below = files.relative(path) if _is_absolute(path) else _relative(path)
        if path and below is None:
            return f"{_shown(path)} is absolute and not below the root {files.root!r}: name it relative to the root"
        paths += [below] if path and below else []
    image = Candidate(
        paths[0], "train" if split == "train" else "test", label, defect_type if label else NOMINAL, tuple(paths[1:])
    )
    return ManifestRow(where, category, image)


def _rows(data: bytes, path: str, head: str) -> tuple[list[str], list[tuple[int, dict[str, str] | str]]]:
    """Normalised column names, and numbered rows keyed by them, or what is wrong with a row.

    Raises:
        DatasetError: it is not a CSV or Parquet table.
    """
    if path.lower().endswith(".parquet"):
        import pyarrow as pa
        from pyarrow import parquet

        try:
            table = parquet.read_table(io.BytesIO(data))
            columns = list(map(_column, table.column_names))
            cells = [column.to_pylist() for column in table.columns]
        except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
            message = f"is not a Parquet table ({shortened(str(error), 200)}): copy it again"
            raise DatasetError(head, [Problem(path, message)]) from None
        return columns, list(enumerate((_row(columns, row) for row in zip(*cells, strict=True)), start=1))
    try:
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
        # Python's reader keeps every cell as text: category 01 stays 01.
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        message = f"is not a CSV table in UTF-8 ({shortened(str(error), 200)}): save it as one"
        raise DatasetError(head, [Problem(path, message)]) from None
    columns = list(map(_column, lines[0] if lines else []))
    return columns, [(number, _row(columns, line)) for number, line in enumerate(lines[1:], start=2) if line]


def _row(columns: Sequence[str], cells: Sequence[Any]) -> dict[str, str] | str:
    if any(map(_text, cells[len(columns) :])):
        return f"has {len(cells)} cells for {len(columns)} columns: put quotes around cells that hold a comma"
    return dict(zip(columns, map(_text, cells), strict=False))


def _column(name: str) -> str:
    return name.strip().casefold()


def _shown(value: str) -> str:
    return repr(shortened(value, 80))


def _text(value: Any) -> str:
    # Data frames write NaN for an empty cell.
    return "" if value is None or value != value else str(value).strip()


def _relative(path: str) -> str:
    return posixpath.normpath(path.replace("\\", "/"))


def _is_absolute(path: str) -> bool:
    windows = re.match(r"[A-Za-z]:[\\/]|\\\\", path)
    return "://" in path or path.startswith("~") or windows is not None or Path(path).is_absolute()
