"""From a reader to an image index: every file is opened here, once, and all that is wrong is told together.

    index = build_index(reader, "bottle")
    index.table                                            # IMAGE_INDEX_SCHEMA, a row an image
    again = build_index(reader, "bottle", known=index.files)   # opens only files whose size or stamp changed

Empty masks are legal: a public dataset has some, and a crop can empty any. Such images stay anomalous.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

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
from ad_assets.datasets.contents import content_id, joint_id
from ad_assets.datasets.files import ImageFiles
from ad_assets.datasets.images import ImageError, decode_mask_with_mode, decode_with_mode
from ad_assets.datasets.listing import broken_links, unreadable
from ad_assets.datasets.looks import look_at
from ad_assets.storage import StorageError

# Decoding is half waiting (disk, object store) and half work outside the interpreter's lock.
THREADS = 8
REPORT_EVERY = 100


@dataclass(frozen=True)
class KnownFile:
    """What a scan learnt of one sound file; plain JSON values.

    Args:
        size: bytes.
        stamp: the listing's change stamp.
        sha256: of the bytes, hexadecimal.
        width: pixels.
        height: pixels.
        mode: PIL mode.
        area: of a mask, how many pixels are anomalous; None for an image.
        value: of a mask, its strongest pixel, by which some datasets tell the kind of a region.
        brightness: of an image, where asked for: as `Looks` has it.
        thumbnail: as brightness.
    """

    size: int
    stamp: str
    sha256: str
    width: int
    height: int
    mode: str
    area: int | None = None
    value: int | None = None
    brightness: float | None = None
    thumbnail: str | None = None


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
) -> ImageIndex:
    """Index one category: prepare it, then hash, decode and check its images and masks.

    The result depends on the files' names and content only, not on the order of the listing or on `known`.

    Args:
        reader: the configured dataset.
        category: one of its categories.
        known: files of an earlier scan; those with the same size and stamp are not opened again.
        listing: a listing just made of the reader's root; made here if None.
        report: called as ``report(what, done, total)`` from time to time.
        looks: take a glance at every image, for those who compare newcomers with what is there.

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
    scanned, damaged = _scan(files, listing, candidates, known or {}, report or _no_report, looks=looks)
    problems += [*damaged, *_size_mismatches(candidates, scanned)]
    problems += _duplicates(candidates, scanned, published=reader.published_copies)
    saturations = reader.saturations(category)
    problems += _unknown_values(candidates, scanned, saturations)

    left_out = {problem.path for problem in problems if problem.severity == "error"}
    kept = [c for c in candidates if c.path not in left_out and left_out.isdisjoint(c.masks)]
    no_train = not any(candidate.split == "train" for candidate in kept)
    if no_train:
        problems.append(Problem(category, "no training images: a detector learns from nominal ones in train"))
    problems.sort(key=lambda problem: (problem.severity, problem.path, problem.message))
    errors = [problem for problem in problems if problem.severity == "error"]
    if no_train or (errors and reader.on_problem == "fail"):
        remedy = "mend them, or set on_problem: skip to leave these files out"
        raise DatasetError(f"{where}: {len(errors)} problem(s); {remedy}", errors)
    return ImageIndex(_table(kept, scanned, saturations), tuple(problems), scanned)


def _no_report(what: str, done: int, total: int) -> None:
    del what, done, total


def _scan(
    files: ImageFiles,
    listing: Mapping[str, FileStamp],
    candidates: Sequence[Candidate],
    known: Mapping[str, KnownFile],
    report: ProgressReport,
    *,
    looks: bool,
) -> tuple[dict[str, KnownFile], list[Problem]]:
    is_mask = {candidate.path: False for candidate in candidates}
    is_mask |= {mask: True for candidate in candidates for mask in candidate.masks}
    scanned = {
        path: known[path]
        for path, mask in is_mask.items()
        if _unchanged(known.get(path), listing[path], mask) and (mask or not looks or known[path].thumbnail)
    }
    unread = sorted(set(is_mask) - set(scanned))
    problems = []
    with ThreadPoolExecutor(THREADS) as pool:
        inspect = partial(_inspect, files, looks)
        results = pool.map(inspect, unread, [listing[path] for path in unread], [is_mask[path] for path in unread])
        for done, (path, result) in enumerate(zip(unread, results, strict=True), start=1):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                scanned[path] = result
            if done % REPORT_EVERY == 0 or done == len(unread):
                report("images and masks read", done, len(unread))
    return scanned, problems


def _unchanged(known: KnownFile | None, stamp: FileStamp, mask: bool) -> bool:
    # A file system without stamps tells nothing of a change, so its files are read each time.
    return (
        known is not None
        and bool(stamp.stamp)
        and (known.size, known.stamp) == (stamp.size, stamp.stamp)
        and (known.area is not None) == mask
    )


def _inspect(files: ImageFiles, looks: bool, path: str, stamp: FileStamp, mask: bool) -> KnownFile | Problem:
    if wrong := unreadable(path, stamp):
        return Problem(path, wrong)
    try:
        data = files.read(path)
        area = value = glance = None
        if mask:
            pixels, mode, value = decode_mask_with_mode(data, path)
            area = int(pixels.sum())
            height, width = pixels.shape
        else:
            rgb, mode = decode_with_mode(data, path)
            height, width = rgb.shape[:2]
            glance = look_at(rgb) if looks else None
    except ImageError as error:
        return Problem(path, error.message)
    except StorageError:
        raise  # not the image's fault: no index without it
    except OSError as error:
        return Problem(path, f"cannot be read ({error}): check that it still exists and its permissions")
    digest = content_id(data)
    seen = (glance.brightness, glance.thumbnail) if glance else (None, None)
    return KnownFile(stamp.size, stamp.stamp, digest, width, height, mode, area, value, *seen)


def _size_mismatches(candidates: Iterable[Candidate], scanned: Mapping[str, KnownFile]) -> list[Problem]:
    problems = []
    for candidate, path in ((owner, path) for owner in candidates for path in owner.masks):
        image, mask = scanned.get(candidate.path), scanned.get(path)
        if image and mask and (image.width, image.height) != (mask.width, mask.height):
            message = (
                f"mask of {mask.width} x {mask.height} for the image {candidate.path} of {image.width} x "
                f"{image.height}: they must have the same size"
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
    candidates: Iterable[Candidate], scanned: Mapping[str, KnownFile], saturations: Mapping[int, Saturation]
) -> pa.Table:
    rows = []
    for candidate in sorted(candidates, key=lambda candidate: (candidate.split, candidate.path)):
        image, masks = scanned[candidate.path], [scanned[path] for path in candidate.masks]
        rows.append(
            {
                "image_id": image.sha256,
                "path": candidate.path,
                "split": candidate.split,
                "label": candidate.label,
                "defect_type": candidate.defect_type,
                "anomaly_kind": candidate.kind,
                "mask_paths": list(candidate.masks),
                "mask_saturations": [_saturation(mask, saturations) for mask in masks] if saturations else [],
                "mask_id": joint_id([mask.sha256 for mask in masks]),
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
