"""What lies among images and is not read, told by number and by name: nothing vanishes in silence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from ad_assets.datasets.base import Problem, Reader, shortened
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.listing import Listing, broken_links
from ad_assets.datasets.names import is_foreign, is_image, near_part

NAMED = 3


def counted(paths: Sequence[str], noun: str) -> str:
    """How many files, and the names of the first: ``5 images (a.png, b.png, c.png, ...)``."""
    names = [shortened(path.rpartition("/")[2], 80) for path in sorted(paths)[:NAMED]]
    more = ["..."] if len(paths) > NAMED else []
    return f"{len(paths)} {noun}{'' if len(paths) == 1 else 's'} ({', '.join([*names, *more])})"


def unread(paths: Iterable[str]) -> list[Problem]:
    """Files in folders of images whose names do not say image: pictures in other formats are errors, all else is not.

    Args:
        paths: those files, of one category.
    """
    found = defaultdict[tuple[str, bool, str], list[str]](list)
    for path in paths:
        folder, _, name = path.rpartition("/")
        suffix = PurePosixPath(name).suffix.lower()
        found[folder, is_foreign(path), suffix if is_foreign(path) else ""].append(path)
    problems = []
    for (folder, foreign, suffix), own in sorted(found.items()):
        if foreign:
            message = f"{counted(own, 'file')} of a format that is not read ({suffix}): convert to PNG, JPEG or TIFF"
        else:
            message = f"{counted(own, 'file')} not read: no image by name"
        problems.append(Problem(folder, message, "error" if foreign else "warning"))
    return problems


def misplaced(found: Iterable[tuple[str, str]]) -> list[Problem]:
    """Images in folders that are no split's: an error where the folder's name nearly is one.

    Args:
        found: (path of the folder, path of the image).
    """
    by_folder = defaultdict[str, list[str]](list)
    for folder, path in found:
        by_folder[folder].append(path)
    problems = []
    for folder, own in sorted(by_folder.items()):
        meant = near_part(folder.rpartition("/")[2])
        told = f"{counted(own, 'image')} not read: "
        if meant:
            problems.append(Problem(folder, f"{told}is it {meant}? Only train, test and ground_truth are; rename it"))
        else:
            problems.append(Problem(folder, f"{told}only those in train, test and ground_truth are", "warning"))
    return problems


def pictures(paths: Iterable[str]) -> list[str]:
    """Those whose names say picture, of a format that is read or not."""
    return [path for path in paths if is_image(path) or is_foreign(path)]


def misfits(reader: Reader, listing: Listing | None = None) -> list[Problem]:
    """The reader's `misfits`, and links directly below the root whose target is gone.

    Args:
        reader: the configured dataset.
        listing: of its root; made here if None, where the root can be seen.
    """
    if listing is None:
        try:
            listing = ImageFiles(reader.root).listing()
        except (ValueError, OSError):
            return []  # whoever needs the root tells of it
    links = [problem for problem in broken_links(listing) if "/" not in problem.path]
    return [*links, *reader.misfits(sorted(listing))]
