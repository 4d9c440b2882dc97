"""From a reader to an image index: every file is opened here, once, and all that is wrong is told together.

    index = build_index(reader, "bottle")
    index.table                                            # IMAGE_INDEX_SCHEMA, a row an image
    again = build_index(reader, "bottle", known=index.files)   # opens only files whose size or stamp changed

Empty masks are legal: a public dataset has some, and a crop can empty any. Such images stay anomalous.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from ad_assets.datasets.base import (
    IMAGE_INDEX_SCHEMA,
    Candidate,
    DatasetError,
    FileStamp,
    Problem,
    ProgressReport,
    Reader,
    Saturation,
)
from ad_assets.datasets.decoding import Decoding, beyond_depth
from ad_assets.datasets.deep import found_depth
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.identity import image_id, joint_id
from ad_assets.datasets.images import UPRIGHT
from ad_assets.datasets.listing import broken_links
from ad_assets.datasets.plausibility import oddities
from ad_assets.datasets.scanning import KnownFile, Scan


@dataclass(frozen=True)
class ImageIndex:
    """One category, read.

    Args:
        table: `IMAGE_INDEX_SCHEMA`, sorted by (split, path).
        problems: what was found wrong and left out, and warnings.
        files: every sound image and mask by path, for the next scan.
    """

    table: pa.Table
    problems: tuple[Problem, ...]
    files: dict[str, KnownFile]


def build_index(
    reader: Reader,
    category: str,
    *,
    known: Mapping[str, KnownFile] | None = None,
    listing: Mapping[str, FileStamp] | None = None,
    report: ProgressReport | None = None,
    looks: bool = False,
    bit_depth: int | None = None,
) -> ImageIndex:
    """Index one category: prepare it, then hash, decode and check its images and masks.

    The result depends on the files' names and content only, not on the order of the listing or on `known`.

    Args:
        reader: the configured dataset.
        category: one of its categories.
        known: files of an earlier scan; those with the same size and stamp are not opened again.
        listing: a listing just made of the reader's root; made here if None.
        report: called as ``report(what, done, total)`` from time to time.
        looks: take a glance at every image, for those who compare new images with what is there.
        bit_depth: of pixels of more than 8 bits, where it was settled before and the reader does not declare another:
            images that go beyond it are problems. None: it is found.

    Raises:
        DatasetError: no image or no sound training image; with ``on_problem: fail``, also any error found.
        ValueError: the root does not exist or is empty.
    """
    reader.prepare(category, report)
    files = ImageFiles(reader.root)
    listing = files.listing() if listing is None else listing
    paths = sorted(listing)
    where = f"{reader.name} dataset at {reader.root!r}, category {category!r}"
    assigned = reader.assign(paths)
    candidates = assigned.get(category, [])
    if not candidates:
        found = ", ".join((sorted(assigned) or sorted({path.split("/")[0] for path in paths}))[:10])
        message = f"no images; the folder holds {found}: correct datasets.<name>.root, or the category"
        named = [problem for problem in reader.check_names(category, paths, []) if problem.severity == "error"]
        raise DatasetError(where, [Problem(category, message), *named])

    problems = reader.check_names(category, paths, candidates)
    if broken := broken_links(listing):
        own = set(reader.paths_by_category(paths).get(category, ()))
        problems += [problem for problem in broken if problem.path in own]
    scan = Scan(files, listing, reader.decoding, report or _no_report, looks)
    scanned, damaged = scan.run(candidates, known or {})
    decoding = _settled(reader.decoding, candidates, scanned, bit_depth)
    if decoding.bit_depth and looks:  # looks of deep images follow the depth of all
        scanned, damaged = replace(scan, decoding=decoding).run(candidates, scanned)
    problems += [*damaged, *_size_mismatches(candidates, scanned), *_beyond(candidates, scanned, decoding)]
    problems += _duplicates(candidates, scanned, published=reader.published_copies)
    saturations = reader.saturations(category)
    problems += _unknown_values(candidates, scanned, saturations)

    left_out = {problem.path for problem in problems if problem.severity == "error"}
    kept = [c for c in candidates if c.path not in left_out and left_out.isdisjoint(c.masks)]
    no_train = not any(candidate.split == "train" for candidate in kept)
    if no_train:
        problems.append(Problem(category, "no training images: a detector learns from nominal ones in train"))
    problems += oddities(kept, scanned, decoding)
    problems.sort(key=lambda problem: (problem.severity, problem.path, problem.message))
    errors = [problem for problem in problems if problem.severity == "error"]
    if no_train or (errors and reader.on_problem == "fail"):
        remedy = "mend them, or set on_problem: skip to leave these files out"
        raise DatasetError(f"{where}: {len(errors)} problem(s); {remedy}", errors)
    return ImageIndex(_table(kept, scanned, decoding, saturations), tuple(problems), scanned)


def _no_report(what: str, done: int, total: int) -> None:
    del what, done, total


def _settled(
    decoding: Decoding, candidates: Iterable[Candidate], scanned: Mapping[str, KnownFile], before: int | None
) -> Decoding:
    """The rules with the bit depth of a category: declared, settled before, or the deepest of its images."""
    depth = decoding.bit_depth or before
    if depth is None:
        images = (scanned[candidate.path] for candidate in candidates if candidate.path in scanned)
        depth = max((found_depth(i.largest, i.told_depth) for i in images if i.largest is not None), default=None)
    return replace(decoding, bit_depth=depth)


def _beyond(candidates: Iterable[Candidate], scanned: Mapping[str, KnownFile], decoding: Decoding) -> list[Problem]:
    depth = decoding.bit_depth or 0
    paths = {candidate.path for candidate in candidates if candidate.path in scanned}
    largest = {path: scanned[path].largest or 0 for path in sorted(paths)}
    return [Problem(path, beyond_depth(value, depth)) for path, value in largest.items() if value >> depth and depth]


def _size_mismatches(candidates: Iterable[Candidate], scanned: Mapping[str, KnownFile]) -> list[Problem]:
    problems = []
    for candidate, path in ((owner, path) for owner in candidates for path in owner.masks):
        image, mask = scanned.get(candidate.path), scanned.get(path)
        if image and mask and (image.width, image.height) != (mask.width, mask.height):
            message = (
                f"mask of {mask.width} x {mask.height} for the image {candidate.path} of {image.width} x "
                f"{image.height}: they must have the same size"
            )
            if {image.orientation, mask.orientation} != {UPRIGHT}:
                message += (
                    f", after each is turned as its own EXIF orientation says (image {image.orientation}, mask "
                    f"{mask.orientation}; 1 is upright): save both upright, without the tag"
                )
            problems.append(Problem(path, message))
    return problems


def _duplicates(candidates: Iterable[Candidate], scanned: Mapping[str, KnownFile], *, published: bool) -> list[Problem]:
    same: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda candidate: (candidate.split, candidate.path)):
        if candidate.path in scanned:
            same[scanned[candidate.path].sha256].append(candidate)
    problems = []
    for copies in same.values():
        # Unlabelled images train and are tested: that is what a blind setting is.
        train = [candidate for candidate in copies if candidate.split == "train" and candidate.label is not None]
        test = [candidate for candidate in copies if candidate.split == "test"]
        if train and test and published:
            message = f"the same image tests as {test[0].path}, as published: that test tells nothing"
            problems += [Problem(candidate.path, message, "warning") for candidate in train]
        elif train and test:
            message = f"the same image tests as {test[0].path}, so the test would not be one: remove one of them"
            problems += [Problem(candidate.path, message) for candidate in train]
        if len({candidate.label for candidate in test}) > 1:
            message = "the same image lies in a nominal and in an anomalous folder: keep the right one"
            problems += [Problem(candidate.path, message) for candidate in test]
            continue
        kept = test or train
        message = f"the same image as {kept[0].path}: it counts twice"
        problems += [Problem(candidate.path, message, "warning") for candidate in kept[1:]]
    return problems


def _unknown_values(
    candidates: Iterable[Candidate], scanned: Mapping[str, KnownFile], saturations: Mapping[int, Saturation]
) -> list[Problem]:
    if not saturations:
        return []
    known = ", ".join(map(str, sorted(saturations)))
    regions = (path for candidate in candidates for path in candidate.masks if path in scanned)
    return [
        Problem(
            path, f"its pixels have the value {scanned[path].value}, but defects are numbered {known}: copy it again"
        )
        for path in regions
        if scanned[path].area and scanned[path].value not in saturations
    ]


def _table(
    candidates: Iterable[Candidate],
    scanned: Mapping[str, KnownFile],
    decoding: Decoding,
    saturations: Mapping[int, Saturation],
) -> pa.Table:
    rows = []
    for candidate in sorted(candidates, key=lambda candidate: (candidate.split, candidate.path)):
        image, masks = scanned[candidate.path], [scanned[path] for path in candidate.masks]
        rows.append(
            {
                "image_id": _image_id(image, decoding),
                "path": candidate.path,
                "split": candidate.split,
                "label": candidate.label,
                "defect_type": candidate.defect_type,
                "anomaly_kind": candidate.kind,
                "mask_paths": list(candidate.masks),
                "mask_saturations": [_saturation(mask, saturations) for mask in masks] if saturations else [],
                "mask_id": _mask_id(masks, decoding),
                "width": image.width,
                "height": image.height,
                "mode": image.mode,
                "bytes": image.size,
            }
        )
    return pa.Table.from_pylist(rows, schema=IMAGE_INDEX_SCHEMA)


def _saturation(mask: KnownFile, saturations: Mapping[int, Saturation]) -> float:
    saturation = saturations.get(mask.value or 0)
    return saturation.part_of(mask.area or 0) if saturation else 1.0


def _image_id(image: KnownFile, decoding: Decoding) -> str:
    depth = decoding.bit_depth if image.largest is not None else None
    return image_id(image.sha256, depth, turned=decoding.turn and image.orientation != UPRIGHT)


def _mask_id(masks: Sequence[KnownFile], decoding: Decoding) -> str:
    joint = joint_id([mask.sha256 for mask in masks])
    return decoding.mask_id(joint, turned=any(mask.orientation != UPRIGHT for mask in masks)) if masks else ""
