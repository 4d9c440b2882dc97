"""The text of a first benchmark file for a folder of images, with what was seen there as comments."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ad_assets.datasets.survey import LEAST_TESTED, TESTED, Survey

STEP = 16  # camera pixels of the deepest tap's cell; heights and widths are multiples of it
SHAPES_ALIKE = 1.05  # largest ratio of the ratios of sides that counts as one shape
STILL_BORDER = 0.1  # share of the picture's height or width above which a region of interest is suggested
_LAYOUTS = {
    "mvtec": "in the layout of MVTec AD: <category>/train/good, test/<defect type>",
    "folders": "a folder of good images beside folders of defects",
    "masks": "images beside their masks; those of which no mask marks anything are taken for good",
    "good": "images alone, all taken for good",
}


@dataclass(frozen=True)
class Frame:
    """How images are resized, with the reason.

    Args:
        height: of the resized image, pixels.
        width: of the resized image, pixels.
        tiled: whether the resized image passes the backbone in tiles.
        why: for people.
    """

    height: int
    width: int
    tiled: bool
    why: str


def frame_for(sizes: frozenset[tuple[int, int]]) -> Frame:
    """A size at which a cell of the finest map (8 pixels) is at most about 32 camera pixels.

    Args:
        sizes: height and width of the images, at least one.

    >>> frame_for(frozenset({(480, 640)})).height, frame_for(frozenset({(480, 640)})).width
    (256, 336)
    """
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    shapes = [high / wide for high, wide in sizes]
    if max(shapes) > SHAPES_ALIKE * min(shapes):
        side = 256 if max(height, width) <= 1024 else 512
        return Frame(
            side, side, False, "images have different shapes, and all are resized to one: look at the odd ones"
        )
    longest, shortest = max(height, width), min(height, width)
    if longest > 2048 and shortest >= 512:
        why = "large images: at full resolution, in tiles, so that small defects are seen; shrink more to be faster"
        return Frame(_whole(height), _whole(width), True, why)
    # Small images are enlarged, so that a cell stands for few of their pixels; long strips are large enough.
    scale = 256 / shortest if longest <= 1024 else min(1.0, 512 / shortest)
    high, wide = _whole(height * scale), _whole(width * scale)
    cell = 8 * max(height / high, width / wide)
    return Frame(high, wide, False, f"[height, width]; a cell of the finest map is {cell:.0f} camera pixels then")


def _whole(side: float) -> int:
    return max(2, round(side / STEP)) * STEP


def first_file(found: Survey, name: str, root: str, manifest: str | None) -> str:
    """The benchmark file.

    Args:
        found: what lies in the folder.
        name: of the dataset.
        root: the folder, as the file names it.
        manifest: the manifest, as the file names it; None: the folders say what each image is.
    """
    sizes = frozenset(size for each in found.looks.values() for size in each.sizes)
    frame = frame_for(sizes)
    lines = [
        f"# A first benchmark file for {json.dumps(root)}, written by `ad-assets init`: {_LAYOUTS[found.layout]}.",
        *(f"# {line}" for line in _seen(found)),
        "# Every key, its range and what a change rebuilds: ad-assets settings [KEY]",
        "",
        "extractors:",
        "  lite0:                                # ImageNet features on any computer, without a download",
        "    backbone: tf_efficientnet_lite0",
        "    weights: bundled",
        "    taps: [blocks.2, blocks.4]          # finer maps: blocks.1; coarser: blocks.6",
        f"    resize: [{frame.height}, {frame.width}]".ljust(40) + f"# {frame.why}",
        *(["    tiles: {size: 512, overlap: 64}", "    storage: float16"] if frame.tiled else []),
        "",
        "datasets:",
        f"  {name}:",
        "    reader: folder",
        f"    root: {json.dumps(root)}".ljust(40) + "# relative paths begin at the folder of this file",
    ]
    if manifest:
        lines.append(
            f"    manifest: {json.dumps(manifest)}".ljust(40) + "# what each image is, below root; yours to edit"
        )
    if found.mask_values:
        lines.append(f"    mask_values: [{found.mask_values}]".ljust(40) + "# masks have more than two values")
    lines += _depth(found)
    lines += _region(found)
    lines += [
        "    # groups: folder                    # images of one lot or part that must be left out together",
        "    decision:",
        "      leave_out: group                  # no copy or neighbouring crop of an image vouches for it",
        f"      # false_alarm_rate: 0.01          # of good images called anomalous; {_promised(found)}",
    ]
    if found.layout == "mvtec":  # where a new image needs no row of a manifest
        lines.append(
            "    # production: {}                    # good images go on landing: watch the folder, keep champions"
        )
    lines.append("    detectors:")
    large = ", coreset_ratio: 0.01, preselect: 0.05}" if frame.tiled else ", coreset_ratio: 0.10}"
    lines.append("      patchcore: {method: patchcore, extractor: lite0, pooling: concat" + large)
    lines.append(
        "      # draws: 5 fits five seeds and shows their spread; pooling: authors is slower, and better on some"
    )
    lines.append("      # parts that lie alike: measure both")
    if not frame.tiled:
        lines.append(
            "      # padim: {method: padim, extractor: lite0}    # faster to fit, for parts that always lie alike"
        )
    return "\n".join(lines) + "\n"


def _seen(found: Survey) -> list[str]:
    """What was found, a line a category, for people."""
    lines = []
    for category, images in found.images.items():
        looks = found.looks[category]
        train = sum(each.split == "train" for each in images)
        good = sum(each.split == "test" and not each.label for each in images)
        bad = [each for each in images if each.label]
        types = sorted({each.defect_type for each in bad})
        masks = sum(bool(each.masks) for each in bad)
        kinds = f" ({', '.join(types[:5])}{', ...' if types[5:] else ''}; {masks} with masks)" if bad else ""
        size = " to ".join(f"{wide} x {high}" for high, wide in _ends(looks.sizes)) or "unreadable"
        depth = f", {looks.bit_depth} bits" if looks.bit_depth else ""
        counts = f"{train} good to learn, {good} good and {len(bad)} anomalous to test{kinds}"
        lines.append(f"{category}: {counts}; {size}, {'/'.join(looks.modes) or '-'}{depth}")
    if found.layout != "mvtec":
        lines.append(
            f"One in {TESTED} good images, the last by name, is kept for testing where there are {LEAST_TESTED}."
        )
    return lines


def _ends(sizes: frozenset[tuple[int, int]]) -> list[tuple[int, int]]:
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    return [*dict.fromkeys([ordered[0], ordered[-1]])] if ordered else []


def _depth(found: Survey) -> list[str]:
    depth = max((each.bit_depth or 0 for each in found.looks.values()), default=0)
    if not depth:
        return []
    return [f"    bit_depth: {depth}".ljust(40) + "# by the largest value seen: write what the camera has"]


def _region(found: Survey) -> list[str]:
    """A region of interest as a comment, where borders of a category show nothing in any image."""
    for category, looks in found.looks.items():
        if max(looks.still) >= STILL_BORDER:
            sides = ("top", "right", "bottom", "left")
            shares = [f"{side} {share:.0%}" for side, share in zip(sides, looks.still, strict=True) if share]
            said = f"{category}: {', '.join(shares)} of the picture are alike and empty in all images"
            return [
                f"    # roi: 'roi/{{category}}.png'          # {said};",
                "    #                                   # a mask, white where images are inspected, leaves them out",
            ]
    return []


def _promised(found: Survey) -> str:
    fewest = min(sum(each.split == "train" for each in images) for images in found.images.values())
    return f"{fewest} good images promise {1 / (fewest + 1):.1%} at best"
