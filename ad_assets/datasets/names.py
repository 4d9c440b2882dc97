"""Names of folders, files and table cells, with the same rules for every reader.

Names of splits (``train``, ``test``, ``ground_truth``) and nominal names (``good``, ``ok``, ``normal``, ``nominal``)
are compared ignoring case and surrounding blanks, in folders and in tables. A near miss of one of them is neither
corrected nor taken for a defect type: it is an error that lists the accepted names. Names of defect types and
categories are compared exactly.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ad_assets_runtime.images import IMAGE_SUFFIXES

NOMINAL = "good"  # the defect type of every nominal image, whatever its folder's name
NOMINAL_NAMES = ("good", "ok", "normal", "nominal")
ANOMALOUS_NAMES = ("anomalous", "anomaly", "abnormal", "bad", "defect", "defective", "ko", "ng")
PARTS = ("train", "test", "ground_truth")

CATEGORY_LENGTH = 100  # characters; file names contain it, and file systems allow 255 bytes
CATEGORY_KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{CATEGORY_LENGTH}}}")
CATEGORY_RULE = f"letters, digits, _ and - only, {CATEGORY_LENGTH} characters at most"

# Formats of pictures and films that are not read; finding one is an error, since the user expects it to be read.
FOREIGN_SUFFIXES = (
    *(".heic", ".heif", ".jxl", ".jxr", ".wdp", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".raf", ".rw2", ".raw"),
    *(".psd", ".psb", ".xcf", ".svg", ".eps", ".ps", ".pdf", ".dds", ".exr", ".hdr", ".pfm", ".pcx", ".sgi", ".ras"),
    *(".ico", ".icns", ".qoi", ".fits", ".fit", ".dcm", ".czi", ".lsm", ".nd2", ".emf", ".wmf", ".xbm", ".xpm"),
    *(".mp4", ".avi", ".mov", ".mkv", ".wmv", ".webm", ".m4v", ".mpg", ".mpeg"),
)

_ALIASES = {
    **dict.fromkeys(("training", "trainset", "trainingset", "trains", "learn"), "train"),
    **dict.fromkeys(("testing", "testset", "tests"), "test"),
    **dict.fromkeys(("groundtruth", "groundtruths", "gt", "mask", "masks"), "ground_truth"),
    **dict.fromkeys(("defectfree", "nodefect", "nodefects", "anomalyfree", "noanomaly", "faultless"), "good"),
}
_FILLERS = frozenset({"image", "images", "img", "imgs", "sample", "samples", "part", "parts", "copy", "new", "old"})


def is_image(path: str) -> bool:
    """Whether the suffix is that of an image format that is read."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def is_foreign(path: str) -> bool:
    """Whether the suffix is that of a picture or film format that is not read."""
    return path.lower().endswith(FOREIGN_SUFFIXES)


@lru_cache(4096)  # millions of paths have few names of folders
def canonical_name(name: str, names: tuple[str, ...] = PARTS) -> str | None:
    """The entry of `names` that equals `name`, ignoring case and surrounding blanks; None if there is none."""
    folded = name.strip().casefold()
    return folded if folded in names else None


def is_nominal(name: str) -> bool:
    """Whether a name of a folder or in a table denotes nominal images."""
    return canonical_name(name, NOMINAL_NAMES) is not None


def near_part(name: str) -> str | None:
    """The split name that `name` is a near miss of, such as ``training`` or ``Test_2``; None for others."""
    return None if canonical_name(name) else _near(name, PARTS)


def near_nominal(name: str) -> str | None:
    """The nominal name that `name` is a near miss of, such as ``goods``, ``OK (2)`` or ``defect-free``."""
    return None if is_nominal(name) else _near(name, NOMINAL_NAMES)


def plain(text: str) -> str:
    """The text with control and invalid characters escaped: file names may contain them, and terminals obey them."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def plain_name(name: str) -> str:
    """As `plain`, with line breaks escaped too."""
    return plain(name).replace("\n", "\\n")


def _near(name: str, names: tuple[str, ...]) -> str | None:
    words = re.findall(r"[a-z]+", name.casefold())
    whole = "".join(words)
    alias = _ALIASES.get(whole)
    if alias in names:
        return alias
    squeezed = {each.replace("_", ""): each for each in names}
    if whole in squeezed:  # in pieces, or numbered
        return squeezed[whole]
    telling = [word for word in words if word not in _FILLERS]
    if len(telling) == 1 and telling[0] in squeezed:
        return squeezed[telling[0]]
    # Two letters are too few: nok is not a misspelt ok.
    return next((each for short, each in squeezed.items() if len(short) > 2 and _is_slip(whole, short)), None)


def _is_slip(name: str, meant: str) -> bool:
    """Whether one letter is missing, extra, or two neighbours are swapped; a replaced letter makes another word."""
    if sorted(name) == sorted(meant):
        swapped = (meant[:i] + meant[i + 1] + meant[i] + meant[i + 2 :] for i in range(len(meant) - 1))
        return name in swapped
    shorter, longer = sorted((name, meant), key=len)
    return len(longer) - len(shorter) == 1 and any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
