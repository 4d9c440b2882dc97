"""From a folder to an image index: what every reader shares.

A reader is a frozen pydantic model (its options come from the benchmark file) with one pure idea: `assign` maps the
relative paths of one listing to categories and candidates. Everything that opens files (hashing, decoding, checking)
happens once, in `build_index`, so readers stay a page long and work on any fsspec file system.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

IMAGE_INDEX_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),  # sha256 of the file's bytes
        ("path", pa.string()),  # relative to the dataset's root, posix
        ("split", pa.string()),  # train | test
        ("label", pa.int8()),  # 0 nominal, 1 anomalous
        ("defect_type", pa.string()),  # "good" for nominal images
        ("mask_path", pa.string()),  # relative; "" where there is none
        ("mask_id", pa.string()),  # sha256 of the mask's bytes; "" where there is none
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),  # PIL mode of the file
        ("bytes", pa.int64()),
    ]
)


@dataclass(frozen=True)
class FileStamp:
    """What a listing tells without opening a file: size in bytes and a change stamp (mtime or ETag)."""

    size: int
    stamp: str


@dataclass(frozen=True)
class Candidate:
    """An image as its place in the tree describes it, before anything was opened."""

    path: str
    split: Literal["train", "test"]
    label: Literal[0, 1]
    defect_type: str
    mask_path: str = ""


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file: where, what was expected, what to do."""

    path: str
    message: str
