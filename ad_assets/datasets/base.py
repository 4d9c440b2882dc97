"""Interface of a reader, which maps the paths of a folder to image candidates, and the types it shares with the index.

A reader is a frozen pydantic model whose fields are options of the benchmark file. Its one essential method, `assign`,
maps the relative paths of a listing to categories and candidates. Everything that opens files (hashing, decoding,
checking) happens once, in `ad_assets.datasets.index.build_index`, so a reader stays a page long and works on every file
system of fsspec.
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
from ad_assets.datasets.names import plain, plain_name
from ad_assets.settings.home import known_home
from ad_assets.settings.model import Settings

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ad_assets.datasets.listing import Listing

IMAGE_INDEX_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),  # sha256 of the file's bytes, and how they are decoded: see `decoding`
        ("path", pa.string()),  # relative to the dataset's root, posix
        ("split", pa.string()),  # train | test
        ("label", pa.int8()),  # 0 nominal, 1 anomalous; null: unknown, as for training images of blind settings
        ("defect_type", pa.string()),  # "good" for nominal images
        ("anomaly_kind", pa.string()),  # structural | logical; "" where the dataset does not say
        ("mask_paths", pa.list_(pa.string())),  # relative; one for each region in datasets that separate them, else one
        (
            "mask_saturations",
            pa.list_(pa.float64()),
        ),  # share of each region that counts as all of it; empty: 1 for each
        ("mask_id", pa.string()),  # as image_id, of the mask, or of all masks together; "" where there is none
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),  # PIL mode of the file
        ("bytes", pa.int64()),
    ]
)


# Keys of a listing's entries. A content hash or version number suffices; of the times and the inode all are used, since
# a tool that copies files can preserve each of them.
_CONTENT_KEYS = ("ETag", "etag", "md5", "generation", "version_id")
_CHANGE_KEYS = ("mtime", "ctime", "ino", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class FileStamp:
    """What a listing says of a file without opening it.

    Args:
        size: bytes.
        stamp: differs when the content changes; empty where the file system has nothing to make one of.
        changed: last change or arrival, seconds since 1970; None where unknown.
        arrived: arrival by the file system's own clock (inode change time), which the writer cannot set; None where
            unknown.
    """

    size: int
    stamp: str
    changed: float | None = field(default=None, compare=False)
    arrived: float | None = field(default=None, compare=False)

    @classmethod
    def of_local(cls, info: os.stat_result) -> FileStamp:
        """The stamp of a local file.

        Tools that preserve modification times (``rsync -t``, ``cp -p``, restored backups) still change the inode or its
        change time.

        Args:
            info: stat result of the file, links followed.
        """
        stamp = f"{info.st_mtime_ns}-{info.st_ctime_ns}-{info.st_ino}"
        return cls(info.st_size, stamp, max(info.st_mtime, info.st_ctime), info.st_ctime)

    @classmethod
    def of_remote(cls, info: Mapping[str, Any]) -> FileStamp:
        """The stamp of a file from `info`, the entry in the listing of an fsspec file system."""
        values = {key: str(info[key]) for key in _CONTENT_KEYS if info.get(key) is not None}
        values = values or {key: str(info[key]) for key in _CHANGE_KEYS if info.get(key) is not None}
        changed = next((info[key] for key in ("LastModified", "mtime") if info.get(key) is not None), None)
        seconds = changed.timestamp() if isinstance(changed, datetime.datetime) else changed
        return cls(
            int(info["size"]), "-".join(values.values()), float(seconds) if isinstance(seconds, int | float) else None
        )


ProgressReport = Callable[[str, int, int], None]  # what, done, total


AnomalyKind = Literal["", "structural", "logical"]


@dataclass(frozen=True)
class Saturation:
    """Saturation threshold of a region: the area that must be found to count as all of it (Bergmann et al., IJCV 2022,
    section 3.3).

    Args:
        threshold: in pixels, or as a share of the region's area.
        relative: whether `threshold` is a share.
    """

    threshold: float
    relative: bool

    def part_of(self, area: int) -> float:
        """The threshold as a share, in (0, 1], of a region of `area` pixels; 1 for an empty one."""
        if area <= 0:
            return 1.0
        return min(self.threshold if self.relative else self.threshold / area, 1.0)


@dataclass(frozen=True)
class Candidate:
    """An image as its path describes it, before it is opened."""

    path: str
    split: Literal["train", "test"]
    label: Literal[0, 1] | None  # None: unknown
    defect_type: str
    masks: tuple[str, ...] = ()  # several: one region each
    kind: AnomalyKind = ""
    group: str = ""  # what it is left out and held out with; "": it is alone


@dataclass(frozen=True)
class Problem:
    """A problem of one file.

    Args:
        path: relative path of the file; the category where no single file is the cause.
        message: what was expected and what to do.
        severity: an error stops the index (or leaves the image out, see `Reader.on_problem`); a warning is recorded.
    """

    path: str
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{plain_name(self.path)}: {plain(self.message)}"


class DatasetError(ValueError):
    """A category cannot be indexed.

    Args:
        head: what was being read.
        problems: all problems found; the message lists up to `SHOWN` lines or `LENGTH` characters.
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
    """The text; if it is longer than `length`, its beginning and end, since file names may be very long."""
    half = length // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"


class Reader(Settings, ABC):
    """A configured dataset.

    Class attributes: `name` in benchmark files; `version`, raised when the same files would give another index;
    `paper_dataset`, its key in the published tables; `blind`, whether it trains on the unlabelled images that it tests;
    `origin`, where to download it and its licence; `layout`, the folders expected below the root; `published_copies`,
    whether the published protocol has images in both train and test, which then cause warnings instead of errors;
    `decodes`, how its files become pixels.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    paper_dataset: ClassVar[str | None] = None
    blind: ClassVar[bool] = False
    origin: ClassVar[str] = ""
    layout: ClassVar[str] = ""
    published_copies: ClassVar[bool] = False
    decodes: ClassVar[Decoding] = Decoding()

    root: str = Field(
        min_length=1,
        description="folder of the dataset, or an fsspec URL such as s3://bucket/prefix",
        examples=["/data/parts"],
    )
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
        """The published tables whose protocol these options follow; None where there are none."""
        return self.paper_dataset

    @property
    def own_images(self) -> bool:
        """Whether it reads people's own images, for which no protocol is published."""
        return False

    @property
    def decoding(self) -> Decoding:
        """How its files become pixels; the bit depth of images with more than 8 bits is known once they are indexed."""
        return self.decodes

    def prepare(self, category: str | None = None, report: ProgressReport | None = None) -> None:
        """Generate or unpack the files of datasets that need it; does nothing for others.

        Args:
            category: only this one; None for all.
            report: called as ``report(what, done, total)`` from time to time.
        """
        del category, report

    def left_out(self) -> dict[str, str]:
        """Category -> reason, for categories that cannot be measured; `categories` leaves them out."""
        return {}

    def stands(self, category: str, listing: Listing) -> bool:
        """Whether a category without images still exists, because its folder does.

        Args:
            category: a name that may have been one of the dataset's.
            listing: of the root.
        """
        del category, listing
        return False

    def misfits(self, paths: Sequence[str]) -> list[Problem]:
        """Folders of images that belong to no category: errors where the name nearly fits the layout or cannot be a
        partition key, warnings otherwise.

        Args:
            paths: relative posix paths of one listing.
        """
        del paths
        return []

    @abstractmethod
    def categories(self) -> list[str]:
        """The categories, sorted or in published order; fixed lists are returned without reading the disk.

        Raises:
            ValueError: the root does not exist, is empty or holds no category, or a category's name cannot be a
                partition key.
        """

    @abstractmethod
    def assign(self, paths: Sequence[str]) -> dict[str, list[Candidate]]:
        """Candidates of each category, from names and `tables` alone; opens no image and ignores the order of `paths`.

        Args:
            paths: relative posix paths of one listing.
        """

    def parts_of(self, categories: Collection[str]) -> set[str] | None:
        """Relative paths of folders, and of files, that hold every path that `assign`, `check_names` and
        `paths_by_category` need for some categories, beside their `tables` and regions of interest. None: the root.

        Args:
            categories: of the dataset, or names that may be.
        """
        del categories
        return None

    def tables(self, category: str) -> tuple[str, ...]:
        """Relative paths of what an index is made from beside images and masks: manifests, lists, regions of interest.

        Args:
            category: the category that they describe.
        """
        del category
        return ()

    @property
    def has_groups(self) -> bool:
        """Whether images belong to groups, such as lots."""
        return False

    def group_in(self, path: str) -> str:
        """The group that the path of an image names, wherever the image lies; empty: none.

        Args:
            path: relative or absolute.
        """
        del path
        return ""

    @property
    def has_regions(self) -> bool:
        """Whether any category may have a region of interest."""
        return False

    def region_path(self, category: str) -> str | None:
        """Relative path of the mask of a category's region of interest; None: its images are inspected whole."""
        del category
        return None

    @property
    def region_margin(self) -> int:
        """Pixels by which regions of interest are drawn in."""
        return 0

    def saturations(self, category: str) -> Mapping[int, Saturation]:
        """Pixel value of a region in its mask -> its saturation threshold; empty where regions have none.

        Args:
            category: one of the dataset.

        Raises:
            ValueError: the file that defines them is missing or malformed.
        """
        del category
        return {}

    def paths_by_category(self, paths: Sequence[str]) -> dict[str, list[str]]:
        """The paths that `check_names` needs for each category; by default all of them.

        Args:
            paths: relative posix paths of one listing.
        """
        everything = list(paths)
        return dict.fromkeys(self.assign(paths), everything)

    def check_names(self, category: str, paths: Sequence[str], candidates: Sequence[Candidate]) -> list[Problem]:
        """Problems that names alone show: masks without image, images without mask, wrong counts.

        Args:
            category: the one to check.
            paths: relative posix paths of one listing.
            candidates: those that `assign` gives for this category.
        """
        del category, paths, candidates
        return []


READERS: dict[str, type[Reader]] = {}
ReaderT = TypeVar("ReaderT", bound=type[Reader])


def register_reader(reader: ReaderT) -> ReaderT:
    """Class decorator: make a reader available to benchmark files under its name."""
    READERS[reader.name] = reader
    return reader
