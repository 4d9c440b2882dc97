"""Tables that say which image is what, where folder names do not: one row an image, as CSV or Parquet.

    image_path            relative to the dataset's root, or absolute and below it
    split                 train | test
    label                 0 or a word such as good, 1 or a word such as anomalous; anomalib's label_index also
    category              optional; without it all rows are one category
    defect_type           optional; without it "anomaly" (beside label_index, the word in label)
    mask_path             optional, as image_path; may be empty

Names of columns, splits and nominal words are known in any case, as names of folders are
(`ad_assets.datasets.names`); other columns are passed over, unless they nearly have the name of one of these.

What is wrong with the table itself is told at once and stops everything, since half a table is no benchmark. Files
that it names and that are not there are problems of their images, which ``on_problem: skip`` leaves out.
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
    CATEGORY_KEY,
    CATEGORY_RULE,
    NOMINAL,
    NOMINAL_NAMES,
    is_nominal,
    known,
    near_nominal,
)
from ad_assets.store.retry import StorageError

ANOMALY = "anomaly"  # the defect type where the table tells none
_LABELS: dict[str, Literal[0, 1]] = {
    **dict.fromkeys(("0", "0.0", "false", *NOMINAL_NAMES), 0),
    **dict.fromkeys(
        ("1", "1.0", "true", "anomalous", ANOMALY, "abnormal", "bad", "defect", "defective", "ko", "ng"), 1
    ),
}


@dataclass(frozen=True)
class ManifestRow:
    """One row: where it stands, and the image that it describes, whether or not its files are there."""

    where: str
    category: str
    candidate: Candidate


@dataclass(frozen=True)
class Manifest:
    """A table that was read: its rows in its order, and those of each category."""

    entries: tuple[ManifestRow, ...]
    by_category: Mapping[str, tuple[ManifestRow, ...]]


class ManifestOption(Reader):
    """A reader that may read a file which the user names."""

    manifest: str | None = None

    def index_config(self) -> dict[str, Any]:
        """A file outside the root counts by its content: its stamp is in no listing, and its path is the machine's."""
        config = super().index_config()
        if self.manifest and not self.tables(""):
            config["manifest"] = hashlib.sha256(read_file(self.root, self.manifest)).hexdigest()
        return config

    def tables(self, category: str) -> tuple[str, ...]:
        del category
        inside = self.manifest and not _is_absolute(self.manifest) and ".." not in _relative(self.manifest).split("/")
        return (_relative(self.manifest),) if self.manifest and inside else ()


def read_file(root: str, path: str) -> bytes:
    """A file that lies under `root`, or elsewhere if `path` is absolute or a URL.

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
    """All rows of a table.

    Args:
        root: of the dataset.
        path: of the table, relative to the root, absolute or a URL.
        own_name: the category of rows that name none.
        renamed: what the table calls the columns above, where it does so otherwise.

    Raises:
        DatasetError: the table cannot be read or lacks a column, or rows contradict themselves or each other.
    """
    return _parsed(read_file(root, path), root, path, own_name, tuple((renamed or {}).items()))


@lru_cache(maxsize=8)  # a check of thousands of categories asks for the same table each time
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
    return Manifest(tuple(entries), {name: tuple(own) for name, own in by_category.items()})


def assigned(entries: Iterable[ManifestRow], paths: Sequence[str]) -> dict[str, list[Candidate]]:
    """Category -> candidates whose image is there, sorted by path, with the masks that are there."""
    there = set(paths)
    found: dict[str, list[Candidate]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: (entry.category, entry.candidate.path)):
        image = entry.candidate
        if image.path in there:
            found[entry.category].append(replace(image, masks=tuple(mask for mask in image.masks if mask in there)))
    return dict(found)


def manifest_problems(
    entries: Iterable[ManifestRow], paths: Sequence[str], masks_required: bool = False
) -> list[Problem]:
    """What one category's rows name and is not there, and anomalous images without a mask.

    Args:
        entries: of the category.
        paths: relative posix paths of one listing.
        masks_required: whether the want of a mask is an error also where the table names none.
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
    """What each column is called in the table.

    Raises:
        DatasetError: one is missing, there twice, or nearly called so.
    """
    called = {name: renamed.get(name, name) for name in (*_REQUIRED, *_OPTIONAL)}
    if "label_index" in columns:
        called["label"] = "label_index"
        if called["defect_type"] not in columns:
            called["defect_type"] = "label"
    missing = [called[name] for name in _REQUIRED if called[name] not in columns]
    if missing:
        names = shortened(", ".join(sorted(columns)), 300)
        found = "it has no rows" if empty and not columns else f"its columns are {names}"
        raise DatasetError(head, [Problem(path, f"lacks {', '.join(missing)}: {found}")])
    if empty:
        raise DatasetError(head, [Problem(path, "has no rows")])
    others = set(columns) - set(called.values())
    near = {name: _nearly(name, others) for name in (called[each] for each in _OPTIONAL) if name not in columns}
    problems = [
        *(Problem(path, f"has two columns {name}: keep one") for name in called.values() if columns.count(name) > 1),
        *(Problem(path, f"has a column {_shown(own)}: is it {name}? Rename it") for name, own in near.items() if own),
    ]
    if problems:
        raise DatasetError(head, problems)
    return called


def _nearly(name: str, columns: Iterable[str]) -> str | None:
    """The column that nearly has a name, as ``Mask path`` and ``defecttype`` nearly have."""
    short = {re.sub(r"[\W_]+", "", column): column for column in columns}
    near = difflib.get_close_matches(name.replace("_", ""), [each for each in short if len(each) < 40], 1, 0.85)
    return short[near[0]] if near else None


def _entry(where: str, row: Mapping[str, str], own_name: str, files: ImageFiles) -> ManifestRow | str:
    """The row, or what is wrong with it."""
    category, split, label = row["category"] or own_name, known(row["split"]), _LABELS.get(row["label"].casefold())
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
    """Names of columns as `_column` has them, and numbered rows by them, or what is wrong with the row.

    Raises:
        DatasetError: it is no such table.
    """
    if _is_parquet(path):
        import pyarrow as pa
        from pyarrow import parquet

        try:
            table = parquet.read_table(io.BytesIO(data))
            columns = list(map(_column, table.column_names))
            cells = [column.to_pylist() for column in table.columns]
        except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
            told = f"is not a Parquet table ({shortened(str(error), 200)}): copy it again"
            raise DatasetError(head, [Problem(path, told)]) from None
        return columns, list(enumerate((_row(columns, row) for row in zip(*cells, strict=True)), start=1))
    try:
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
        # Python's reader keeps every cell as text: category 01 stays 01.
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        told = f"is not a CSV table in UTF-8 ({shortened(str(error), 200)}): save it as one"
        raise DatasetError(head, [Problem(path, told)]) from None
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


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(".parquet")


def _relative(path: str) -> str:
    return posixpath.normpath(path.replace("\\", "/"))


def _is_absolute(path: str) -> bool:
    windows = re.match(r"[A-Za-z]:[\\/]|\\\\", path)
    return "://" in path or path.startswith("~") or windows is not None or Path(path).is_absolute()
