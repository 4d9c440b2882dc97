"""Tables that say which image is what, where folder names do not: one row an image, as CSV or Parquet.

    image_path            relative to the dataset's root
    split                 train | test
    label                 0 or a word such as good, 1 or a word such as anomalous; anomalib's label_index also
    category              optional; without it all rows are one category
    defect_type           optional; without it "anomaly" (beside label_index, the word in label)
    mask_path             optional, relative to the root; may be empty

What is wrong with the table itself is told at once and stops everything, since half a table is no benchmark. Files
that it names and that are not there are problems of their images, which ``on_problem: skip`` leaves out.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ad_assets.datasets.base import (
    CATEGORY_KEY,
    NOMINAL,
    NOMINAL_FOLDERS,
    Candidate,
    DatasetError,
    Problem,
    Reader,
)
from ad_assets.datasets.files import ImageFiles
from ad_assets.storage import StorageError

ANOMALY = "anomaly"  # the defect type where the table tells none
_LABELS: dict[str, Literal[0, 1]] = {
    **dict.fromkeys(("0", "0.0", "false", "nominal", *NOMINAL_FOLDERS), 0),
    **dict.fromkeys(
        ("1", "1.0", "true", "anomalous", ANOMALY, "abnormal", "bad", "defect", "defective", "ko", "ng"), 1
    ),
}


@dataclass(frozen=True)
class Entry:
    """One row: where it stands, and the image that it describes, whether or not its files are there."""

    where: str
    category: str
    candidate: Candidate


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


def read_manifest(root: str, path: str, *, own_name: str, renamed: Mapping[str, str] | None = None) -> list[Entry]:
    """All rows of a table, in its order.

    Args:
        root: of the dataset.
        path: of the table, relative to the root, absolute or a URL.
        own_name: the category of rows that name none.
        renamed: what the table calls the columns above, where it does so otherwise.

    Raises:
        DatasetError: the table cannot be read or lacks a column, or rows contradict themselves or each other.
    """
    head = f"manifest {path} of the dataset at {root!r}"
    rows = _rows(read_file(root, path), path, head)
    called = {name: (renamed or {}).get(name, name) for name in (*_REQUIRED, "category", "defect_type", "mask_path")}
    columns = set(rows[0]) if rows else set()
    if "label_index" in columns:
        called["label"] = "label_index"
        if called["defect_type"] not in columns:
            called["defect_type"] = "label"
    missing = [called[name] for name in _REQUIRED if called[name] not in columns]
    if missing:
        found = f"its columns are {', '.join(sorted(columns))}" if rows else "it has no rows"
        raise DatasetError(head, [Problem(path, f"lacks {', '.join(missing)}: {found}")])

    entries, problems, first = [], [], dict[tuple[str, str], str]()
    for number, row in enumerate(rows, start=1 if _is_parquet(path) else 2):
        where = f"{path} row {number}"
        entry = _entry(where, {name: row.get(column, "") for name, column in called.items()}, own_name)
        if isinstance(entry, str):
            problems.append(Problem(where, entry))
            continue
        known = first.setdefault((entry.category, entry.candidate.path), where)
        if known != where:
            problems.append(Problem(where, f"names {entry.candidate.path} as {known} does: keep one of them"))
        entries.append(entry)
    if problems:
        raise DatasetError(head, problems)
    return entries


def assigned(entries: Iterable[Entry], paths: Sequence[str]) -> dict[str, list[Candidate]]:
    """Category -> candidates whose image is there, sorted by path, with the masks that are there."""
    there = set(paths)
    found: dict[str, list[Candidate]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: (entry.category, entry.candidate.path)):
        image = entry.candidate
        if image.path in there:
            found[entry.category].append(replace(image, masks=tuple(mask for mask in image.masks if mask in there)))
    return dict(found)


def manifest_problems(entries: Iterable[Entry], paths: Sequence[str], masks_required: bool = False) -> list[Problem]:
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


def _entry(where: str, row: Mapping[str, str], own_name: str) -> Entry | str:
    """The row, or what is wrong with it."""
    category, split, label = row["category"] or own_name, row["split"].lower(), _LABELS.get(row["label"].lower())
    defect_type = row["defect_type"] or ANOMALY
    if not row["image_path"]:
        return "names no image"
    if split not in ("train", "test"):
        return f"its split is {row['split']!r}, expected train or test (leave other rows out)"
    if label is None:
        return f"its label is {row['label']!r}, expected 0 or good, 1 or anomalous"
    if split == "train" and label:
        return "an anomalous image in train, where detectors learn what is nominal: it belongs to test"
    if label and defect_type.lower() in NOMINAL_FOLDERS:
        return f"an anomalous image of the defect type {defect_type!r}: correct one of them"
    if not CATEGORY_KEY.fullmatch(category):
        return f"its category {category!r} cannot be a key: use letters, digits, _ and - only"
    masks = (_relative(row["mask_path"]),) if label and row["mask_path"] else ()
    image = Candidate(
        _relative(row["image_path"]), "train" if split == "train" else "test", label, defect_type if label else NOMINAL
    )
    return Entry(where, category, replace(image, masks=masks))


def _rows(data: bytes, path: str, head: str) -> list[dict[str, str]]:
    if _is_parquet(path):
        import pyarrow as pa
        from pyarrow import parquet

        try:
            table = parquet.read_table(io.BytesIO(data))
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(head, [Problem(path, f"is not a Parquet table ({error}): copy it again")]) from None
        return [{column: _text(value) for column, value in row.items()} for row in table.to_pylist()]
    try:
        # Python's reader keeps every cell as text: category 01 stays 01.
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), restval="", strict=True)
        return [{str(column): _text(value) for column, value in row.items()} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(head, [Problem(path, f"is not a CSV table in UTF-8 ({error}): save it as one")]) from None


def _text(value: Any) -> str:
    # Data frames write NaN for an empty cell.
    return "" if value is None or value != value else str(value).strip()


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(".parquet")


def _relative(path: str) -> str:
    return str(PurePosixPath(path.replace("\\", "/")))


def _is_absolute(path: str) -> bool:
    return "://" in path or path.startswith("~") or Path(path).is_absolute()
