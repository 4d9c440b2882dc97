"""What a reader is: from the paths of a folder to candidates; and the words shared with the index.

A reader is a frozen pydantic model (its options come from the benchmark file) with one pure idea: `assign`
maps the relative paths of one listing to categories and candidates. Everything that opens files (hashing,
decoding, checking) happens once, in `ad_assets.datasets.index.build_index`, so a reader stays a page long and
works wherever fsspec does.
"""

from __future__ import annotations

import datetime
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import pyarrow as pa
from pydantic import Field, field_validator

from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.names import CATEGORY_KEY, CATEGORY_RULE, plain, plain_name
from ad_assets.settings.home import known_home
from ad_assets.settings.model import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ad_assets.datasets.listing import Listing

IMAGE_INDEX_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),  # sha256 of the file's bytes, and how they are decoded: see `decoding`
        ("path", pa.string()),  # relative to the dataset's root, posix
        ("split", pa.string()),  # train | test
        ("label", pa.int8()),  # 0 nominal, 1 anomalous; null: unknown, as of training images of blind settings
        ("defect_type", pa.string()),  # "good" for nominal images
        ("anomaly_kind", pa.string()),  # structural | logical; "" where the dataset does not tell
        ("mask_paths", pa.list_(pa.string())),  # relative; one a region where the dataset has them apart, else one
        ("mask_saturations", pa.list_(pa.float64())),  # part of each region that covers it; empty where all of it does
        ("mask_id", pa.string()),  # as image_id, of the mask, or of all masks together; "" where there is none
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),  # PIL mode of the file
        ("bytes", pa.int64()),
    ]
)


# What the listing of a file system or object store may carry. Keys that follow from the content, or count its versions,
# say enough; of the others all are taken, since each alone can be set or kept by who copies a file.
_CONTENT_KEYS = ("ETag", "etag", "md5", "generation", "version_id")
_CHANGE_KEYS = ("mtime", "ctime", "ino", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class FileStamp:
    """What a listing tells without opening a file.

    Args:
        size: bytes.
        stamp: tells one content of a path from the next; empty where nothing does.
        changed: when it last changed or came to lie here, in seconds since 1970; None where nobody says.
        arrived: the same without what whoever wrote it claims; None where nobody else says.
    """

    size: int
    stamp: str
    changed: float | None = field(default=None, compare=False)
    arrived: float | None = field(default=None, compare=False)

    @classmethod
    def of_local(cls, info: os.stat_result) -> FileStamp:
        """That of a local file.

        Tools that keep the modification time of what they replace (``rsync -t``, ``cp -p``, restored backups) cannot
        keep the change time of the inode, or take another inode.

        Args:
            info: of the file, links followed.
        """
        stamp = f"{info.st_mtime_ns}-{info.st_ctime_ns}-{info.st_ino}"
        return cls(info.st_size, stamp, max(info.st_mtime, info.st_ctime), info.st_ctime)

    @classmethod
    def of_remote(cls, info: Mapping[str, Any]) -> FileStamp:
        """That of a file of which an fsspec file system says `info`."""
        told = {key: str(info[key]) for key in _CONTENT_KEYS if info.get(key) is not None}
        told = told or {key: str(info[key]) for key in _CHANGE_KEYS if info.get(key) is not None}
        changed = next((info[key] for key in ("LastModified", "mtime") if info.get(key) is not None), None)
        seconds = changed.timestamp() if isinstance(changed, datetime.datetime) else changed
        return cls(
            int(info["size"]), "-".join(told.values()), float(seconds) if isinstance(seconds, int | float) else None
        )


ProgressReport = Callable[[str, int, int], None]  # what, done, total


AnomalyKind = Literal["", "structural", "logical"]


@dataclass(frozen=True)
class Saturation:
    """How much of a region must be found to find it all (Bergmann et al., IJCV 2022, section 3.3).

    Args:
        threshold: pixels, or a part of the region's area.
        relative: whether it is a part.
    """

    threshold: float
    relative: bool

    def part_of(self, area: int) -> float:
        """The saturation of a region of `area` pixels, as a part of it in (0, 1]; 1 for an empty one."""
        if area <= 0:
            return 1.0
        return min(self.threshold if self.relative else self.threshold / area, 1.0)


@dataclass(frozen=True)
class Candidate:
    """An image as its place in the tree describes it, before anything was opened."""

    path: str
    split: Literal["train", "test"]
    label: Literal[0, 1] | None  # None: unknown
    defect_type: str
    masks: tuple[str, ...] = ()  # several: one region each
    kind: AnomalyKind = ""


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file: where, what was expected, what to do.

    Args:
        path: relative path of the file, or the category where no single file is to blame.
        message: what was expected, what to do.
        severity: an error stops the index (or leaves the image out, by `Reader.on_problem`); a warning is
            recorded.
    """

    path: str
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{plain_name(self.path)}: {plain(self.message)}"


class DatasetError(ValueError):
    """A category that cannot be indexed as it lies on disk.

    Args:
        head: what was being read.
        problems: everything found, listed up to `SHOWN` lines or `LENGTH` characters.
    """

    SHOWN: ClassVar[int] = 20
    LENGTH: ClassVar[int] = 1800

    def __init__(self, head: str, problems: Sequence[Problem]) -> None:
        lines = [shortened(plain(head), 400)]
        for problem in problems[: self.SHOWN]:
            line = f"  {shortened(str(problem), 600)}"
            if sum(map(len, lines)) + len(line) > self.LENGTH:
                break
            lines.append(line)
        if len(problems) >= len(lines):
            lines.append(f"  ... and {len(problems) - len(lines) + 1} more")
        super().__init__("\n".join(lines))
        self.problems = tuple(problems)


def shortened(text: str, length: int) -> str:
    """The text, or if it is longer than that its beginning and its end: a name may be longer than any sentence."""
    half = length // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"


class Reader(Settings, ABC):
    """A configured dataset.

    Class facts: `name` in benchmark files, `version` (bumped when the same files would give another index),
    `paper_dataset` (the key of the published tables, where there are any), `blind` (whether it trains on the very
    images it tests, unlabelled), `origin` (where people get it, and under which licence), `layout` (the folders that
    are expected below the root), `published_copies` (whether images that lie in train and in test belong to the
    protocol as published, so that they are told of instead of refused), `decodes` (how its files become
    pixels).
    """

    name: ClassVar[str]
    version: ClassVar[int]
    paper_dataset: ClassVar[str | None] = None
    blind: ClassVar[bool] = False
    origin: ClassVar[str] = ""
    layout: ClassVar[str] = ""
    published_copies: ClassVar[bool] = False
    decodes: ClassVar[Decoding] = Decoding()

    root: str = Field(min_length=1, description="folder of the dataset, or an fsspec URL such as s3://bucket/prefix")
    on_problem: Literal["fail", "skip"] = Field(
        "fail", description="fail: bad files stop the index; skip: they are left out and recorded"
    )

    @field_validator("root")
    @classmethod
    def _of_a_known_home(cls, root: str) -> str:
        return known_home(root)

    def index_config(self) -> dict[str, Any]:
        """Every option that can change the index, as JSON values, with the reader's name and version."""
        return {
            "reader": self.name,
            "version": self.version,
            **self.model_dump(mode="json", exclude={"root"}),
        }

    @property
    def compared_with(self) -> str | None:
        """The published tables that these options follow the protocol of; None where there are none."""
        return self.paper_dataset

    @property
    def decoding(self) -> Decoding:
        """How its files become pixels; the bit depth of deep images is known once they are indexed."""
        return self.decodes

    def prepare(self, category: str | None = None, report: ProgressReport | None = None) -> None:
        """Make the files exist, for datasets that are generated or unpacked; nothing to do for those that are given.

        Args:
            category: only this one; None for all.
            report: called as ``report(what, done, total)`` from time to time.
        """
        del category, report

    def left_out(self) -> dict[str, str]:
        """Categories that lie there and cannot be measured -> why; `categories` does not name them."""
        return {}

    def stands(self, category: str, listing: Listing) -> bool:
        """Whether a category that has no image may be there all the same: its folder is.

        Args:
            category: a name that may have been one of the dataset's.
            listing: one of the root.
        """
        del category, listing
        return False

    def misfits(self, paths: Sequence[str]) -> list[Problem]:
        """What lies below the root and belongs to no category, though somebody may take it for one: errors for folders
        whose names nearly fit or cannot be keys, warnings for other folders of images.

        Args:
            paths: relative posix paths of one listing.
        """
        del paths
        return []

    @abstractmethod
    def categories(self) -> list[str]:
        """Sorted or published order; without touching the disk where the dataset's categories are known.

        Raises:
            ValueError: the root does not exist, is empty or holds no category, or a category's name is no
                key.
        """

    @abstractmethod
    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        """Candidates per category, from names (and `tables`): opens no image, and the order of `paths` is nothing.

        Args:
            paths: relative posix paths of one listing.
        """

    def tables(self, category: str) -> tuple[str, ...]:
        """Relative paths of what `assign` and `saturations` read besides names: manifests, lists of splits.

        Args:
            category: the one that they say something of.
        """
        del category
        return ()

    def saturations(self, category: str) -> Mapping[int, Saturation]:
        """Value of a region's pixels in its mask -> its saturation; empty: regions have none.

        Args:
            category: one of the dataset.

        Raises:
            ValueError: the file that says so is missing or not what it should be.
        """
        del category
        return {}

    def paths_by_category(self, paths: Sequence[str]) -> dict[str, list[str]]:
        """What `check_names` needs to see of each category; unless a reader knows better, all of it.

        Args:
            paths: relative posix paths of one listing.
        """
        everything = list(paths)
        return dict.fromkeys(self.assign(paths), everything)

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        """What names alone show to be wrong: masks without image, images without mask, counts.

        Args:
            category: the one to check.
            paths: relative posix paths of one listing.
            candidates: what `assign` made of this category.
        """
        del category, paths, candidates
        return []


def checked_keys(categories: Sequence[str], root: str) -> list[str]:
    """The names, if each can be a partition key.

    Raises:
        ValueError: some cannot.
    """
    wrong = [name for name in categories if not CATEGORY_KEY.fullmatch(name)]
    if wrong:
        shown = ", ".join(repr(shortened(name, 120)) for name in wrong[:5])
        raise ValueError(
            f"category names under {root!r} that cannot be keys: {shown}{' and others' if wrong[5:] else ''}; rename "
            f"the folders with {CATEGORY_RULE} (one category alone: set datasets.<name>.category)"
        )
    return list(categories)


READERS: dict[str, type[Reader]] = {}
ReaderT = TypeVar("ReaderT", bound=type[Reader])


def register_reader(reader: ReaderT) -> ReaderT:
    """Class decorator: make a reader available to benchmark files under its name."""
    READERS[reader.name] = reader
    return reader
