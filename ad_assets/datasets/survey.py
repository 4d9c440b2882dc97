"""What lies in a folder of somebody's images: how it is arranged, which images are good, what they look like.

Four arrangements are told apart by names alone:

    mvtec     <category>/train/good/NAME.png, as the reader `folder` takes it
    folders   good/NAME.png beside scratch/NAME.png, or in folders of categories
    masks     NAME.png beside NAME_mask.png, NAME.jpg beside NAME.png, or NAME.png in images/ and in masks/
    good      images alone: all are taken for good

Of all but the first a manifest says what each image is. What names do not tell for certain is refused or left out by
name, never guessed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from ad_assets.datasets.base import Candidate, DatasetError, Problem
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.listing import unreadable
from ad_assets.datasets.looks import Looks, looks_of
from ad_assets.datasets.names import (
    ANOMALOUS_NAMES,
    NOMINAL,
    NOMINAL_NAMES,
    canonical_name,
    is_foreign,
    is_image,
    is_nominal,
    near_nominal,
    near_part,
)
from ad_assets.datasets.readers.folder import MVTEC_LAYOUT, FolderReader
from ad_assets.datasets.strays import counted
from ad_assets_runtime.images import ImageError

Layout = Literal["mvtec", "folders", "masks", "good"]
TESTED = 5  # one in so many good images is kept for testing where nobody says which
LEAST_TESTED = 10  # good images below which none is
SHOWN = 5
_MASK_NAME = re.compile(r"(.+?)(?:[_.-](?:mask|gt|ground_?truth|label))", re.IGNORECASE)
_SPLITS = ("train", "test")
_PLAIN = ("image", "images", "img", "imgs")  # names of folders that are of no category


@dataclass(frozen=True)
class Survey:
    """What was found in a folder.

    Args:
        root: the folder.
        layout: how it is arranged.
        images: category -> its images.
        looks: category -> what some of them look like.
        mask_values: the anomalous values of masks that have more than two; None: they have two.
        left_out: images that nothing is known of, with the reasons.
    """

    root: str
    layout: Layout
    images: Mapping[str, Sequence[Candidate]]
    looks: Mapping[str, Looks]
    mask_values: str | None
    left_out: Sequence[Problem]


def survey(root: str) -> Survey:
    """Look at a folder of images.

    Args:
        root: a local folder or an fsspec URL.

    Raises:
        DatasetError: there is no folder, no image that can be read, or no telling which images are good.
    """
    files = ImageFiles(root)
    listing = files.listing()
    images = [path for path in listing if is_image(path) and not unreadable(path, listing[path])]
    if not images:
        foreign = [path for path in listing if is_foreign(path)]
        why = f"{counted(foreign, 'file')}: convert to PNG, JPEG or TIFF" if foreign else counted(list(listing), "file")
        raise DatasetError(f"{root!r} holds no image: {why}", [])
    by_layout = FolderReader(root=root).assign(images)
    if any(each.split == "train" for own in by_layout.values() for each in own):
        return _opened(files, Survey(root, "mvtec", by_layout, {}, None, ()))
    return _opened(files, _arranged(files, images))


def _arranged(files: ImageFiles, images: Sequence[str]) -> Survey:
    """A folder in another layout than that of MVTec AD, its images not yet opened.

    Raises:
        DatasetError: as `survey`.
    """
    masks = _masks(files, images)
    pictures = sorted(set(images) - set(masks.values()))
    folders = {path: tuple(path.split("/")[:-1]) for path in pictures}
    _refuse_splits(files.root, folders)
    marked, values, left_out = _marked(files, masks)
    pictures = [path for path in pictures if masks.get(path) in (None, *marked)]  # whose mask can be read
    layout: Layout
    if any(is_nominal(name) for names in folders.values() for name in names):
        layout, found = "folders", _by_folder(pictures, folders, left_out)
    else:
        _refuse_unclear(files.root, folders)
        layout = "masks" if masks else "good"
        defective = {path: marked.get(masks.get(path, ""), False) for path in pictures}
        found = _by_mask(pictures, folders, defective, left_out)
    by_category = defaultdict[str, list[Candidate]](list)
    for path, (category, kind) in found.items():
        mask, good = masks.get(path), kind == NOMINAL
        if good and mask and marked[mask]:
            left_out.append(Problem(path, f"lies among good images, and its mask {mask} marks something"))
            continue
        own = by_category[_category(files.root, category)]
        own.append(
            Candidate(path, "train" if good else "test", 0 if good else 1, kind, (mask,) if mask and not good else ())
        )
    if not any(each.label == 0 for own in by_category.values() for each in own):
        told = (
            f"each of {counted(pictures, 'image')} has a mask that marks something" if masks else "holds no good image"
        )
        remedy = "detectors learn good images: add some, in a folder good beside the others"
        raise DatasetError(f"{files.root!r}: {told}, and {remedy}", left_out)
    split = {name: _split(own) for name, own in sorted(by_category.items())}
    return Survey(files.root, layout, split, {}, values, left_out)


def _by_folder(
    pictures: Sequence[str], folders: Mapping[str, tuple[str, ...]], left_out: list[Problem]
) -> dict[str, tuple[tuple[str, ...], str]]:
    """Image -> folders of its category, and its defect type: the name of a folder beside one of good images."""
    places = {names[:i] for names in folders.values() for i, name in enumerate(names) if is_nominal(name)}
    found = {}
    for path in pictures:
        names = folders[path]
        place = max((place for place in places if names[: len(place)] == place), key=len, default=None)
        kind = names[len(place)] if place is not None and len(names) > len(place) else None
        if place is None or kind is None or near_nominal(kind):
            left_out.append(
                Problem(path, "good or defective? It lies in no folder of good images, nor in one beside such")
            )
        else:
            found[path] = (place, NOMINAL if is_nominal(kind) else kind)
    return found


def _by_mask(
    pictures: Sequence[str],
    folders: Mapping[str, tuple[str, ...]],
    defective: Mapping[str, bool],
    left_out: list[Problem],
) -> dict[str, tuple[tuple[str, ...], str]]:
    """As `_by_folder`, where masks say which images are defective.

    Folders are categories if each has good images. Else they are types of defect of one category, and an image in
    such a folder whose mask marks nothing is unclear.
    """
    spoilt = {folders[path] for path in pictures if defective[path]}
    sound = {folders[path] for path in pictures if not defective[path]}
    if spoilt <= sound:
        return {path: (folders[path], "defect" if defective[path] else NOMINAL) for path in pictures}
    found: dict[str, tuple[tuple[str, ...], str]] = {}
    for path in pictures:
        kind = "_".join(each for each in folders[path] if each.lower() not in _PLAIN) or "defect"
        if defective[path] or folders[path] not in spoilt:
            found[path] = ((), kind if defective[path] else NOMINAL)
        else:
            left_out.append(
                Problem(path, f"good or defective? No mask marks anything, and others in {kind} are defective")
            )
    return found


def _refuse_splits(root: str, folders: Mapping[str, Sequence[str]]) -> None:
    """Refuse folders that are called train and test and hold no good images by the layout of MVTec AD."""
    if any((canonical_name(name) or near_part(name)) in _SPLITS for names in folders.values() for name in names):
        layout = MVTEC_LAYOUT.replace("\n", ", ")
        raise DatasetError(
            f"{root!r} has folders train or test and no image in <category>/train/good: which are good? Move or rename "
            f"folders to the layout {layout} (ground_truth may be missing). Found:",
            _places(folders),
        )


def _refuse_unclear(root: str, folders: Mapping[str, Sequence[str]]) -> None:
    """Refuse names that tell good from defective images where no folder does so for certain."""
    words = {path: set(re.findall("[a-z]+", path.lower())) for path in folders}
    telling = {word for own in words.values() for word in own} & {*ANOMALOUS_NAMES}
    nominal = [bool(own & {*NOMINAL_NAMES}) for own in words.values()]
    telling |= {"good or ok of some"} if any(nominal) and not all(nominal) else set()
    telling |= {name for names in folders.values() for name in names if near_nominal(name)}
    if telling:
        raise DatasetError(
            f"{root!r}: names say {', '.join(sorted(telling))}, and no folder is called good (or ok, normal, nominal): "
            "move good images to a folder good, and the others to one beside it for each kind of defect. Found:",
            _places(folders),
        )


def _places(folders: Mapping[str, Sequence[str]]) -> list[Problem]:
    by_place = defaultdict[str, list[str]](list)
    for path, names in folders.items():
        by_place["/".join(names) or "."].append(path)
    return [Problem(place, counted(paths, "image")) for place, paths in sorted(by_place.items())]


def _category(root: str, names: Sequence[str]) -> str:
    """Folders as the name of a category; the root's own where there are none."""
    name = (
        "_".join(each for each in names if each.lower() not in _PLAIN)
        or PurePosixPath(root.replace("\\", "/").rstrip("/")).name
    )
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:100].strip("_") or "parts"


def _split(images: Sequence[Candidate]) -> list[Candidate]:
    """The images with the last of the good ones, in the order of their names, in the test split.

    Neighbours in time, which look alike, stay on one side.
    """
    good = [each for each in images if not each.label]
    kept = len(good) // TESTED if len(good) >= LEAST_TESTED else 0
    tested = {each.path for each in good[len(good) - kept :]}
    return [Candidate(each.path, "test", 0, NOMINAL) if each.path in tested else each for each in images]


def _masks(files: ImageFiles, images: Sequence[str]) -> dict[str, str]:
    """Image -> its mask, by name: ``a_mask.png`` beside ``a.jpg``, ``masks/a.png``, or ``a.png`` beside ``a.jpg``."""
    beside: dict[str, list[str]] = defaultdict(list)  # path without suffix -> images
    without_one: dict[tuple[str, ...], set[str]] = defaultdict(set)  # the same, one folder or none left out
    for path in images:
        *names, stem = PurePosixPath(path).with_suffix("").parts
        beside["/".join([*names, stem])].append(path)
        if not any(map(_is_of_masks, names)):
            for at in range(len(names) + 1):
                without_one[*names[:at], *names[at + 1 :], stem].add(path)
            without_one[*names, stem].add(path)
    found: dict[str, str] = {}
    for path in images:
        *names, stem = PurePosixPath(path).with_suffix("").parts
        named = _MASK_NAME.fullmatch(stem)
        folder = next((at for at, name in enumerate(names) if _is_of_masks(name)), None)
        owners = set(beside.get("/".join([*names, named[1]]), ())) if named else set()
        if folder is not None:
            above = (*names[:folder], *names[folder + 1 :])
            of_name = without_one.get((*above, named[1]), set()) if named else set()
            owners |= without_one.get((*above, stem), set()) or of_name
        owners -= {path}
        if len(owners) == 1:
            found[owners.pop()] = path
    pairs = [sorted(own, key=_is_png) for own in beside.values() if len(own) == 2 and sum(map(_is_png, own)) == 1]
    if not found and pairs and all(_is_black_and_white(files, mask) for _, mask in pairs[:SHOWN]):
        return {own[0]: own[1] for own in pairs}
    return found


def _is_png(path: str) -> bool:
    return path.lower().endswith(".png")


def _is_of_masks(name: str) -> bool:
    return (canonical_name(name) or near_part(name)) == "ground_truth"


def _is_black_and_white(files: ImageFiles, path: str) -> bool:
    """Whether nine tenths of the pixels of a file are black or white, as of masks, which are grey at edges at most."""
    try:
        rgb = Decoding().inspect(files.read(path), path).rgb
    except (ImageError, OSError):
        return False
    return bool(np.isin(rgb, (0, 255)).mean() > 0.9) or len(np.unique(rgb)) <= 2


def _marked(files: ImageFiles, masks: Mapping[str, str]) -> tuple[dict[str, bool], str | None, list[Problem]]:
    """Mask -> whether it marks anything; what is anomalous in masks of more than two values; those that fail."""
    marked: dict[str, bool] = {}
    unread: list[Problem] = []
    levels = False
    for mask in masks.values():
        try:
            rgb = Decoding().inspect(files.read(mask), mask).rgb
        except (ImageError, OSError) as error:
            unread.append(Problem(mask, f"mask cannot be read, so its image is left out: {error}"))
            continue
        present = np.unique(rgb)
        levels |= len(present) > 2
        marked[mask] = bool((present > (127 if len(present) > 2 else 0)).any())
    return marked, "128-255" if levels else None, unread


def _opened(files: ImageFiles, found: Survey) -> Survey:
    """The survey with what some images of each category look like.

    Raises:
        DatasetError: none of them can be read.
    """
    looks = {category: looks_of(files, images) for category, images in found.images.items()}
    if not any(each.opened for each in looks.values()):
        problems = [problem for each in looks.values() for problem in each.unreadable]
        raise DatasetError(f"{found.root!r}: none of {len(problems)} images that were opened can be read", problems)
    return Survey(found.root, found.layout, found.images, looks, found.mask_values, found.left_out)


def manifest_rows(found: Survey) -> Iterator[dict[str, str]]:
    """The rows of the manifest that says what each image is; see `ad_assets.datasets.readers.manifest`."""
    for category, images in found.images.items():
        for each in images:
            yield {
                "image_path": each.path,
                "split": each.split,
                "label": "anomalous" if each.label else "good",
                "category": category,
                "defect_type": each.defect_type,
                "mask_path": "".join(each.masks),
            }
