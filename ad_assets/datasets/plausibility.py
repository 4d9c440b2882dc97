"""Plausibility warnings about the readable files of a category, which only a person can judge.

What applies to many files is reported once, with a count and an example.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ad_assets.datasets.base import Candidate, Problem
from ad_assets.datasets.decoding import Decoding
from ad_assets.datasets.scanning import KnownFile
from ad_assets_runtime.images import UPRIGHT

_OVER_HALF = 0.5
_SAME_MASKS = 5  # from this many on, identical masks suggest that a tool wrote the same one for all
_SIZES_APART = 4  # times the median width or height
_COMMON = 0.25  # of files: where so many have a gap, it belongs to the pictures


def plausibility_warnings(
    candidates: Sequence[Candidate], scanned: Mapping[str, KnownFile], decoding: Decoding
) -> list[Problem]:
    """Warnings about the files of a category.

    Args:
        candidates: its readable images.
        scanned: all files by path.
        decoding: the rules that they were read with.
    """
    images = sorted({candidate.path for candidate in candidates})
    masks = sorted({mask for candidate in candidates for mask in candidate.masks})
    warnings = [
        *_frames([*images, *masks], scanned),
        *_turned([*images, *masks], scanned, decoding),
        *_sizes(images, scanned),
        *_gaps(images, scanned),
        *_shares(masks, scanned),
        *_mask_values(masks, scanned, decoding),
    ]
    return [Problem(path, message, "warning") for path, message in warnings]


def _frames(paths: Iterable[str], scanned: Mapping[str, KnownFile]) -> list[tuple[str, str]]:
    frames = {path: scanned[path].frames for path in paths if scanned[path].frames > 1}
    return [(path, f"holds {count} pages or frames: the first is used") for path, count in frames.items()]


def _turned(paths: Iterable[str], scanned: Mapping[str, KnownFile], decoding: Decoding) -> list[tuple[str, str]]:
    tagged = [path for path in paths if scanned[path].orientation != UPRIGHT]
    if not tagged:
        return []
    rule = (
        "each image and mask is turned as its own tag says, as viewers show it: masks must match what is shown"
        if decoding.turn
        else "it is ignored, as in the published protocol: masks must match the pixels as stored"
    )
    return [(tagged[0], f"has an EXIF orientation of {scanned[tagged[0]].orientation}{_others(tagged)}; {rule}")]


def _sizes(paths: Sequence[str], scanned: Mapping[str, KnownFile]) -> list[tuple[str, str]]:
    if not paths:
        return []
    width, height = (statistics.median(getattr(scanned[path], side) for path in paths) for side in ("width", "height"))

    def apart(side: float, median: float) -> bool:
        return max(side, median) > _SIZES_APART * min(side, median)

    return [
        (path, f"is of {each.width} x {each.height}, where most images have about {width:.0f} x {height:.0f}")
        for path, each in ((path, scanned[path]) for path in paths)
        if apart(each.width, width) or apart(each.height, height)
    ]


def _gaps(paths: Sequence[str], scanned: Mapping[str, KnownFile]) -> list[tuple[str, str]]:
    gaps = {path: scanned[path].gap for path in paths if scanned[path].gap}
    if len(gaps) > _COMMON * len(paths):
        return []
    message = "of its bytes are one repeated byte, as an interrupted copy leaves them: check it"
    return [(path, f"{100 * share:.0f} % {message}") for path, share in gaps.items()]


def _shares(masks: Sequence[str], scanned: Mapping[str, KnownFile]) -> list[tuple[str, str]]:
    shares = {path: (scanned[path].area or 0) / (scanned[path].width * scanned[path].height) for path in masks}
    warnings = []
    empty = [path for path, share in shares.items() if share == 0]
    if empty:
        warnings.append((empty[0], f"its mask is empty, 0 % of the image{_others(empty, len(masks))}"))
    over = [path for path, share in shares.items() if share > _OVER_HALF]
    if over:
        message = f"marks {100 * shares[over[0]]:.0f} % of its image{_others(over, len(masks))}"
        warnings.append((over[0], f"{message}: if it is inverted, declare mask_values: [0]"))
    same = {scanned[path].sha256 for path in masks}
    if len(masks) >= _SAME_MASKS and len(same) == 1:
        warnings.append((masks[0], f"all {len(masks)} masks are the same"))
    return warnings


def _mask_values(masks: Sequence[str], scanned: Mapping[str, KnownFile], decoding: Decoding) -> list[tuple[str, str]]:
    """Warns where masks of two values differ in the second, which may be a class or mark pixels to ignore."""
    rule = decoding.masks
    if rule.halved or rule.values is not None:
        return []
    values = Counter(scanned[path].value for path in masks if scanned[path].area)
    if len(values) < 2:
        return []
    shown = ", ".join(f"{value} in {count}" for value, count in sorted(values.items(), key=str)[:8])
    return [
        (
            masks[0],
            f"masks mark anomalous pixels by different values ({shown}), all of which count: if one of them means "
            "ignore, declare mask_ignore",
        )
    ]


def _others(paths: Sequence[str], of: int | None = None) -> str:
    total = f" of {of}" if of else ""
    return f" ({len(paths)}{total} files)" if len(paths) > 1 or of else ""
