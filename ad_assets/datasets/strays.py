"""Reports files and folders that are not read, with counts and names, so that nothing is dropped silently."""

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
    """The number of files and the first names: ``5 images (a.png, b.png, c.png, ...)``."""
    names = [shortened(path.rpartition("/")[2], 80) for path in sorted(paths)[:NAMED]]
    more = ["..."] if len(paths) > NAMED else []
    return f"{len(paths)} {noun}{'' if len(paths) == 1 else 's'} ({', '.join([*names, *more])})"


def unread(paths: Iterable[str]) -> list[Problem]:
    """Problems for files in image folders that are not images by name: errors for picture formats, else warnings.

    Args:
        paths: those files, of one category.
    """
    groups = defaultdict[tuple[str, bool, str], list[str]](list)
    for path in paths:
        folder, _, name = path.rpartition("/")
        suffix = PurePosixPath(name).suffix.lower()
        groups[folder, is_foreign(path), suffix if is_foreign(path) else ""].append(path)
    problems = []
    for (folder, foreign, suffix), group in sorted(groups.items()):
        if foreign:
            message = f"{counted(group, 'file')} of a format that is not read ({suffix}): convert to PNG, JPEG or TIFF"
        else:
            message = f"{counted(group, 'file')} not read: no image by name"
        problems.append(Problem(folder, message, "error" if foreign else "warning"))
    return problems


def misplaced(images: Iterable[tuple[str, str]]) -> list[Problem]:
    """Problems for images in folders that are no split: errors where the folder's name is a near miss of one.

    Args:
        images: (path of the folder, path of the image).
    """
    by_folder = defaultdict[str, list[str]](list)
    for folder, path in images:
        by_folder[folder].append(path)
    problems = []
    for folder, paths in sorted(by_folder.items()):
        meant = near_part(folder.rpartition("/")[2])
        unread_images = f"{counted(paths, 'image')} not read: "
        if meant:
            problems.append(
                Problem(folder, f"{unread_images}is it {meant}? Only train, test and ground_truth are; rename it")
            )
        else:
            problems.append(
                Problem(folder, f"{unread_images}only those in train, test and ground_truth are", "warning")
            )
    return problems


def pictures(paths: Iterable[str]) -> list[str]:
    """The paths with a suffix of a picture format, whether it is read or not."""
    return [path for path in paths if is_image(path) or is_foreign(path)]


def misfits(reader: Reader, listing: Listing | None = None) -> list[Problem]:
    """The reader's `misfits`, and links directly below the root whose target is gone.

    Args:
        reader: the configured dataset.
        listing: of its root; made here if None.
    """
    if listing is None:
        try:
            listing = ImageFiles(reader.root).listing()
        except (ValueError, OSError):
            return []  # the caller that needs the root reports it
    links = [problem for problem in broken_links(listing) if "/" not in problem.path]
    return [*links, *reader.misfits(sorted(listing))]
