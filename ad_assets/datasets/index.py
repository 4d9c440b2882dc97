"""Builds the image index of a category: opens every file once and reports all problems together.

    index = build_index(reader, "bottle")
    index.table                                                # IMAGE_INDEX_SCHEMA, one row per image
    again = build_index(reader, "bottle", known_files=index.files)   # opens only files whose size or stamp changed

Empty masks are valid: public datasets contain some, and a crop can empty any. Such images stay anomalous.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.listing import Listing, broken_links
from ad_assets.datasets.plausibility import plausibility_warnings
from ad_assets.datasets.region_of_interest import RegionOfInterest, find_region, size_problems
from ad_assets.datasets.scanning import KnownFile, Scan
from ad_assets_runtime.decoding import beyond_depth
from ad_assets_runtime.deep import found_depth
from ad_assets_runtime.identity import image_id, joint_id
from ad_assets_runtime.images import UPRIGHT

GROUP = "group"  # column of what an image is left out and held out with


@dataclass(frozen=True)
class ImageIndex:
    """The image index of one category.

    Args:
        rows: sorted by (split, path), with a value for each column of `schema`; not to be changed.
        schema: `IMAGE_INDEX_SCHEMA`, with further columns.
        problems: errors, whose files were left out, and warnings.
        files: every readable image and mask by path, for the next scan.
        region: what is inspected of its images; None: all of them is.
    """

    rows: list[dict[str, Any]]
    schema: pa.Schema
    problems: tuple[Problem, ...]
    files: dict[str, KnownFile]
    region: RegionOfInterest | None = None

    @property
    def table(self) -> pa.Table:
        """The rows as a table: made when it is asked for, since of an index that is found none is written."""
        return pa.Table.from_pylist(self.rows, schema=self.schema)

    def with_rows(self, rows: list[dict[str, Any]], *columns: pa.Field) -> ImageIndex:
        """The same with other rows, which have further columns."""
        return replace(self, rows=rows, schema=pa.schema([*self.schema, *columns]))


def list_categories(reader: Reader, categories: Collection[str]) -> Listing:
    """The files that indexes of some categories are made from, and what lies beside them in their folders.

    Only the folders of these categories are listed, where the layout tells them.

    Raises:
        DatasetError: the root does not exist, may not be read, or holds no file.
        StorageError: the storage does not answer.
    """
    parts = reader.parts_of(categories)
    if parts is None:
        return ImageFiles(reader.root).listing()
    regions = {region for category in categories if (region := reader.region_path(category)) is not None}
    return ImageFiles(reader.root).listing(parts.union(regions, *map(reader.tables, categories)))


def build_index(
    reader: Reader,
    category: str,
    *,
    known_files: Mapping[str, KnownFile] | None = None,
    listing: Mapping[str, FileStamp] | None = None,
    candidates: Sequence[Candidate] | None = None,
    report: ProgressReport | None = None,
    appearance: bool = False,
    bit_depth: int | None = None,
) -> ImageIndex:
    """Index one category: prepare it, then hash, decode and check its images and masks.

    The result depends on the files' names and content only, not on the order of the listing or on `known_files`.

    Args:
        reader: the configured dataset.
        category: one of its categories.
        known_files: files of an earlier scan; those with the same size and stamp are not opened again.
        listing: just made, of the reader's root or by `list_categories`; made here if None.
        candidates: what the reader makes of `listing` for this category, where that is known.
        report: called as ``report(what, done, total)`` from time to time.
        appearance: also compute brightness and thumbnail of every image, against which new images are compared.
        bit_depth: of pixels of more than 8 bits, kept from an earlier index unless the reader declares one: images that
            exceed it are problems. None: found from the images.

    Raises:
        DatasetError: no image or no sound training image; with ``on_problem: fail``, also any error found.
        ValueError: the root does not exist or is empty.
    """
    reader.prepare(category, report)
    files = ImageFiles(reader.root)
    listing = list_categories(reader, [category]) if listing is None else listing
    paths = sorted(listing)
    where = f"{reader.name} dataset at {reader.root!r}, category {category!r}"
    candidates = reader.assign(paths).get(category, []) if candidates is None else candidates
    if not candidates:
        others = sorted(files.listing())
        found = ", ".join((sorted(reader.assign(others)) or sorted({path.split("/")[0] for path in others}))[:10])
        message = f"no images; the folder holds {found}: correct datasets.<name>.root, or the category"
        named = [problem for problem in reader.check_names(category, paths, []) if problem.severity == "error"]
        raise DatasetError(where, [Problem(category, message), *named])

    problems = reader.check_names(category, paths, candidates)
    if broken := broken_links(listing):
        own_paths = set(reader.paths_by_category(paths).get(category, ()))
        problems += [problem for problem in broken if problem.path in own_paths]
    region = find_region(reader, category, files, listing)
    scan = Scan(files, listing, reader.decoding, report or _no_report, appearance)
    scanned, damaged = scan.run(candidates, known_files or {})
    decoding = _settled(reader.decoding, candidates, scanned, bit_depth)
    if decoding.bit_depth and appearance:  # the appearance depends on the bit depth
        scanned, damaged = replace(scan, decoding=decoding).run(candidates, scanned)
    problems += [*damaged, *_size_mismatches(candidates, scanned), *_beyond(candidates, scanned, decoding)]
    problems += size_problems(reader, category, region, candidates, scanned) if region else []
    problems += _duplicates(candidates, scanned, published=reader.published_copies)
    saturations = reader.saturations(category)
    problems += _unknown_values(candidates, scanned, saturations)

    left_out = {problem.path for problem in problems if problem.severity == "error"}
    sound = [c for c in candidates if c.path not in left_out and left_out.isdisjoint(c.masks)]
    no_train = not any(candidate.split == "train" for candidate in sound)
    if no_train:
        problems.append(Problem(category, "no training images: a detector learns from nominal ones in train"))
    problems += plausibility_warnings(sound, scanned, decoding)
    problems.sort(key=lambda problem: (problem.severity, problem.path, problem.message))
    errors = [problem for problem in problems if problem.severity == "error"]
    if no_train or (errors and reader.on_problem == "fail"):
        remedy = "repair them, or set on_problem: skip to leave these files out"
        raise DatasetError(f"{where}: {len(errors)} problem(s); {remedy}", errors)
    rows, schema = _rows(sound, scanned, decoding, saturations)
    return ImageIndex(rows, schema, tuple(problems), scanned, region)


def _no_report(what: str, done: int, total: int) -> None:
    del what, done, total


def _settled(
    decoding: Decoding, candidates: Iterable[Candidate], scanned: Mapping[str, KnownFile], before: int | None
) -> Decoding:
    """The rules with the bit depth of a category: declared, that of an earlier index, or the largest of its images."""
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
        # In blind settings the unlabelled training images are the test images.
        train = [candidate for candidate in copies if candidate.split == "train" and candidate.label is not None]
        test = [candidate for candidate in copies if candidate.split == "test"]
        if train and test and published:
            message = f"the same image is the test image {test[0].path}, as published: its result means nothing"
            problems += [Problem(candidate.path, message, "warning") for candidate in train]
        elif train and test:
            message = f"the same image is the test image {test[0].path}, so it would test what it trained: remove one"
            problems += [Problem(candidate.path, message) for candidate in train]
        if len({candidate.label for candidate in test}) > 1:
            message = "the same image lies in a nominal and in an anomalous folder: keep the right one"
            problems += [Problem(candidate.path, message) for candidate in test]
            continue
        counted = test or train
        message = f"the same image as {counted[0].path}: it counts twice"
        problems += [Problem(candidate.path, message, "warning") for candidate in counted[1:]]
    return problems


def _unknown_values(
    candidates: Iterable[Candidate], scanned: Mapping[str, KnownFile], saturations: Mapping[int, Saturation]
) -> list[Problem]:
    if not saturations:
        return []
    numbers = ", ".join(map(str, sorted(saturations)))
    regions = (path for candidate in candidates for path in candidate.masks if path in scanned)
    return [
        Problem(
            path, f"its pixels have the value {scanned[path].value}, but defects are numbered {numbers}: copy it again"
        )
        for path in regions
        if scanned[path].area and scanned[path].value not in saturations
    ]


def _rows(
    candidates: Iterable[Candidate],
    scanned: Mapping[str, KnownFile],
    decoding: Decoding,
    saturations: Mapping[int, Saturation],
) -> tuple[list[dict[str, Any]], pa.Schema]:
    rows: list[dict[str, Any]] = []
    ordered = sorted(candidates, key=lambda candidate: (candidate.split, candidate.path))
    for candidate in ordered:
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
                "mask_saturations": [float(_saturation(mask, saturations)) for mask in masks] if saturations else [],
                "mask_id": _mask_id(masks, decoding),
                "width": image.width,
                "height": image.height,
                "mode": image.mode,
                "bytes": image.size,
            }
        )
    # A column only where there are groups: other indexes stay what they were.
    if not any(candidate.group for candidate in ordered):
        return rows, IMAGE_INDEX_SCHEMA
    grouped = [{**row, GROUP: candidate.group} for row, candidate in zip(rows, ordered, strict=True)]
    return grouped, pa.schema([*IMAGE_INDEX_SCHEMA, pa.field(GROUP, pa.string())])


def _saturation(mask: KnownFile, saturations: Mapping[int, Saturation]) -> float:
    saturation = saturations.get(mask.value or 0)
    return saturation.part_of(mask.area or 0) if saturation else 1.0


def _image_id(image: KnownFile, decoding: Decoding) -> str:
    depth = decoding.bit_depth if image.largest is not None else None
    return image_id(image.sha256, depth, turned=decoding.turn and image.orientation != UPRIGHT)


def _mask_id(masks: Sequence[KnownFile], decoding: Decoding) -> str:
    joint = joint_id([mask.sha256 for mask in masks])
    return decoding.mask_id(joint, turned=any(mask.orientation != UPRIGHT for mask in masks)) if masks else ""
