"""The listing of a dataset's folder: files with their stamps, and what is skipped as clutter."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ad_assets.datasets.base import FileStamp, Problem
from ad_assets.datasets.names import is_image

# Files and folders that desktops, archivers and network storage add, in lower case. Some hold thumbnails or copies of
# the images beside them, so nothing in them is an image of the dataset.
CLUTTER = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"),
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", "@sharesnap"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
    }
)
BROKEN_LINK = "link without target"  # used as stamp


class Listing(dict[str, FileStamp]):
    """Relative posix path -> size and stamp of every file, sorted by path.

    A link whose target is gone is listed as an empty file, so that it is reported like any unreadable file. Files and
    folders for which `is_clutter` holds are not part of it.

    Args:
        files: path -> stamp, in any order.
        passed_over: paths of clutter: files, and folders without their content.
        empty: folders directly below the root, which may be empty.
    """

    def __init__(
        self, files: Mapping[str, FileStamp], passed_over: Iterable[str] = (), empty: Iterable[str] = ()
    ) -> None:
        super().__init__(sorted(files.items()))
        self.passed_over = tuple(sorted(passed_over))
        self._empty = frozenset(empty)

    def only(self, keeps: Callable[[str], bool]) -> Listing:
        """The entries whose paths satisfy `keeps`."""
        passing = {path: stamp for path, stamp in self.items() if keeps(path)}
        return Listing(passing, filter(keeps, self.passed_over), self._empty)

    def folders(self) -> set[str]:
        """Names of the folders directly below the root, including empty ones and links without a target."""
        return {path.split("/", 1)[0] for path in self} | self._empty

    def clutter_beside(self, paths: Iterable[str]) -> str:
        """Counts of the clutter in the folders of these files: ``@eaDir 3, Thumbs.db 1``; empty for none."""
        parents = {path.rpartition("/")[0] for path in paths}
        beside = (path.rpartition("/") for path in self.passed_over)
        names = (name for parent, _, name in beside if parent in parents)
        counts = Counter("names with a leading dot" if name.startswith(".") else name for name in names)
        return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is passed over: dotted names, and `CLUTTER`."""
    return name.startswith(".") or name.lower() in CLUTTER


def unreadable(path: str, stamp: FileStamp) -> str | None:
    """Why a listed file cannot be read, with the remedy; None where no reason is known."""
    if any("\udc80" <= character <= "\udcff" for character in path):  # surrogates stand for bytes that are not UTF-8
        return "its name is not UTF-8, which tables cannot store: rename it"
    if stamp.stamp == BROKEN_LINK:
        return "a link whose target is gone: put the target back, or remove the link"
    return None


def broken_links(listing: Mapping[str, FileStamp]) -> list[Problem]:
    """Links whose target is gone and whose name is not an image's: they may be folders of images."""
    return [
        Problem(path, str(unreadable(path, stamp)))
        for path, stamp in listing.items()
        if stamp.stamp == BROKEN_LINK and not is_image(path)
    ]


def walk_local(folder: Path) -> Listing:
    """The listing of a local folder; links are followed, cyclic ones once.

    Raises:
        OSError: a folder cannot be listed.
    """
    # fsspec neither enters linked folders nor stamps linked files by their target, and dataset folders often use links.
    passed_over: list[str] = []
    if not folder.is_dir():
        return Listing({})
    files = dict(_walk(folder, "", (), passed_over))
    with os.scandir(folder) as entries:
        below = [entry.name for entry in entries if entry.is_dir() and not is_clutter(entry.name)]
    return Listing(files, passed_over, below)


def _walk(
    folder: Path, prefix: str, above: tuple[tuple[int, int], ...], passed_over: list[str]
) -> Iterator[tuple[str, FileStamp]]:
    stat = folder.stat()
    if (stat.st_dev, stat.st_ino) in above:  # a link to a parent folder
        return
    above = (*above, (stat.st_dev, stat.st_ino))
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_clutter(entry.name):
                passed_over.append(prefix + entry.name)
            elif entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", above, passed_over)
            elif entry.is_file():
                yield prefix + entry.name, FileStamp.of_local(entry.stat())
            elif entry.is_symlink():
                link = FileStamp.of_local(entry.stat(follow_symlinks=False))
                yield prefix + entry.name, replace(link, size=0, stamp=BROKEN_LINK)
