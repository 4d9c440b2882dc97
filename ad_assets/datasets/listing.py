"""What one walk through a dataset's folder finds: files with their stamps, and what it passes over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ad_assets.datasets.base import FileStamp, Problem
from ad_assets.datasets.names import is_image

# What desktops, archivers and network storages put among files, in lower case. Some of it holds thumbnails or whole
# copies of the images beside it, so nothing in it is an image of the dataset.
CLUTTER = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"),
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp", "@sharesnap"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
    }
)
BROKEN_LINK = "link without target"  # in place of a stamp


class Listing(dict[str, FileStamp]):
    """Relative posix path -> size and stamp of every file, sorted by path.

    A link whose target is gone is a file without bytes, so that it is told of like any file that cannot be read. What
    `is_clutter` is not part of it.

    Args:
        files: path -> stamp, in any order.
        passed_over: paths of clutter, files and folders, without what these hold.
        empty: folders directly below the root that may hold nothing.
    """

    def __init__(
        self, files: Mapping[str, FileStamp], passed_over: Iterable[str] = (), empty: Iterable[str] = ()
    ) -> None:
        super().__init__(sorted(files.items()))
        self.passed_over = tuple(sorted(passed_over))
        self._empty = frozenset(empty)

    def only(self, keeps: Callable[[str], bool]) -> Listing:
        """The part of the listing whose paths pass."""
        kept = {path: stamp for path, stamp in self.items() if keeps(path)}
        return Listing(kept, filter(keeps, self.passed_over), self._empty)

    def folders(self) -> set[str]:
        """The names of folders directly below the root, empty ones and links without a target among them."""
        return {path.split("/", 1)[0] for path in self} | self._empty

    def clutter_beside(self, paths: Iterable[str]) -> str:
        """What was passed over in the folders of some files, by name: ``@eaDir 3, Thumbs.db 1``; empty for nothing."""
        parents = {path.rpartition("/")[0] for path in paths}
        beside = (path.rpartition("/") for path in self.passed_over)
        names = (name for parent, _, name in beside if parent in parents)
        counts = Counter("names with a leading dot" if name.startswith(".") else name for name in names)
        return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is passed over: dotted names, and `CLUTTER`."""
    return name.startswith(".") or name.lower() in CLUTTER


def unreadable(path: str, stamp: FileStamp) -> str | None:
    """Why a listed file cannot be one of a dataset, and what to do; None: it may be."""
    if any("\udc80" <= character <= "\udcff" for character in path):  # as Python keeps bytes that are no text
        return "its name is not UTF-8, so that no table can name it: rename it"
    if stamp.stamp == BROKEN_LINK:
        return "a link whose target is gone: put the target back, or remove the link"
    return None


def broken_links(listing: Mapping[str, FileStamp]) -> list[Problem]:
    """The links to folders, or to files of no image's name, whose target is gone: what lies there, nobody knows."""
    return [
        Problem(path, str(unreadable(path, stamp)))
        for path, stamp in listing.items()
        if stamp.stamp == BROKEN_LINK and not is_image(path)
    ]


def walk_local(folder: Path) -> Listing:
    """The listing of a local folder; links are followed, and a loop of links is left at its second turn.

    Raises:
        OSError: some folder cannot be listed.
    """
    # fsspec neither enters a linked folder nor stamps a linked file by its target; dataset folders are full of links.
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
    if (stat.st_dev, stat.st_ino) in above:  # a link to a folder above: a loop
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
