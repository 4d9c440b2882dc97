"""The listing of a dataset's folder: files with their stamps, and what is skipped as clutter."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
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


def walk_local(root: Path, parts: Iterable[str] | None = None) -> Listing:
    """The listing of a local folder; links are followed, cyclic ones once.

    Args:
        root: the folder.
        parts: the files and folders in it that are listed, as relative paths, none below another; None: all.

    Raises:
        OSError: a folder cannot be listed.
    """
    # fsspec neither enters linked folders nor stamps linked files by their target, and dataset folders often use links.
    files: dict[str, FileStamp] = {}
    passed_over: list[str] = []
    if not root.is_dir():
        return Listing({})
    if parts is None:
        _walk(str(root), "", (), files, passed_over)
        return Listing(files, passed_over, subfolders(root))
    for part in parts:
        _walk_part(root, part, files, passed_over)
    return Listing(files, passed_over)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a local folder, in any order; without clutter.

    Raises:
        OSError: it cannot be listed, or is not there.
    """
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir() and not is_clutter(entry.name)]


def holds_file(folder: Path, prefix: str, wanted: Callable[[str], bool]) -> bool:
    """Whether some file below a local folder is wanted, by its path after a prefix; looks no further than the first.

    Raises:
        OSError: a folder cannot be listed.
    """
    return _holds(str(folder), prefix, (), wanted)


def _holds(folder: str, prefix: str, above: Identities, wanted: Callable[[str], bool]) -> bool:
    own = _identity(folder)
    if own in above:
        return False
    below = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_clutter(entry.name):
                continue
            if entry.is_dir():
                below.append(entry)
            elif wanted(prefix + entry.name):  # a link without target is a file, which cannot be read
                return True
    return any(_holds(each.path, f"{prefix}{each.name}/", (*above, own), wanted) for each in below)


def outermost(paths: Iterable[str]) -> list[str]:
    """Some files and folders without those that lie in others of them, sorted."""
    found: list[str] = []
    for path in sorted(set(paths), key=lambda path: path.split("/")):
        if not (found and is_within(path, found[-1:])):
            found.append(path)
    return found


def is_within(path: str, parts: Container[str]) -> bool:
    """Whether a path is one of some files and folders, or lies in one."""
    return any(path[:end] in parts for end in (*(at for at, letter in enumerate(path) if letter == "/"), len(path)))


Identities = tuple[tuple[int, int], ...]  # of the folders above: a link to one of them is not followed


def _walk_part(root: Path, part: str, files: dict[str, FileStamp], passed_over: list[str]) -> None:
    """Add what a whole walk of the root adds of one file or folder."""
    above: Identities = ()
    folder, (*parents, name) = root, part.split("/")
    for parent in ("", *parents):
        folder = folder / parent
        if is_clutter(parent) or not folder.is_dir() or _identity(folder) in above:
            return
        above = (*above, _identity(folder))
    path = folder / name
    if is_clutter(name):
        return
    if path.is_dir():
        _walk(str(path), f"{part}/", above, files, passed_over)
    elif path.is_file():
        files[part] = FileStamp.of_local(path.stat())
    elif path.is_symlink():
        files[part] = _broken(path.lstat())


def _walk(folder: str, prefix: str, above: Identities, files: dict[str, FileStamp], passed_over: list[str]) -> None:
    own = _identity(folder)
    if own in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if is_clutter(name):
                passed_over.append(prefix + name)
            elif entry.is_dir():
                _walk(entry.path, f"{prefix}{name}/", (*above, own), files, passed_over)
            elif entry.is_file():
                files[prefix + name] = FileStamp.of_local(entry.stat())
            elif entry.is_symlink():
                files[prefix + name] = _broken(entry.stat(follow_symlinks=False))


def _broken(link: os.stat_result) -> FileStamp:
    return replace(FileStamp.of_local(link), size=0, stamp=BROKEN_LINK)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - Path.stat takes twice as long
    return status.st_dev, status.st_ino
